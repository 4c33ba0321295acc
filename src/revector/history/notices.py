"""Reports what happened to a collection, no matter who did it: events of the history become sentences for a webhook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict

import sqlalchemy as sa

from revector.errors import RevectorError
from revector.history import news
from revector.history.news import Event
from revector.history.webhook import post
from revector.registry.collections import read_collection

CLOSING_HOURS = 6.0
"""A rollback window that was longer is announced once more when it has this long to go."""

ACTOR = "revector"

log = logging.getLogger(__name__)


def tell(engine: sa.Engine, collection: str, webhook: str) -> int:
    """Post what happened since the last notice, each as JSON with a sentence as ``text``; return how many were taken.

    At least once, and in order: what the webhook does not take is told by the next call, up to a day. Every call may
    come from any process; the history keeps what was told, as events ``notice``. Raises nothing: a move that was made
    does not fail because it could not be told.
    """
    try:
        with engine.connect() as connection:
            cid = read_collection(connection, collection).cid
        with news.only_teller(engine, cid) as connection:
            return 0 if connection is None else _tell(connection, cid, collection, webhook)
    except (RevectorError, sa.exc.SQLAlchemyError) as error:
        log.warning("what happened to %s could not be told: %s", collection, error)
        return 0


def _tell(connection: sa.Connection, cid: int, collection: str, webhook: str) -> int:
    found = news.read_news(connection, cid, list(MESSAGES), closing_hours=CLOSING_HOURS)

    def send(text: str, event: Mapping[str, object]) -> bool:
        # The head outside the database is what a rewritten history is found by: `revector history --check --head HASH`.
        notice = {"text": f"{collection}: {text}.", "collection": collection, "event": event, "history": found.head}
        return post(webhook, notice)

    sent, through = 0, None
    for event in found.events:
        text = MESSAGES[event.kind](event)
        if text is not None:
            facts = {name: value for name, value in asdict(event).items() if name != "needs_approval"}
            if not send(text, facts | {"at": event.at.isoformat()}):
                break
            sent += 1
        through = event.seq
    facts = {}
    if found.closing is not None and send(
        f"the rollback window closes at {found.closing}; after that the old index is dropped",
        {"kind": "closing", "deadline": found.closing},
    ):
        facts["closing"] = found.closing
    grew = found.dead > found.dead_told
    if found.dead < found.dead_told or (
        grew and send(_dead(found.dead), {"kind": "dead_letters", "documents": found.dead})
    ):
        facts["dead"] = found.dead
    sent += ("closing" in facts) + (grew and "dead" in facts)
    if through is not None or facts:
        news.remember(connection, cid, actor=ACTOR, through=through, sent=sent, **facts)
    return sent


def _dead(count: int) -> str:
    return f"{count:,} documents could not be embedded; see `revector dlq list`"


def _gate(event: Event) -> str:
    new, old = event.detail.get("new"), event.detail.get("old")
    figure = f", recall@{event.detail['k']} {new['recall']['mean']:.4f}" if new else ""
    was = f" (now served: {old['recall']['mean']:.4f})" if old else ""
    wanted = "; a person must approve the swap" if event.needs_approval else ""
    worst = f"; worst slice {slice_['words']}" if (slice_ := event.detail.get("worst_slice")) else ""
    return f"the gate of revision {event.revision} passed{figure}{was}{worst}{wanted}"


def _refused(event: Event) -> str:
    return f"the gate of revision {event.revision} did not pass: {'; '.join(event.detail['reasons'])}"


def _verify(event: Event) -> str | None:
    return None if event.detail["passed"] else "verification found an index that does not equal the documents"


def _by(sentence: str) -> Callable[[Event], str]:
    def say(event: Event) -> str:
        reason = event.detail.get("reason")
        return f"{sentence.format(event=event, **event.detail)}, by {event.actor}{f' ({reason})' if reason else ''}"

    return say


def _swap(event: Event) -> str:
    until = event.detail["rollback_deadline"]
    way = f"; the way back is open until {until}" if until else ""
    return f"searches are answered by revision {event.revision} now, by {event.actor}{way}"


MESSAGES: dict[str, Callable[[Event], str | None]] = {
    "gate": _gate,
    "gate_failed": _refused,
    "gate_override": _by("the verdict of the gate on revision {event.revision} was overridden"),
    "approve": lambda event: (
        f"the swap to revision {event.revision} was approved, by {event.detail['by']}"
        if event.detail["asked_for"]
        else None
    ),
    "swap": _swap,
    "rollback": _by("searches are answered by revision {revision} again"),
    "retire": _by("revision {revision} was retired: there is no way back any more"),
    "abort": _by("the migration to revision {revision} was aborted"),
    "canary_alert": lambda event: f"canary: {'; '.join(event.detail['alerts'])}",
    "verify_live": _verify,
    "store_lost": lambda event: (
        f"the store {event.detail['store']} has lost points of revision {event.revision}: searches miss documents "
        f"until {event.detail['documents']:,} are embedded again"
    ),
    "encoder_failed": lambda event: f"the encoder of revision {event.revision} fails: {event.detail['reason']}",
}
"""What is told, by the kind of the event; None: nothing this time."""
