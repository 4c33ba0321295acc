"""Moves are fenced, kept in a history that cannot be changed, and refused for files that were edited."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from moving import B200, in_control, refuses

from revector.errors import (
    EditedRevision,
    GateFailed,
    IllegalStep,
    StaleRun,
)
from revector.history.events import broken_links
from revector.lifecycle import FORWARD
from revector.registry import moves
from revector.registry.control import Control, control, take_lease
from stages import AtStep
from worlds import World

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


def test_a_control_transaction_says_for_how_long_it_has_kept_writers_waiting(approved: World) -> None:
    with control(approved.engine, approved.collection.cid, actor="tester") as held:
        held._held_since -= 7
        assert 7_000 <= held.held_ms < 60_000


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
    said = set().union(*(event["detail"] for event in events))
    assert not said & {"trust_code", "fidelity", "changes_allowed_times"}, "what is not so is not said"
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
def test_a_revision_edited_after_its_registration_is_refused(at_step: AtStep, body: list[str]) -> None:
    served = at_step("provision")
    served.revision("b200", "a100", *body)
    refuses(served, EditedRevision, lambda: served.upgrade("b200"), "restore .*b200.py")


def test_a_gate_may_be_edited_until_the_swap(served: World) -> None:
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=0.9, max_drop=0.0, k=1)")
    served.labels((f"d{n:05d}", "unrelated words") for n in range(60))
    with pytest.raises(GateFailed):
        served.upgrade("b200")
    served.revision("b200", "a100", B200, "gate = Gate(min_recall=0.0, max_drop=1.0)")
    served.upgrade("b200")
    assert served.generation().revision == "b200"
