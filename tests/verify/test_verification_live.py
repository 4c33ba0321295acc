"""Verification of the live system: faults of a whole index, work beside writers, samples, and the command."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from damage import SEVEN, found, index_sql, verify

from revector.cli import exits, run
from revector.encoders.hashing import HashingEncoder
from revector.errors import ConfigError, VerificationFailed
from revector.indexing.rearm import rearm
from revector.interfaces import Document, NoProgress
from revector.registry import moves, work
from revector.registry.control import control
from revector.spec import ModelSpec
from revector.verify import readback
from stages import AtStep
from worlds import World, document

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


def test_a_generation_that_is_still_filled_is_left_out_and_verified_once_it_is_seeded(at_step: AtStep) -> None:
    served = at_step("provision")
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


def test_the_step_verify_embeds_some_documents_anew(at_step: AtStep) -> None:
    served = at_step("index")
    name = served.generation("building").physical_name
    served.unguarded(
        f"UPDATE revector.{name} SET embedding = (SELECT embedding FROM revector.{name} WHERE doc_id = 'd00001')"
    )
    with pytest.raises(VerificationFailed, match=r"documents are damaged .* has cosine 0\."):
        served.upgrade("b200")
    assert served.generation().revision == "a100"
    assert served.migrator.status().migration.verify.damaged >= 60


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
