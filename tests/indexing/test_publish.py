"""Publishing: only what is still the latest becomes visible, whole, once, and only in a live generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from evaluation.reliability.truth import Truth

from revector import counts
from revector.documents import deadletters
from revector.errors import EncoderError, GenerationGone, TextsRefused
from revector.indexing.publish import Applier, PreparedBatch
from revector.indexing.rearm import rearm
from revector.interfaces import Document
from revector.registry import sharding, work
from worlds import World


def applier(world: World, role: str = "active") -> Applier:
    return world.project.worker().applier(world.generation(role))


def embedded(world: World, *doc_ids: str, role: str = "active") -> tuple[Applier, PreparedBatch]:
    """A worker that has embedded and not yet published."""
    one = applier(world, role)
    return one, one.prepare(work.read_items(world.engine, one.generation.cid, sorted(doc_ids)))


def waiting(world: World) -> dict[str, str]:
    return {row.doc_id: row.state for row in world.sql("SELECT doc_id, state FROM pending ORDER BY doc_id")}


def dead(world: World) -> dict[str, str]:
    return {row.doc_id: row.last_error for row in world.sql("SELECT * FROM pending WHERE state = 'dead'")}


# Only the latest ------------------------------------------------------------------------------------------------------


def test_publish_leaves_out_a_document_that_moved_on_and_keeps_its_item(served: World) -> None:
    served.documents.put_many([Document("a", "melon kiwi"), Document("b", "melon kiwi")])
    one, prepared = embedded(served, "a", "b")
    served.documents.put("a", "cherry plum")
    assert one.publish(prepared) == 1
    assert waiting(served) == {"a": "due"}
    assert "a" not in served.search("melon kiwi")
    served.settle()
    assert served.differences(served.generation()) == []


def test_publish_gives_back_what_is_being_written_this_instant(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    one, prepared = embedded(served, "a")
    assert work.claim(served.engine, one.generation.gen, rows=10) == ["a"]
    with served.engine.begin() as writer:
        writer.execute(sa.text("SELECT 1 FROM document WHERE doc_id = 'a' FOR UPDATE"))
        assert one.publish(prepared) == 0
    assert served.sql("SELECT lease_until, attempts FROM pending") == [(None, 0)]
    assert one.publish(prepared) == 1


def test_publish_never_replaces_a_newer_version(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    slow, old = embedded(served, "a")
    served.documents.put("a", "cherry plum")
    served.settle()
    assert slow.publish(old) == 0
    assert served.differences(served.generation()) == []


def test_a_worker_that_found_the_content_unchanged_leaves_what_a_repair_armed_meanwhile(served: World) -> None:
    served.documents.put("d00007", served.documents.get("d00007").text, {"n": -7})
    one, prepared = embedded(served, "d00007")
    assert [item.doc_id for item in prepared.unchanged] == ["d00007"]
    rearm(served.engine, one.generation.cid, one.generation.gen, {"damaged": ["d00007"]}, actor="tester")
    before = served.loader.embedded
    assert one.publish(prepared) == 0
    served.settle()
    assert served.loader.embedded == before + 1


def test_the_ledger_itself_refuses_to_go_back(served: World) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="older version never replaces"):
        served.sql("UPDATE ledger SET version = version - 1")


def test_a_delete_during_embedding_is_not_undone(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    slow, old = embedded(served, "a")
    served.documents.delete("a")
    assert slow.publish(old) == 0
    served.settle()
    assert slow.publish(old) == 0
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize("settled", [True, False], ids=["delete applied", "delete not applied"])
def test_identical_content_created_anew_is_served_again(served: World, settled: bool) -> None:
    text = served.documents.get("d00007").text
    served.documents.delete("d00007")
    if settled:
        served.settle()
    served.documents.put("d00007", text, {"n": 7})
    assert "d00007" not in served.search("apple7 pear7"), "text from before the delete stays hidden"
    served.settle()
    assert served.search("apple7 pear7")[0] == "d00007"
    assert served.differences(served.generation()) == []


def test_unchanged_content_after_several_metadata_changes_and_a_delete_is_served(served: World) -> None:
    text = served.documents.get("d00007").text
    for n in range(3):
        served.documents.put("d00007", text, {"round": n})
        served.settle()
    served.documents.delete("d00007")
    served.documents.put("d00007", text, {"round": 9})
    served.settle()
    assert served.search("apple7 pear7", where={"round": 9}) == ["d00007"]


def test_of_two_publishers_of_one_item_one_wins(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    first, one = embedded(served, "a")
    second, two = embedded(served, "a")
    assert [first.publish(one), second.publish(two)] == [1, 0]
    assert served.value("SELECT n_chunks FROM ledger WHERE doc_id = 'a'") == 1
    assert served.differences(served.generation()) == []


def test_publishers_of_the_same_items_in_any_order_do_not_deadlock(served: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ids = [f"x{n:03d}" for n in range(150)]
    for _ in range(3):
        served.documents.put_many([Document(doc_id, f"melon{_} {doc_id}") for doc_id in ids])
        batches = [embedded(served, *ids) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            published = list(pool.map(lambda pair: pair[0].publish(pair[1]), batches))
        assert sum(published) == len(ids)
    assert served.differences(served.generation()) == []


def test_fewer_chunks_replace_the_whole_set(served: World) -> None:
    served.documents.put("long", " ".join(f"word{n}" for n in range(2_000)))
    served.settle()
    name = served.generation().physical_name
    assert served.value(f"SELECT count(*) FROM {name} WHERE doc_id = 'long'") > 5
    served.documents.put("long", "short now")
    served.settle()
    assert served.value(f"SELECT count(*) FROM {name} WHERE doc_id = 'long'") == 1
    assert served.differences(served.generation()) == []


def test_chunks_are_numbered_in_the_order_of_the_text(served: World) -> None:
    text = " ".join(f"word{n}" for n in range(1_000))
    served.documents.put("long", text)
    served.settle()
    chunks, vectors = Truth.of(served.generation().spec).embedded(text)
    assert len(chunks) > 3
    rows = served.sql(
        "SELECT chunk, start, stop, CAST(embedding AS real[]) AS vector FROM "
        f"{served.generation().physical_name} WHERE doc_id = 'long' ORDER BY chunk"
    )
    assert [tuple(row[:3]) for row in rows] == [(n, chunk.start, chunk.end) for n, chunk in enumerate(chunks)]
    np.testing.assert_allclose([row.vector for row in rows], vectors, atol=1e-5)


# Only where it belongs ------------------------------------------------------------------------------------------------


def test_a_zombie_publisher_of_a_retired_generation_is_refused(swapped: World) -> None:
    swapped.documents.put("a", "melon kiwi")
    zombie, prepared = embedded(swapped, "a", role="standby")
    swapped.migrator.retire("enough", now=True)
    with pytest.raises(GenerationGone):
        zombie.publish(prepared)
    assert "a" in waiting(swapped), "the active generation still gets it"


def test_a_publisher_with_another_encoder_is_refused(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    one, prepared = embedded(served, "a")
    one._encoder = served.loader["hashing"]._inner.__class__(one.generation.spec.model, seed=7)
    with pytest.raises(GenerationGone, match="another encoder"):
        one.publish(prepared)
    assert waiting(served) == {"a": "due"}


# Poison ---------------------------------------------------------------------------------------------------------------


def explode(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    if any("poison" in text for text in texts):
        raise RuntimeError("kernel panic")
    return vectors


def test_a_poison_document_costs_only_itself(served: World) -> None:
    served.documents.put_many([Document(f"x{n:02d}", "poison" if n == 13 else f"melon{n}") for n in range(32)])
    served.loader["hashing"].hook = explode
    before = counts.totals()
    served.settle()
    assert waiting(served) == {"x13": "due"}
    grown = {key: after - before.get(key, 0) for key, after in counts.totals().items() if key[0] == "documents_failed"}
    cid = str(served.collection.cid)
    assert grown.get(("documents_failed", (cid, "retried"))) == 1
    assert not grown.get(("documents_failed", (cid, "dead")))
    assert "kernel panic" in served.value("SELECT last_error FROM pending")
    assert served.value("SELECT count(*) FROM ledger WHERE doc_id LIKE 'x%'") == 31


def test_a_text_that_the_encoder_refuses_for_good_is_a_dead_letter_at_once(served: World) -> None:
    def refuse(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        if "poison" in texts:
            raise TextsRefused("1 text is refused", {"poison": "too long for the provider"})
        return vectors

    served.documents.put_many([Document("a", "poison"), Document("b", "melon")])
    served.loader["hashing"].hook = refuse
    served.settle()
    assert waiting(served) == {"a": "dead"}
    assert dead(served)["a"] == "too long for the provider"


def test_attempts_back_off_and_end_after_eight(served: World) -> None:
    served.documents.put_many([Document("a", "poison"), Document("b", "melon")])
    served.loader["hashing"].hook = explode
    pauses = []
    for _ in range(7):
        served.settle()
        pauses.append(round(served.value("SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM pending")))
        served.sql("UPDATE pending SET due_at = clock_timestamp()")
    assert pauses == [1, 2, 4, 8, 16, 32, 64]
    assert dead(served) == {}
    served.settle()
    assert list(dead(served)) == ["a"]


def test_a_dead_letter_can_be_retried_and_a_new_version_retries_itself(served: World) -> None:
    served.loader["hashing"].hook = explode
    for _ in range(2):
        served.documents.put_many([Document("a", "poison"), Document("b", "melon")])
        served.sql("UPDATE pending SET attempts = 7")
        served.settle()
        assert list(dead(served)) == ["a"]
        served.documents.put("a", "cured")
        served.settle()
        assert waiting(served) == {}
    served.loader["hashing"].hook = explode
    served.documents.put("a", "poison")
    served.sql("UPDATE pending SET attempts = 7")
    served.documents.put("b", "plum")
    served.settle()
    served.loader["hashing"].hook = None
    with served.engine.begin() as connection:
        assert deadletters.retry_dead(connection, served.collection.cid, ["a"], "tester") == 1
    served.settle()
    assert waiting(served) == {}


def _replaced(value: float) -> Callable[[Sequence[str], np.ndarray], np.ndarray]:
    def hook(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        bad = [n for n, text in enumerate(texts) if "poison" in text]
        vectors[bad] = value
        return vectors

    return hook


def _cut(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    return vectors[:-1] if any("poison" in text for text in texts) else vectors


def _narrow(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :-1] if any("poison" in text for text in texts) else vectors


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (_replaced(float("nan")), "NaN"),
        (_replaced(float("inf")), "infinite"),
        (_replaced(0.0), "only zero"),
        (_cut, "shape"),
        (_narrow, "shape"),
    ],
    ids=["nan", "infinite", "zero", "too few", "too narrow"],
)
def test_vectors_that_cannot_be_used_are_dead_lettered_with_their_reason(served: World, hook, reason: str) -> None:
    served.documents.put_many([Document("a", "melon"), Document("b", "poison"), Document("c", "plum")])
    served.loader["hashing"].hook = hook
    served.settle()
    assert list(dead(served)) == ["b"]
    assert reason in dead(served)["b"]
    served.documents.delete("b")
    served.settle()
    assert served.differences(served.generation()) == []


def test_halfvec_refuses_numbers_that_it_cannot_hold_and_takes_all_others(world: World) -> None:
    model = 'model = ModelSpec(name="hashing", dim=64, normalize=False)'
    world.revision("a100", None, model, 'index = IndexSpec(storage="halfvec")')
    world.put(60)
    world.upgrade("a100")
    world.loader["hashing"].hook = _replaced(70_000.0)
    world.documents.put_many([Document("a", "melon"), Document("b", "poison")])
    world.settle()
    assert list(dead(world)) == ["b"]
    assert "halfvec stores at most 65,504" in dead(world)["b"]


def test_a_reason_is_kept_to_2000_characters(served: World) -> None:
    served.documents.put("a", "melon")
    gen, version = served.generation().gen, served.documents.get("a").version
    assert work.fail(served.engine, gen, "a", version, "x" * 3_000, final=True) is True
    assert len(dead(served)["a"]) == 2_000


def test_a_document_of_zero_chunks_is_dead_lettered(served: World) -> None:
    served.sql("INSERT INTO document (cid, doc_id, content) SELECT cid, 'blank', '  ' FROM collection")
    served.settle()
    assert "nothing to embed" in dead(served)["blank"]


def test_an_encoder_that_fails_on_everything_dead_letters_nothing(served: World) -> None:
    """Twenty minutes without a GPU must not give up a corpus, however often the items are tried."""

    def broken(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        raise RuntimeError("CUDA error: device lost")

    served.put(40, start=500)
    served.loader["hashing"].hook = broken
    one = served.project.worker()
    for _ in range(20):
        with pytest.raises(EncoderError, match="device lost"):
            one.apply_some(served.generation())
        served.sql("UPDATE pending SET lease_until = NULL, due_at = clock_timestamp()")
    assert dead(served) == {}
    served.loader["hashing"].hook = None
    served.settle()
    assert served.differences(served.generation()) == []


def test_a_document_that_kills_its_worker_again_and_again_ends_as_a_dead_letter(served: World) -> None:
    served.documents.put("a", "melon kiwi")
    gen = served.generation().gen
    for _ in range(2 * work.MAX_ATTEMPTS):
        assert work.claim(served.engine, gen, rows=10) == ["a"]
        served.sql("UPDATE pending SET lease_until = clock_timestamp() - interval '1 s'")
    assert work.claim(served.engine, gen, rows=10) == []
    assert "died 16 times" in dead(served)["a"]


def test_a_document_that_kills_its_process_in_a_backfill_dies_alone(served: World) -> None:
    served.put(3, start=500)
    gen = served.generation().gen
    served.sql("UPDATE pending SET lane = 'bulk'")
    ids = sorted(f"d{n:05d}" for n in range(500, 503))
    for _ in range(work.MAX_ATTEMPTS):
        work.count_attempt(served.engine, gen, ids)
    shard = sharding.Shard(gen, 0, "", None, "", 3, seeded=True, done=False)
    assert sharding.bulk_page(served.engine, shard, "", 100) == []
    claimed = [work.claim(served.engine, gen, rows=32, lanes=("live", "bulk")) for _ in ids]
    assert [len(one) for one in claimed] == [1, 1, 1]
    assert sorted(one[0] for one in claimed) == ids
