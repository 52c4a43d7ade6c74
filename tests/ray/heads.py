"""A Ray head of one node on the loopback, with its job API, in processes of its own."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """Where a head answers.

    Attributes:
        address: For `--address`.
        dashboard: For `ray job submit --address`.
        agent_port: Of the agent of its node, which knows the node's health.
        environment: What a client needs, the token among it.
    """

    address: str
    dashboard: str
    agent_port: int
    environment: dict[str, str]

    def ray(self, *arguments):
        """Run Ray's own command."""
        return subprocess.run(
            [RAY, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def local_head():
    """Start a head, and stop it in the end."""
    folder = tempfile.mkdtemp(prefix="difflm-head-", dir="/tmp")
    ports = {
        name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")
    }
    environment = {
        **os.environ,
        # As in an image, where `python` has the software.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default it would wait half a minute at its end for work to leave.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    command = [
        *(RAY, "start", "--head", "--block", "--num-cpus", "4", "--temp-dir", folder),
        *("--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1"),
        *(part for name, port in ports.items() for part in (f"--{name}", str(port))),
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(ports["dashboard-port"])
            yield Head(
                f"127.0.0.1:{ports['port']}",
                f"http://127.0.0.1:{ports['dashboard-port']}",
                ports["dashboard-agent-listen-port"],
                environment,
            )
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def free_port():
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, seconds=60):
    """Wait until somebody listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return
