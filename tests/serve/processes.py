"""`difflm serve` as people run it: a process, its replicas, and what they use."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil

from tests.ray.heads import free_port

READY_SECONDS = 120


class Serving:
    """A running `difflm serve`."""

    def __init__(self, *arguments, folder, port=None, environment=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "difflm_core.cli", "serve", *map(str, arguments)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=self.url, timeout=120)

    def await_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while "Ctrl-C stops it." not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def generate(self, model, **body):
        return self.client.post(f"/v1/models/{model}/generate", json=body)

    def processes(self, role):
        """Processes of the deployment `role`."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if f"ServeReplica:difflm:{role}" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def memory(self):
        """Resident bytes of the front and the replicas."""
        chosen = [*self.processes("front"), *self.processes("generator")]
        return sum(process.memory_info().rss for process in chosen)

    def kill(self, role):
        for process in self.processes(role):
            process.send_signal(signal.SIGKILL)

    def metric(self, name):
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def stop(self, how=signal.SIGTERM):
        """Exit code, once it and all that it started have ended."""
        tree = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(how)
        code = self.process.wait(60)
        deadline = time.monotonic() + 60  # agents look after theirs now and then
        while alive := [process.name() for process in tree[1:] if is_alive(process)]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.5)
        return code

    def close(self):
        self.client.close()
        if self.process.poll() is None:
            self.stop()


@contextlib.contextmanager
def serving(*arguments, folder, **options):
    """Run `difflm serve` while the context lasts."""
    running = Serving(*arguments, folder=folder, **options)
    try:
        running.await_ready()
        yield running
    finally:
        running.close()


def request_bytes(path, body):
    """An HTTP request as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def is_alive(process):
    """Whether it runs; one that nobody waits for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
