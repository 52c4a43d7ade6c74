"""One connection to a service: the key, the time limits, and what is tried again."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import ipaddress
import random
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from difflm_core.client.answers import AnswerT, Problem, ServiceError, parse
from difflm_core.errors import ConfigError

_TEMPORARY = frozenset({408, 429, 502, 503, 504})
_UNTOUCHED = frozenset({429, 503})  # the service says that it has done nothing
_ERROR_BYTES = 1 << 16
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_ADVICE = {
    400: "Correct the request.",
    401: "Give a valid key: Client(url, key=...), or DIFFLM_API_KEY.",
    403: "Use a key that may do this.",
    404: "Look at Client.models() and Client.jobs() for what there is.",
    408: "Ask again later, or with a smaller page_rows.",
    413: "Ask for fewer rows at once (page_rows), or use Client.submit.",
    422: "Correct the request.",
    429: "Ask again later, or less often.",
    503: "Ask again later.",
}


class Connection:
    """Sends requests to one service; see `Client` for the arguments."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        insecure: bool,
        max_retries: int,
        deadline_seconds: float,
        connect_seconds: float,
        read_seconds: float,
        transport: httpx.BaseTransport | None,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self.max_retries = max_retries
        self.deadline_seconds = deadline_seconds
        self.sleep = sleep
        self.clock = clock
        base, loopback = _checked_url(url)
        self.url = str(base).rstrip("/")
        self._key = _checked_key(key)
        if self._key and base.scheme == "http" and not (loopback or insecure):
            raise ConfigError(
                f"{self.url}: a key would travel readably over http to another machine. Use "
                "https, or give insecure=True if the network is trusted."
            )
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._http = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            transport=transport,
            trust_env=not loopback,  # no proxy between this machine and itself
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        kind: type[AnswerT],
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = True,
    ) -> AnswerT:
        """Send a request until it is answered, and read the answer.

        Args:
            kind: Dataclass of the answer.
            method: HTTP method.
            path: Path under the service's URL.
            body: What is sent as JSON.
            repeatable: Whether it does no harm if the service sees the request twice.

        Raises:
            ServiceError: refused, or not answered in time.
        """
        outage = Outage(self)
        while True:
            try:
                with self.exchange(method, path, body, outage, repeatable=repeatable) as response:
                    chunks = self.chunks(response, outage, temporary=repeatable)
                    content = b"".join(chunks)
                answer = parse(kind, content)
                if answer is None:
                    raise unexpected(
                        response, f"the answer is not a {kind.__name__} of this service"
                    )
            except ServiceError as error:
                outage.wait_out(error)
            else:
                return answer

    @contextlib.contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        outage: Outage,
        *,
        repeatable: bool = True,
    ) -> Generator[httpx.Response]:
        """Send a request once and give its answer, of which only the head has been read.

        Raises:
            ServiceError: refused, or no answer.
        """
        left = max(outage.seconds_left(), 0.001)
        limits = httpx.Timeout(
            min(self._read_seconds, left), connect=min(self._connect_seconds, left)
        )
        request = self._http.build_request(method, path.lstrip("/"), json=body, timeout=limits)
        try:
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._no_answer(request, error, repeatable) from None
        try:
            if not response.is_success:
                raise self._refusal(response, repeatable)
            yield response
        finally:
            response.close()

    def chunks(
        self, response: httpx.Response, outage: Outage, *, temporary: bool = True
    ) -> Iterator[bytes]:
        """The body of an answer.

        Raises:
            ServiceError: the connection broke, or nothing new came within the deadline.
        """
        try:
            for chunk in response.iter_bytes():
                if outage.seconds_left() < 0:
                    raise ServiceError(
                        f"{where(response)}: nothing new came in {self.deadline_seconds:.0f} s. "
                        "Ask again later, or with a longer deadline_seconds.",
                        status=response.status_code,
                        code="too_slow",
                        detail="nothing new came in time",
                        request_id=response.headers.get("x-request-id"),
                    )
                yield chunk
        except httpx.HTTPError as error:
            raise self._no_answer(response.request, error, temporary, broken=True) from None

    def _no_answer(
        self, request: httpx.Request, error: Exception, repeatable: bool, *, broken: bool = False
    ) -> ServiceError:
        """Explain a connection that failed."""
        # The text of the system, never more: what is sent stays out of messages.
        reason = self._without_key(_first_line(str(error)) or type(error).__name__)
        unseen = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        what = "the answer broke off" if broken else "no answer"
        fix = "Check the URL, and that the service runs."
        temporary = repeatable or unseen
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            temporary = False
        if _is_untrusted(error):
            temporary = False
            fix = "Check the certificate of the service, or name its authority in SSL_CERT_FILE."
        elif not repeatable and not unseen:
            fix = "It may have been done: look at Client.jobs() before asking again."
        slow = isinstance(error, httpx.TimeoutException)
        return ServiceError(
            f"{where(request)}: {what} from {self.url}: {reason}. {fix}",
            code="timeout" if slow else "broken" if broken else "unreachable",
            detail=reason,
            temporary=temporary,
        )

    def _refusal(self, response: httpx.Response, repeatable: bool) -> ServiceError:
        """Explain an answer that is an error."""
        status, headers = response.status_code, response.headers
        content = _beginning(response)
        problem = parse(Problem, content)
        detail, code = _phrase(status), "unexpected"
        request_id, retry_after = headers.get("x-request-id"), _retry_after(headers)
        if problem is not None:
            fields = [f"{error.field}: {error.message}" for error in problem.errors]
            detail = _first_line("; ".join([problem.detail, *fields]), 2000)
            code, request_id = problem.code, request_id or problem.request_id
            retry_after = problem.retry_after_seconds if retry_after is None else retry_after
        elif headers.get("content-type", "").startswith("text/plain") and content.strip():
            detail = _first_line(content.decode("utf-8", "replace"))
        detail, code = self._without_key(detail), self._without_key(code)
        request_id = None if request_id is None else self._without_key(request_id)
        fix = _ADVICE.get(status, "Look at the service's log.")
        if response.is_redirect:
            fix = "Give Client the URL that it redirects to."
        named = f" Request {request_id}." if request_id else ""
        return ServiceError(
            f"{where(response)}: the service answered {status} ({code}): "
            f"{detail.rstrip('.')}. {fix}{named}",
            status=status,
            code=code,
            detail=detail,
            request_id=request_id,
            retry_after=retry_after,
            temporary=status in (_TEMPORARY if repeatable else _UNTOUCHED),
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class Outage:
    """Waits out what may pass, as long as allowed; whatever is new starts it afresh."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.progress()

    def progress(self) -> None:
        """Something new came."""
        self._failures = 0
        self._begun = self._connection.clock()

    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self._begun + self._connection.deadline_seconds - self._connection.clock()

    def wait_out(self, error: ServiceError) -> None:
        """Wait until the request should be sent again.

        Raises:
            ServiceError: the error, if it will not pass or has lasted too long.
        """
        if not error.temporary:
            raise error
        self._failures += 1
        longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(self._failures - 1, 16))
        # All of it by chance: clients that failed together do not come back together.
        wait = error.retry_after or random.uniform(0, longest)
        if self._failures > self._connection.max_retries or wait > self.seconds_left():
            tries = "once" if self._failures == 1 else f"{self._failures} times"
            error.args = (f"{error} Tried {tries}.",)
            raise error
        self._connection.sleep(wait)


def segment(name: str, what: str) -> str:
    """A name as a part of a path.

    Raises:
        ConfigError: it cannot be one.
    """
    if name in ("", ".", ".."):
        raise ConfigError(f"{name!r} is not the name of a {what}")
    return quote(name, safe="")


def where(sent: httpx.Request | httpx.Response) -> str:
    """How messages call a request."""
    request = sent.request if isinstance(sent, httpx.Response) else sent
    return f"{request.method} {request.url.path}"


def unexpected(
    response: httpx.Response,
    detail: str,
    *,
    code: str = "unexpected",
    fix: str = "Check that the URL is that of the service, and that it is not older than this "
    "client.",
    temporary: bool = False,
) -> ServiceError:
    """An error about an answer whose status was good."""
    request_id = response.headers.get("x-request-id")
    named = f" Request {request_id}." if request_id else ""
    return ServiceError(
        f"{where(response)}: {detail}. {fix}{named}",
        status=response.status_code,
        code=code,
        detail=detail,
        request_id=request_id,
        temporary=temporary,
    )


def _checked_url(url: str) -> tuple[httpx.URL, bool]:
    """The URL, and whether it is on this machine."""
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL:
        base = httpx.URL("")
    if base.userinfo:
        raise ConfigError("The URL of the service holds a name or password; give key= instead.")
    if base.scheme not in ("http", "https") or not base.host or base.query or base.fragment:
        raise ConfigError(f"{url!r} is not the URL of a service; expected http(s)://host:port")
    try:
        loopback = ipaddress.ip_address(base.host).is_loopback
    except ValueError:
        loopback = base.host == "localhost" or base.host.endswith(".localhost")
    return base, loopback


def _checked_key(key: str | None) -> str:
    stripped = (key or "").strip()
    if not re.fullmatch(r"[!-~]*", stripped):
        raise ConfigError(
            "The key holds a space or a letter that no key has (not shown); check key= or "
            "DIFFLM_API_KEY."
        )
    return stripped


def _beginning(response: httpx.Response) -> bytes:
    """The body of an error: no more than one has, whatever is sent."""
    content = b""
    with contextlib.suppress(httpx.HTTPError):
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > _ERROR_BYTES:
                break
    return content


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that Retry-After asks to wait: a number, or a date by the service's own clock."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    until = _seconds_of(text)
    if until is None:
        return None
    now = _seconds_of(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _seconds_of(date: str) -> float | None:
    """Seconds since 1970 of an HTTP date."""
    try:
        found = email.utils.parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    zoned = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return zoned.timestamp()


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def _first_line(text: str, most: int = 300) -> str:
    return " ".join(text.split())[:most].rstrip(".")
