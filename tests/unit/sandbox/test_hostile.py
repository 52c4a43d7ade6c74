"""Programs that try to do harm: each is contained, has its verdict, and the run goes on."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from difflm_core.sandbox import Limits, run_program, run_programs
from tests.confined import needs_sandbox

pytestmark = needs_sandbox

LIMITS = Limits(wall_seconds=1.5, cpu_seconds=1, memory_bytes=256 << 20, file_bytes=1 << 20)

# Program, outcome, and the kind of error or signal that it ends with (None: any).
HOSTILE = {
    "fork bomb": ("import os\nwhile True: os.fork()", "failed", "PermissionError"),
    "thread bomb": (
        "from threading import *; import time\n"
        "while True: Thread(target=time.sleep, args=(9,)).start()",
        "failed",
        "RuntimeError",
    ),
    "memory": ("x = []\nwhile True: x.append('a' * 10**6)", "memory", "MemoryError"),
    "mapped memory": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(100)]",
        "failed",
        "OSError",
    ),
    "memory in a file descriptor": ("import os; os.memfd_create('x')", "failed", "PermissionError"),
    "a huge number": ("x = 10 ** 10 ** 9", "timeout", None),
    "endless loop": ("while True: pass", "timeout", None),
    "endless loop that catches everything": (
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "timeout",
        None,
    ),
    "sleeps for ever": ("import time\nwhile True: time.sleep(100)", "timeout", None),
    "ignores signals": (
        "import signal\nfor s in (1, 2, 3, 10, 12, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        "timeout",
        None,
    ),
    "waits for input": ("import sys\nsys.stdin.read()\nwhile True: input()", "failed", "EOFError"),
    "daemon": (
        "import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True: pass",
        "failed",
        "PermissionError",
    ),
    "kills its parent": ("import os; os.kill(os.getppid(), 9)", "failed", "PermissionError"),
    "kills everybody": ("import os; os.kill(-1, 9)", "failed", "PermissionError"),
    "kills its group": ("import os; os.killpg(0, 9)", "failed", "PermissionError"),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "crashed", "SIGKILL"),
    "raises its limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
        "failed",
        None,
    ),
    "writes elsewhere": ("open('/tmp/difflm-evil', 'w')", "failed", "PermissionError"),
    "writes above": ("open('../difflm-evil', 'w')", "failed", "PermissionError"),
    "writes through a link": (
        "import os; os.symlink('/tmp', 'there'); open('there/difflm-evil', 'w')",
        "failed",
        "PermissionError",
    ),
    "moves a file out": (
        "import os; open('x', 'w'); os.rename('x', '/tmp/difflm-evil')",
        "failed",
        None,
    ),
    "fills the disk with one file": (
        "with open('x', 'wb') as f:\n  while True: f.write(bytes(1 << 16))",
        "failed",
        "OSError",
    ),
    "fills the disk with many files": (
        "n = 0\nwhile True:\n  open(str(n), 'wb').write(bytes(500_000)); n += 1",
        "disk",
        None,
    ),
    "much output": ("while True: print('x' * 10_000)", "output", None),
    "one huge line": ("print('x' * (5 << 20))", "output", None),
    "much output of errors": (
        "import sys\nwhile True: sys.stderr.write('x' * 9999)",
        "output",
        None,
    ),
    "output that is not UTF-8": ("import os; os.write(1, bytes(range(256)))", "passed", None),
    "reads passwords": ("open('/etc/passwd').read()", "failed", "PermissionError"),
    "reads the environment of its parent": (
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
        "failed",
        "PermissionError",
    ),
    "lists the root": ("import os; os.listdir('/')", "failed", "PermissionError"),
    "deletes": (
        "import os; os.remove('/etc/hostname')",
        "failed",
        "PermissionError",
    ),
    "changes permissions": ("import os; os.chmod('/tmp', 0o700)", "failed", "PermissionError"),
    "changes owners": ("import os; os.chown('/tmp', 1, 1)", "failed", "PermissionError"),
    "changes times": ("import os; os.utime('/tmp', (0, 0))", "failed", "PermissionError"),
    "changes attributes": (
        "import os; os.setxattr('/tmp', 'user.x', b'x')",
        "failed",
        "PermissionError",
    ),
    "opens a socket": ("import socket; socket.socket()", "failed", "PermissionError"),
    "opens a local socket": (
        "import socket; socket.socketpair()",
        "failed",
        "PermissionError",
    ),
    "looks a name up": (
        "import socket; socket.gethostbyname('example.org')",
        "failed",
        None,
    ),
    "starts a program": (
        "import subprocess; subprocess.run(['true'])",
        "failed",
        "PermissionError",
    ),
    "runs a shell": (
        "import os\nassert os.system('touch /tmp/difflm-evil') == 0",
        "failed",
        "AssertionError",
    ),
    "becomes another program": (
        "import os; os.execv('/bin/true', ['true'])",
        "failed",
        "PermissionError",
    ),
    "traces": (
        "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
        "failed",
        "AssertionError",
    ),
    "mounts": (
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, b'') == 0",
        "failed",
        "AssertionError",
    ),
    "deep recursion": ("def f(): f()\nf()", "failed", "RecursionError"),
    "deep expression": ("x = " + "(" * 5000 + ")" * 5000, "failed", None),
    "invalid memory": ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
    "ends the process": ("import os; os._exit(0)", "ended early", None),
    "leaves": ("import sys; sys.exit(0)", "failed", "SystemExit"),
    "interrupts": ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
    "an exception that lies": (
        "class E(Exception):\n  def __str__(self): raise SystemExit\nraise E",
        "failed",
        "E",
    ),
    "an exception with much to say": ("raise ValueError('x' * 10**7)", "failed", "ValueError"),
    "closes everything": (
        "import os\nfor fd in range(256):\n  try: os.close(fd)\n  except OSError: pass",
        "ended early",
        None,
    ),
    "replaces its output": (
        "import sys\nclass Out:\n  def flush(self): raise SystemExit\nsys.stdout = Out()",
        "passed",
        None,
    ),
    "pretends to have passed": (
        'import os\nfor fd in range(3, 64):\n  try: os.write(fd, b\'{"outcome": "passed", '
        '"kind": "", "message": "", "token": "0"}\')\n  except OSError: pass\nos._exit(0)',
        "ended early",
        None,
    ),
    "goes on in a thread": (
        "import threading\ndef f():\n  while True: pass\nthreading.Thread(target=f).start()",
        "passed",
        None,
    ),
    "goes on at exit": (
        "import atexit\ndef f():\n  while True: pass\natexit.register(f)",
        "passed",
        None,
    ),
    "not Python": ("def f(:", "failed", "SyntaxError"),
    "zero bytes": ("x = 1\0", "failed", None),
}


@pytest.fixture(scope="module")
def verdicts():
    """All hostile programs in one run, each followed by a good one."""
    programs = []
    for source, _, _ in HOSTILE.values():
        programs += [source, "assert sum(range(10)) == 45"]
    return list(run_programs(programs, LIMITS, num_workers=2))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained(verdicts, name):
    _, outcome, kind = HOSTILE[name]
    verdict = verdicts[2 * list(HOSTILE).index(name)]
    assert verdict.outcome == outcome, verdict
    assert kind is None or verdict.kind == kind, verdict
    assert verdict.seconds < 2 * LIMITS.wall_seconds
    assert len(verdict.output) <= 4096
    assert len(verdict.message) <= 300


def test_the_run_goes_on(verdicts):
    assert len(verdicts) == 2 * len(HOSTILE)
    assert {verdict.outcome for verdict in verdicts[1::2]} == {"passed"}


def test_nothing_is_left_behind(verdicts):
    assert not Path("/tmp/difflm-evil").exists()
    assert not list(Path(tempfile.gettempdir()).glob("difflm-sandbox-*"))
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "launcher.py" in " ".join(child.cmdline())]


def test_no_connection_reaches_a_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}), 0.3)"
        assert run_program(source, LIMITS).outcome == "failed"
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_secret_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "swordfish")
    verdict = run_program("import os; print(dict(os.environ))", LIMITS)
    assert verdict.outcome == "passed"
    assert "swordfish" not in verdict.output
    assert "HOME" not in verdict.output


def test_what_is_not_readable_stays_so():
    """Neither the project nor the packages beside the interpreter can be read."""
    for path in (Path(__file__), Path(pytest.__file__)):
        verdict = run_program(f"open({str(path)!r}).read()", LIMITS)
        assert verdict.kind == "PermissionError"


def test_many_threads_of_the_caller_are_no_trouble():
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        verdicts = list(run_programs(["assert True"] * 8, LIMITS, num_workers=4))
    finally:
        stop.set()
    assert [verdict.outcome for verdict in verdicts] == ["passed"] * 8


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_it_needs_no_root():
    """The same confinement holds for an ordinary user."""
    source = (
        "import os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.path.insert(0, '.')\n"
        "from difflm_core.sandbox import run_program\n"
        "print([run_program(s).outcome for s in ('assert 1', 'import os; os.fork()')])\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd="/")
    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("the interpreter cannot be read by an ordinary user here")
    assert done.stdout.strip() == "['passed', 'failed']", done.stderr
