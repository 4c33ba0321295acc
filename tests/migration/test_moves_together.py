"""Moves beside writers, workers, other moves and drops: nothing is lost, and nothing deadlocks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from moving import B200, HOT, tables

from revector.documents import deadletters
from revector.errors import (
    GateBusy,
    GateFailed,
    GenerationGone,
    StaleRun,
    StateError,
)
from revector.interfaces import Document
from revector.lifecycle import Outcome
from revector.registry import ledgers, moves, verdicts
from revector.registry.control import add_event, control
from revector.registry.in_sql import InSqlLane
from stages import AtStep
from worlds import World, document

# All at once ----------------------------------------------------------------------------------------------------------


def test_two_builders_of_one_index_meet_without_a_deadlock(at_step: AtStep) -> None:
    served = at_step("backfill")
    index = InSqlLane(served.generation("building")).index
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: index.build(served.engine), range(3)))
    assert sorted(built) == [False, False, True]


@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(240)])])
def test_swaps_and_rollbacks_under_load_fail_no_query_and_lose_nothing(  # noqa: PLR0915
    swapped: World, rounds: int
) -> None:
    """Four writers and four searchers; the two encoders have different dimensions, so a wrong pair is an error.

    Ten documents are written again and again: more of so few would make the gate's evidence old before each swap.
    """
    swapped.revision("b200", "a100", B200, "gate = Gate(max_drop=1.0, min_queries=1)")
    stop = threading.Event()
    problems: list[str] = []
    fingerprints = {swapped.generation(role).gen: swapped.generation(role).encoder_fp for role in ("active", "standby")}
    counts = {"written": 0, "asked": 0}

    def guarded(work: Callable[[np.random.Generator, int], None], number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            try:
                work(rng, number)
            except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
                problems.append(f"{type(error).__name__}: {error}")
                return

    def write(rng: np.random.Generator, number: int) -> None:
        n = int(rng.integers(HOT))
        if rng.random() < 0.3:
            swapped_documents.delete(f"d{n:05d}")
        else:
            words = " ".join(f"w{int(word)}" for word in rng.integers(1_000, size=int(rng.choice([5, 600]))))
            swapped_documents.put_many([Document(f"d{n:05d}", f"apple{n} {words}", {"by": number})])
        counts["written"] += 1
        stop.wait(0.01)

    def ask(rng: np.random.Generator, number: int) -> None:
        answer = searcher.search(f"apple{int(rng.integers(120))} pear", 5)
        if fingerprints[answer.generation] != answer.encoder_fp:
            problems.append(f"generation {answer.generation} answered with {answer.encoder_fp}")
        if len(answer.hits) < 5:
            problems.append(f"{len(answer.hits)} hits of 5")
        counts["asked"] += 1
        stop.wait(0.005)

    swapped_documents, searcher = swapped.documents, swapped.project.searcher("docs")
    swapped_worker = swapped.project.worker()
    migrator = swapped.migrator
    threads = [threading.Thread(target=guarded, args=(write, n)) for n in range(4)]
    threads += [threading.Thread(target=guarded, args=(ask, 10 + n)) for n in range(4)]
    threads.append(threading.Thread(target=swapped_worker.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        for n in itertools.count():
            if n >= rounds and n % 2 == 0 and (problems or min(counts.values()) > 100):
                break
            if n % 2:
                migrator.run("swap", "b200")
            else:
                migrator.rollback(f"round {n}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    swapped.settle()
    for role in ("active", "standby"):
        assert swapped.differences(swapped.generation(role)) == []
    for view in ("i1_lost", "i2_ahead", "i5_slots"):
        assert swapped.sql(f"SELECT * FROM {view}") == []


def test_a_migration_under_writes_ends_equal_to_the_documents(served: World) -> None:
    stop = threading.Event()

    def write() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set():
            n = 115 + int(rng.integers(HOT))
            if rng.random() < 0.3:
                documents.delete(f"d{n:05d}")
            else:
                documents.put_many([document(n, round=int(rng.integers(3)))])

    served.revision("b200", "a100", B200, "gate = Gate(max_drop=1.0, min_queries=1)")
    documents = served.documents
    writer = threading.Thread(target=write)
    writer.start()
    try:
        served.upgrade("b200")
    finally:
        stop.set()
        writer.join()
    served.settle()
    for role in ("active", "standby"):
        assert served.differences(served.generation(role)) == []


def test_what_is_dropped_leaves_no_rows_and_no_files(world: World) -> None:
    world.project.settings.archive_days = 0
    world.put(60)
    world.upgrade("a100")
    world.upgrade("b200")
    old, archive = world.generation("standby"), world.project.archive
    assert (archive / old.physical_name).exists()
    world.migrator.retire("done", now=True)
    assert not (archive / old.physical_name).exists()
    for table in ("pending", "ledger", "part", "shard"):
        assert world.value(f"SELECT count(*) FROM {table} WHERE gen = :gen", gen=old.gen) == 0
    assert (archive / world.generation().physical_name).exists()
    (archive / old.physical_name).mkdir()
    (archive / old.physical_name / "late.h5").write_bytes(b"by a task that did not know")
    world.migrator.retire_due()
    assert not (archive / old.physical_name).exists()


def test_the_planner_knows_the_size_of_what_it_searches(served: World) -> None:
    known = "SELECT min(reltuples) FROM pg_class WHERE oid = ANY(CAST(:names AS regclass[]))"
    names = [served.generation().physical_name, "document", ledgers.table(served.generation().gen)]
    assert served.value(known, names=names) >= 120


def test_a_swap_that_is_retried_after_a_person_rolled_back_stays_back(approved: World) -> None:
    began = approved.migrator.epoch()
    approved.migrator.run("swap", "b200", began=began)
    old = approved.generation("standby")
    approved.migrator.rollback("answers are bad")
    with pytest.raises(StaleRun, match="rolled back after this run began"):
        approved.migrator.run("swap", "b200", began=began)
    assert approved.generation().gen == old.gen
    assert approved.upgrade("b200")[-1].changed, "who starts again goes forward again"


def test_an_upgrade_that_slept_through_a_swap_and_a_rollback_does_not_undo_the_rollback(served: World) -> None:
    old = served.generation()

    def sleep_after_approval(outcome: Outcome) -> None:
        if outcome.step == "approve":
            served.upgrade("b200")
            served.migrator.rollback("answers are bad")

    with pytest.raises(StaleRun):
        served.migrator.upgrade("b200", on_step=sleep_after_approval)
    assert served.generation().gen == old.gen


def test_evidence_is_not_measured_while_a_write_with_a_lower_number_is_in_flight(at_step: AtStep) -> None:
    served = at_step("verify")
    rewritten = "UPDATE document SET content = content || ' rewritten' WHERE doc_id < 'd00060'"
    with served.engine.connect() as slow:
        slow.execute(sa.text(rewritten))
        served.documents.put("d00119", "a later number, committed first")
        with pytest.raises(GateBusy):
            served.migrator.run("gate", "b200")
        slow.commit()
    served.migrator.run("gate", "b200")
    served.sql(rewritten)
    with served.engine.connect() as connection:
        assert "more than 10" in str(verdicts.stale_evidence(connection, served.generation("building")))


def test_a_decision_that_was_overtaken_moves_nothing(swapped: World) -> None:
    decided = swapped.migrator.epoch()
    swapped.migrator.rollback("someone was faster")
    with pytest.raises(StaleRun):
        swapped.migrator.run("retire", reason="the window's question was answered", now=True, epoch=decided)
    assert swapped.collection.standby_gen is not None


def test_an_event_beside_a_control_step_waits_for_it_and_does_not_deadlock(served: World) -> None:
    cid, noted = served.collection.cid, threading.Event()

    def note() -> None:
        with served.engine.begin() as connection:
            noted.set()
            add_event(connection, cid, "tester", "ingest", None, {})

    with ThreadPoolExecutor(1) as pool:
        with control(served.engine, cid, actor="tester") as held:
            beside = pool.submit(note)
            noted.wait(10)
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO event%'"
            )
            end = time.monotonic() + 10
            while not served.value(waiting) and time.monotonic() < end:
                time.sleep(0.01)
            held.record("abort")
        beside.result(10)
    assert [event["kind"] for event in served.project.events("docs", 2)] == ["ingest", "abort"]


def test_an_abort_under_the_step_that_builds_the_index_is_said_as_such(at_step: AtStep, monkeypatch: Any) -> None:
    served = at_step("backfill")

    analyze = InSqlLane.analyze

    def abort_first(lane: InSqlLane, engine: sa.Engine) -> None:
        served.migrator.abort("changed my mind")
        analyze(lane, engine)

    monkeypatch.setattr(InSqlLane, "analyze", abort_first)
    with pytest.raises(GenerationGone, match="aborted meanwhile"):
        served.migrator.run("index", "b200")
    assert tables(served) == {served.generation().physical_name}


@pytest.mark.parametrize(
    ("act", "rows"),
    [
        (
            lambda world, ended: moves.drop(world.engine, ended, actor="tester"),
            "SELECT gen FROM generation WHERE gen = :gen FOR UPDATE NOWAIT",
        ),
        (
            lambda world, _: _retry_dead(world),
            "SELECT gen FROM pending WHERE gen = :gen AND state = 'dead' FOR UPDATE NOWAIT",
        ),
    ],
    ids=["drop", "retry"],
)
def test_dropping_and_retrying_take_the_collection_before_any_other_row(
    swapped: World, act: Callable[[World, Any], Any], rows: str
) -> None:
    """Both end in an event, which needs the collection's row: a move that holds it must find the others free."""
    ended = swapped.generation("standby")
    swapped.documents.put("d00001", "other words")
    swapped.sql("UPDATE pending SET state = 'dead' WHERE gen = :gen", gen=ended.gen)
    if "generation" in rows:
        with control(swapped.engine, swapped.collection.cid, actor="tester") as held:
            moves.retire(held, reason="done", now=True)
    with swapped.engine.connect() as mover:
        mover.execute(sa.text("SELECT 1 FROM collection FOR UPDATE"))
        thread = threading.Thread(target=act, args=(swapped, ended))
        thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not swapped.value(waiting):
            pass
        assert mover.execute(sa.text(rows), {"gen": ended.gen}).all() == [(ended.gen,)]
        mover.rollback()
        thread.join()


def _retry_dead(world: World) -> None:
    with world.engine.begin() as connection:
        deadletters.retry_dead(connection, world.collection.cid, None, "tester")


@pytest.fixture
def refused(served: World) -> World:
    """A migration whose gate did not pass."""
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=0.94)")
    served.labels([(f"d{n:05d}", f"apple{n + 1} pear{n + 1}") for n in range(60)])
    with pytest.raises(GateFailed):
        served.upgrade("b200")
    return served


def test_a_named_person_overrides_a_gate_that_did_not_pass_and_the_history_says_so(refused: World) -> None:
    with pytest.raises(GateFailed):
        refused.upgrade("b200")
    refused.migrator.override("looked at 200 answers", by="ana")
    assert refused.migrator.override("looked at 200 answers", by="ana").changed is False
    refused.upgrade("b200")
    assert refused.generation().revision == "b200"
    (event,) = refused.events("gate_override")
    assert event["detail"] == {"verdict": "fail", "by": "ana", "reason": "looked at 200 answers"}


def test_an_override_holds_for_one_measurement_only(refused: World) -> None:
    refused.migrator.override("looked at 200 answers")
    refused.sql("UPDATE gate_result SET at = at - interval '25 hours' WHERE kind = 'recall'")
    with pytest.raises(GateFailed):
        refused.upgrade("b200")
    assert refused.generation().revision == "a100"


@pytest.mark.parametrize("reason", ["", "  "])
def test_an_override_without_a_reason_is_refused(refused: World, reason: str) -> None:
    with pytest.raises(StateError, match="needs a reason"):
        refused.migrator.override(reason)


def test_there_is_nothing_to_override_where_the_gate_passed_or_was_not_measured(served: World) -> None:
    with pytest.raises(StateError, match="no migration is open"):
        served.migrator.override("because")
    served.upgrade("b200", to="verify")
    with pytest.raises(StateError, match="has not been measured"):
        served.migrator.override("because")
    served.upgrade("b200", to="gate")
    with pytest.raises(StateError, match="it passed"):
        served.migrator.override("because")


@pytest.mark.parametrize("kind", ["verify", "recall"])
def test_the_database_itself_keeps_an_alias_from_a_generation_that_did_not_pass(approved: World, kind: str) -> None:
    approved.sql("UPDATE gate_result SET passed = false, verdict = 'inconclusive' WHERE kind = :kind", kind=kind)
    building = approved.collection.building_gen
    with pytest.raises(sa.exc.DBAPIError, match=f"has no passed {kind} result"):
        approved.sql(
            "UPDATE collection SET active_gen = :gen, building_gen = NULL, standby_gen = active_gen, "
            "rollback_deadline = clock_timestamp() + interval '48 hours'",
            gen=building,
        )
    assert approved.generation().revision == "a100"


def test_a_gate_is_inconclusive_where_too_few_queries_tell(served: World) -> None:
    served.revision("b200", "a100", B200, "gate = Gate()")
    with pytest.raises(GateFailed, match="is inconclusive"):
        served.upgrade("b200")
    assert (
        served.value("SELECT verdict FROM gate_result WHERE kind = 'recall' ORDER BY id DESC LIMIT 1") == "inconclusive"
    )
    assert served.generation().revision == "a100"
    served.migrator.override("an equal model", by="ana")
    served.upgrade("b200")
    assert served.events("gate_override")[0]["detail"]["verdict"] == "inconclusive"


def test_a_gate_passes_where_the_whole_interval_lies_above_the_threshold(served: World) -> None:
    served.revision("b200", "a100", B200, "gate = Gate(max_drop=0.2)")
    served.upgrade("b200")
    detail = served.value("SELECT detail FROM gate_result WHERE kind = 'recall' ORDER BY id DESC LIMIT 1")
    assert detail["comparison"]["queries"] == 60
    assert served.generation().revision == "b200"
