"""A small HTTP server that speaks the OpenAI protocol, with a switch for every trouble."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer_of(text, **extra):
    """The body of an answer."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
        **extra,
    }


class FakeService:
    """What the server does.

    Attributes:
        reply: Given a request's body, the text of the answer; or (status, headers, body).
        requests: Bodies of all requests, in order.
        keys: Authorization headers, in order.
    """

    def __init__(self):
        self.reply = lambda body: '{"reason": "r", "score": 7}'
        self.requests = []
        self.keys = []
        self.lock = threading.Lock()
        self.address = ""


@contextlib.contextmanager
def running():
    """A server on the loopback."""
    service = FakeService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with service.lock:
                service.requests.append(body)
                service.keys.append(self.headers.get("Authorization"))
                found = service.reply(body)
            if found == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if found == "half":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if found == "drip":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for _ in range(100):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.05)
                return
            status, headers, content = 200, {}, found
            if isinstance(found, tuple):
                status, headers, content = found
            if isinstance(content, str) and status == 200:
                content = answer_of(content)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # callers that leave are expected
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    service.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
