"""What the tests of `test_rehearsal` and its neighbours share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from revector.interfaces import NoProgress
from revector.rehearsal.report import RehearsalReport
from revector.rehearsal.scratch import PREFIX
from worlds import World

TABLES = ("collection", "generation", "document", "pending", "ledger", "shard", "part", "rejected", "waiver", "lease",
          "gate_result")  # fmt: skip


def rehearse(world: World, revision: str | None = "b200", progress: Any = None, **options: Any) -> RehearsalReport:
    return world.project.rehearsal("docs", actor="tester", progress=progress).run(revision, **options)


def everything(world: World) -> dict[str, Any]:
    """Every row of every table, and where the sequences stand; of the history, all but the reports of rehearsals."""
    found = {table: sorted(map(str, world.sql(f"SELECT * FROM revector.{table}"))) for table in TABLES}
    found["event"] = world.sql("SELECT * FROM revector.event WHERE kind <> 'rehearse' ORDER BY cid, seq")
    for sequence in ("version_seq", "lease_seq", "generation_gen_seq", "gate_result_id_seq"):
        found[sequence] = world.sql(f"SELECT last_value, is_called FROM revector.{sequence}")
    found["tables"] = world.sql("SELECT relname FROM pg_class WHERE relnamespace = 'revector'::regnamespace ORDER BY 1")
    return found


def schemas(world: World) -> list[str]:
    return [row[0] for row in world.sql("SELECT nspname FROM pg_namespace WHERE starts_with(nspname, :p)", p=PREFIX)]


def traces(world: World) -> list[str]:
    """What a rehearsal left in the database and on the disk."""
    archive = world.project.archive
    return schemas(world) + [path.name for path in archive.glob("*") if path.name.startswith(PREFIX)]


class During(NoProgress):
    """Calls a function when work of some name begins."""

    def __init__(self, what: str, call: Callable[[], object]) -> None:
        self._what, self._call = what, call
        self.seen: list[str] = []

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        self.seen.append(what)
        if re.search(self._what, what):
            self._call()
