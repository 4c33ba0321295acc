"""What others have not been told yet: events after the last notice, a window about to close, more dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from revector.database.engine import GATE_LOCK
from revector.database.sessions import holder, try_hold
from revector.registry.control import add_event

NOTICE = "notice"
"""Kind of the event that says through which event others have been told."""

NEWS_HOURS = 24
"""What is older is no news: a webhook that is set later, or was away for long, is not flooded."""

_TELLER = GATE_LOCK + 3
"""First key of the advisory lock of the process that reports."""

_NEWS = f"""
SELECT e.seq, e.at, e.actor, e.kind, e.gen, e.detail, g.revision, g.needs_approval
FROM event e LEFT JOIN generation g ON g.gen = e.gen
WHERE e.cid = :cid AND e.seq > :through AND e.kind = ANY(CAST(:kinds AS text[]))
  AND e.at > now() - interval '{NEWS_HOURS} hours'
ORDER BY e.seq
"""
_CLOSING = """
SELECT c.rollback_deadline FROM collection c JOIN generation g ON g.gen = greatest(c.active_gen, c.standby_gen)
WHERE c.cid = :cid AND g.window_hours > :hours
  AND c.rollback_deadline BETWEEN now() AND now() + :hours * interval '1 hour'
"""
_DEAD = """
SELECT count(DISTINCT p.doc_id) FROM pending p JOIN slot s USING (gen) WHERE s.cid = :cid AND p.state = 'dead'
  AND NOT EXISTS (SELECT 1 FROM waiver w WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version))
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the history; ``revision`` and ``needs_approval`` are those of its generation."""

    seq: int
    at: datetime
    actor: str
    kind: str
    gen: int | None
    detail: Mapping[str, Any]
    revision: str | None
    needs_approval: bool | None


@dataclass(frozen=True, slots=True)
class News:
    """What nobody was told: ``events``; ``closing``, the end of a window that is near; ``dead`` letters in all.

    ``dead_told``: how many there were at the last notice. ``head``: ``seq`` and ``hash`` of the history's newest event.
    """

    events: Sequence[Event]
    closing: str | None
    dead: int
    dead_told: int
    head: Mapping[str, object]


@contextmanager
def only_teller(engine: sa.Engine, cid: int) -> Iterator[sa.Connection | None]:
    """Give a connection to the only process that reports on this collection, None to any other; no transaction is open.

    Another one has begun to read already, so what is missed here waits for the next move or the hourly DAG.
    """
    with holder(engine) as held, engine.connect() as connection:
        yield connection if try_hold(held, _TELLER, cid) else None


def read_news(connection: sa.Connection, cid: int, kinds: Sequence[str], *, closing_hours: float) -> News:
    """Return what has happened since the last notice."""
    told = connection.scalar(
        sa.text("SELECT detail FROM event WHERE cid = :cid AND kind = :kind ORDER BY seq DESC LIMIT 1"),
        {"cid": cid, "kind": NOTICE},
    ) or {"through": 0, "closing": None, "dead": 0}
    rows = connection.execute(sa.text(_NEWS), {"cid": cid, "through": told["through"], "kinds": list(kinds)})
    events = [Event(**row._mapping) for row in rows]
    deadline = connection.scalar(sa.text(_CLOSING), {"cid": cid, "hours": closing_hours})
    closing = None if deadline is None else deadline.isoformat()
    dead = int(connection.scalar(sa.text(_DEAD), {"cid": cid}) or 0)
    head = connection.execute(
        sa.text("SELECT seq, hash FROM event WHERE cid = :cid ORDER BY seq DESC LIMIT 1"), {"cid": cid}
    ).first()
    connection.commit()
    return News(
        events, None if closing == told["closing"] else closing, dead, told["dead"], dict(head._mapping) if head else {}
    )


def remember(connection: sa.Connection, cid: int, *, actor: str, through: int | None, **facts: object) -> None:
    """Keep, as an event, through which event others have been told; None: as before. ``facts``: what else they were."""
    last = connection.scalar(
        sa.text("SELECT detail FROM event WHERE cid = :cid AND kind = :kind ORDER BY seq DESC LIMIT 1"),
        {"cid": cid, "kind": NOTICE},
    ) or {"through": 0, "closing": None, "dead": 0}
    add_event(connection, cid, actor, NOTICE, None, last | facts | ({} if through is None else {"through": through}))
    connection.commit()
