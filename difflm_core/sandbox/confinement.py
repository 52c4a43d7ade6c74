"""How a process gives up its rights, for good, before it runs a program: Linux, without root.

- no new privileges, no capabilities: nothing that is set below can be undone;
- resource limits: memory, processor time, size of files, open files;
- Landlock: only the interpreter's own library can be read, only the working directory written;
- seccomp: no processes, no sockets, no signals to others, no mounts, no tracing.

It imports the standard library alone: the process that it confines starts without anything else
(`launcher.py`).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Mapping

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 24, 28
_SIGKILL = 9
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

# Rights of Landlock, by the version of its interface that brought them.
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_TRUNCATE = 1 << 14
_RIGHTS_OF_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP, _SCOPES = 0b11, 0b11

# System calls that no program needs to compute something: numbers on x86-64 and on AArch64.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # Landlock does not look at these: they would reach any file of the same user.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}
# Allowed with some arguments only.
_CLONE, _KILL, _TGKILL, _CLONE3 = (56, 220), (62, 129), (234, 131), (435, 435)
_CLONE_THREAD = 0x00010000
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _JUMP_IF_LARGER, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _REFUSE, _ABSENT, _KILL_PROCESS = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(OSError):
    """A right could not be given up."""


def missing_features() -> list[str]:
    """What this machine lacks to confine a program; empty if it lacks nothing."""
    if sys.platform != "linux":
        return [f"Linux (found {sys.platform})"]
    missing: list[str] = []
    if platform.machine() not in _ARCHITECTURES:
        missing.append(f"a processor of x86-64 or AArch64 (found {platform.machine()})")
    if landlock_version() < 1:
        missing.append("Landlock (Linux 5.13 or newer, with landlock among its security modules)")
    if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):  # noqa: PTH110 - see above
        missing.append("seccomp")
    return missing


def landlock_version() -> int:
    """Version of Landlock's interface; below 1 if there is none."""
    return int(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1))


def limit_resources(limits: Mapping[str, int]) -> None:
    """Limit memory, processor time, file sizes and open files.

    Args:
        limits: `memory_bytes`, `cpu_seconds`, `file_bytes`.
    """
    memory, seconds = limits["memory_bytes"], limits["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    files = limits["file_bytes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_up_privileges() -> None:
    """End with the parent, keep no capability, and never gain one."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        _prctl(_PR_SET_SECUREBITS, 0b101111)  # root is an ordinary user, locked
        for capability in range(64):
            if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # there are no more
    header = struct.pack("II", 0x20080522, 0)
    if _libc.capset(header, struct.pack("6I", *[0] * 6)):
        raise _failure("capset")
    _prctl(_PR_SET_DUMPABLE, 0)


def restrict_files(readable: Iterable[str], writable: str) -> None:
    """Let this process read some files and folders, and write one folder; nothing else.

    Args:
        readable: Files, and folders with all that is in them; those that do not exist are skipped.
        writable: A folder.
    """
    version = landlock_version()
    handled = sum(rights for v, rights in _RIGHTS_OF_VERSION.items() if v <= version)
    attributes = struct.pack("QQQ", handled, _TCP, _SCOPES)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = int(_libc.syscall(_LANDLOCK_CREATE, attributes, size, 0))
    if ruleset < 0:
        raise _failure("landlock_create_ruleset")
    own = _READ | _READ_DIR | _WRITE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
    _allow(ruleset, writable, (own | _MAKE_SYM | _TRUNCATE) & handled)
    for path in readable:
        if os.path.isdir(path):  # noqa: PTH112 - without pathlib, the process starts sooner
            _allow(ruleset, path, _READ | _READ_DIR)
        elif os.path.exists(path):  # noqa: PTH110
            _allow(ruleset, path, _READ)
    if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0):
        raise _failure("landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, place)
    if _libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0):
        raise _failure(f"landlock_add_rule for {path}")
    os.close(place)


def restrict_calls() -> None:
    """Refuse system calls that reach beyond this process."""
    index, architecture = _ARCHITECTURES[platform.machine()]
    own = os.getpid()
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_IF_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_IF_LARGER, 0x40000000, 0, 1),  # x32, which has other numbers
        _step(_RETURN, _KILL_PROCESS),
        *_only_if(_CLONE[index], _JUMP_IF_SET, _CLONE_THREAD),
        *_only_if(_KILL[index], _JUMP_IF_EQUAL, own),
        *_only_if(_TGKILL[index], _JUMP_IF_EQUAL, own),
        # The C library falls back on clone.
        _step(_JUMP_IF_EQUAL, _CLONE3[index], 0, 1),
        _step(_RETURN, _ABSENT),
    ]
    for numbers in _DENIED.values():
        number = numbers[index]
        if number is not None:
            program += [_step(_JUMP_IF_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE)]
    program.append(_step(_RETURN, _ALLOW))
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, 2, filters)


def _only_if(number: int, condition: int, value: int) -> list[bytes]:
    """Refuse a call unless its first argument meets a condition."""
    return [
        _step(_JUMP_IF_EQUAL, number, 0, 4),
        _step(_LOAD, _ARGUMENT),
        _step(condition, value, 1, 0),
        _step(_RETURN, _REFUSE),
        _step(_RETURN, _ALLOW),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _prctl(option: int, *arguments: int | bytes) -> None:
    filled = [*arguments, *[0] * (4 - len(arguments))]
    if _libc.prctl(option, *(a if isinstance(a, bytes) else ctypes.c_ulong(a) for a in filled)):
        raise _failure(f"prctl {option}")


def _failure(what: str) -> ConfinementError:
    number = ctypes.get_errno()
    return ConfinementError(number, f"{what}: {os.strerror(number)}")
