"""Waits until workers have done what is due, and says why they do not."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

from revector.errors import ConfigError, WorkUnfinished
from revector.indexing import loads
from revector.interfaces import NoProgress, Progress
from revector.registry import work
from revector.registry.watching import encoder_fault

PATIENCE_S = 300.0
"""So long may nothing at all be finished before a wait gives up, unless said otherwise."""

POLL_S = 1.0
UNSEEN_S = 150.0
"""A worker notes every minute that it is there; after this long it is not."""


def wait_until_done(
    engine: sa.Engine,
    cid: int,
    collection: str,
    *,
    patience_s: float = PATIENCE_S,
    deaths: bool = True,
    progress: Progress | None = None,
) -> int:
    """Return once nothing waits, in any live index, that was due when this was called; return how many entries did.

    However long that takes: only where nothing was finished for ``patience_s`` seconds, or at the end where some became
    dead letters (``deaths=False``: that is no matter), ``WorkUnfinished`` is raised, which names the reason. What is
    written meanwhile is not waited for. Raises ``ConfigError`` for a patience that is not above 0.
    """
    if not patience_s > 0:
        raise ConfigError(f"patience_s must be above 0, found {patience_s}. Nothing was waited for.")
    progress = progress or NoProgress()
    with engine.connect() as connection:
        began = work.newest_version(connection)
        dead_before, _ = work.dead_up_to(connection, cid, began)
    left = first = _left(engine, cid, began)
    progress.start("wait for the worker", _count(first), "index entries")
    moved = time.monotonic()
    while left:
        time.sleep(POLL_S)
        now = _left(engine, cid, began)
        if (done := _count(left) - _count(now)) > 0:
            progress.advance(done)
            left, moved = now, time.monotonic()
        elif time.monotonic() - moved > patience_s:
            with engine.connect() as connection:
                why = "; ".join(_why(connection, cid, one) for one in now)
            raise WorkUnfinished(
                f"{_count(now):,} index entries of collection {collection!r} are due, and none was finished for "
                f"{patience_s:g} s: {why}. They stay due and the indexes go on serving what they have; see to the "
                "reason, a worker then does the rest by itself."
            )
    progress.done()
    with engine.connect() as connection:
        dead, reason = work.dead_up_to(connection, cid, began)
    if deaths and dead > dead_before:
        raise WorkUnfinished(
            f"of {_count(first):,} index entries of collection {collection!r} that were due {dead - dead_before:,} "
            f"became dead letters, one of them because: {reason}. The indexes go on serving what they have of them; "
            "see `revector dlq list`."
        )
    return _count(first)


def no_worker(connection: sa.Connection, cid: int) -> str | None:
    """Return a sentence where no worker was seen lately, or None."""
    seen_s = loads.worker_seen_s(connection, cid)
    if seen_s is not None and seen_s < UNSEEN_S:
        return None
    when = "was ever seen" if seen_s is None else f"was seen for {seen_s / 60:,.0f} min"
    return f"no worker {when}; is `revector worker` running?"


def standstill(connection: sa.Connection, cid: int) -> str:
    """Return why what waits is not done, for each live index where it has waited for ``UNSEEN_S`` or longer."""
    waiting = work.left_up_to(connection, cid, work.newest_version(connection))
    late = (one for one in waiting if work.backlog(connection, one.gen).oldest_s > UNSEEN_S)
    return "; ".join(_why(connection, cid, one) for one in late)


def _left(engine: sa.Engine, cid: int, newest: int) -> list[work.WorkLeft]:
    with engine.connect() as connection:
        return work.left_up_to(connection, cid, newest)


def _count(left: Sequence[work.WorkLeft]) -> int:
    return sum(one.documents for one in left)


def _why(connection: sa.Connection, cid: int, left: work.WorkLeft) -> str:
    where = f"{left.documents:,} in generation {left.gen} ({left.role})"
    if (fault := encoder_fault(connection, left.gen)) is not None:
        return f"{where}: its encoder fails: {fault}"
    if left.leased:
        return f"{where}: a worker has {left.leased:,} in hand"
    if left.error is not None:
        return f"{where}: tried, and failed with: {left.error}"
    return f"{where}: {no_worker(connection, cid) or 'a worker runs, and takes none of this collection'}"
