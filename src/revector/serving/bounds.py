"""What one search may take of the database: the size of its filter, its time, and that it ends when nobody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa

from revector.errors import ConfigError, DatabaseUnavailable, SearchTooLong

MOST_VALUES = 1_000
"""Values of a filter in all: each is compared with the metadata of every document that might match."""

MOST_FIELDS, MOST_DEPTH, MOST_CHARACTERS = 64, 32, 1 << 18

_CANCELLED = "57014"
# A shorter time-out of the role or the database stays.
_SHORTEN = sa.text(
    "SELECT set_config('statement_timeout', ceil(1000 * least(:limit, nullif(extract(epoch FROM "
    "CAST(s AS interval)), 0)))::text || 'ms', true) FROM current_setting('statement_timeout') s"
)
_CANCEL_S = 5.0


def check_filter(where: Mapping[str, object] | None) -> None:
    """Raise ``ConfigError`` for a filter of more fields, values, levels or characters than one search may have."""
    if not isinstance(where, Mapping):
        return
    if len(where) > MOST_FIELDS:
        raise ConfigError(_too_much(f"{len(where):,} fields", f"{MOST_FIELDS}"))
    values = characters = 0
    waiting: list[tuple[object, int]] = [(where, 0)]
    while waiting:
        found, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise ConfigError(_too_much(f"more than {MOST_DEPTH} levels", f"{MOST_DEPTH}"))
        if isinstance(found, Mapping):
            characters += sum(len(name) for name in found if isinstance(name, str))
            inner = list(found.values())
        elif isinstance(found, list | tuple):
            inner = list(found)
        else:
            values, inner = values + 1, []
            characters += len(found) if isinstance(found, str) else 0
        if values + len(waiting) + len(inner) > MOST_VALUES:
            raise ConfigError(_too_much(f"more than {MOST_VALUES:,} values", f"{MOST_VALUES:,} in all its fields"))
        if characters > MOST_CHARACTERS:
            raise ConfigError(_too_much(f"more than {MOST_CHARACTERS:,} characters", f"{MOST_CHARACTERS:,}"))
        waiting += [(one, depth + 1) for one in inner]


def _too_much(found: str, allowed: str) -> str:
    return (
        f"a filter has {found}, allowed are {allowed}. Nothing was searched; ask several times, or give the documents "
        "a field that says the same."
    )


class Stop:
    """Ends a search from another thread: its statement under way is cancelled, and no other is begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: psycopg.Connection[object] | None = None
        self.asked = False

    def ask(self) -> None:
        """End the search. May be called from any thread, at any time, more than once."""
        with self._lock:  # until the server has the request: the connection may serve another search afterwards
            self.asked = True
            if self._running is not None:
                try:
                    self._running.cancel_safe(timeout=_CANCEL_S)
                except psycopg.Error:
                    return  # the server is gone, and the statement with it; or it ends by its time-out

    @contextmanager
    def over(self, connection: sa.Connection) -> Iterator[None]:
        """Be able to end what runs inside, on ``connection``. Raises ``SearchTooLong`` if it was to end before."""
        with self._lock:
            if self.asked:
                raise SearchTooLong("nobody waits for the answer of this search any more. It was not begun.")
            self._running = connection.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._running = None


@contextmanager
def bounded(connection: sa.Connection, limit_s: float | None, stop: Stop | None) -> Iterator[Callable[[], None]]:
    """Bound the transaction of a search to ``limit_s`` seconds a statement, and let ``stop`` end it.

    Yields what to call between two statements: it raises ``SearchTooLong`` once the time is up, as a statement that
    takes longer does. None: no bound of ours.
    """
    began = time.monotonic()

    def check() -> None:
        if limit_s is not None and time.monotonic() - began > limit_s:
            raise SearchTooLong(_too_long(limit_s))

    if limit_s is not None:
        connection.execute(_SHORTEN, {"limit": limit_s})
    try:
        with (stop or Stop()).over(connection):
            yield check
    except DatabaseUnavailable as error:
        if getattr(error.__cause__, "sqlstate", None) != _CANCELLED or limit_s is None:
            raise
        raise SearchTooLong(_too_long(limit_s)) from error


def _too_long(limit_s: float) -> str:
    return (
        f"a search took longer than {limit_s:g} s and was cancelled. Nothing was changed; ask for less, by another "
        "filter or a smaller k, or raise search.timeout_s in revector.toml."
    )
