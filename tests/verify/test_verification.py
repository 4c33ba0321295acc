"""Verification of the live system: every kind of damage is found and fixed, and nothing else is ever reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from damage import LONG, LONG_ID, NOBODY, SEVEN, copy, found, index_sql, verify

from revector.verify import readback
from worlds import World

# Every kind of damage -------------------------------------------------------------------------------------------------


def extra_chunk(world: World) -> None:
    world.unguarded(copy(world, "long", chunk="99", where="chunk = 0"))


def rows_of_nobody(world: World) -> None:
    world.unguarded(copy(world, "d00007", doc_id="'nobody'"))


def resurrected(world: World) -> None:
    name = world.generation().physical_name
    world.sql(f"CREATE TABLE kept AS SELECT * FROM {name} WHERE doc_id = 'd00007'")
    world.documents.delete("d00007")
    world.settle()
    world.unguarded(f"INSERT INTO revector.{name} SELECT * FROM revector.kept")


def old_vectors(text: str) -> Callable[[World], None]:
    """The rows of the former text under the number of the new version, as if they had been embedded from it."""

    def spoil(world: World) -> None:
        name = world.generation().physical_name
        world.sql(f"CREATE TABLE kept AS SELECT * FROM {name} WHERE doc_id = 'd00007'")
        world.documents.put("d00007", text)
        world.settle()
        world.unguarded(
            f"UPDATE revector.{name} i SET embedding = k.embedding, start = k.start, stop = k.stop FROM revector.kept "
            "k WHERE i.doc_id = 'd00007'"
        )

    return spoil


def rows_from_before_a_delete(world: World) -> None:
    text = world.documents.get("d00007").text
    world.documents.delete("d00007")
    world.documents.put("d00007", text)
    world.settle()
    index_sql("UPDATE {index} SET version = 1 WHERE doc_id = 'd00007'")(world)


def both_doctored(world: World) -> None:
    index_sql("DELETE FROM {index} WHERE doc_id = 'long' AND chunk = (SELECT max(chunk) FROM {index})")(world)
    world.unguarded("UPDATE revector.ledger SET n_chunks = n_chunks - 1 WHERE doc_id = 'long'")


def write_lost(world: World) -> None:
    world.documents.put("d00007", "other words")
    world.unguarded("DELETE FROM revector.pending")


def write_lost_behind_an_older_item(world: World) -> None:
    world.documents.put("d00007", "other words")
    world.unguarded("UPDATE revector.pending SET version = 1")


def delete_lost(world: World) -> None:
    world.documents.delete("d00007")
    world.unguarded("DELETE FROM revector.pending")


def item_ahead(world: World) -> None:
    world.documents.put("d00007", "other words")
    world.unguarded("UPDATE revector.pending SET version = version + 1000")


def item_of_nobody(world: World) -> None:
    gen = world.generation().gen
    world.unguarded(f"INSERT INTO revector.pending (gen, doc_id, version) VALUES ({gen}, 'no one', 1)")


def delete_not_in_the_ledger(world: World) -> None:
    world.documents.delete("d00007")
    world.settle()
    world.unguarded(
        "UPDATE revector.ledger SET deleted = false, n_chunks = 1, content_hash = 'x' WHERE doc_id = 'd00007'"
    )


def deleted_in_the_ledger(world: World) -> None:
    world.unguarded(
        "UPDATE revector.ledger SET deleted = true, n_chunks = 0, content_hash = NULL WHERE doc_id = 'd00007'"
    )


DAMAGE = {
    "a missing row": (index_sql("DELETE FROM {index} WHERE doc_id = 'd00007'"), "missing", SEVEN, "0 in the index"),
    "a missing chunk": (
        index_sql("DELETE FROM {index} WHERE doc_id = 'long' AND chunk = 1"), "missing", LONG_ID, "chunks unlike",
    ),
    "a missing first chunk": (
        index_sql("DELETE FROM {index} WHERE doc_id = 'long' AND chunk = 0"), "missing", LONG_ID, "chunks unlike",
    ),
    "an extra chunk": (extra_chunk, "extra", LONG_ID, "chunks unlike"),
    "rows without a document": (rows_of_nobody, "extra", NOBODY, "no such document"),
    "a work item without a document": (item_of_nobody, "extra", ["no one"], "a work item"),
    "resurrected rows": (resurrected, "extra", SEVEN, "deleted, but 1 chunks"),
    "vectors of the former text": (
        old_vectors("apple7 quite another number of characters"), "stale", SEVEN, "not where its text is cut",
    ),
    "vectors of a former text as long": (
        old_vectors("apple7 pear7 some words here thirst 7"), "damaged", SEVEN, "cosine",
    ),
    "swapped vectors": (
        index_sql(
            "UPDATE {index} i SET embedding = o.embedding FROM {index} o WHERE (i.doc_id, o.doc_id) IN (('d00007', "
            "'d00008'), ('d00008', 'd00007'))"
        ), "damaged", ["d00007", "d00008"], "cosine",
    ),
    "a zero vector": (
        index_sql("UPDATE {index} SET embedding = array_fill(0::real, ARRAY[64])::vector WHERE doc_id = 'd00007'"),
        "damaged", SEVEN, "bad vectors",
    ),
    "a vector that is too long": (
        index_sql("UPDATE {index} SET embedding = embedding + embedding WHERE doc_id = 'd00007'"),
        "damaged", SEVEN, "bad vectors",
    ),
    "offsets behind the text": (
        index_sql("UPDATE {index} SET stop = stop + 1 WHERE doc_id = 'd00007'"), "damaged", SEVEN, "outside the text",
    ),
    "offsets before the text": (
        index_sql("UPDATE {index} SET start = -1 WHERE doc_id = 'd00007'"), "damaged", SEVEN, "outside the text",
    ),
    "offsets elsewhere in the text": (
        index_sql("UPDATE {index} SET start = start + 1 WHERE doc_id = 'd00007'"), "stale", SEVEN, "not where its text",
    ),
    "chunks of two versions": (
        index_sql("UPDATE {index} SET version = version - 1 WHERE doc_id = 'long' AND chunk = 1"),
        "stale", LONG_ID, "chunks of versions",
    ),
    "rows of a version to come": (
        index_sql("UPDATE {index} SET version = version + 1000 WHERE doc_id = 'd00007'"), "stale", SEVEN, "versions",
    ),
    "rows from before a delete": (rows_from_before_a_delete, "stale", SEVEN, "latest delete"),
    "a chunk that the ledger does not miss": (both_doctored, "stale", LONG_ID, "not where its text is cut"),
    "no line in the ledger": (
        index_sql("DELETE FROM revector.ledger WHERE doc_id = 'd00007'"), "missing", SEVEN, "neither",
    ),
    "a ledger that is ahead": (
        index_sql("UPDATE revector.ledger SET version = version + 1000 WHERE doc_id = 'd00007'"),
        "stale", SEVEN, "the ledger shows version",
    ),
    "a ledger that is behind": (
        index_sql("UPDATE revector.ledger SET version = version - 1 WHERE doc_id = 'd00007'"),
        "stale", SEVEN, "does not wait",
    ),
    "a ledger that names another text": (
        index_sql("UPDATE revector.ledger SET content_hash = 'x' WHERE doc_id = 'd00007'"),
        "stale", SEVEN, "another text",
    ),
    "a document that the ledger calls deleted": (deleted_in_the_ledger, "missing", SEVEN, "neither"),
    "a deleted document that the ledger shows": (delete_not_in_the_ledger, "stale", SEVEN, "the ledger shows it"),
    "a lost write": (write_lost, "stale", SEVEN, "does not wait"),
    "a lost write behind an older item": (write_lost_behind_an_older_item, "stale", SEVEN, "does not wait"),
    "a lost delete": (delete_lost, "extra", SEVEN, "deleted, but 1 chunks"),
    "a work item that is ahead": (item_ahead, "stale", SEVEN, "waits for version"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_named_repaired_and_then_gone(fixed: World, damage: str) -> None:
    spoil, kind, ids, reason = DAMAGE[damage]
    fixed.sql("DROP TABLE IF EXISTS kept")
    fixed.put(1, start=7)
    fixed.documents.put("long", LONG)
    fixed.settle()
    spoil(fixed)
    documents = fixed.sql("SELECT doc_id, version FROM document WHERE doc_id NOT LIKE 'no%' ORDER BY doc_id")
    [one] = verify(fixed, repair=True).generations
    assert {kind: [wrong.id for wrong in named] for kind, named in one.first.items()} == {kind: ids}
    assert reason in one.first[kind][0].reason
    assert one.rearmed == len(ids)
    repair = fixed.events("repair")[0]
    assert (repair["actor"], repair["detail"]) == ("tester", {"documents": len(ids), kind: len(ids), "first": ids})
    for view in readback.INVARIANTS:
        assert fixed.sql(f"SELECT * FROM {view}") == []
    fixed.settle()
    again = verify(fixed)
    assert again.passed, again
    assert again.generations[0].reembedded == fixed.documents.count()
    assert fixed.differences(fixed.generation()) == []
    after = fixed.sql("SELECT doc_id, version FROM document WHERE doc_id NOT LIKE 'no%' ORDER BY doc_id")
    assert after == documents, "a repair changes no version"


def test_a_vector_of_another_width_is_found_and_repaired(world: World) -> None:
    world.settings(qrels=None)
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact")')
    world.put(10)
    world.upgrade("a100")
    name = world.generation().physical_name
    world.unguarded(f"ALTER TABLE revector.{name} ALTER COLUMN embedding TYPE vector")
    world.unguarded(f"UPDATE revector.{name} SET embedding = '[1]' WHERE doc_id = 'd00007'")
    assert found(verify(world, repair=True)) == {"damaged": SEVEN}
    world.settle()
    assert verify(world).passed


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_vectors_that_are_not_normalised_and_stored_small_are_compared_within_the_tolerance(
    world: World, storage: str
) -> None:
    world.settings(qrels=None)
    model = 'model = ModelSpec(name="hashing", dim=64, normalize=False)'
    world.revision("a100", None, model, f'index = IndexSpec(storage="{storage}")')
    world.put(10)
    world.upgrade("a100")
    report = verify(world)
    assert report.passed
    assert report.generations[0].reembedded == 10
    assert report.generations[0].farthest < report.generations[0].tolerance / 10
    name = world.generation().physical_name
    world.unguarded(f"UPDATE revector.{name} SET embedding = embedding + embedding WHERE doc_id = 'd00007'")
    assert found(verify(world)) == {"damaged": SEVEN}


def test_every_generation_is_verified_and_repaired_alone(swapped: World) -> None:
    standby = swapped.generation("standby")
    swapped.unguarded(f"DELETE FROM revector.{standby.physical_name} WHERE doc_id = 'd00007'")
    active, other = verify(swapped, repair=True).generations
    assert (active.role, active.passed, other.role, dict(other.wrong)) == ("active", True, "standby", {"missing": 1})
    assert [row.gen for row in swapped.sql("SELECT gen FROM pending")] == [standby.gen]
    swapped.settle()
    assert verify(swapped).passed


def test_what_is_served_is_served_while_its_repair_waits(served: World) -> None:
    served.unguarded("UPDATE revector.ledger SET content_hash = 'x'")
    before = [served.search(f"apple{n} pear{n}", 3) for n in range(20)]
    assert verify(served, repair=True).generations[0].rearmed == 120
    assert [served.search(f"apple{n} pear{n}", 3) for n in range(20)] == before
    served.settle()
    assert [served.search(f"apple{n} pear{n}", 3) for n in range(20)] == before
    assert verify(served).passed
