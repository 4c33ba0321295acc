"""Owns where a collection stands, as plain data: what CLI, page and demo show of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.documents import deadletters
from revector.errors import SpecError
from revector.gate.results import latest_result
from revector.indexing import loads
from revector.indexing.dial import read_share
from revector.lifecycle import BUILDING, FORWARD, STEPS, Phase, remaining, state_of
from revector.registry import sharding, work
from revector.registry.collections import Collection, Generation, read_collection, read_generation
from revector.registry.spending import spent
from revector.registry.watching import clock_jumped, encoder_fault
from revector.revisions import RevisionGraph
from revector.serving import shadow_rows


def read_status(
    connection: sa.Connection, name: str, *, labels: str | None = None, recount: bool = True
) -> dict[str, Any]:
    """Return where a collection stands: slots, open migration with progress and lag, rollback window, dead letters.

    Keys are stable: the CLI's ``--json``, the Airflow page and the demo read them. With ``recount=False``, for callers
    that poll, the number of documents of a large collection is the one counted in the last hour (``indexing.loads``).
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
        "shadow": [] if collection.building_gen is None else shadow_rows.read(connection, collection.building_gen),
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
