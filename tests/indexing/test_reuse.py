"""What was embedded once is not embedded again: re-runs, other indexes, moved and equal documents, narrower vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes import Crash
from revector.encoders.check import vectors_fp
from revector.indexing.publish import Applier, PreparedBatch
from revector.indexing.reuse import Reuse
from revector.interfaces import Document
from revector.registry.collections import Generation
from revector.registry.work import read_items
from worlds import World

MODEL = 'model = ModelSpec(name="hashing", dim=64)'


def embedded_by(world: World, revision: str) -> int:
    """How many texts are embedded for the new index; the migration is finished then (plan and verify embed samples)."""
    world.upgrade(revision, to="provision")
    before = world.loader.embedded
    world.upgrade(revision, to="backfill")
    embedded = world.loader.embedded - before
    world.upgrade(revision)
    return embedded


def test_a_migration_that_is_aborted_and_begun_anew_embeds_nothing_again(served: World) -> None:
    served.upgrade("b200", to="index")
    served.migrator.abort("the labels were wrong")
    assert embedded_by(served, "b200") == 0
    assert served.differences(served.generation()) == []


def test_without_days_in_the_archive_it_is_embedded_again(served: World) -> None:
    served.project.settings.archive_days = 0
    served.upgrade("b200", to="index")
    served.migrator.abort("the labels were wrong")
    assert embedded_by(served, "b200") == 120


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign"])
def test_a_damaged_part_of_the_archive_is_not_used_and_its_documents_are_embedded_again(
    served: World, damage: str
) -> None:
    served.upgrade("b200", to="index")
    served.migrator.abort("the labels were wrong")
    paths = [Path(path) for (path,) in served.sql("SELECT path FROM archived ORDER BY first_id")]
    content = paths[0].read_bytes()
    spoilt = {"cut": content[: len(content) // 2], "foreign": paths[1].read_bytes()}
    paths[0].unlink() if damage == "gone" else paths[0].write_bytes(spoilt[damage])
    assert embedded_by(served, "b200") == served.value("SELECT documents FROM archived ORDER BY first_id LIMIT 1")
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize("index", ["m=8", 'kind="exact"', 'storage="halfvec"', 'quantize="bit", rerank=8'])
def test_a_revision_that_changes_only_the_index_embeds_nothing(served: World, index: str) -> None:
    served.revision("c300", "a100", MODEL, f"index = IndexSpec({index})")
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    assert embedded_by(served, "c300") == 0
    assert served.project.verify("docs", reembed=1_000).passed
    assert served.search("apple7 pear7", 1) == ["d00007"]


def test_bits_can_be_tried_gone_back_from_and_kept_without_embedding(served: World) -> None:
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", MODEL, 'index = IndexSpec(storage="halfvec", quantize="bit")')
    assert served.migrator.plan("c300").reused == 120
    before = served.loader.embedded
    assert embedded_by(served, "c300") == 0
    served.documents.put("d00007", "apple7 pear7 written again")
    served.settle()
    served.migrator.rollback("to compare")
    assert served.generation().revision == "a100"
    assert served.search("apple7 pear7", 1) == ["d00007"]
    embedded = served.loader.embedded
    served.upgrade("c300")
    served.migrator.retire("it is as good", now=True)
    assert served.generation().spec.index.graph == "bit"
    assert served.search("apple7 pear7", 1) == ["d00007"]
    assert served.loader.embedded == embedded > before
    assert served.project.verify("docs", reembed=1_000).passed


def test_what_half_precision_lost_is_embedded_again(served: World) -> None:
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", MODEL, 'index = IndexSpec(storage="halfvec")')
    served.project.settings.archive_days = 0
    served.upgrade("c300")
    served.migrator.retire("done", now=True)
    served.revision("d400", "c300", MODEL, 'index = IndexSpec(storage="vector", m=8)')
    assert embedded_by(served, "d400") == 120


@pytest.mark.parametrize(
    "body", [('model = ModelSpec(name="hashing:seed2", dim=64)',), (MODEL, 'chunking = Chunking(unit="document")')]
)
def test_another_model_or_chunking_embeds_everything(served: World, body: tuple[str, ...]) -> None:
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", *body)
    assert embedded_by(served, "c300") == 120


def test_a_document_that_moves_to_another_id_is_not_embedded_again(served: World) -> None:
    before = served.loader.embedded
    text = "apple7 pear7 some words here number 7"
    served.documents.put("elsewhere", text)
    served.documents.delete("d00007")
    served.settle()
    assert served.loader.embedded == before
    assert served.search("apple7 pear7", 1) == ["elsewhere"]
    assert served.differences(served.generation()) == []


def test_equal_texts_are_embedded_once(world: World) -> None:
    world.documents.put_many([Document(f"d{n:05d}", f"the same {n % 3}") for n in range(60)])
    assert embedded_by(world, "a100") == 3
    assert world.differences(world.generation()) == []


def test_what_a_repair_took_back_is_embedded_again_though_equal_text_is_shown_elsewhere(served: World) -> None:
    served.documents.put("twin", "apple7 pear7 some words here number 7")
    served.settle()
    name = served.generation().physical_name
    served.unguarded(f"UPDATE revector.{name} SET embedding = embedding * embedding WHERE doc_id IN ('twin', 'd00007')")
    before = len(served.loader["hashing"].embedded)
    report = served.project.verify("docs", reembed=1_000, repair=True)
    served.settle()
    assert not report.passed
    assert served.loader["hashing"].embedded[before:], "nothing was re-embedded"
    assert served.differences(served.generation()) == []


def test_a_generation_that_is_being_dropped_is_not_read_half(served: World) -> None:
    """Rows that do not fit the ledger are no answer."""
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", MODEL, "index = IndexSpec(m=8)")
    served.unguarded(f"DELETE FROM revector.{served.generation().physical_name} WHERE doc_id = 'd00007'")
    served.unguarded("UPDATE revector.part SET path = path || '.gone'")  # nor does the archive know it
    assert embedded_by(served, "c300") == 1
    assert served.differences(served.generation()) == []


def _wide(world: World) -> tuple[Generation, Generation]:
    """A generation whose model's narrower vectors are the beginnings of its own, and one that is narrower."""
    wide = world.generation()
    components = {**wide.encoder, "kind": "sentence-transformers"}
    fingerprint = vectors_fp(components)
    world.unguarded(f"UPDATE revector.generation SET vectors_fp = '{fingerprint}' WHERE gen = {wide.gen}")
    model = replace(wide.spec.model, dim=16)
    fingerprint = vectors_fp({**components, "dim": 16})
    spec = replace(wide.spec, model=model)
    return wide, replace(wide, spec=spec, probes=wide.probes[:, :16], vectors_fp=fingerprint)


def test_a_narrower_cut_of_the_same_model_is_taken_from_the_wider_vectors(served: World) -> None:
    wide, narrow = _wide(served)
    known = Reuse(served.engine, narrow).find(read_items(served.engine, wide.cid, ["d00007", "d00008"]))
    assert sorted(known) == ["d00007", "d00008"]
    for doc_id, one in known.items():
        row = f"SELECT CAST(embedding AS text) FROM {wide.physical_name} WHERE doc_id = :doc_id"
        cut = np.array(json.loads(served.value(row, doc_id=doc_id)))[:16]
        assert one.vectors.shape == (1, 16)
        np.testing.assert_allclose(one.vectors[0], cut / np.linalg.norm(cut), atol=1e-6)


def test_a_model_whose_width_is_no_cut_shares_nothing_with_its_narrower_self(served: World) -> None:
    components = dict(served.generation().encoder)
    assert vectors_fp(components) != vectors_fp({**components, "dim": 16})


def test_a_model_that_changed_behind_its_name_shares_nothing_with_what_it_was(served: World) -> None:
    active = served.generation()
    changed = replace(active, probes=active.probes[::-1])
    items = read_items(served.engine, active.cid, ["d00007"])
    assert Reuse(served.engine, active).find(items)
    assert not Reuse(served.engine, changed).find(items)


def test_archived_vectors_of_a_model_that_changed_behind_its_name_are_not_used(served: World) -> None:
    served.upgrade("b200", to="index")
    old = served.generation("building")
    served.migrator.abort("begun too early")
    turned = old.probes[::-1].astype("<f4").tobytes()
    served.unguarded(f"UPDATE revector.generation SET probes = '\\x{turned.hex()}' WHERE gen = {old.gen}")
    assert embedded_by(served, "b200") == 120


def test_what_half_precision_cannot_hold_is_not_copied_into_it(served: World) -> None:
    active = served.generation()
    items = read_items(served.engine, active.cid, ["d00007"])
    served.unguarded(
        f"UPDATE revector.{active.physical_name} SET embedding = array_fill(70000::real, ARRAY[64])::vector "
        "WHERE doc_id = 'd00007'"
    )
    half = replace(active, spec=replace(active.spec, index=replace(active.spec.index, storage="halfvec")))
    assert Reuse(served.engine, active).find(items)
    assert not Reuse(served.engine, half).find(items)


def test_a_plan_says_what_is_there_already(served: World) -> None:
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", MODEL, "index = IndexSpec(m=8)")
    assert served.migrator.plan("c300").reused == 120


def test_what_is_only_copied_is_not_kept_twice_and_a_kill_on_the_way_is_made_good(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    served.revision("c300", "a100", MODEL, "index = IndexSpec(m=8)")
    monkeypatch.setattr("revector.indexing.backfill.PART_DOCUMENTS", 25)
    served.upgrade("c300", to="provision")
    publish, calls = Applier.publish, []

    def killed(self: Applier, prepared: PreparedBatch) -> int:
        calls.append(prepared)
        if len(calls) == 2:
            raise Crash
        return publish(self, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(Applier, "publish", killed)
        with pytest.raises(Crash):
            served.migrator.run("backfill", "c300")
    assert embedded_by(served, "c300") == 0
    assert served.differences(served.generation()) == []
    assert served.value("SELECT count(*) FROM part WHERE gen = :gen", gen=served.generation().gen) == 0
