"""Named points between two effects that a crash could part; the proofs kill, stop or watch the process there.

``REVECTOR_CRASH_AT=publish.after_rows`` kills the process with SIGKILL when it passes that point, and
``publish.after_rows:3`` at the third passing; several are separated by commas. Without it a point costs one look-up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

POINTS = {
    "write.after_gate": "a writer holds the gate, no row is written",
    "write.after_row": "document and work items are written, not committed",
    "write.after_commit": "committed, the caller has no answer",
    "ingest.after_page": "one page of a bulk write is committed",
    "worker.after_claim": "items are leased",
    "worker.after_read": "documents are read, nothing is embedded",
    "worker.after_embed": "vectors exist in memory only",
    "worker.after_failures": "failures of a batch are recorded",
    "publish.after_lock": "the documents are locked and proved to be current",
    "publish.after_consume": "the work items are gone, uncommitted",
    "publish.after_rows": "the index shows the new chunks, uncommitted",
    "publish.after_ledger": "everything is written, uncommitted",
    "publish.after_commit": "committed, the worker does not know it",
    "seed.after_items": "a page of work items is written, its cursor is not",
    "seed.after_cursor": "page and cursor are written, uncommitted",
    "seed.after_commit": "a page of a seed is committed",
    "shard.after_count": "the items of a part are marked as being in hand",
    "shard.after_write": "a part has its temporary name, not yet flushed",
    "shard.after_fsync": "a part has its temporary name, flushed",
    "shard.after_rename": "a part has its name and is not recorded",
    "shard.after_manifest": "a part is recorded and not published",
    "shard.after_publish": "a part is published and not marked so",
    "shard.after_mark": "a part is marked as published",
    "shard.before_done": "all parts of a shard are published, the shard is not done",
    "backfill.after_seeded": "the generation counts as complete, its phase does not",
    "index.after_drop": "an invalid index is dropped",
    "index.after_build": "the index is built, the phase does not say so",
    "evidence.after_measure": "a verdict is measured and not kept",
    "lease.after_commit": "a run has its token and did nothing yet",
    "control.after_gate": "a control step holds the gate",
    "control.after_move": "the slots are moved, uncommitted",
    "control.after_phase": "the phase is moved, uncommitted",
    "control.before_commit": "everything of a control step is written, uncommitted",
    "control.after_commit": "a control step is committed, its caller has no answer",
    "drop.after_table": "an ended generation's table is dropped, uncommitted",
    "drop.after_commit": "an ended generation is dropped, its caller has no answer",
    "task.after_step": "a step of a DAG is done and not reported to Airflow",
}
"""Every point by name, with what is true of the world there."""

STORE_POINTS = {
    "stage.after_intent": "attempts are open, the store knows nothing of them",
    "stage.after_put": "points of open attempts are in the store, perhaps not all",
    "reveal.after_cas": "attempts are published, uncommitted",
    "collect.after_doom": "attempts are given up, their points are in the store",
    "collect.after_remove": "points of given up attempts are removed, SQL does not know it",
    "restore.after_page": "some documents of a store that lost points are due again",
}
"""Those that only a generation passes whose index is in a store outside of PostgreSQL."""

ADOPTION_POINTS = {
    "adopt.after_triggers": "functions and triggers of an adopted table are made, uncommitted",
    "adopt.after_begin": "the table is followed, none of its rows is copied",
    "adopt.after_page": "a page of rows is copied",
    "adopt.after_copy": "every row is copied, the adoption does not say so",
    "adopt.after_read": "a place that is copied was read to its end, none of its vectors is in the archive",
    "adopt.after_seal": "the vectors of a copied place are in sealed files, which are not recorded",
    "adopt.after_file": "the migration file is written, nothing is migrated",
    "unadopt.after_triggers": "triggers are removed, uncommitted",
}
"""Those that only an adoption passes."""

TRAINING_POINTS = {"train.after_checkpoint": "a checkpoint is whole, and so are the weights until then"}
"""Those that only fine-tuning passes."""

ALL_POINTS = POINTS | STORE_POINTS | ADOPTION_POINTS | TRAINING_POINTS

watcher: Callable[[str], None] | None = None
"""Called at every point that is passed: a simulation stops, steps or crashes its actors there."""

_armed: dict[str, int] = {}
_passing = threading.Lock()


def arm(points: str) -> None:
    """Arm points, written as in ``REVECTOR_CRASH_AT``; none disarms. Raises ``ValueError`` for an unknown one."""
    _armed.clear()
    for word in filter(None, points.split(",")):
        name, _, passing = word.partition(":")
        if name not in ALL_POINTS:
            known = ", ".join(ALL_POINTS)
            raise ValueError(f"REVECTOR_CRASH_AT names {name!r}; there are {known}.")
        _armed[name] = int(passing or 1)


def crash_at(name: str) -> None:
    """Pass a point: die here if it is armed."""
    if watcher is not None:
        watcher(name)
    if name in _armed:
        with _passing:
            _armed[name] -= 1
            if _armed[name] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("REVECTOR_CRASH_AT", ""))
