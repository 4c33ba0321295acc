"""Who may call, and how often: keys of the database and of the environment, their scopes, and a bucket for each."""

from __future__ import annotations

import ipaddress
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from revector.serving.keys import Key, id_of, read_keys

FRESH_S = 2.0
"""How old what is known of the keys may be: a key that was revoked opens nothing after that."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; ``key_id`` names the key, and ``collections`` None means all of them."""

    key_id: str
    scopes: frozenset[str]
    collections: frozenset[str] | None = None

    def check(self, scope: str, collection: str | None) -> None:
        """Raise 403 unless this caller may do what ``scope`` covers, in ``collection`` where there is one."""
        self.check_scope(scope)
        if self.collections is not None and collection not in self.collections:
            raise HTTPException(403, f"your key is for other collections: {_shown(self.collections)}.")

    def check_scope(self, scope: str) -> None:
        """Raise 403 unless this caller may do what ``scope`` covers, in one collection at least."""
        if not {scope, "admin"} & self.scopes:
            raise HTTPException(403, f"this needs a key with the scope {scope}; yours has {_shown(self.scopes)}.")


ANYONE = Caller("anyone", frozenset({"admin"}))
ENVIRONMENT = Caller("environment", frozenset({"admin"}))


class Access:
    """Knows the keys. Only where ``is_open`` may a request without a key do anything, and then everything.

    ``token`` is the key of the environment, which has the scope admin. ``engine`` may raise while the database is down.
    """

    def __init__(self, engine: Callable[[], sa.Engine], *, token: str | None, is_open: bool) -> None:
        self._engine, self._token, self.is_open = engine, None if token is None else token.encode(), is_open
        self._keys: dict[str, Key] = {}
        self._read_at = -math.inf
        self._reading = threading.Lock()

    def of_environment(self, secret: str) -> Caller | None:
        """Return the caller whose key is that of the environment; asks no database."""
        # Header bytes as they came: Starlette reads them as Latin-1.
        known = self._token is not None and secrets.compare_digest(secret.encode("latin-1"), self._token)
        return ENVIRONMENT if known else None

    @property
    def is_stale(self) -> bool:
        """Whether ``read`` must come before ``find``."""
        return time.monotonic() - self._read_at > FRESH_S

    def read(self) -> None:
        """Read the keys again. Raises what the database raises; nobody is let in by what was known before."""
        with self._reading:
            if self.is_stale:
                with self._engine().connect() as connection:
                    self._keys = {key.key_id: key for key in read_keys(connection)}
                self._read_at = time.monotonic()

    async def ask_again(self, caller: Caller) -> None:
        """Raise 401 if the key of ``caller`` was revoked since it came in."""
        if caller in (ANYONE, ENVIRONMENT):
            return
        if self.is_stale:
            await run_in_threadpool(self.read)
        if caller.key_id not in self._keys:
            raise HTTPException(401, "this key was revoked meanwhile.", headers={"WWW-Authenticate": "Bearer"})

    @property
    def has_keys(self) -> bool:
        """Whether any key opens this service, as far as it is known."""
        return self._token is not None or bool(self._keys)

    def find(self, secret: str) -> Caller | None:
        """Return whose key this is; None for no one's."""
        key = self._keys.get(id_of(secret))
        return Caller(key.key_id, key.scopes, key.collections) if key and key.opens_with(secret) else None


class Buckets:
    """A token bucket per caller: ``per_s`` requests a second, and those of one second at once.

    By this process's own steady clock, so that a clock that is set back locks nobody out.
    """

    def __init__(self, per_s: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._most, self._now = per_s, max(1.0, per_s), now
        self._filled: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str) -> float:
        """Take one request out and return 0, or return in how many seconds there will be one."""
        now = self._now()
        level, at = self._filled.get(key_id, (self._most, now))
        level = min(self._most, level + (now - at) * self._per_s)
        if level < 1:
            return (1 - level) / self._per_s
        self._filled[key_id] = level - 1, now
        return 0.0


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without a port, is this machine's own name for itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _shown(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
