"""The service in a thread of this process, with local generators, on the loopback."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from components.serving.app import make_app
from components.serving.keys import KeyRing
from components.serving.limits import Limits
from components.serving.registry import Registry
from components.serving.service import Service
from tests.serve.local_generators import LocalGenerators

HEAD_END = b"\r\n\r\n"


@dataclass
class Served:
    """A service that answers at `url`."""

    url: str
    port: int
    app: Any
    service: Service
    generators: Any
    client: httpx.Client
    results: Any = None

    def generate(self, model, **body):
        """The answer to a request for rows."""
        return self.client.post(f"/v1/models/{model}/generate", json=body)

    def connect(self):
        """A socket of a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask_raw(self, data):
        """Send bytes; give status, headers and body of the answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection)

    def in_flight(self):
        """What /metrics says of answers being made."""
        return self.metric("difflm_answers_in_flight")

    def metric(self, name):
        """A number of /metrics; None if it is not there."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return None


def make_service(models, keys=(), generators=None, clock=time.monotonic, folders=(), **limits):
    """A service of `models`: URIs by name."""
    return Service(
        Registry(models, folders),
        generators or LocalGenerators(),
        KeyRing(keys, clock),
        Limits(**limits),
    )


@contextlib.contextmanager
def served(service, results=None, *, sent_ahead=None, **options):
    """Serve `service`.

    Args:
        service: What is served.
        results: Folder of its jobs.
        sent_ahead: Bytes that the system holds for a client that does not read; None: many.
        **options: Those of `make_app`.
    """
    app = make_app(service, results and str(results), **options)
    listener = socket.socket()
    if sent_ahead is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sent_ahead)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Served(url, port, app, service, service.generators, client)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def wait_until(is_true, seconds=20.0):
    """Wait for something; give what it was."""
    deadline = time.monotonic() + seconds
    while not (found := is_true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def read_answer(connection):
    """Status, headers (lower case) and body of an answer on a socket."""
    data = b""
    while HEAD_END not in data:
        chunk = connection.recv(65_536)
        assert chunk, f"the connection ended after {data!r}"
        data += chunk
    head, _, body = data.partition(HEAD_END)
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        chunk = connection.recv(65_536)
        assert chunk, "the connection ended inside the body"
        body += chunk
    return int(lines[0].split()[1]), headers, body


def is_closed(connection):
    """Whether the other side closes the connection, without sending more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def post_head(path, *headers, host="127.0.0.1"):
    """The head of a POST."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END
