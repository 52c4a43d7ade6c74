"""Errors as an API tells them: a status, a code for programs, a sentence for people (RFC 9457)."""

# FastAPI reads annotations where Ray has unpickled them: no `from __future__ import annotations`.

import http
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from components.serving.schemas import FieldProblem, Problem
from difflm_core.errors import DiffLMError

MEDIA_TYPE = "application/problem+json"
_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

# What can go wrong: code -> status.
CODES = {
    "bad_request": 400,
    "key_missing": 401,
    "key_unknown": 401,
    "not_allowed": 403,
    "host_not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "invalid": 422,
    "cannot_generate": 422,
    "rate_limited": 429,
    "rows_exhausted": 429,
    "internal": 500,
    "busy": 503,
    "deadline": 503,
    "unavailable": 503,
}


@dataclass
class ServiceError(Exception):
    """What a caller is told.

    Attributes:
        code: one of `CODES`.
        detail: what was found, what was expected.
        retry_after: seconds after which another try makes sense; None: it makes none, or at once.
        errors: keys of the request that are wrong.
    """

    code: str
    detail: str
    retry_after: float | None = None
    errors: Sequence[FieldProblem] = field(default_factory=list[FieldProblem])

    @property
    def status(self) -> int:
        """HTTP status."""
        return CODES[self.code]

    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="difflm"'
        return headers

    def body(self, request_id: str) -> dict[str, Any]:
        """The problem as JSON."""
        seconds = None if self.retry_after is None else max(1, math.ceil(self.retry_after))
        return Problem(
            title=http.HTTPStatus(self.status).phrase,
            status=self.status,
            code=self.code,
            detail=self.detail,
            request_id=request_id,
            retry_after_seconds=seconds,
            errors=list(self.errors),
        ).model_dump()


def problem_response(error: ServiceError, request_id: str) -> Response:
    """The answer to a request that failed."""
    return JSONResponse(
        error.body(request_id), error.status, headers=error.headers(), media_type=MEDIA_TYPE
    )


def request_id_of(request: Request) -> str:
    """Id that the gate has given to a request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def install_handlers(app: FastAPI, on_refused: Callable[[str], None]) -> None:
    """Answer every error of `app` with a problem; what is a defect is left to the gate.

    Args:
        app: The application.
        on_refused: Called with the code of each.
    """

    def answer(request: Request, error: ServiceError) -> Response:
        on_refused(error.code)
        return problem_response(error, request_id_of(request))

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> Response:
        return answer(request, error)

    @app.exception_handler(DiffLMError)
    async def on_user_error(request: Request, error: DiffLMError) -> Response:
        return answer(request, ServiceError("cannot_generate", str(error)))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _explain(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        response = answer(request, _from_http(error, request))
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods_at(request))
        return response


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of errors."""
    known: dict[int | str, dict[str, Any]] = {}
    for code in (*codes, "invalid", "busy"):
        status = CODES[code]
        headers = {}
        if status in (429, 503):
            headers["Retry-After"] = {
                "description": "Seconds to wait.",
                "schema": {"type": "integer"},
            }
        known[status] = {
            "description": http.HTTPStatus(status).phrase,
            "headers": headers,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return known


def describe_problems(app: FastAPI, *, keys_required: bool) -> None:
    """Complete the OpenAPI document: the form of a problem, and what is asked for with a key.

    Args:
        app: The application.
        keys_required: Whether it is refused without one.
    """
    make = app.openapi
    either: list[dict[str, list[str]]] = [{name: []} for name in _KEY_SCHEMES]
    security = either if keys_required else [*either, {}]

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            form = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(form.pop("$defs"))
            schemas["Problem"] = form
            # FastAPI adds its own form of 422, which is never sent.
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            document["components"]["securitySchemes"] = _KEY_SCHEMES
            for path in document["paths"].values():
                for operation in path.values():
                    if "401" in operation["responses"]:
                        operation["security"] = security
        return document

    app.openapi = openapi


def _explain(error: RequestValidationError) -> ServiceError:
    """Name the wrong keys; what stands in them is not repeated."""
    problems: list[FieldProblem] = []
    for found in error.errors():
        if found["type"] == "json_invalid":
            return ServiceError("bad_request", f"The body is not JSON: {_json_reason(found)}.")
        place = [str(part) for part in found["loc"] if part not in ("body", "query", "path")]
        problems.append(FieldProblem(field=".".join(place), message=_message(found)))
    named = "; ".join(f"{p.field or 'body'}: {p.message}" for p in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ServiceError("invalid", f"{named}{more}.", errors=problems)


def _json_reason(found: Mapping[str, Any]) -> str:
    return str(found.get("ctx", {}).get("error", "it cannot be read")).rstrip(".")


def _message(found: Mapping[str, Any]) -> str:
    if found["type"] == "extra_forbidden":
        return "there is no such key"
    text = str(found["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _methods_at(request: Request) -> list[str]:
    """Methods that go with the path of a request."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in fitting for method in route.methods or ()})


def _from_http(error: HTTPException, request: Request) -> ServiceError:
    codes = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
    details = {
        "bad_request": "The body is not JSON: it cannot be read.",
        "not_found": f"There is nothing at {request.url.path}; /openapi.json lists what is.",
        "method_not_allowed": f"{request.method} does not go with {request.url.path}.",
    }
    return ServiceError(code, details.get(code, str(error.detail)))
