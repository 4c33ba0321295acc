"""One look at everything that a collection consists of, past the library; and what must be true of every look."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from evaluation.reliability.checks import MOVES, VIEWS
from evaluation.reliability.points import Attempt

from revector.interfaces import Content
from revector.migration.steps import MEASURE_ATTEMPTS
from revector.registry import verdicts

FENCED = ("provision", "backfill", "index", "verify", "gate", "approve", "swap", "abort")
"""Events of runs that hold a token: only the newest run may write them."""


class Broken(Exception):
    """A promise that does not hold."""

    def __init__(self, promise: str, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise, self.detail = promise, detail


def demand(holds: Any, promise: str, *facts: Any) -> None:
    """Raise ``Broken`` with the facts unless ``holds``."""
    if not holds:
        raise Broken(promise, " ".join(fact if isinstance(fact, str) else repr(fact) for fact in facts))


class Doc(NamedTuple):
    """A document row."""

    version: int | None
    deleted: bool
    tombstone: int
    content: str | None
    meta: dict[str, Any]
    external: int | None


class Applied(NamedTuple):
    """A ledger row."""

    version: int
    deleted: bool
    n_chunks: int
    content_hash: str | None


class Waiting(NamedTuple):
    """A work item."""

    version: int
    lane: str
    state: str
    waived: bool


class Rows(NamedTuple):
    """What a physical index holds of one document."""

    lowest: int
    highest: int
    n: int
    whole: bool


class Event(NamedTuple):
    """A new line of the history; ``chained`` says that its hash follows from the one before."""

    seq: int
    kind: str
    gen: int | None
    epoch: int
    actor: str
    detail: dict[str, Any]
    chained: bool


class Result(NamedTuple):
    """A verdict that was kept; ``age_h`` by the database's clock."""

    gen: int
    kind: str
    id: int
    passed: bool
    token: int
    same_configuration: bool
    age_h: float
    changes_seen: int


Key = tuple[int, str]
"""Generation and document."""


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one instant."""

    collection: Mapping[str, Any]
    generations: Mapping[int, Mapping[str, Any]]
    documents: Mapping[str, Doc]
    ledger: Mapping[Key, Applied]
    pending: Mapping[Key, Waiting]
    rows: Mapping[Key, Rows]
    events: tuple[Event, ...]
    lease: tuple[int, str]
    results: tuple[Result, ...]
    attempts: Mapping[int, Sequence[Attempt]]
    """Intents by generation, of indexes in a store."""
    views: Mapping[str, Any]

    @property
    def active(self) -> int | None:
        """The generation that the alias names."""
        return self.collection["active_gen"]

    @property
    def slots(self) -> dict[str, int]:
        """Generations by role."""
        found = {role: self.collection[f"{role}_gen"] for role in ("active", "standby", "building")}
        return {role: gen for role, gen in found.items() if gen is not None}

    @property
    def deadline_s(self) -> float | None:
        """End of the rollback window, in seconds since 1970."""
        found = self.collection["rollback_deadline"]
        return None if found is None else datetime.fromisoformat(found).timestamp()


def look(database: psycopg.Connection[Any], cid: int, seen: int) -> Look:
    """Read everything of a collection in one statement; events after number ``seen``."""
    row = database.execute("SELECT simulated.look(%s, %s)::text", (cid, seen), prepare=True).fetchone()
    assert row is not None
    found = json.loads(row[0])
    attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
    for gen, attempt, *facts in found["attempts"]:
        attempts[gen].append(Attempt(UUID(attempt), *facts))
    return Look(
        found["collection"],
        {one["gen"]: one for one in found["generations"]},
        {one[0]: Doc(*one[1:]) for one in found["documents"]},
        {(one[0], one[1]): Applied(*one[2:]) for one in found["ledger"]},
        {(one[0], one[1]): Waiting(*one[2:]) for one in found["pending"]},
        {(one[0], one[1]): Rows(*one[2:]) for one in found["rows"]},
        tuple(Event(*one) for one in found["events"]),
        tuple(found["lease"] or (0, "")),
        tuple(Result(*one) for one in found["results"]),
        attempts,
        {name: found[name] for name in VIEWS},
    )


def check_state(new: Look, contents: Mapping[tuple[str, int], str | None]) -> None:
    """What is true of every look by itself; ``contents`` are all that documents ever had, by id and version."""
    demand(not new.views["i1_lost"], "lost", new.views["i1_lost"])
    demand(not new.views["i2_ahead"], "phantom", "from the future:", new.views["i2_ahead"])
    demand(not new.views["i5_slots"], "slots", new.views["i5_slots"])
    demand(not new.views["i9_intent"], "lost", "the ledger names what is not published:", new.views["i9_intent"])
    demand(len(set(new.slots.values())) == len(new.slots), "slots", "one generation in two:", new.slots)
    for key, applied in new.ledger.items():
        content = contents.get((key[1], applied.version))
        wanted = None if content is None else Content("text", content).sha256
        taken_back = applied.content_hash == "" and key in new.pending
        right = (taken_back or applied.content_hash == wanted) and applied.deleted == (content is None)
        demand(right, "stale", "the ledger says", key, applied, "and the text then was", content)
    for gen in new.slots.values():
        for doc_id in new.documents if new.generations[gen]["in_sql"] else ():
            _check_rows((gen, doc_id), new.rows.get((gen, doc_id)), new.ledger.get((gen, doc_id)))


def _check_rows(key: Key, rows: Rows | None, applied: Applied | None) -> None:
    if applied is None or applied.deleted:
        demand(rows is None, "phantom", "the index holds", key, rows, "and the ledger says", applied)
        return
    demand(rows is not None, "lost", "the index lacks", key, "and the ledger says", applied)
    assert rows is not None
    one_set = rows.whole and rows.lowest == rows.highest and rows.n == applied.n_chunks
    right = one_set and rows.highest <= applied.version
    demand(right, "mixed chunks", "the index holds", key, rows, "and the ledger says", applied)


def check_change(old: Look, new: Look) -> None:
    """What is true of any two looks in a row."""
    for key, applied in new.ledger.items():
        if key in old.ledger:
            rose = applied.version >= old.ledger[key].version
            demand(rose, "went back", "the ledger of", key, "from", old.ledger[key], "to", applied)
    for gen, before in old.generations.items():
        now = new.generations.get(gen)
        demand(now is not None and now["identity"] == before["identity"], "identity", before, "became", now)
    demand(new.lease[0] >= old.lease[0], "fencing", "token", old.lease, "became", new.lease)
    known = {result.id for result in old.results}
    for result in new.results:
        fenced = result.id in known or result.token >= old.lease[0]
        demand(fenced, "fencing", result, "was kept after token", old.lease, "was given")
    _check_events(old, new)


def _check_events(old: Look, new: Look) -> None:
    epoch = old.collection["epoch"]
    for event in new.events:
        demand(event.chained, "history", event, "does not follow from the one before")
        epoch += event.kind in MOVES
        demand(event.epoch == epoch, "history", event, "should have epoch", epoch)
        fenced = event.kind not in FENCED or event.actor == new.lease[1]
        demand(fenced, "fencing", event, "of a run that was replaced by", new.lease)
    demand(new.collection["epoch"] == epoch, "history", "epoch", new.collection["epoch"], "and by the events", epoch)


def check_moves(old: Look, new: Look, now_s: float) -> None:
    """What is true of each move, judged right after it: nobody else has acted since its commit."""
    for event in new.events:
        if event.kind == "swap":
            _check_swap(event, new)
        if event.kind == "rollback" and not event.detail["forced_over"]:
            _check_nothing_waits(event, new)
        if event.kind == "retire" and not event.detail["window_given_up"]:
            over = old.deadline_s is not None and old.deadline_s <= now_s
            demand(over, "window", event, "at", now_s, "and it was open until", old.deadline_s)
        if event.kind == "drop":
            demand(event.gen not in new.slots.values(), "window", event, "of an index in", new.slots)
    if old.deadline_s is not None and now_s < old.deadline_s and "standby" not in new.slots:
        given_up = any(event.kind == "retire" and event.detail["window_given_up"] for event in new.events)
        demand(given_up, "window", "no standby since", new.events, "and it was open until", old.deadline_s)


def _check_nothing_waits(event: Event, new: Look) -> None:
    accepted = {key for key, item in new.pending.items() if item.state == "dead" and item.waived}
    waiting = {key: item for key, item in new.pending.items() if key[0] == new.active and key not in accepted}
    demand(not waiting, "lost", event, "while work waited:", waiting)


def _check_swap(event: Event, new: Look) -> None:
    demand(event.gen == new.active, "swap history", event, "and the alias names", new.active)
    _check_nothing_waits(event, new)
    times = event.detail.get("changes_allowed_times", 1)
    demand(times <= 2 ** (MEASURE_ATTEMPTS - 1), "evidence", event, "allowed too many changes")
    for kind in ("verify", "recall"):
        found = [result for result in new.results if (result.gen, result.kind) == (event.gen, kind)]
        demand(found, "evidence", event, "without any", kind)
        result = found[-1]
        current = result.passed and result.same_configuration and result.age_h <= verdicts.EVIDENCE_HOURS
        changed = sum((document.version or 0) > result.changes_seen for document in new.documents.values())
        current = current and (kind == "verify" or changed <= times * verdicts.EVIDENCE_CHANGED_FLOOR)
        demand(current, "evidence", event, "with", result, "and documents changed since:", changed)
