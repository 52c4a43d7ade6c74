"""What may be sent to a service, and what its answers say beside their content."""

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from difflm_core.errors import ConfigError

_NAME = re.compile(r"[\w.-]{1,64}")


def require_address(url: str) -> bool:
    """Check an address; tells whether it is on this machine.

    Raises:
        ConfigError: it is none, holds a secret, or would send documents and key unprotected.
    """
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        parts, has_port = urlsplit(""), False
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "The judge's address holds a name or a password (not shown); expected an address "
            "alone, and the key in an environment variable that --key-env names."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ConfigError(
            f"The judge's address {url!r} is no URL; expected one such as https://host/v1."
        )
    is_here = _is_loopback(parts.hostname)
    if parts.scheme == "http" and not is_here:
        raise ConfigError(
            f"The judge's address {url!r} is not encrypted, so documents and key would travel in "
            "the open; expected https://, or an address of this machine."
        )
    return is_here


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_key(key: str | None) -> str | None:
    """A key without the line break behind it; None if there is none.

    Raises:
        ConfigError: it cannot be sent.
    """
    stripped = (key or "").strip()
    if not re.fullmatch(r"[!-~]*", stripped):
        raise ConfigError(
            "The judge's key holds a space or a letter that no key has (not shown); check the "
            "environment variable."
        )
    return stripped or None


def error_code(body: bytes) -> str | None:
    """The code of an error, if it is a plain name; its message may quote the documents."""
    try:
        error = json.loads(body)["error"]
        found = [error.get(name) for name in ("code", "type")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return next((name for name in found if isinstance(name, str) and _NAME.fullmatch(name)), None)


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for: seconds, or a date by the service's own clock."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    until = _seconds_of(text)
    now = _seconds_of(headers.get("date", ""))
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _seconds_of(date: str) -> float | None:
    try:
        found = email.utils.parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
