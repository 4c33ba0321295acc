"""The ways out of the forward line on a real PostgreSQL: rollback, retirement and abort."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from moving import kill, refuses, tables

from revector.errors import (
    NotCaughtUp,
    RevectorError,
    RollbackUnavailable,
    StateError,
    WindowOpen,
)
from revector.lifecycle import Phase
from revector.registry import moves
from stages import AtStep
from worlds import World

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


def test_an_abort_in_the_middle_of_a_backfill_ends_it(at_step: AtStep) -> None:
    served = at_step("provision")

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
