"""Verification of the live system: every kind of damage is found and fixed, and nothing else is ever reported."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from conftest import Databases
from revector.cli import exits, run
from revector.encoders.hashing import HashingEncoder
from revector.errors import ConfigError, VerificationFailed
from revector.interfaces import Document, NoProgress
from revector.registry import moves, work
from revector.registry.control import control
from revector.spec import ModelSpec
from revector.verify import readback
from revector.verify.repair import rearm
from revector.verify.verified import VerificationReport
from worlds import World, document

LONG = " ".join(f"word{n}" for n in range(600))
COLUMNS = "doc_id, chunk, version, start, stop, embedding"


def verify(world: World, **options: object) -> VerificationReport:
    return world.project.verify("docs", actor="tester", **options)


def found(report: VerificationReport) -> dict[str, list[str]]:
    """What is wrong in the active generation: ids by kind."""
    return {kind: [one.id for one in named] for kind, named in report.generations[0].first.items()}


def copy(world: World, of: str, *, doc_id: str = "doc_id", chunk: str = "chunk", where: str = "true") -> str:
    name = world.generation().physical_name
    return (
        f"INSERT INTO revector.{name} ({COLUMNS}) SELECT {doc_id}, {chunk}, version, start, stop, embedding FROM "
        f"revector.{name} WHERE doc_id = '{of}' AND {where}"
    )


# Every kind of damage -------------------------------------------------------------------------------------------------


def index_sql(statement: str) -> Callable[[World], None]:
    return lambda world: world.unguarded(statement.format(index=f"revector.{world.generation().physical_name}"))


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


SEVEN, LONG_ID, NOBODY = ["d00007"], ["long"], ["nobody"]
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


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory, databases: Databases, served_template: str) -> Iterator[World]:
    """One system for all kinds of damage: each is fixed before the next, or it fails."""
    name = databases.create(served_template)
    made = World(tmp_path_factory.mktemp("fixed"), databases.url(name))
    yield made
    made.engine.dispose()
    databases.drop(name)


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


# Faults of a whole index, invariants and history ----------------------------------------------------------------------


def test_faults_of_a_whole_index_are_found(served: World) -> None:
    name = f"revector.{served.generation().physical_name}"
    for spoil, says in (
        (f"COMMENT ON TABLE {name} IS 'revector encoder other'", "fingerprint"),
        (f"DROP INDEX {name}_hnsw", "HNSW"),
        (f"DROP TABLE {name}", "is missing"),
    ):
        served.unguarded(spoil)
        report = verify(served, reembed=0)
        assert not report.passed
        assert says in report.generations[0].faults[-1]


def test_another_model_under_the_same_name_is_found_and_its_vectors_are_not_believed(served: World) -> None:
    other = HashingEncoder(ModelSpec("hashing", 64), seed=5)
    served.loader["hashing"]._inner = other
    report = verify(served, repair=True)
    assert report.generations[0].reembedded == 0
    assert "seed: stored 0, found 5" in report.generations[0].faults[0]
    assert not report.passed
    other._components, other._fingerprint = served.generation().encoder, served.generation().encoder_fp
    report = verify(served, repair=True)
    assert "probe" in report.generations[0].faults[0]
    assert served.sql("SELECT * FROM pending") == []


def test_broken_invariants_are_found_that_no_row_shows(served: World) -> None:
    served.documents.put("dead", "some words")
    served.sql("UPDATE pending SET state = 'dead', since = '2020-01-01'")
    report = verify(served, repair=True)
    assert {view: broken.first for view, broken in report.invariants.items()} == {"i13_unwaived": ("1: dead",)}
    assert (report.passed, report.generations[0].dead_letters, report.generations[0].rearmed) == (False, 1, 0)
    served.unguarded("UPDATE revector.generation SET seeded = false")
    assert "i5_slots" in verify(served).invariants


def test_a_tampered_history_is_found(served: World) -> None:
    served.unguarded("UPDATE revector.event SET actor = 'someone else' WHERE seq = 2")
    report = verify(served, reembed=0)
    assert (report.passed, report.broken_events) == (False, (2,))


def test_the_history_keeps_every_run_with_its_counts(served: World) -> None:
    verify(served)
    index_sql("DELETE FROM {index} WHERE doc_id = 'd00007'")(served)
    verify(served, reembed=0)
    failed, passed = served.events("verify_live")
    assert (passed["detail"]["passed"], failed["detail"]["passed"]) == (True, False)
    [counts] = failed["detail"]["generations"]
    assert (counts["checked"], counts["missing"], counts["first"]) == (120, 1, SEVEN)


# Live -----------------------------------------------------------------------------------------------------------------


def test_a_document_that_waits_is_in_flight_and_no_error(served: World) -> None:
    served.put(3, start=500)
    served.documents.delete("d00007")
    report = verify(served)
    assert report.passed
    assert (report.generations[0].checked, report.generations[0].in_flight) == (123, 4)
    served.settle()
    assert verify(served).generations[0].deleted == 1


def test_a_generation_that_is_still_filled_is_left_out_and_verified_once_it_is_seeded(served: World) -> None:
    served.upgrade("b200", to="provision")
    gen = served.generation("building").gen
    assert verify(served).left_out == {gen: "it is still being filled"}
    served.upgrade("b200", to="backfill")
    report = verify(served)
    assert [one.role for one in report.generations] == ["active", "building"]
    assert report.passed


def test_verifying_waits_for_nobody_and_holds_nobody_up(fixed: World) -> None:
    """Another transaction holds the gate and every table against all but plain reads."""
    name = fixed.generation().physical_name
    with fixed.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(sa.text("SELECT pg_advisory_xact_lock(1919252067, 1)"))
        other.execute(sa.text(f"LOCK TABLE document, ledger, pending, generation, {name} IN EXCLUSIVE MODE"))
        done = pool.submit(verify, fixed)
        try:
            assert done.result(30).passed
        finally:
            other.rollback()


@pytest.mark.timeout(120)
def test_a_system_under_writes_is_verified_without_a_false_alarm(swapped: World) -> None:
    """Writers, a worker, swaps and rollbacks, while it is verified again and again."""
    stop = threading.Event()
    problems: list[str] = []

    def guarded(work: Callable[[np.random.Generator], None], seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                work(rng)
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            problems.append(f"{type(error).__name__}: {error}")

    def write(rng: np.random.Generator) -> None:
        n, what = int(rng.integers(60)), rng.random()
        if what < 0.2:
            documents.delete(f"d{n:05d}")
        elif what < 0.4:
            documents.put_many([document(n, tag=int(rng.integers(1_000)))])  # the text may stay
        else:
            words = " ".join(f"w{word}" for word in rng.integers(100, size=int(rng.choice([5, 700]))))
            documents.put(f"d{n:05d}", words)

    documents, worker, migrator = swapped.documents, swapped.project.worker(), swapped.migrator
    threads = [threading.Thread(target=guarded, args=(write, seed)) for seed in range(3)]
    threads.append(threading.Thread(target=worker.run, args=(stop,)))
    for thread in threads:
        thread.start()
    in_flight = reembedded = 0
    try:
        for turn in range(12):
            if turn == 4:
                migrator.rollback("to see", force=True)
            report = verify(swapped, reembed=40, seed=turn, repair=turn == 8)
            assert report.passed, report
            in_flight += sum(one.in_flight for one in report.generations)
            reembedded += sum(one.reembedded for one in report.generations)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert in_flight > 0
    assert reembedded > 200
    swapped.settle()
    report = verify(swapped)
    assert report.passed
    assert sum(one.in_flight for one in report.generations) == 0


@pytest.mark.parametrize("dropped", [False, True], ids=["kept", "dropped"])
@pytest.mark.parametrize(("reembed", "at", "checked"), [(0, 4, 50), (500, 11, 120)], ids=["rows", "vectors"])
def test_a_generation_that_is_retired_meanwhile_is_no_error(
    swapped: World, monkeypatch: pytest.MonkeyPatch, reembed: int, at: int, checked: int, dropped: bool
) -> None:
    monkeypatch.setattr("revector.verify.verification.PAGE_IDS", 50)
    standby = swapped.generation("standby").gen

    class Retire(NoProgress):
        steps = 0

        def advance(self, n: int = 1) -> None:
            self.steps += 1
            if self.steps == at:  # the first page, or the first batch, of the standby generation
                with control(swapped.engine, swapped.collection.cid, actor="tester") as held:
                    moves.retire(held, reason="to see", now=True)
                if dropped:
                    swapped.migrator.retire_due()
                swapped.documents.put_many([Document(f"d{n:05d}", "written afterwards") for n in range(120)])

    report = verify(swapped, progress=Retire(), reembed=reembed)
    assert report.passed
    assert report.left_out == {standby: "it left its slot meanwhile"}
    assert [one.checked for one in report.generations] == [120, checked]
    assert [one.reembedded for one in report.generations] == [min(reembed, 120), min(reembed, 32)]


# Repair beside others -------------------------------------------------------------------------------------------------


def test_a_repair_overtaken_by_a_worker_loses_nothing_and_is_found_again(served: World) -> None:
    """A worker that saw the unchanged text in the ledger before the repair publishes after it."""
    index_sql("DELETE FROM {index} WHERE doc_id = 'd00007'")(served)
    served.documents.put_many([document(7, tag="only the metadata")])
    gen = served.generation()
    applier = served.project.worker().applier(gen)
    prepared = applier.prepare(work.read_items(served.engine, gen.cid, SEVEN))
    assert [item.doc_id for item in prepared.unchanged] == SEVEN
    rearm(served.engine, gen.cid, gen.gen, {"missing": SEVEN}, actor="tester")
    applier.publish(prepared)
    for view in readback.INVARIANTS:
        assert served.sql(f"SELECT * FROM {view}") == []
    verify(served, repair=True)
    served.settle()
    assert verify(served).passed
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize(
    "held", ["SELECT 1 FROM document WHERE doc_id = 'd00007' FOR UPDATE", "SELECT pg_advisory_xact_lock(1919252067, 1)"]
)
def test_a_repair_gives_way_to_a_writer_and_to_a_swap_and_then_changes_nothing(served: World, held: str) -> None:
    index_sql("DELETE FROM {index} WHERE doc_id = 'd00007'")(served)
    with served.engine.begin() as other:
        other.execute(sa.text(held))
        report = verify(served, repair=True)
    assert (found(report), report.generations[0].rearmed) == ({"missing": SEVEN}, 0)
    assert served.sql("SELECT * FROM pending") == []
    assert served.events("repair") == []


def test_a_generation_out_of_its_slot_gets_no_work(swapped: World) -> None:
    gone = swapped.generation("standby")
    swapped.migrator.retire("to see", now=True)
    assert rearm(swapped.engine, gone.cid, gone.gen, {"missing": SEVEN}, actor="tester") == 0
    assert swapped.sql("SELECT * FROM pending") == []


# Samples --------------------------------------------------------------------------------------------------------------


def test_successive_samples_come_across_every_document(served: World) -> None:
    index_sql("UPDATE {index} SET embedding = embedding + embedding WHERE right(doc_id, 1) = '0'")(served)
    reports = [verify(served, sample=50, reembed=0) for _ in range(3)]
    assert [report.generations[0].checked for report in reports] == [50, 50, 50]
    assert {doc_id for report in reports for doc_id in found(report)["damaged"]} == {
        f"d{n:05d}" for n in range(0, 120, 10)
    }
    assert verify(served, sample=0.5, reembed=0).generations[0].checked == 60


def test_a_sample_larger_than_the_collection_looks_at_each_document_once(served: World) -> None:
    verify(served, sample=70, reembed=0)
    assert verify(served, sample=500, reembed=0).generations[0].checked == 120


def test_a_sample_looks_first_at_what_the_invariants_name(served: World) -> None:
    served.unguarded("DELETE FROM revector.ledger WHERE doc_id = 'd00119'")
    report = verify(served, sample=1, reembed=0, repair=True)
    assert found(report) == {"missing": ["d00119"]}
    served.settle()
    assert verify(served).passed


def test_the_documents_that_are_reembedded_are_drawn_by_the_seed(fixed: World) -> None:
    encoder = fixed.loader["hashing"]
    drawn = []
    for seed in (1, 1, 2):
        encoder.embedded.clear()
        assert verify(fixed, reembed=10, seed=seed).generations[0].reembedded == 10
        drawn.append([text for text in encoder.embedded if text.startswith("apple")])
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ConfigError, match="above 0"):
        verify(fixed, sample=0)


# The migration's own step, and the command line -----------------------------------------------------------------------


def test_the_step_verify_embeds_some_documents_anew(served: World) -> None:
    served.upgrade("b200", to="index")
    name = served.generation("building").physical_name
    served.unguarded(
        f"UPDATE revector.{name} SET embedding = (SELECT embedding FROM revector.{name} WHERE doc_id = 'd00001')"
    )
    with pytest.raises(VerificationFailed, match=r"documents are damaged .* has cosine 0\."):
        served.upgrade("b200")
    assert served.generation().revision == "a100"
    assert served.migrator.status()["migration"]["verify"]["damaged"] >= 60


def test_the_command_ends_with_11_where_something_is_wrong_and_says_what(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["verify"]) == 0
    assert "Every live index equals the documents" in capsys.readouterr().out
    index_sql("DELETE FROM {index} WHERE doc_id = 'd00007'")(served)
    assert run(["verify", "--sample", "100%", "--reembed", "0"]) == exits.CHECK_FAILED
    shown = capsys.readouterr().out
    assert "missing: d00007: chunks unlike ledger" in shown
    assert "`revector verify --repair`" in shown
    assert run(["verify", "--repair", "--json"]) == exits.CHECK_FAILED
    report = json.loads(capsys.readouterr().out)
    [one] = report["generations"]
    assert (report["passed"], one["rearmed"], one["missing"]["count"]) == (False, 1, 1)
    assert one["missing"]["first"][0]["id"] == "d00007"
    assert run(["worker", "--once"]) == 0
    capsys.readouterr()
    assert run(["verify", "-c", "docs", "--sample", "2%", "--seed", "7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["passed"], report["seed"], report["generations"][0]["checked"]) == (True, 7, 3)


def test_the_command_refuses_a_sample_that_is_none(
    fixed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fixed.root)
    before = len(fixed.events("verify_live"))
    for sample in ("0", "0%", "101%", "some", "-1", "2.5"):
        assert run(["verify", f"--sample={sample}"]) == 2, sample
        assert "--sample takes a share such as 2%" in capsys.readouterr().err
    assert len(fixed.events("verify_live")) == before
