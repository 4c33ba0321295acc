"""Slots, swap, rollback, retire and abort on a real PostgreSQL: what is refused, and that refusing changes nothing."""

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

from revector.documents import deadletters
from revector.errors import (
    EditedRevision,
    EvidenceStale,
    GateBusy,
    GateFailed,
    GenerationGone,
    IllegalStep,
    MigrationOpen,
    NotCaughtUp,
    RevectorError,
    RollbackUnavailable,
    StaleRun,
    StateError,
    WindowOpen,
)
from revector.gate.evidence import Evidence
from revector.history.events import broken_links
from revector.interfaces import Document
from revector.lifecycle import FORWARD, Outcome, Phase
from revector.migration import steps
from revector.registry import ledgers, moves, sharding, verdicts
from revector.registry.control import Control, add_event, control, take_lease
from revector.registry.tables import analyze_searched, index_of
from worlds import World, document

B200 = 'model = ModelSpec(name="hashing:seed2", dim=64)'
HOT = 10
_number = itertools.count()


def refuses(world: World, error: type[RevectorError], what: Callable[[], object], match: str) -> None:
    """The call is refused and leaves every table as it was."""
    before = world.state()
    with pytest.raises(error, match=match):
        what()
    assert world.state() == before


def in_control(world: World, move: Callable[[Control], object]) -> object:
    """Run one bare move of the registry, without what the migrator does before it."""
    token = take_lease(world.engine, world.collection.cid, "tester")
    with control(world.engine, world.collection.cid, actor="tester", token=token) as held:
        return move(held)


def bare_swap(world: World, role: str = "building") -> object:
    generation = world.generation(role)
    return in_control(world, lambda held: moves.swap(held, generation))


@pytest.fixture
def approved(served: World) -> World:
    """Revision b200 measured and approved; only the swap is left."""
    served.upgrade("b200", to="approve")
    return served


def kill(world: World, doc_id: str, role: str = "building") -> None:
    """Change a document, and let its item die in one generation."""
    world.documents.put(doc_id, f"{doc_id} changed {next(_number)}")
    generation = world.generation(role)
    world.settle_without(doc_id)
    world.sql(
        "UPDATE pending SET state = 'dead', last_error = 'poison' WHERE gen = :gen AND doc_id = :doc_id",
        gen=generation.gen,
        doc_id=doc_id,
    )
    world.settle()


# Slots ----------------------------------------------------------------------------------------------------------------


def test_a_second_migration_while_one_is_open_is_refused(served: World) -> None:
    served.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    served.upgrade("b200", to="provision")
    refuses(served, MigrationOpen, lambda: served.upgrade("c300"), "b200.*revector abort")


def test_of_two_registrations_at_once_one_wins(served: World) -> None:
    migrators = [served.migrator, served.migrator]

    def provision(n: int) -> object:
        try:
            return migrators[n].run("provision", "b200").changed
        except (StaleRun, MigrationOpen) as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(provision, range(2)))
    assert outcomes.count(True) == 1
    assert served.value("SELECT count(*) FROM generation") == 2


def test_a_revision_that_was_passed_while_it_was_being_registered_is_not_built(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    slow, ranges = served.migrator, sharding.plan_ranges

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(sharding, "plan_ranges", ranges)
        served.migrator.upgrade("c300")
        return ranges(*args)

    monkeypatch.setattr(sharding, "plan_ranges", overtaken)
    with pytest.raises(StateError, match=r"b200.*at c300, which comes after it\. Nothing was changed"):
        slow.run("provision", "b200")
    assert served.generation().revision == "c300"
    assert served.collection.building_gen is None


def test_a_retirement_while_a_revision_is_being_registered_does_not_hinder_it(
    swapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    slow, ranges = swapped.migrator, sharding.plan_ranges

    def retired(*args: Any) -> Any:
        swapped.migrator.retire("no way back is wanted", now=True)
        return ranges(*args)

    monkeypatch.setattr(sharding, "plan_ranges", retired)
    assert slow.run("provision", "c300").changed
    assert swapped.collection.standby_gen is None


@pytest.mark.parametrize(
    "slots",
    [
        "standby_gen = active_gen, rollback_deadline = now()",
        "building_gen = active_gen",
        "building_gen = standby_gen",
        "active_gen = NULL",
        "standby_gen = NULL",
        "rollback_deadline = NULL",
    ],
)
def test_the_tables_themselves_refuse_impossible_slots(swapped: World, slots: str) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        swapped.sql(f"UPDATE collection SET {slots}")


def test_a_slot_takes_no_generation_of_another_collection(swapped: World) -> None:
    swapped.sql("INSERT INTO collection (name) VALUES ('other')")
    with pytest.raises(sa.exc.IntegrityError):
        swapped.sql("UPDATE collection SET building_gen = (SELECT min(gen) FROM generation) WHERE name = 'other'")


def test_active_takes_no_generation_that_is_not_complete(served: World) -> None:
    served.upgrade("b200", to="provision")
    with pytest.raises(sa.exc.DBAPIError, match="not live and complete"):
        served.sql("UPDATE collection SET active_gen = building_gen, building_gen = NULL")


@pytest.mark.parametrize(
    "change",
    ["encoder_fp = 'x'", "config_hash = 'x'", "physical_name = 'x'", "spec = '{}'", "seeded = false", "revision = 'x'"],
)
def test_a_registered_generation_never_changes_what_it_is(served: World, change: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="immutable"):
        served.sql(f"UPDATE generation SET {change}")


def test_an_ended_generation_never_comes_back(swapped: World) -> None:
    swapped.migrator.retire("enough", now=True)
    with pytest.raises(sa.exc.DBAPIError):
        swapped.sql("UPDATE generation SET live = true, dropped = false, phase = 'live' WHERE phase = 'retired'")


# Swap -----------------------------------------------------------------------------------------------------------------


def test_a_swap_with_an_item_waiting_is_refused(approved: World) -> None:
    approved.documents.put("d00001", "melon kiwi")
    refuses(approved, NotCaughtUp, lambda: bare_swap(approved), "found 1 due and 0 dead")


def test_the_migrator_applies_what_waits_and_then_swaps(approved: World) -> None:
    approved.documents.put("d00001", "melon kiwi")
    approved.documents.delete("d00002")
    approved.upgrade("b200")
    assert approved.generation().revision == "b200"
    assert approved.differences(approved.generation()) == []


@pytest.mark.parametrize("lane", ["live", "bulk"])
def test_a_swap_is_refused_while_work_waits_in_either_lane(approved: World, lane: str) -> None:
    building = approved.generation("building")
    approved.sql(
        "INSERT INTO pending (gen, doc_id, version, lane) SELECT :gen, doc_id, version, :lane FROM document "
        "WHERE doc_id = 'd00001'",
        gen=building.gen,
        lane=lane,
    )
    with (
        pytest.raises(NotCaughtUp, match="found 1 due and 0 dead"),
        control(approved.engine, approved.collection.cid, actor="tester") as held,
    ):
        moves.swap(held, building)
    assert approved.generation().revision == "a100"


def test_a_swap_with_a_dead_letter_is_refused_at_once(approved: World) -> None:
    kill(approved, "d00001")
    refuses(approved, NotCaughtUp, lambda: approved.upgrade("b200"), "1 dead not waived.*dlq list")


def test_a_waived_dead_letter_lets_the_swap_pass(approved: World) -> None:
    kill(approved, "d00001")
    with approved.engine.begin() as connection:
        deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="not needed")
    approved.upgrade("b200")
    assert approved.generation().revision == "b200"
    assert approved.sql("SELECT * FROM i13_unwaived") == []
    assert approved.events("dlq_waive")[0]["detail"] == {"documents": 1, "doc_ids": ["d00001"], "why": "not needed"}


def test_a_new_version_voids_the_waiver(approved: World) -> None:
    kill(approved, "d00001")
    with approved.engine.begin() as connection:
        deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="not needed")
    kill(approved, "d00001")
    refuses(approved, NotCaughtUp, lambda: approved.upgrade("b200"), "1 dead not waived")


def test_a_waiver_needs_a_reason_and_a_dead_letter(approved: World) -> None:
    with approved.engine.begin() as connection:
        with pytest.raises(RevectorError, match="reason"):
            deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why=" ")
        with pytest.raises(StateError, match="no dead letter"):
            deadletters.waive(connection, approved.collection.cid, ["d00001"], actor="tester", why="because")


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (
            "UPDATE gate_result SET at = at - interval '25 hours' WHERE kind = 'recall'",
            EvidenceStale,
            "older than 24 h",
        ),
        (
            "UPDATE gate_result SET at = at - interval '25 hours' WHERE kind = 'verify'",
            EvidenceStale,
            "older than",
        ),
        ("UPDATE gate_result SET config_hash = 'other' WHERE kind = 'recall'", EvidenceStale, "no recall result"),
        ("UPDATE gate_result SET passed = false, verdict = 'fail' WHERE kind = 'recall'", EvidenceStale, "a failure"),
        ("DELETE FROM gate_result WHERE kind = 'verify'", EvidenceStale, "no verify result"),
    ],
)
def test_a_swap_needs_current_evidence(approved: World, spoil: str, error: type[RevectorError], match: str) -> None:
    approved.unguarded(spoil)
    refuses(approved, error, lambda: bare_swap(approved), match)
    approved.upgrade("b200")
    assert approved.generation().revision == "b200", "the migrator measures again what has aged"


def test_evidence_ages_with_the_corpus(approved: World) -> None:
    approved.put(11, start=200)
    approved.settle()
    refuses(approved, EvidenceStale, lambda: bare_swap(approved), "more than 10 documents changed")
    approved.upgrade("b200")
    assert approved.events("gate_again")


def writing_while_measured(world: World, monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Each measurement of the gate meets ``count`` new documents; the numbers of those that were written."""
    measure, written = Evidence.gate, list[int]()

    def gate(evidence: Evidence, *args: Any) -> Any:
        found = measure(evidence, *args)
        world.put(count, start=1_000 + sum(written))
        written.append(count)
        return found

    monkeypatch.setattr(Evidence, "gate", gate)
    world.put(11, start=200)
    world.settle()
    return written


def test_a_swap_comes_although_more_changes_while_the_gate_is_measured_than_evidence_may_age(
    approved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = writing_while_measured(approved, monkeypatch, 25)  # allowed are 10, then 20, then 40
    approved.migrator.run("swap", "b200")
    assert len(written) == 3
    assert approved.generation().revision == "b200"
    detail = "SELECT detail->'changes_allowed_times' FROM event WHERE kind = 'swap' ORDER BY seq DESC LIMIT 1"
    assert approved.value(detail) == 4


def test_a_corpus_that_is_replaced_while_its_gate_is_measured_is_not_swapped(
    approved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = writing_while_measured(approved, monkeypatch, 170)  # allowed are at most 160
    with pytest.raises(EvidenceStale, match="more than 160 documents changed since its recall result"):
        approved.migrator.run("swap", "b200")
    assert len(written) == 5
    assert approved.generation().revision == "a100"


def test_a_gate_tightened_after_it_passed_is_judged_again_at_the_swap(approved: World) -> None:
    approved.revision("b200", "a100", B200, "gate = Gate(max_drop=0.0, min_queries=61)")
    with pytest.raises(RevectorError, match="61"):
        approved.upgrade("b200")
    assert approved.generation().revision == "a100"


def test_a_swap_while_the_standby_is_kept_is_refused(swapped: World) -> None:
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    swapped.upgrade("c300", to="approve")
    refuses(swapped, WindowOpen, lambda: swapped.upgrade("c300"), "retire --now")
    swapped.migrator.retire("give it up", now=True)
    swapped.upgrade("c300")
    assert swapped.generation().revision == "c300"


def test_the_first_swap_leaves_nothing_to_go_back_to(served: World) -> None:
    assert served.generation().phase == Phase.COMPLETED
    refuses(served, RollbackUnavailable, lambda: served.migrator.rollback("no"), "nothing to go back to")


def test_a_swap_that_cannot_have_the_gate_gives_up_soon_and_changes_nothing(approved: World) -> None:
    with approved.engine.connect() as forgotten:
        forgotten.execute(sa.text("UPDATE document SET meta = '{}' WHERE doc_id = 'd00001'"))
        refuses(approved, GateBusy, lambda: bare_swap(approved), "gate was not free")


# Rollback -------------------------------------------------------------------------------------------------------------


def test_writes_after_the_swap_survive_a_rollback_and_the_way_forward_again(swapped: World) -> None:
    swapped.documents.put("new", "melon kiwi")
    swapped.documents.put("d00001", "cherry plum")
    swapped.documents.delete("d00002")
    outcome = swapped.migrator.rollback("worse answers")
    assert (outcome.phase, outcome.changed) == (Phase.ROLLED_BACK, True)
    assert swapped.generation().revision == "a100"
    assert swapped.search("melon kiwi", 1) == ["new"]
    assert swapped.search("cherry plum", 1) == ["d00001"]
    assert "d00002" not in swapped.search("apple2 pear2", 120)
    assert swapped.differences(swapped.generation()) == []
    swapped.documents.put("newer", "grape fig")
    again = swapped.upgrade("b200")[-1]
    assert (again.step, again.changed, again.facts["forward_again"]) == ("swap", True, True)
    assert swapped.search("grape fig", 1) == ["newer"]
    swapped.settle()
    for role in ("active", "standby"):
        assert swapped.differences(swapped.generation(role)) == []


def test_a_rollback_asked_for_twice_does_not_move_forward(swapped: World) -> None:
    swapped.migrator.rollback("first")
    before = swapped.state()
    again = swapped.migrator.rollback("second")
    assert not again.changed
    assert swapped.state() == before


def test_a_rollback_after_the_window_is_refused(swapped: World) -> None:
    swapped.sql("UPDATE collection SET rollback_deadline = clock_timestamp() - interval '1 s'")
    refuses(swapped, RollbackUnavailable, lambda: swapped.migrator.rollback("late"), "window of 'docs' ended")


def test_a_rollback_does_not_lengthen_the_window_and_needs_a_reason(swapped: World) -> None:
    deadline = swapped.collection.rollback_deadline
    refuses(swapped, StateError, lambda: swapped.migrator.rollback("  "), "needs a reason")
    swapped.migrator.rollback("test")
    assert swapped.collection.rollback_deadline == deadline


def test_a_rollback_onto_dead_letters_is_refused_unless_forced(swapped: World) -> None:
    kill(swapped, "d00001", "standby")
    refuses(swapped, NotCaughtUp, lambda: swapped.migrator.rollback("worse"), "1 dead")
    outcome = swapped.migrator.rollback("worse", force=True)
    assert outcome.facts["forced_over"] == 1
    assert swapped.value("SELECT count(*) FROM pending WHERE state = 'dead'") == 1, "nothing is lost: the item stays"


def test_a_rollback_does_not_disturb_a_migration_that_is_being_built(swapped: World) -> None:
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    swapped.upgrade("c300", to="provision")

    def meanwhile(texts, vectors):
        swapped.loader["hashing"].hook = None
        swapped.migrator.rollback("in the middle of a backfill")
        return vectors

    swapped.loader["hashing"].hook = meanwhile
    swapped.migrator.run("backfill", "c300")
    swapped.upgrade("c300", to="approve")
    assert swapped.generation("building").phase == Phase.APPROVED
    assert swapped.generation().revision == "a100"


# Retire and abort -----------------------------------------------------------------------------------------------------


def tables(world: World) -> set[str]:
    return {row.tablename for row in world.sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'idx_%'")}


def test_retiring_before_the_deadline_is_refused(swapped: World) -> None:
    refuses(swapped, WindowOpen, swapped.migrator.retire, "open until")
    assert not swapped.migrator.retire_due().changed


def test_retiring_drops_the_unused_index_and_only_that(swapped: World) -> None:
    unused, used = swapped.generation("standby"), swapped.generation()
    swapped.sql("UPDATE collection SET rollback_deadline = clock_timestamp() - interval '1 s'")
    assert swapped.migrator.retire_due().changed
    assert tables(swapped) == {used.physical_name}
    for table in ("pending", "ledger"):
        assert swapped.value(f"SELECT count(*) FROM {table} WHERE gen = :gen", gen=unused.gen) == 0
    assert swapped.generation().phase == Phase.COMPLETED
    assert swapped.search("apple7 pear7", 1) == ["d00007"]
    assert not swapped.migrator.retire_due().changed


def test_a_window_is_given_up_by_name_and_with_a_reason(swapped: World) -> None:
    refuses(swapped, StateError, lambda: swapped.migrator.retire("", now=True), "needs a reason")
    swapped.migrator.retire("disk is short", now=True)
    detail = swapped.events("retire")[0]["detail"]
    assert (detail["reason"], detail["window_given_up"]) == ("disk is short", True)
    refuses(swapped, RollbackUnavailable, lambda: swapped.migrator.rollback("late"), "nothing to go back to")


def test_retiring_after_a_rollback_drops_the_new_index(swapped: World) -> None:
    swapped.migrator.rollback("worse")
    swapped.migrator.retire("done", now=True)
    assert swapped.generation().revision == "a100"
    assert tables(swapped) == {swapped.generation().physical_name}
    swapped.upgrade("b200")
    assert swapped.generation().revision == "b200", "the same revision may be tried again"


def test_an_index_that_is_gone_already_counts_as_dropped(swapped: World) -> None:
    swapped.sql(f"DROP TABLE {swapped.generation('standby').physical_name}")
    assert swapped.migrator.retire("enough", now=True).changed


def test_an_index_in_a_slot_is_never_dropped(swapped: World) -> None:
    for role in ("active", "standby"):
        with pytest.raises(StateError, match="not dropped"):
            moves.drop(swapped.engine, swapped.generation(role), actor="tester")
    assert len(tables(swapped)) == 2


def test_a_retirement_does_not_disturb_a_migration_that_is_being_built(swapped: World) -> None:
    """The hourly safety net retires in the middle of the next migration, while it embeds for its verification."""
    swapped.revision("c300", "b200", 'model = ModelSpec(name="hashing", dim=64)')
    swapped.upgrade("c300", to="provision")

    def meanwhile(texts, vectors):
        swapped.loader["hashing"].hook = None
        swapped.sql("UPDATE collection SET rollback_deadline = clock_timestamp() - interval '1 s'")
        swapped.migrator.retire_due()
        return vectors

    swapped.loader["hashing"].hook = meanwhile
    swapped.upgrade("c300", to="gate")
    assert swapped.collection.standby_gen is None, "nobody retired meanwhile"
    swapped.upgrade("c300")
    assert swapped.generation().revision == "c300"


def test_of_a_rollback_and_a_retirement_at_once_one_wins(swapped: World) -> None:
    calls = [lambda: swapped.migrator.rollback("back"), lambda: swapped.migrator.retire("on", now=True)]

    def attempt(call: Callable[[], object]) -> str:
        try:
            call()
        except RevectorError as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, calls))
    assert "done" in outcomes
    assert tables(swapped) >= {swapped.generation().physical_name}
    assert swapped.search("apple7 pear7", 1) == ["d00007"]


@pytest.mark.parametrize("phase", ["provision", "backfill", "index", "verify", "gate", "approve"])
def test_aborting_leaves_what_is_served_and_the_revision_can_be_run_again(served: World, phase: str) -> None:
    before = served.generation()
    served.upgrade("b200", to=phase)
    outcome = served.migrator.abort("changed my mind")
    assert (outcome.revision, outcome.phase) == ("b200", Phase.ABORTED)
    assert (served.generation().gen, served.generation().phase) == (before.gen, before.phase)
    assert tables(served) == {before.physical_name}
    assert served.documents.put("d00001", "melon kiwi").changed
    assert served.value("SELECT count(*) FROM pending") == 1
    assert not served.migrator.abort("a retry after a lost reply").changed
    served.upgrade("b200")
    assert served.generation().revision == "b200"
    assert served.differences(served.generation()) == []


def test_an_abort_in_the_middle_of_a_backfill_ends_it(served: World) -> None:
    served.upgrade("b200", to="provision")

    def meanwhile(texts, vectors):
        served.loader["hashing:seed2"].hook = None
        served.migrator.abort("stop")
        return vectors

    served.loader["hashing:seed2"].hook = meanwhile
    with pytest.raises(StateError):
        served.migrator.run("backfill", "b200")
    assert served.collection.building_gen is None
    assert tables(served) == {served.generation().physical_name}


def test_after_the_swap_there_is_nothing_to_abort(swapped: World) -> None:
    refuses(swapped, StateError, lambda: swapped.migrator.abort("no"), "revector rollback")


# Fencing and history --------------------------------------------------------------------------------------------------


def test_a_run_that_was_taken_over_changes_nothing_more(approved: World) -> None:
    cid, generation = approved.collection.cid, approved.generation("building")
    zombie = take_lease(approved.engine, cid, "zombie")
    take_lease(approved.engine, cid, "successor")

    def act() -> None:
        with control(approved.engine, cid, actor="zombie", token=zombie) as held:
            moves.swap(held, generation)

    refuses(approved, StaleRun, act, "taken over by successor")


def test_a_move_that_saw_an_older_epoch_is_refused(approved: World) -> None:
    def act(held: Control) -> None:
        approved_epoch = held.collection.epoch
        held.connection.execute(sa.text("UPDATE collection SET epoch = epoch + 1"))
        assert approved_epoch == held.collection.epoch
        moves.swap(held, approved_generation)

    approved_generation = approved.generation("building")
    refuses(approved, StaleRun, lambda: in_control(approved, act), "another run was faster")


def test_every_step_run_again_is_a_success_that_does_nothing(served: World) -> None:
    for step in FORWARD:
        first = served.migrator.run(step, "b200")
        before = served.state()
        again = served.migrator.run(step, "b200")
        assert (first.changed, again.changed) == (step != "plan", False)
        assert again.phase == first.phase
        assert served.state() == before
    for step in FORWARD:
        assert not served.migrator.run(step, "b200").changed
    assert served.state() == before


@pytest.mark.parametrize("at", range(1, len(FORWARD) - 1))
def test_a_step_out_of_turn_is_refused(served: World, at: int) -> None:
    served.upgrade("b200", to=FORWARD[at])
    for step in FORWARD[at + 2 :]:
        refuses(served, IllegalStep, lambda step=step: served.migrator.run(step, "b200"), "Nothing was changed")


def test_history_names_every_move_in_order_and_its_chain_holds(swapped: World) -> None:
    swapped.migrator.rollback("worse")
    swapped.upgrade("b200")
    swapped.migrator.retire("enough", now=True)
    events = list(reversed(swapped.project.events("docs", 1_000)))
    kinds = [event["kind"] for event in events if event["gen"] == swapped.generation().gen]
    assert kinds == ["provision", "backfill", "index", "verify", "gate", "approve", "swap", "swap"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {event["actor"] for event in events} == {"tester"}
    epochs = [event["epoch"] for event in events]
    assert epochs == sorted(epochs)
    with swapped.engine.connect() as connection:
        assert broken_links(connection, "docs") == []


@pytest.mark.parametrize("statement", ["UPDATE event SET actor = 'other'", "DELETE FROM event", "TRUNCATE event"])
def test_history_is_append_only(swapped: World, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        swapped.sql(statement)


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        ("UPDATE event SET actor = 'other' WHERE seq = 3", [3]),
        ("UPDATE event SET detail = detail || '{\"a\": 1}' WHERE seq = 3", [3]),
        ("UPDATE event SET at = at - interval '1 s' WHERE seq = 3", [3]),
        ("UPDATE event SET actor = 'other', hash = 'made up' WHERE seq = 3", [3, 4]),
        ("DELETE FROM event WHERE seq = 3", [4]),
        ("DELETE FROM event WHERE seq = 1", [2]),
    ],
)
def test_the_chain_shows_what_a_superuser_tampered_with(swapped: World, tamper: str, found: list[int]) -> None:
    swapped.unguarded(tamper)
    with swapped.engine.connect() as connection:
        assert broken_links(connection, "docs") == found


# Edited files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        ['model = ModelSpec(name="hashing:seed2", dim=32)'],
        ['model = ModelSpec(name="hashing:seed2", dim=64)', "chunking = Chunking(max_tokens=128)"],
        ['model = ModelSpec(name="hashing:seed2", dim=64)', "index = IndexSpec(m=8)"],
    ],
    ids=["model", "chunking", "index"],
)
def test_a_revision_edited_after_its_registration_is_refused(served: World, body: list[str]) -> None:
    served.upgrade("b200", to="provision")
    served.revision("b200", "a100", *body)
    refuses(served, EditedRevision, lambda: served.upgrade("b200"), "restore .*b200.py")


def test_a_gate_may_be_edited_until_the_swap(served: World) -> None:
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=1.0, max_drop=0.0, k=1)")
    served.labels((f"d{n:05d}", "unrelated words") for n in range(60))
    with pytest.raises(GateFailed):
        served.upgrade("b200")
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=0.0, max_drop=1.0)")
    served.upgrade("b200")
    assert served.generation().revision == "b200"


# All at once ----------------------------------------------------------------------------------------------------------


def test_two_builders_of_one_index_meet_without_a_deadlock(served: World) -> None:
    served.upgrade("b200", to="backfill")
    index = index_of(served.generation("building"))
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: index.build(served.engine), range(3)))
    assert sorted(built) == [False, False, True]


@pytest.mark.timeout(240)
def test_twenty_swaps_and_rollbacks_under_load_fail_no_query_and_lose_nothing(swapped: World) -> None:  # noqa: PLR0915
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

    swapped_documents, searcher = swapped.documents, swapped.project.searcher("docs")
    swapped_worker = swapped.project.worker()
    migrator = swapped.migrator
    threads = [threading.Thread(target=guarded, args=(write, n)) for n in range(4)]
    threads += [threading.Thread(target=guarded, args=(ask, 10 + n)) for n in range(4)]
    threads.append(threading.Thread(target=swapped_worker.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        for n in range(20):
            if n % 2:
                migrator.run("swap", "b200")
            else:
                migrator.rollback(f"round {n}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert counts["asked"] > 100
    assert counts["written"] > 100
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


def test_evidence_is_not_measured_while_a_write_with_a_lower_number_is_in_flight(served: World) -> None:
    served.upgrade("b200", to="verify")
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


def test_an_abort_under_the_step_that_builds_the_index_is_said_as_such(served: World, monkeypatch: Any) -> None:
    served.upgrade("b200", to="backfill")

    def abort_first(engine: sa.Engine, generation: Any) -> None:
        served.migrator.abort("changed my mind")
        analyze_searched(engine, generation)

    monkeypatch.setattr(steps, "analyze_searched", abort_first)
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
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=1.0)")
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
