"""What people and machines are told: outcome, rehearsal and status, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.errors import SpecError, StateError
from revector.lifecycle import BUILDING, FORWARD, STEPS, Phase, remaining, state_of
from revector.registry import deadletters, loads, shadowing, sharding, work
from revector.registry.collections import Collection, Generation, read_collection, read_generation
from revector.registry.spending import spent
from revector.registry.throttling import read_share
from revector.registry.watching import clock_jumped, encoder_fault
from revector.revisions import RevisionGraph

NORMAL_95 = 1.959964
"""A normal deviate is within this on either side of 0 in 95 of 100 cases."""

FIGURES = ("comparison", "scores", "findings", "ann", "latency", "shadow")
"""What a gate result keeps for its page: too much for a status, or for an event."""

_RESULTS = (
    "SELECT r.id, r.gen, r.passed, r.verdict, r.detail - CAST(:without AS text[]) AS detail, r.at, o.who, o.why FROM "
    "gate_result r JOIN generation g USING (gen) LEFT JOIN gate_override o ON o.result_id = r.id WHERE r.kind = :kind "
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did; ``changed`` is false when it had been done before."""

    step: str
    revision: str
    phase: str
    changed: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure for the whole collection, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """Return the estimate of something that is ``factor`` times as much."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    @staticmethod
    def of_count(certain: int, hits: int, drawn: int, rest: int) -> Estimate:
        """Return how many of all documents are such: ``certain`` plus those among the ``rest``, with its interval.

        Of the rest, ``hits`` of ``drawn`` were; Wilson's score interval (JASA 22, 1927), whose upper end is above 0
        also where none was found.
        """
        if drawn == 0 or rest <= drawn:
            return Estimate(certain + hits, certain + hits, certain + hits)
        share, z2 = hits / drawn, NORMAL_95**2
        middle = (share + z2 / (2 * drawn)) / (1 + z2 / drawn)
        half = NORMAL_95 / (1 + z2 / drawn) * math.sqrt(share * (1 - share) / drawn + z2 / (4 * drawn * drawn))
        low, high = (min(1.0, max(0.0, end)) * rest for end in (middle - half, middle + half))
        return Estimate(certain + share * rest, certain + max(low, hits), certain + high)


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step took in a rehearsal, in seconds, and would take for the whole collection if ``assumes`` holds."""

    step: str
    rehearsed_s: float
    estimated_s: Estimate
    assumes: str


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal found: ``refusals`` say why the real migration would be refused, and are empty if it would not.

    ``rollback`` is None where there is nothing to go back to, or the copy was not moved; ``kept`` names the schema that
    still holds the copy.
    """

    collection: str
    revision: str
    active_revision: str | None
    seed: int
    documents: int
    sampled: int
    labelled: int
    queries_usable: int
    steps: tuple[StepTime, ...]
    total_s: Estimate
    pauses_ms: Mapping[str, float]
    chunks: Estimate
    tokens: Estimate
    chunks_per_document: float
    tokens_per_s: float
    documents_per_s: float
    truncated: Estimate
    index_bytes: Estimate
    memory_bytes: Estimate
    archive_bytes: Estimate
    active_bytes: int
    embedding_hours: Estimate
    gate: Mapping[str, Any] | None
    verify: Mapping[str, Any]
    rollback: Mapping[str, Any] | None
    dead_letters: int
    dead_expected: Estimate
    dead_reasons: Mapping[str, str]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    wall_s: float = 0.0
    kept: str | None = None


def read_status(
    connection: sa.Connection, name: str, *, labels: str | None = None, recount: bool = True
) -> dict[str, Any]:
    """Return where a collection stands: slots, open migration with progress and lag, rollback window, dead letters.

    Keys are stable: the CLI's ``--json``, the Airflow page and the demo read them. ``recount=False``, for whoever asks
    again and again, takes a large collection's number of documents from the last hour's count (``registry.loads``).
    """
    collection = read_collection(connection, name)
    now: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    slots = {
        role: _slot(connection, role, gen)
        for role, gen in (
            ("active", collection.active_gen),
            ("standby", collection.standby_gen),
            ("building", collection.building_gen),
        )
    }
    deadline = collection.rollback_deadline
    letters = deadletters.open_letters(connection, collection.cid)
    return {
        "collection": name,
        "epoch": collection.epoch,
        "database_time": now.isoformat(),
        "documents": loads.documents(connection, collection.cid, recount=recount),
        "slots": slots,
        "migration": _migration(connection, collection),
        "rollback": None
        if deadline is None
        else {
            "deadline": deadline.isoformat(),
            "seconds_left": max(0.0, (deadline - now).total_seconds()),
            "clock_jumped": clock_jumped(connection, collection.cid),
        },
        "dead_letters": letters.letters,
        "refused": {"records": letters.refused, "behind": letters.behind},
        "labels": labels,
        "spending": spent(connection),
        "shadow": [] if collection.building_gen is None else shadowing.read(connection, collection.building_gen),
    }


def waiting_revision(folder: Path, slots: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the head of the migration files where no slot holds it: the revision that waits for its migration.

    None where nothing waits. Files that cannot be read give a ``problem`` instead: a status must not fail over them.
    """
    try:
        head = RevisionGraph.from_folder(folder).head
    except SpecError as error:
        return {"problem": str(error)} if any(folder.glob("*.py")) else None
    if head.revision in {slot["revision"] for slot in slots.values() if slot is not None}:
        return None
    return {"revision": head.revision, "message": head.message, "model": head.model.name, "dim": head.model.dim}


def _slot(connection: sa.Connection, role: str, gen: int | None) -> dict[str, Any] | None:
    if gen is None:
        return None
    generation = read_generation(connection, gen)
    waiting = work.backlog(connection, gen)
    size = connection.scalar(
        sa.text("SELECT pg_total_relation_size(to_regclass(:name))"), {"name": generation.physical_name}
    )
    return {
        "generation": gen,
        "revision": generation.revision,
        "message": generation.spec.message,
        "model": generation.spec.model.name,
        "dim": generation.spec.model.dim,
        "index": generation.physical_name,
        "index_kind": generation.spec.index.kind,
        "encoder_fp": generation.encoder_fp,
        "fidelity": dict(generation.fidelity),
        "phase": str(generation.phase),
        "state": state_of(role, generation.phase),
        "registered_at": generation.registered_at.isoformat(),
        "live_at": None if generation.live_at is None else generation.live_at.isoformat(),
        "bytes": int(size or 0),
        "waiting": {"live": waiting.due, "bulk": waiting.bulk, "dead": waiting.dead, "waived": waiting.waived},
        "lag_s": round(waiting.oldest_s, 1),
        "encoder_fault": encoder_fault(connection, gen),
    }


def _migration(connection: sa.Connection, collection: Collection) -> dict[str, Any] | None:
    """Return the migration that is open: being built, or inside its rollback window."""
    generation = _subject(connection, collection)
    if generation is None:
        return None
    left = {step.name for step in remaining(generation.phase)}
    current = next((name for name in FORWARD if name in left), None)
    progress = sharding.shard_progress(connection, generation.gen)
    todo = max(0, progress["planned"] - progress["published"])
    eta_s = (
        todo / progress["documents_per_s"]
        if progress["documents_per_s"] > 0 and generation.phase == Phase.PROVISIONED
        else None
    )
    shards = [
        {"shard": shard.shard, "documents": shard.documents, "seeded": shard.seeded, "done": shard.done}
        for shard in sharding.read_shards(connection, generation.gen)
    ]
    return {
        "revision": generation.revision,
        "generation": generation.gen,
        "phase": str(generation.phase),
        "building": generation.phase in BUILDING,
        "needs_approval": generation.needs_approval,
        "steps": [
            {
                "name": name,
                "does": STEPS[name].does,
                "state": "done" if name not in left else "current" if name == current else "waiting",
            }
            for name in FORWARD
        ],
        "progress": {**progress, "eta_s": eta_s, "share": read_share(connection, generation.gen)},
        "shards": shards,
        "gate": latest_result(connection, generation.gen, "recall"),
        "verify": latest_result(connection, generation.gen, "verify"),
    }


def _subject(connection: sa.Connection, collection: Collection) -> Generation | None:
    if collection.building_gen is not None:
        return read_generation(connection, collection.building_gen)
    if collection.standby_gen is None or collection.active_gen is None:
        return None
    return read_generation(connection, max(collection.active_gen, collection.standby_gen))


def latest_result(connection: sa.Connection, gen: int, kind: str) -> dict[str, Any] | None:
    """Return the latest verdict of one kind on a generation, without its ``FIGURES``."""
    return _result(connection, "AND r.gen = :gen", {"kind": kind, "without": list(FIGURES), "gen": gen})


def gate_result(
    connection: sa.Connection, name: str, *, result_id: int | None = None, gen: int | None = None
) -> dict[str, Any]:
    """Return a kept verdict of the gate with all its figures: the newest of the collection, or of ``gen``, or that one.

    ``Comparison.from_data`` reads its ``comparison``. Raises ``StateError`` where there is none.
    """
    asked = {"cid": read_collection(connection, name).cid, "id": result_id, "gen": gen}
    where = "AND g.cid = :cid AND r.id = coalesce(:id, r.id) AND r.gen = coalesce(:gen, r.gen)"
    found = _result(connection, where, {"kind": "recall", "without": [], **asked})
    if found is None:
        which = f" number {result_id}" if result_id is not None else f" of generation {gen}" if gen is not None else ""
        raise StateError(
            f"collection {name!r} keeps no gate result{which}. Nothing was changed; `revector history --events` names "
            "what was judged, `revector upgrade --to gate` judges the head."
        )
    return found


def _result(connection: sa.Connection, where: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    row = connection.execute(sa.text(f"{_RESULTS} {where} ORDER BY r.id DESC LIMIT 1"), values).one_or_none()
    if row is None:
        return None
    overridden = None if row.who is None else {"by": row.who, "reason": row.why}
    return {
        "id": row.id,
        "generation": row.gen,
        "passed": row.passed,
        "verdict": row.verdict,
        "overridden": overridden,
        "at": row.at.isoformat(),
        **row.detail,
    }


def read_events(connection: sa.Connection, name: str, *, limit: int = 100, after: int = 0) -> list[dict[str, Any]]:
    """Return the newest events first, with sequence numbers above ``after``."""
    collection = read_collection(connection, name)
    rows = connection.execute(
        sa.text(
            "SELECT seq, at, epoch, actor, kind, gen, detail, hash FROM event WHERE cid = :cid AND seq > :after ORDER "
            "BY seq DESC LIMIT :limit"
        ),
        {"cid": collection.cid, "after": after, "limit": limit},
    )
    return [{**row._mapping, "at": row.at.isoformat()} for row in rows]


def broken_links(connection: sa.Connection, name: str) -> list[int]:
    """Return the sequence numbers where the history's hash chain does not hold; empty if nothing was tampered with.

    Each link is checked by the rule that its event names; an older rule after a newer one is broken, too.
    """
    collection = read_collection(connection, name)
    return list(
        connection.scalars(
            sa.text(
                "SELECT seq FROM (SELECT e.seq, e.hash, event_hash(coalesce(lag(e.hash) OVER (ORDER BY "
                "seq), ''), e) AS expected, seq - lag(seq, 1, 0::bigint) OVER (ORDER BY seq) AS gap, chain - "
                "lag(chain, 1, chain) OVER (ORDER BY seq) AS rule FROM event e "
                "WHERE e.cid = :cid) c WHERE hash <> expected OR gap <> 1 OR rule < 0 ORDER BY seq"
            ),
            {"cid": collection.cid},
        )
    )
