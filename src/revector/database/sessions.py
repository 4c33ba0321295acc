"""What a session of the database has set, also behind a pooler that lends another session to each transaction.

A direct connection gets its settings once, when it is made. A pooler (PgBouncer in transaction mode, and its like)
drops them or hands them to someone else; it is known by a session that is not the one that was greeted, or that lacks
them. There every transaction sets them for itself, nothing is prepared, and locks that outlive a statement are held by
an open transaction.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow
from sqlalchemy import event

from revector.database.urls import KEEPALIVES

_ALIVE = " ".join(f"-ctcp_{name}={value}" for name, value in KEEPALIVES.items())
"""The server, too, asks whether we are there, so that a machine that is cut off holds no advisory lock for hours."""

_POOLED = "revector_pooled"

EACH_TIME = "force_custom_plan"
"""How a session plans: what was planned for a small table is not kept for a large one."""

_PLANS = {True: "auto", False: EACH_TIME}


class LimitedConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed where the server leaves a request unanswered for ``silence_s`` seconds.

    The server's own time-out ends what it still works on. It ends nothing where a network took the request and lost
    the answer, and keepalives do not see that while something between the two acknowledges them.
    """

    silence_s: float | None = None
    rested_s: float | None = None
    """When it was last given back to its pool, by the clock that only rises."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does. Raises ``psycopg.OperationalError`` when the time is over."""
        if self.silence_s is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.silence_s)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            said = f"the server said nothing for {self.silence_s:g} s, and the connection was closed"
            raise psycopg.OperationalError(said) from error


REST_S = 5.0
"""A connection that was used less long ago is asked nothing by its pool, where the server has said nothing either."""


def ask_seldom(engine: sa.Engine) -> None:
    """Have the pool of ``engine`` ask a connection whether it works only where that is in doubt: each way takes time.

    A server that ended, restarted or threw us out has closed the connection, which is seen here without asking.
    """
    ask = engine.dialect.do_ping

    def do_ping(driver: Any) -> bool:
        used = driver.rested_s is not None and time.monotonic() - driver.rested_s < REST_S
        return (used and _is_silent(driver)) or ask(driver)

    def given_back(driver: Any, _record: object) -> None:
        if driver is not None:  # None: it was thrown away
            driver.rested_s = time.monotonic()

    engine.dialect.do_ping = do_ping  # type: ignore[method-assign, assignment]
    event.listen(engine, "checkin", given_back)


def _is_silent(driver: LimitedConnection) -> bool:
    """Whether the server has sent nothing since the last answer, not even that it closed the connection."""
    if driver.closed:
        return False
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    return not poll.poll(0)


def settle(engine: sa.Engine, settings: Mapping[str, str], silence_s: float | None = None) -> None:
    """Have every transaction of ``engine`` run under ``settings``; names and values are ours, never input.

    ``silence_s``: how long an answer may take, in seconds; None: as long as the server takes.
    """
    options = " ".join(f"-c{name}={_escaped(value)}" for name, value in settings.items())
    each = ", ".join(f"set_config({_quoted(name)}, {_quoted(value)}, true)" for name, value in settings.items())
    found = {name: f"current_setting({_quoted(name)}, true)" for name in settings}
    kept = " AND ".join(f"{found[name]} = {_quoted(value)}" for name, value in settings.items())
    refused = False

    def connect(_dialect: object, _record: object, given: Any, named: dict[str, Any]) -> object:
        nonlocal refused
        if not refused:
            own = " ".join(filter(None, (_ALIVE, named.get("options"), options)))
            try:
                return limited(*given, **{**named, "options": own})
            except psycopg.OperationalError as error:
                if "unsupported startup parameter" not in str(error):
                    raise
                refused = True
        return limited(*given, **named)

    def limited(*given: Any, **named: Any) -> LimitedConnection:
        made = LimitedConnection.connect(*given, **named)
        made.silence_s = silence_s
        return made

    def connected(driver: Any, record: Any) -> None:
        driver.autocommit = True
        mine, whole = driver.execute(f"SELECT pg_backend_pid(), {kept}", prepare=False).fetchone()
        driver.autocommit = False
        if mine != driver.info.backend_pid or not whole:
            record.info[_POOLED] = True
            driver.prepare_threshold = None  # a statement is prepared in one session and run in another

    def begun(connection: sa.Connection) -> None:
        if is_pooled(connection) and not connection.connection.driver_connection.autocommit:  # type: ignore[union-attr]
            connection.exec_driver_sql(f"SELECT {each}")

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def is_pooled(connection: sa.Connection) -> bool:
    """Whether a pooler lends this connection another session of the server for each transaction."""
    return _POOLED in connection.info


def end_step(connection: sa.Connection) -> None:
    """End a step of work on a temporary table, which outlives a commit only where the session is ours alone.

    Behind a pooler the transaction goes on, however long the next step takes to come.
    """
    if is_pooled(connection):
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    else:
        connection.commit()


@contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection for statements that stand alone, each its own transaction where the session keeps its settings.

    That saves the two ways to the database that begin and end a transaction; behind a pooler they are one transaction.
    """
    with engine.connect() as connection:
        if is_pooled(connection):
            yield connection
            connection.commit()
        else:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")


def holder(engine: sa.Engine) -> sa.Connection:
    """Open a connection of its own that may hold advisory locks (``try_hold``) until it is closed, or its process ends.

    It runs statements outside a transaction, but for behind a pooler: there it is one open transaction.
    """
    connection = engine.connect()
    try:
        if is_pooled(connection):
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        else:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()
    except BaseException:
        connection.close()
        raise
    return connection


def try_hold(held: sa.Connection, key: int, of: str | int) -> bool:
    """Take the advisory lock ``(key, of)`` until ``held``, a ``holder``, is closed; return whether it was free."""
    take = "pg_try_advisory_xact_lock" if is_pooled(held) else "pg_try_advisory_lock"
    number = ":of" if isinstance(of, int) else "hashtext(:of)"
    taken = bool(held.scalar(sa.text(f"SELECT {take}(:key, {number})"), {"key": key, "of": of}))
    if is_pooled(held):
        # A statement with parameters keeps its snapshot until the next one, and vacuums and concurrent builds wait.
        held.exec_driver_sql("SELECT 1")
    return taken


def plans(connection: sa.Connection, *, kept: bool) -> str:
    """Return a column that has the session keep the plan of a repeated statement, or plan it each time, as is the rule.

    As a column it goes with another statement, and costs no way of its own. It counts for the statements that follow.
    Behind a pooler it does nothing: nothing is prepared there.
    """
    return "NULL" if is_pooled(connection) else f"set_config('plan_cache_mode', '{_PLANS[kept]}', false)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(" ", "\\ ")
