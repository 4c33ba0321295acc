"""The end of a rollback window, and files that were edited after an index was built from them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import ClockJumped, WindowOpen
from revector.indexing import worker
from revector.registry.watching import note_clock_jump
from worlds import LIMIT_S, World, working

C300 = 'model = ModelSpec(name="hashing", dim=64)'


@pytest.fixture
def next_up(swapped: World) -> World:
    """b200 is live, a100 on standby in its window, and c300 is written."""
    swapped.revision("c300", "b200", C300)
    return swapped


def over(world: World, minutes: float = 1.0) -> None:
    world.sql(
        "UPDATE collection SET rollback_deadline = clock_timestamp() - :ago * interval '1 minute'", ago=float(minutes)
    )


# Closing --------------------------------------------------------------------------------------------------------------


def test_an_upgrade_closes_a_window_that_is_over_before_anything_else(next_up: World) -> None:
    over(next_up)
    done = next_up.upgrade("c300")
    assert [outcome.step for outcome in done][-1] == "swap"
    assert next_up.generation().revision == "c300"
    (retired,) = next_up.events("retire")
    assert (retired["actor"], retired["detail"]["window_given_up"]) == ("tester", False)
    assert retired["seq"] < next_up.events("plan")[0]["seq"]


def test_an_upgrade_into_an_open_window_is_refused_before_any_work(next_up: World) -> None:
    before, embedded = next_up.state(), next_up.loader.embedded
    with pytest.raises(WindowOpen, match="retire --now"):
        next_up.upgrade("c300")
    assert (next_up.state(), next_up.loader.embedded) == (before, embedded)
    assert next_up.events("plan")[0]["detail"]["revision"] != "c300"


def test_a_step_plan_of_a_dag_is_refused_likewise(next_up: World) -> None:
    with pytest.raises(WindowOpen):
        next_up.migrator.run("plan", "c300")


def test_what_ends_before_the_swap_may_be_built_while_the_window_is_open(next_up: World) -> None:
    next_up.upgrade("c300", to="gate")
    with pytest.raises(WindowOpen):
        next_up.upgrade("c300")
    over(next_up)
    next_up.upgrade("c300")
    assert next_up.generation().revision == "c300"


def test_forward_again_goes_into_its_own_window(swapped: World) -> None:
    swapped.migrator.rollback("odd answers")
    swapped.upgrade("b200")
    assert swapped.generation().revision == "b200"
    swapped.upgrade("b200")  # done already, and the window is none of its business
    assert swapped.collection.standby_gen is not None


def test_a_window_in_which_the_clock_jumped_is_closed_by_nobody_but_a_person(next_up: World) -> None:
    note_clock_jump(next_up.engine, 3_600, actor="test")
    over(next_up, minutes=60)
    with pytest.raises(ClockJumped, match="retire --now"):
        next_up.upgrade("c300")
    next_up.project._close_windows(None)
    assert next_up.collection.standby_gen is not None
    assert any("kept for a rollback" in said for said in next_up.migrator.plan("c300").warnings)


def test_the_plan_warns_of_an_open_window_only(next_up: World) -> None:
    def warned() -> bool:
        return any("kept for a rollback until" in said for said in next_up.migrator.plan("c300").warnings)

    assert warned()
    over(next_up)
    assert not warned()


def test_a_worker_closes_what_is_over_and_drops_the_index(swapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = swapped.generation("standby")
    over(swapped, minutes=6)
    monkeypatch.setattr(worker, "TEND_S", 0.05)
    monkeypatch.setattr(worker, "POLL_S", 0.05)
    with working(swapped):
        for n in range(500, 600):
            swapped.documents.wait_until_served(swapped.put(1, start=n), timeout_s=LIMIT_S)
            if swapped.value("SELECT dropped FROM generation WHERE gen = :gen", gen=old.gen):
                break
    assert swapped.collection.standby_gen is None
    assert swapped.value("SELECT to_regclass(:name)", name=old.physical_name) is None
    assert swapped.events("retire")[0]["actor"].startswith("worker:")


def test_a_worker_leaves_open_windows_and_other_collections_alone(swapped: World) -> None:
    swapped.project._close_windows(None)
    over(swapped, minutes=1)  # the opener has five minutes to close it
    swapped.project._close_windows(None)
    over(swapped, minutes=6)
    swapped.project._close_windows(["others"])
    assert swapped.collection.standby_gen is not None


# Edited files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(swapped: World) -> World:
    """Someone changed the file of what is served."""
    swapped.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', "index = IndexSpec(m=8)")
    swapped.revision("c300", "b200", C300)
    return swapped


def cli(world: World, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--project", str(world.root)])
    return done.exit_code, done.output.replace("\n", " ")


WHAT = "the file of revision b200 (active) was edited since generation 2 was built from it: index.m 16 → 8"


def test_doctor_finds_an_edited_file_of_what_is_served(edited: World) -> None:
    code, said = cli(edited, "doctor")
    assert code == 11
    assert WHAT in said


def test_current_says_it(edited: World) -> None:
    assert WHAT in cli(edited, "current")[1]
    (row,) = json.loads(cli(edited, "current", "--json")[1])
    assert len(row["edited"]) == 1


def test_plan_says_it(edited: World) -> None:
    assert WHAT in cli(edited, "plan", "c300")[1]


def test_upgrade_says_it_and_goes_on(edited: World) -> None:
    over(edited)
    code, said = cli(edited, "upgrade", "c300")
    assert code == 0, said
    assert WHAT in said


def test_nothing_is_said_of_files_as_they_were_or_with_another_gate(swapped: World) -> None:
    swapped.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', "gate = Gate(max_drop=0.5)")
    assert swapped.migrator.edited() == []
    assert json.loads(cli(swapped, "current", "--json")[1])[0]["edited"] == []
