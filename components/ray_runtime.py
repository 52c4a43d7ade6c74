"""Ray itself: an embedded one on this machine, or a cluster that runs already.

Ray is imported only inside functions: some of its settings are read at its import, and differ
between the two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflm_core.errors import ConfigError, StageError

_LOGGER = logging.getLogger("difflm.ray")

LOCAL = "local"
# Tells processes of an embedded Ray that they are of one.
_ON_LOOPBACK = "DIFFLM_ON_LOOPBACK"
# Ray puts sockets below its folder, and the path of a Unix socket has at most 107 characters, of
# which Ray needs up to 64.
_MAX_FOLDER_LENGTH = 40
# Data travels through files, never through Ray's object store; it holds a few small messages.
_OBJECT_STORE_BYTES = 256 * 2**20
# Ray Data hangs with two logical CPUs. These are for placement only: the threads of the workers
# follow from the real cores.
_MIN_LOGICAL_CPUS = 4
_KNOCK_SECONDS = 10


@dataclass
class RayRuntime:
    """A Ray that this process is connected to.

    Attributes:
        embedded: it was started by this process, on this machine, and ends with it.
        logs: where its logs are, for messages.
        keep_logs: whether an embedded Ray leaves its logs behind.
    """

    embedded: bool
    logs: str
    keep_logs: bool = False


@contextlib.contextmanager
def ray_runtime(address: str | None = None) -> Generator[RayRuntime]:
    """Start an embedded Ray, or connect to a cluster; leave it in the end.

    Args:
        address: `host:port` of a cluster; `local` for an embedded one. None: what the environment
            variable RAY_ADDRESS says, as in a Ray job, else an embedded one.

    Raises:
        ConfigError: the address has another form.
        StageError: no cluster answers there, or the embedded one does not start.
    """
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    _require_form(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    with _embedded() if address == LOCAL else _connected(address) as runtime, _log_not_print():
        yield runtime


def _require_form(address: str) -> None:
    if "://" in address:
        raise ConfigError(
            f"{address}: this is not the address of a Ray cluster's head. Expected host:port, such "
            "as 10.0.0.5:6379 (RAY_ADDRESS or --address). To run on a cluster that only its job "
            "API can reach, submit the command: ray job submit --address URL -- python -m "
            "components.entrypoint ..."
        )


@contextlib.contextmanager
def _log_not_print() -> Generator[None]:
    """Log what Ray would print about each death on stdout, where the results of a command go.

    No option of `ray.init` reaches it. The launcher words deaths itself.
    """
    from ray._private import worker  # pyright: ignore[reportPrivateUsage]

    def log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            _LOGGER.debug("%s: %s", data["pid"], line)

    original = worker.print_to_stdstream
    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = original


@contextlib.contextmanager
def _embedded() -> Generator[RayRuntime]:
    _stay_on_this_machine()
    import ray
    from ray._private import ray_constants  # pyright: ignore[reportPrivateUsage]

    # Read at Ray's import: too late if something else has imported it before.
    if ray_constants.ENABLE_RAY_CLUSTER:
        raise StageError(
            "An embedded Ray would listen on all network interfaces, since ray was imported before "
            "DiffLM could say otherwise. Set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 and "
            "RAY_AUTH_MODE=token in the environment, or import ray later."
        )
    folder = _short_folder()
    # Ray opens its folder to everybody; the one around it stays ours.
    inner = folder / "ray"
    runtime = RayRuntime(embedded=True, logs=str(inner / "session_latest" / "logs"))
    try:
        _init(
            address=LOCAL,
            num_cpus=max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(inner),
        )
        yield runtime
    finally:
        ray.shutdown()
        if not runtime.keep_logs:
            shutil.rmtree(folder, ignore_errors=True)


def bind_replica_to_loopback() -> None:
    """Keep the port that Ray Serve opens for this replica from other machines.

    Serve binds it to every interface, whatever it is told. To be called while the replica is made.
    """
    if _ON_LOOPBACK not in os.environ:
        return
    from ray.serve._private import replica

    def add_loopback_port(server: Any, address: str) -> int:
        return server.add_insecure_port(address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = add_loopback_port  # pyright: ignore[reportPrivateImportUsage]


def _stay_on_this_machine() -> None:
    os.environ[_ON_LOOPBACK] = "1"
    # Without this, Ray binds its ports to every interface, whatever address it is given.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Other users of this machine reach its loopback, too: they lack this token. In the
    # environment it ends with the processes; Ray itself would write one to the home folder.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _short_folder() -> Path:
    base = tempfile.gettempdir()
    if len(base) > _MAX_FOLDER_LENGTH - len("/difflm-ray-12345678/ray"):
        base = "/tmp"  # noqa: S108 - mkdtemp makes a folder of our own in it
    return Path(tempfile.mkdtemp(prefix="difflm-ray-", dir=base))


@contextlib.contextmanager
def _connected(address: str) -> Generator[RayRuntime]:
    import ray

    _require_answer(address)
    _init(address=address, runtime_env=_shipped_code())
    logs = "/tmp/ray/session_latest/logs on its nodes"  # noqa: S108 - a place to look, in a message
    try:
        yield RayRuntime(embedded=False, logs=logs)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Knock first: Ray itself would try for minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():  # such as "auto": Ray finds out by itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _shipped_code() -> dict[str, Any] | None:
    """Send this process's own version of the code along, so that workers run the same."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        # In a Ray job, the job's own runtime environment serves its workers as well.
        return None
    import components
    import difflm_core

    return {"py_modules": [difflm_core, components]}


def _init(**options: Any) -> None:
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
        raise _unreachable(options["address"], error) from error
    if callable(handler) and threading.current_thread() is threading.main_thread():
        # Ray puts one of its own in its place, which aborts, and leaves processes behind.
        signal.signal(signal.SIGTERM, handler)


def _unreachable(address: str, error: Exception) -> StageError:
    import ray

    what = (
        "An embedded Ray could not be started on this machine"
        if address == LOCAL
        else f"{address}: no Ray cluster could be reached here"
    )
    return StageError(
        f"{what}: {_first_line(error)}. Expected host:port of a cluster's head that runs the "
        f"same versions of Ray ({ray.__version__}) and Python, with its token (RAY_AUTH_MODE, "
        "RAY_AUTH_TOKEN) if it asks for one; without an address, an embedded Ray is started."
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__
