"""The shards of a backfill: their parts, and those that were sealed or finished by an earlier call."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from fakes import Crash
from revector.indexing.backfill import Backfill, ShardReport
from revector.indexing.publish import Applier
from revector.registry import sharding
from stages import AtStep

NEWEST = "gen = (SELECT max(gen) FROM generation)"
BACKFILL = "revector.indexing.backfill"


def test_a_part_that_was_sealed_after_a_damaged_one_is_published_and_not_embedded_again(
    at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = at_step("provision")
    monkeypatch.setattr(f"{BACKFILL}.PART_DOCUMENTS", 25)
    encoder = served.loader["hashing:seed2"]
    with monkeypatch.context() as patch:
        patch.setattr(Applier, "publish", lambda *_: 0)  # as if each had been killed before it
        patch.setattr(Backfill, "_mark_published", lambda *_: None)
        served.migrator.embed_shard("b200", 0)
    parts = served.sql(f"SELECT shard, part, path, documents FROM part WHERE {NEWEST} ORDER BY part")
    assert len(parts) > 1
    served.sql(f"UPDATE shard SET done = false WHERE {NEWEST}")
    Path(parts[0].path).unlink()
    encoder.embedded.clear()
    served.migrator.embed_shard("b200", 0)
    assert len(encoder.embedded) == parts[0].documents
    assert served.value(f"SELECT count(*) FROM part WHERE {NEWEST} AND shard = 0 AND published_at IS NULL") == 0


def test_what_is_embedded_when_the_process_is_killed_was_counted_before(
    at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = at_step("provision")
    monkeypatch.setattr(f"{BACKFILL}.PART_DOCUMENTS", 25)
    monkeypatch.setattr(Applier, "embed", Mock(side_effect=Crash))
    with pytest.raises(Crash):
        served.migrator.embed_shard("b200", 0)
    assert served.sql(f"SELECT count(*), sum(attempts) FROM pending WHERE {NEWEST} AND attempts > 0") == [(25, 25)]


def test_a_shard_that_another_process_has_finished_is_left_alone(at_step: AtStep) -> None:
    served = at_step("backfill")
    generation = served.generation("building")
    with served.engine.connect() as connection:
        [first, *_] = sharding.read_shards(connection, generation.gen)
    assert first.done
    assert served.migrator._forward.bulk_lane(generation).run(first) == ShardReport(0, 0, 0, 0, 0.0)


def test_the_first_part_of_a_shard_is_small(at_step: AtStep, monkeypatch: pytest.MonkeyPatch) -> None:
    served = at_step("provision")
    monkeypatch.setattr(f"{BACKFILL}.PART_CHARACTERS", (200, 1_000_000))
    served.migrator.embed_shard("b200", 0)
    parts = served.sql(f"SELECT documents FROM part WHERE {NEWEST} ORDER BY part")
    assert parts[0].documents < 10 < parts[-1].documents
