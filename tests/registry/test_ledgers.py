"""A generation's ledger is a table of its own: made beside running work, dropped whole, spread where it is large."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from revector.database import engine as registry_engine
from revector.database.engine import make_engine, upgrade_schema
from revector.errors import GateBusy
from revector.registry import ledgers
from stages import AtStep
from worlds import World


def tables(world: World) -> set[str]:
    """The ledgers that there are, parts included."""
    found = world.sql("SELECT CAST(relid AS text) AS name FROM pg_partition_tree('ledger') WHERE level > 0")
    return {row.name for row in found}


def retired(world: World, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    """Move to the second revision and give up the first; return the first's number."""
    world.upgrade("b200")
    old = world.generation("standby").gen
    if monkeypatch is not None:
        monkeypatch.setattr(ledgers, "DROP_WAIT_MS", 10)
    world.migrator.retire("done", now=True)
    return old


def test_a_generation_takes_its_ledger_with_it(served: World) -> None:
    old = retired(served)
    assert tables(served) == {ledgers.table(served.generation().gen)}
    assert served.value("SELECT count(*) FROM ledger WHERE gen = :gen", gen=old) == 0
    assert served.value("SELECT count(*) FROM ledger") == 120


def test_an_aborted_migration_leaves_no_ledger(at_step: AtStep) -> None:
    served = at_step("backfill")
    assert len(tables(served)) == 2
    served.migrator.abort("no")
    assert tables(served) == {ledgers.table(served.generation().gen)}


def test_a_ledger_that_is_being_read_is_dropped_later_and_nobody_waits_for_it(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.upgrade("b200")
    with served.engine.connect() as reader:
        reader.execute(sa.text("SELECT count(*) FROM ledger"))
        old = retired(served, monkeypatch)
        assert ledgers.table(old) in tables(served)
        assert served.value("SELECT dropped FROM generation WHERE gen = :gen", gen=old)
        served.put(1, 500)
        served.settle()
        assert served.search("apple500 pear500", 1) == ["d00500"]
    assert not served.migrator.retire_due().changed
    assert tables(served) == {ledgers.table(served.generation().gen)}


def test_a_migration_begins_while_others_publish_and_read(served: World) -> None:
    """Neither has to end first: a control step waits at most 1.5 s for a lock, and these are never released."""
    with served.engine.connect() as reader, served.engine.connect() as publisher:
        reader.execute(sa.text("SELECT count(*) FROM ledger"))
        publisher.execute(sa.text("UPDATE ledger SET applied_at = clock_timestamp()"))
        served.upgrade("b200", to="provision")
        publisher.rollback()
    assert len(tables(served)) == 2


def test_an_analyze_of_the_whole_ledger_is_named_as_what_a_migration_waits_for(served: World) -> None:
    """The planted fault of the test above: one lock that does stand in the way is seen."""
    with served.engine.connect() as other:
        other.execute(sa.text("LOCK TABLE ledger IN SHARE UPDATE EXCLUSIVE MODE"))
        with pytest.raises(GateBusy):
            served.upgrade("b200", to="provision")
    served.upgrade("b200", to="provision")


def test_a_ledger_spread_by_hash_keeps_every_promise_of_a_migration(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "PART_DOCUMENTS", 50)
    served.upgrade("b200", to="backfill")
    name = ledgers.table(served.generation("building").gen)
    assert {f"{name}_h{part}" for part in range(3)} < tables(served)
    served.documents.put("d00007", "melon7 instead of it")
    served.documents.delete("d00008")
    served.settle()
    served.upgrade("b200")
    filled = [served.value(f"SELECT count(*) FROM {name}_h{part} WHERE NOT deleted") for part in range(3)]
    assert sum(filled) == 119
    assert min(filled) > 0
    served.put(30, 200)
    served.settle()
    for role in ("active", "standby"):
        assert served.differences(served.generation(role)) == []
    assert served.search("melon7 instead", 1) == ["d00007"]
    assert "d00008" not in served.search("apple8 pear8")
    served.migrator.rollback("back")
    served.upgrade("b200")
    for view in ("i1_lost", "i2_ahead", "i5_slots", "i13_unwaived"):
        assert served.value(f"SELECT count(*) FROM {view}") == 0
    served.migrator.retire("done", now=True)
    assert tables(served) == {name, *(f"{name}_h{part}" for part in range(3))}


def test_a_text_is_looked_up_by_eight_bytes_of_its_hash(served: World) -> None:
    with served.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(
            "EXPLAIN SELECT gen FROM ledger WHERE hashtextextended(content_hash, 0) = hashtextextended('x', 0) AND "
            "content_hash = 'x' AND NOT deleted"
        ).scalars()
        assert "hashtextextended_idx" in " ".join(plan)


def test_two_that_drop_at_once_both_succeed(served: World) -> None:
    served.upgrade("b200")
    old = served.generation("standby").gen
    served.migrator.retire("done", now=True)
    with served.engine.begin() as connection:
        ledgers.create(connection, old, 0)
    threads = [threading.Thread(target=ledgers.sweep, args=(served.engine,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tables(served) == {ledgers.table(served.generation().gen)}


def test_an_older_schema_keeps_every_line_of_its_ledger(databases, tmp_path: Path) -> None:
    world = World(tmp_path, databases.url(databases.create()))
    world.put(60)
    world.upgrade("a100")
    world.upgrade("b200")
    wanted = world.sql("SELECT * FROM ledger ORDER BY gen, doc_id")
    older = databases.url(databases.create())
    engine = make_engine(older)
    config, _ = registry_engine._script()
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE EXTENSION vector")
        connection.exec_driver_sql("CREATE SCHEMA revector")
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        connection.commit()
    copied = ("collection", "generation", "ledger")
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for name in copied:
            for row in world.sql(f"SELECT CAST(row_to_json(t) AS text) AS line FROM {name} t"):
                connection.execute(
                    sa.text(
                        f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT * FROM "
                        f"json_populate_record(CAST(NULL AS {name}), CAST(:line AS json))"
                    ),
                    {"line": row.line},
                )
    assert upgrade_schema(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM ledger ORDER BY gen, doc_id")).all() == wanted
        assert len({row.gen for row in wanted}) == 2
        found = connection.scalars(sa.text("SELECT CAST(relid AS text) FROM pg_partition_tree('ledger')")).all()
        assert len(found) == 3
    engine.dispose()
    world.engine.dispose()
