"""Who may call the service, and how much: API keys and their quotas.

A key is a long random text, so its SHA-256 is safe to store. The file (YAML or JSON):

    keys:
      - name: analytics
        sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        models: [adult]            # left out: all
        requests_per_minute: 60    # left out: no limit; likewise below
        rows_per_day: 1000000
        expires: 2027-01-31        # last day

In the environment variable DIFFLM_API_KEYS: `name:sha256` of each key, separated by commas.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.serving.problems import ServiceError
from difflm_core import storage
from difflm_core.errors import ConfigError

ENVIRONMENT_VARIABLE = "DIFFLM_API_KEYS"
KEY_PREFIX = "dlm_"
_DAY_SECONDS = 86_400


class ApiKey(BaseModel):
    """A key and what it allows; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    rows_per_day: int | None = Field(default=None, ge=1)
    expires: datetime.date | None = None


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = Field(min_length=1)


def new_key() -> str:
    """A fresh key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: str | None, environment: Mapping[str, str] = os.environ) -> list[ApiKey]:
    """The keys of a file and of the environment; none: the service is open.

    Raises:
        ConfigError: the file, or the variable, cannot be read as keys.
    """
    keys = [*_from_file(path)] if path else []
    keys += _from_environment(environment.get(ENVIRONMENT_VARIABLE, ""))
    seen: set[str] = set()
    for key in keys:
        if key.name in seen:
            raise ConfigError(f"API keys: the name {key.name!r} is there twice; rename one")
        seen.add(key.name)
    names: dict[str, str] = {}
    for key in keys:
        first = names.setdefault(key.sha256, key.name)
        if first != key.name:
            raise ConfigError(
                f"API keys: {first!r} and {key.name!r} are the same key; make another one"
            )
    return keys


def _from_file(path: str) -> Iterable[ApiKey]:
    try:
        content = yaml.safe_load(storage.read_text(path))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; expected API keys. Make one: difflm key NAME --file "
            f"{path}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected a file of API keys"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    try:
        return _KeyFile.model_validate(content).keys
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in found["loc"])
        raise ConfigError(
            f"{path}: {place or 'content'}: {found['msg']}; expected `keys:` with a list of "
            "name, sha256 and limits"
        ) from None


def _from_environment(text: str) -> Iterable[ApiKey]:
    for entry in filter(None, re.split(r"[,\s]+", text)):
        name, _, digest = entry.partition(":")
        try:
            yield ApiKey(name=name, sha256=digest)
        except ValidationError:
            raise ConfigError(
                f"{ENVIRONMENT_VARIABLE}: an entry is not name:sha256 (64 hexadecimal digits); "
                "expected such entries separated by commas"
            ) from None


class TokenBucket:
    """A rate: up to `capacity` at once, refilled evenly over `period_seconds`."""

    def __init__(self, capacity: int, period_seconds: float, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._rate = capacity / period_seconds
        self._clock = clock
        self._left, self._at = float(capacity), clock()

    def take(self, amount: int) -> float:
        """Take `amount`; give 0, or the seconds to wait if there is not enough (taking none)."""
        now = self._clock()
        self._left = min(self._capacity, self._left + (now - self._at) * self._rate)
        self._at = now
        if amount <= self._left:
            self._left -= amount
            return 0.0
        return (amount - self._left) / self._rate

    def give_back(self, amount: int) -> None:
        """Undo a `take`."""
        self._left = min(self._capacity, self._left + amount)


@dataclass
class Caller:
    """Who makes a request.

    Attributes:
        name: of the key; None if the service is open.
    """

    name: str | None
    models: tuple[str, ...] | None = None
    requests: TokenBucket | None = None
    rows: TokenBucket | None = None
    rows_per_day: int | None = None

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models

    def charge_request(self) -> None:
        """Count a request.

        Raises:
            ServiceError: too many within a minute.
        """
        wait = self.requests.take(1) if self.requests else 0.0
        if wait:
            raise ServiceError("rate_limited", f"Too many requests with the key {self.name}.", wait)

    def charge_rows(self, count: int) -> None:
        """Count rows.

        Raises:
            ServiceError: too many within a day, or more than a day's allowance.
        """
        if self.rows is None or self.rows_per_day is None:
            return
        allowance = f"The key {self.name} allows {self.rows_per_day:,} rows a day"
        if count > self.rows_per_day:
            raise ServiceError("not_allowed", f"{allowance}; {count:,} were asked for.")
        wait = self.rows.take(count)
        if wait:
            raise ServiceError("rows_exhausted", f"{allowance}, and they are used up.", wait)

    def give_back_rows(self, count: int) -> None:
        """Rows that were charged and not delivered."""
        if self.rows is not None:
            self.rows.give_back(count)


class KeyRing:
    """Finds the caller of a request."""

    def __init__(self, keys: Iterable[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        """Take `keys`; none: everybody may call."""
        self._keys = {key.sha256: key for key in keys}
        self._callers = {digest: _caller(key, clock) for digest, key in self._keys.items()}
        self._anybody = Caller(None)

    @property
    def required(self) -> bool:
        """Whether a key is needed."""
        return bool(self._keys)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who calls, by `Authorization: Bearer` or `X-API-Key`.

        Raises:
            ServiceError: a key is needed and there is none, or none that is known.
        """
        if not self._keys:
            return self._anybody
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")
        key = key.strip()
        if not key:
            raise ServiceError(
                "key_missing", "An API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY."
            )
        # The digest of what was sent says nothing about a stored one: a lookup leaks no more.
        digest = hash_key(key)
        known = self._keys.get(digest)
        if known is None:
            raise ServiceError("key_unknown", "This API key is not known here.")
        if known.expires is not None and _today() > known.expires:
            raise ServiceError("key_unknown", f"The API key {known.name} has expired.")
        return self._callers[digest]


def _caller(key: ApiKey, clock: Callable[[], float]) -> Caller:
    requests = rows = None
    if key.requests_per_minute is not None:
        requests = TokenBucket(key.requests_per_minute, 60, clock)
    if key.rows_per_day is not None:
        rows = TokenBucket(key.rows_per_day, _DAY_SECONDS, clock)
    return Caller(key.name, key.models, requests, rows, key.rows_per_day)


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def make_entry(name: str, key: str, **limits: Any) -> dict[str, Any]:
    """What a file says of a new key.

    Raises:
        ConfigError: a value is not possible.
    """
    values = {k: v for k, v in limits.items() if v is not None}
    try:
        entry = ApiKey.model_validate({"name": name, "sha256": hash_key(key), **values})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in found["loc"])
        raise ConfigError(f"{place}: {found['msg']}") from None
    return entry.model_dump(mode="json", exclude_unset=True)


def add_key(path: Path, entry: dict[str, Any]) -> None:
    """Add a key to a file, which only its owner may read.

    Raises:
        ConfigError: the file is not one of keys, or has a key of that name.
    """
    before = list(_from_file(str(path))) if path.exists() else []
    if any(key.name == entry["name"] for key in before):
        raise ConfigError(f"{path}: there is a key {entry['name']!r} already; remove it first")
    kept = [key.model_dump(mode="json", exclude_unset=True) for key in before]
    text = yaml.safe_dump({"keys": [*kept, entry]}, sort_keys=False)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # a left one may be open to others
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
