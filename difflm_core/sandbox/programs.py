"""Programs in, verdicts out: starts the confined processes and watches them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

from difflm_core.errors import StageError
from difflm_core.sandbox import confinement

Outcome = Literal[
    "passed", "failed", "timeout", "memory", "crashed", "ended early", "output", "disk"
]
_LAUNCHER = Path(__file__).with_name("launcher.py")
_POLL_SECONDS = 0.05
_KEPT_OUTPUT = 4096
# Outside of the interpreter's own library, what a program may read.
_READABLE = (
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
)


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        wall_seconds: Time until it is ended.
        cpu_seconds: Processor time, whole seconds.
        memory_bytes: Address space.
        file_bytes: Size of a file, and of all of its files together.
        output_bytes: What it may print.
        packages: Folders of installed packages that it may import from.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    output_bytes: int = 1 << 20
    packages: tuple[str, ...] = ()


DEFAULT = Limits()


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Attributes:
        outcome: passed: it came to its end without an error. failed: an exception ended it.
            timeout, memory, output, disk: it exceeded that limit. crashed: a signal ended it.
            ended early: its process ended without coming to the program's end.
        kind: Type of the exception, or name of the signal.
        message: Beginning of the exception's message; what the program says, to be trusted as
            little as the program.
        output: End of what it printed.
        seconds: Time from start to end, the interpreter's start included.
    """

    outcome: Outcome
    kind: str = ""
    message: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it came to its end without an error."""
        return self.outcome == "passed"


def require_sandbox() -> None:
    """Check that programs can be confined here.

    Raises:
        StageError: they cannot; the message says what is missing.
    """
    missing = confinement.missing_features()
    if missing:
        raise StageError(
            "Generated code is only run in a sandbox, and this machine cannot confine a program: "
            f"it lacks {'; '.join(missing)}. Run this step on a machine (or in a container) that "
            "has it, or leave out the execution of code."
        )


def run_program(source: str, limits: Limits = DEFAULT, stdin: str = "") -> Verdict:
    """Run one program.

    Args:
        source: Python source text.
        limits: What it may use.
        stdin: What it reads from standard input, at most 64 KiB.

    Raises:
        StageError: programs cannot be confined on this machine.
    """
    require_sandbox()
    folder = tempfile.mkdtemp(prefix="difflm-sandbox-")
    try:
        return _Run(source, limits, stdin, folder).result()
    finally:
        _remove(folder)


def run_programs(
    sources: Iterable[str], limits: Limits = DEFAULT, *, num_workers: int | None = None
) -> Iterator[Verdict]:
    """Run programs, a few at a time; yields a verdict for each, in order.

    Args:
        sources: Taken one by one: at most twice as many as workers are in memory.
        limits: What each may use.
        num_workers: Programs at a time; None: one for each core.
    """
    require_sandbox()
    workers = num_workers or len(os.sched_getaffinity(0))
    left = iter(sources)
    pending: deque[Future[Verdict]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        try:
            for source in islice(left, 2 * workers):
                pending.append(pool.submit(run_program, source, limits))
            while pending:
                verdict = pending.popleft().result()
                for source in islice(left, 1):
                    pending.append(pool.submit(run_program, source, limits))
                yield verdict
        finally:
            for future in pending:
                future.cancel()


class _Run:
    """One process on its way."""

    def __init__(self, source: str, limits: Limits, stdin: str, folder: str) -> None:
        self._limits = limits
        self._folder = folder
        self._token = secrets.token_hex(16)
        self._output = bytearray()
        self._num_output = 0
        self._report = bytearray()
        request = {
            "source": source,
            "stdin": stdin,
            "limits": {
                "memory_bytes": limits.memory_bytes,
                "cpu_seconds": limits.cpu_seconds,
                "file_bytes": limits.file_bytes,
            },
            "readable": [*_library(), *_READABLE, *limits.packages],
            "packages": list(limits.packages),
        }
        self._request = json.dumps(request, ensure_ascii=True).encode()

    def result(self) -> Verdict:
        """Run to the end."""
        report_reader, report_writer = os.pipe()
        token_reader, token_writer = os.pipe()
        os.write(token_writer, self._token.encode())
        os.close(token_writer)
        start = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own launcher; the program is data
            [
                sys.executable,
                "-I",
                "-S",
                "-B",
                "-X",
                "utf8",
                str(_LAUNCHER),
                str(report_writer),
                str(token_reader),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(report_writer, token_reader),
            cwd=self._folder,
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        os.close(report_writer)
        os.close(token_reader)
        try:
            exceeded = self._watch(process, report_reader, start)
        finally:
            # The program has no other processes: it could not make any.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(report_reader)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        return self._verdict(process.returncode, exceeded, time.monotonic() - start)

    def _watch(self, process: subprocess.Popen[bytes], report: int, start: float) -> Outcome | None:
        """Read what comes until the process ends, or exceeds a limit, which is returned."""
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        with contextlib.suppress(BrokenPipeError):
            stdin.write(self._request)
            stdin.close()
        with selectors.DefaultSelector() as selector:
            for pipe, buffer in ((stdout.fileno(), "output"), (report, "report")):
                os.set_blocking(pipe, False)
                selector.register(pipe, selectors.EVENT_READ, buffer)
            deadline = start + self._limits.wall_seconds
            next_look = start + 2 * _POLL_SECONDS
            while selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    return "timeout"
                if now >= next_look:
                    next_look = now + 2 * _POLL_SECONDS
                    if _size(self._folder) > self._limits.file_bytes:
                        return "disk"
                for key, _ in selector.select(min(_POLL_SECONDS, deadline - now)):
                    data = os.read(key.fd, 65_536)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.data == "report":
                        self._report += data[: 65_536 - len(self._report)]
                    else:
                        self._num_output += len(data)
                        self._output = (self._output + data)[-_KEPT_OUTPUT:]
                        if self._num_output > self._limits.output_bytes:
                            return "output"
            # It may have closed its pipes and go on.
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return "timeout"
        return None

    def _verdict(self, code: int, exceeded: Outcome | None, seconds: float) -> Verdict:
        output = self._output.decode("utf-8", "replace")
        if exceeded is not None:
            return Verdict(exceeded, output=output, seconds=seconds)
        report = _parse_report(bytes(self._report), self._token)
        if report is not None:
            kind, message = str(report["kind"]), str(report["message"])
            if report["outcome"] == "unconfined":
                raise StageError(
                    f"A program could not be confined ({kind}: {message}), and was not run. Run "
                    "this step on another machine, or leave out the execution of code."
                )
            outcome: Outcome = "failed"
            for known in ("passed", "memory"):
                if report["outcome"] == known:
                    outcome = known
            return Verdict(outcome, kind, message, output, seconds)
        if code < 0:
            name = signal.Signals(-code).name
            if -code == signal.SIGXCPU:
                return Verdict("timeout", name, "", output, seconds)
            if -code == signal.SIGXFSZ:
                return Verdict("disk", name, "", output, seconds)
            return Verdict("crashed", name, "", output, seconds)
        return Verdict("ended early", f"exit code {code}", "", output, seconds)


def _parse_report(data: bytes, token: str) -> dict[str, object] | None:
    """The launcher's report; None if there is none, or it is not the launcher's."""
    try:
        report = json.loads(data)
    except ValueError:
        return None
    return report if isinstance(report, dict) and report.get("token") == token else None


@cache
def _library() -> tuple[str, ...]:
    """What the interpreter's own library consists of; packages beside it are no part of it."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    folders = {sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")}
    return tuple(
        str(path)
        for folder in sorted(folders)
        for path in sorted(Path(folder).iterdir())
        if path.name not in ("site-packages", "dist-packages")
    )


def _size(folder: str) -> int:
    """Bytes of all files in a folder; looks at no more than a few thousand."""
    total = seen = 0
    pending = [folder]
    while pending and seen < 4096:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total if seen < 4096 else sys.maxsize


def _remove(folder: str) -> None:
    """Remove a folder, whatever its owner has done to its permissions."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(root) / name
            if not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
