"""What every request passes: an id, its body within limits, safe headers, a line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.limits import Limits
from components.serving.metrics import Metrics
from components.serving.problems import ServiceError, problem_response
from components.serving.schemas import REQUEST_ID_HEADER

_LOGGER = logging.getLogger("difflm.serve")
_ACCESS = logging.getLogger("difflm.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# A caller may send any word as a method; a label of the metrics has few values.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; "
    "script-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


@dataclass
class Gate:
    """Middleware around the application.

    Attributes:
        allowed_hosts: names that a request may call this service by; None: any. Another name on
            the loopback is a web page that was led here (DNS rebinding).
    """

    app: ASGIApp
    limits: Limits
    metrics: Metrics
    allowed_hosts: Collection[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        passage = _Passage(request_id, send)
        try:
            try:
                self._check_host(headers)
                body = await self._body(scope, headers, receive)
            except ServiceError as error:
                passage.is_last = True  # what is left of the body is not read
                await self._refuse(error, scope, receive, passage)
            else:
                await self._pass(body, scope, receive, passage)
        finally:
            self._note(scope, passage)

    async def _pass(self, body: bytes, scope: Scope, receive: Receive, passage: _Passage) -> None:
        try:
            await self.app(scope, _replay(body, receive), passage.send)
        except Exception as error:
            if passage.status:  # too late for another status: the connection breaks
                _LOGGER.warning("the answer to request %s broke off", passage.request_id)
                raise
            _LOGGER.error("request %s failed", passage.request_id, exc_info=error)
            detail = f"The service failed; its log says more about request {passage.request_id}."
            await self._refuse(ServiceError("internal", detail), scope, receive, passage)

    async def _refuse(
        self, error: ServiceError, scope: Scope, receive: Receive, passage: _Passage
    ) -> None:
        self.metrics.refused.labels(error.code).inc()
        await problem_response(error, passage.request_id)(scope, receive, passage.send)

    def _check_host(self, headers: Headers) -> None:
        name = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if self.allowed_hosts is not None and name not in self.allowed_hosts:
            allowed = ", ".join(self.allowed_hosts)
            raise ServiceError(
                "host_not_allowed", f"This service does not go by that name. Expected: {allowed}."
            )

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            ServiceError: it is too large, or does not arrive in time.
        """
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            return b""
        most = self.limits.body_bytes
        too_large = ServiceError("too_large", f"The body is larger than {most:,} bytes.")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ServiceError("bad_request", "The body is incomplete.")
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ServiceError(
                "request_timeout",
                f"The body did not arrive within {self.limits.body_seconds:g} s.",
            ) from None

    def _note(self, scope: Scope, passage: _Passage) -> None:
        seconds = time.monotonic() - passage.begun
        route = getattr(scope.get("route"), "path", "other")
        status = str(passage.status or 499)  # nobody waited for the answer
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        facts = {
            "request_id": passage.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": int(status),
            "complete": passage.complete,
            "seconds": round(seconds, 4),
            "bytes": passage.num_bytes,
            "key": scope["state"].get("key_name"),
        }
        _ACCESS.info("%s", json.dumps(facts))


class _Passage:
    """An answer on its way out."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.begun = time.monotonic()
        self.status = 0
        self.num_bytes = 0
        self.complete = False
        self.is_last = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self.request_id
            if self.is_last:
                headers["Connection"] = "close"
            for name, value in _SAFE_HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.num_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the application a body that was read before."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def key_name_of(request: Request, name: str | None) -> None:
    """Let the log name the key of a request."""
    state: dict[str, Any] = request.scope["state"]
    state["key_name"] = name
