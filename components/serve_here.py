"""The service on this machine: an embedded Ray, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from components.ray_runtime import ray_runtime
from difflm_core.errors import ConfigError, StageError

if TYPE_CHECKING:
    from components.serve import AppArgs

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
_APPLICATION = "difflm"
_POLL_SECONDS = 0.2
_STARTING_SECONDS = 180.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host in _LOOPBACK_HOSTS


def require_port(host: str, port: int) -> None:
    """Check, before Ray is started, that the address can be had.

    Raises:
        ConfigError: it is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} cannot be listened on: {error.strerror}. Choose another --port."
            ) from None


def split_processors(num_replicas: int) -> int:
    """Processors of each of `num_replicas` on this machine.

    Raises:
        ConfigError: there are more replicas than processors.
    """
    processors = os.cpu_count() or 1
    if num_replicas > max(4, processors):
        raise ConfigError(
            f"--replicas {num_replicas}: this machine has {processors} processors; expected as "
            "many replicas at most. One replica uses them all."
        )
    return max(1, processors // num_replicas)


@contextlib.contextmanager
def serving(
    make_args: Callable[[], AppArgs], host: str, port: int, address: str | None = None
) -> Generator[str]:
    """Serve while the context lasts; give the URL once rows can be had.

    Args:
        make_args: Makes the arguments of the application, once Ray runs.
        host: Interface of the HTTP server.
        port: Of the HTTP server.
        address: Of a Ray cluster; None: see `ray_runtime`.

    Raises:
        StageError: it does not get ready.
    """
    require_port(host, port)
    with ray_runtime(address) as runtime:
        from ray import serve
        from ray.serve.config import HTTPOptions

        from components.serve import build_app

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        quiet: Any = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=host, port=port),
            logging_config=quiet,
        )
        try:
            app = build_app(make_args().model_dump())
            serve.run(app, name=_APPLICATION, route_prefix="/", logging_config=quiet)
            url = _url(host, port)
            _await_ready(url, runtime.logs)
            yield url
        finally:
            serve.shutdown()


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _await_ready(url: str, logs: str) -> None:
    from ray import serve

    deadline = time.monotonic() + _STARTING_SECONDS
    reason = "nobody answers"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5)
            if answer.status_code == 200:
                return
            reason = _detail(answer)
        except httpx.HTTPError:
            pass
        status = serve.status().applications.get(_APPLICATION)
        if status is not None and status.status == "DEPLOY_FAILED":
            failed = (deployment.message for deployment in status.deployments.values())
            reason = next(filter(None, failed), status.message)
            break
        time.sleep(_POLL_SECONDS)
    port = urlsplit(url).port
    raise StageError(
        f"The service on port {port} did not get ready: {_last_line(reason)}. Its logs: {logs}"
    )


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _last_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return next(reversed([line for line in lines if line]), "no reason given").rstrip(".")
