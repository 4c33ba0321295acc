"""Between two looks of autovacuum, the planner hears of tables that have grown."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from revector.database import analyzing
from revector.database.analyzing import analyze_grown
from revector.registry import ledgers
from worlds import World

KNOWN = "SELECT min(reltuples) FROM pg_class WHERE oid = ANY(CAST(:names AS regclass[]))"


def test_a_table_is_analyzed_when_it_has_doubled_and_not_before(world: World) -> None:
    world.put(3_000)
    assert analyze_grown(world.engine, ("document",)) == ["document"]
    assert world.value(KNOWN, names=["document"]) == 3_000
    world.put(1_000, 3_000)
    assert analyze_grown(world.engine, ("document",)) == []
    world.put(4_000, 4_000)
    assert analyze_grown(world.engine, ("document", "shard", "no_such_table")) == ["document"]


def test_the_parts_of_a_ledger_are_analyzed_and_its_empty_root_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "PART_DOCUMENTS", 1_000)
    monkeypatch.setattr(analyzing, "LEAST_PAGES", 0)
    world.put(3_000)
    world.upgrade("a100", to="provision")
    world.sql(
        "INSERT INTO ledger SELECT g.gen, doc_id, d.version, false, 1, content_hash FROM document d, generation g"
    )
    name = ledgers.table(world.generation("building").gen)
    assert sorted(analyze_grown(world.engine, (name,))) == [f"{name}_h0", f"{name}_h1", f"{name}_h2"]


def test_nobody_waits_for_a_table_that_another_holds(world: World) -> None:
    world.put(3_000)
    with world.engine.connect() as other:
        other.execute(sa.text("LOCK TABLE document IN SHARE UPDATE EXCLUSIVE MODE"))
        analyze_grown(world.engine, ("document",))
        assert world.value(KNOWN, names=["document"]) <= 0
    analyze_grown(world.engine, ("document",))
    assert world.value(KNOWN, names=["document"]) == 3_000


def test_a_backfill_does_not_take_the_tables_that_it_fills_for_empty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its planner would read them whole for every part: twice the documents would take four times as long."""
    monkeypatch.setattr(analyzing, "LEAST_PAGES", 0)
    for table in ("document", "pending"):
        world.sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    world.put(3_000)
    world.upgrade("a100", to="backfill")
    building = world.generation("building")
    assert world.value(KNOWN, names=["document"]) == 3_000
    assert world.value(KNOWN, names=[building.physical_name, ledgers.table(building.gen), "pending"]) > 0
