"""The health of a container, as Docker asks for it."""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.images.dockerfiles import DOCKERFILE, IMAGES, parse


def healthy(port):
    """Run the check as the image does."""
    (step,) = parse(DOCKERFILE.read_text("utf-8"))[1][-1].all("HEALTHCHECK")
    assert step.endswith('CMD ["python3", "-IS", "/usr/local/lib/difflm/healthcheck.py"]')
    done = subprocess.run(
        [sys.executable, "-IS", IMAGES / "healthcheck.py", str(port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("", "")
    return {0: True, 1: False}[done.returncode]


@pytest.fixture
def agent():
    """A server that answers as Ray's agent; `status` is what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/api/healthz"
            self.send_response(self.server.status if known else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "answer"), [(200, True), (503, False), (500, False)])
def test_a_ray_node_is_as_healthy_as_its_agent_says(agent, status, answer):
    agent.status = status
    assert healthy(agent.server_port) is answer


def test_a_container_without_a_ray_node_is_healthy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert healthy(port) is True


def test_an_agent_that_hangs_is_not_healthy():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert healthy(silent.getsockname()[1]) is False
