"""Rehearsals: nobody else sees them, they see nobody, and they leave no trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import sqlalchemy as sa
from rehearsing import During, everything, rehearse, schemas, traces

from fakes import Crash
from revector.cli.doctor import examine
from revector.database.engine import GATE_LOCK
from revector.registry import ledgers
from revector.rehearsal.rehearsal import clear_leftovers
from revector.rehearsal.report import RehearsalReport
from revector.rehearsal.scratch import PREFIX, Scratch, leftovers
from worlds import World

# Nobody else sees it, and it sees nobody ------------------------------------------------------------------------------


def test_nobody_works_for_lists_or_clears_away_a_rehearsal_that_runs(served: World) -> None:
    served.put(3, start=300)  # due for the live worker
    status, seen = served.project.status("docs").as_data(), []

    def look() -> None:
        now = served.project.status("docs").as_data()
        changing = ("database_time", "slots")
        assert {k: v for k, v in now.items() if k not in changing} == {
            k: v for k, v in status.items() if k not in changing
        }
        assert now["slots"]["building"] is None
        assert served.value("SELECT count(*) FROM revector.collection") == 1
        assert len(schemas(served)) == 1
        assert leftovers(served.engine) == []
        assert clear_leftovers(served.engine, served.project.archive, kept_of="docs") == []
        seen.append(served.project.worker().drain())

    rehearse(served, size=60, progress=During("b200: |copy|put and delete", look))
    assert len(seen) > 4
    assert sum(seen) == 3, "the live worker did its own work and nothing else"
    assert served.differences(served.generation()) == []


def test_a_rehearsal_neither_waits_for_the_gate_of_the_collection_nor_holds_it(served: World) -> None:
    with served.engine.connect() as holder, holder.begin():
        holder.execute(
            sa.text("SELECT pg_advisory_xact_lock(:key, :cid)"), {"key": GATE_LOCK, "cid": served.collection.cid}
        )
        holder.execute(sa.text("SELECT 1 FROM revector.collection FOR NO KEY UPDATE"))
        holder.execute(sa.text("SELECT 1 FROM revector.document FOR UPDATE"))
        assert rehearse(served, size=60).refusals == ()


def test_two_rehearsals_at_once_do_not_meet(served: World) -> None:
    inner: list[RehearsalReport] = []
    outer = rehearse(
        served, size=60, progress=During("put and delete", lambda: inner.append(rehearse(served, size=80)))
    )
    assert (outer.refusals, inner[0].refusals) == ((), ())
    assert (outer.sampled, inner[0].sampled) == (80, 90), "at random 30 or 40, beside 50 that the gate demands"
    assert len(served.events("rehearse")) == 2
    assert traces(served) == []


def test_the_scratch_tables_are_the_real_ones(served: World) -> None:
    """A schema version whose SQL a scratch schema lacked would be rehearsed wrongly."""
    catalogue = """
        SELECT 'column', table_name || '.' || column_name, data_type || is_nullable || coalesce(column_default, '')
        FROM information_schema.columns WHERE table_schema = :schema
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = CAST(:schema AS regnamespace)
        UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = :schema
        UNION ALL SELECT 'trigger', tgname || CAST(tgrelid::regclass AS text), format('%s %s', tgenabled, d)
        FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid, pg_get_triggerdef(t.oid) d
        WHERE NOT tgisinternal AND relnamespace = CAST(:schema AS regnamespace)
        UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = CAST(:schema AS regnamespace)
        UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = :schema
        UNION ALL SELECT 'sequence', sequencename, concat(increment_by, cache_size) FROM pg_sequences
        WHERE schemaname = :schema"""

    def seen(schema: str) -> set[tuple[str, ...]]:
        with served.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL search_path = public")
            rows = connection.execute(sa.text(catalogue), {"schema": schema}).all()
        return {
            tuple(str(value).replace(f"{schema}.", "").replace("%", "%%") for value in row)
            for row in rows
            if "schema_version" not in row[1] and not row[1].startswith("idx_")
        }

    with Scratch(served.engine, "docs") as scratch:
        made = seen(scratch.schema)
        with scratch.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT to_regclass('collection')")) is not None
            assert connection.scalar(sa.text("SELECT to_regclass('schema_version')")) is None, "of real tables, none"
        scratch.drop()
    served.sql(f"DROP TABLE {served.generation().physical_name}, {ledgers.table(served.generation().gen)}")
    assert len(made) > 100
    assert made ^ seen("revector") == set()


# It goes without a trace ----------------------------------------------------------------------------------------------

POINTS = ["control.after_move", "publish.after_rows", "index.after_build", "evidence.after_measure", "drop.after_table"]


@pytest.mark.parametrize("point", POINTS)
def test_an_exception_in_the_middle_leaves_all_as_it_was(served: World, watched: Any, point: str) -> None:
    before, passed = everything(served), []

    def look(name: str) -> None:
        passed.append(name)
        # The second time, where there is one: in the target's own migration.
        if name == point and passed.count(name) == (1 if point == "drop.after_table" else 2):
            raise Crash

    watched(look)
    with pytest.raises(Crash):
        rehearse(served, size=60)
    watched(lambda _: None)
    assert traces(served) == []
    assert everything(served) == before
    assert served.events("rehearse") == []
    assert served.search("apple7 pear7", 1) == ["d00007"]


def kill(world: World, at: str) -> None:
    """Rehearse in a process that dies without a word."""
    command = [sys.executable, "-m", "revector", "rehearse", "b200", "--sample", "100"]
    environment = {**os.environ, "REVECTOR_CRASH_AT": at}
    ended = subprocess.run(command, cwd=world.root, env=environment, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def left_behind(world: World) -> list[Any]:
    """What a dead rehearsal left, once its sessions have ended."""
    deadline = time.monotonic() + 20
    while not (found := leftovers(world.engine)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_what_a_killed_rehearsal_left_is_removed_by_doctor(served: World) -> None:
    before = everything(served)
    command = [sys.executable, "-m", "revector", "rehearse", "b200", "--sample", "100"]
    environment = {**os.environ, "REVECTOR_CRASH_AT": "publish.after_rows:3"}
    ended = subprocess.run(command, cwd=served.root, env=environment, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    deadline = time.monotonic() + 20
    while not leftovers(served.engine) and time.monotonic() < deadline:  # its sessions end a moment after it
        time.sleep(0.05)
    [left] = leftovers(served.engine)
    assert (left.collection, left.kept) == ("docs", False)
    assert traces(served) == [left.schema, left.schema], "schema and folder"
    assert everything(served) == before
    assert said_by_doctor(served) == f"removed {left.schema}, left behind by a rehearsal that died"
    assert traces(served) == []
    assert said_by_doctor(served) == "nothing is left of any"
    assert everything(served) == before


def said_by_doctor(world: World) -> str:
    [check] = [check for check in examine(world.project) if check.name == "rehearsals"]
    assert check.ok
    return check.detail


def test_the_next_rehearsal_removes_what_was_kept_and_what_was_left_behind(served: World) -> None:
    before = everything(served)
    kept = rehearse(served, size=60, keep=True).kept
    assert kept is not None
    assert traces(served) == [kept, kept]
    assert served.value(f"SELECT count(*) FROM {kept}.document WHERE NOT deleted") == 81
    with Scratch(served.engine, "another") as left:
        assert said_by_doctor(served) == f"kept until the next rehearsal: {kept}"
    while not (removed := clear_leftovers(served.engine, served.project.archive, kept_of="another")):
        pass  # its connection is closed, but the server has not noticed yet
    assert removed == [left.schema]
    with Scratch(served.engine, "another"):
        pass
    assert traces(served) != [kept, kept]
    rehearse(served, size=60)
    assert traces(served) == []
    assert everything(served) == before


def test_only_schemas_that_rehearsals_made_are_ever_removed(served: World) -> None:
    served.sql(f"CREATE SCHEMA {PREFIX}of_somebody")
    assert clear_leftovers(served.engine, served.project.archive, kept_of="docs") == []
    assert schemas(served) == [f"{PREFIX}of_somebody"]
