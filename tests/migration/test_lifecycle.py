"""Promises of the table of steps: it is one line forward, a way out of each phase, and clear about the rest."""

from __future__ import annotations

import doctest
import re
from importlib import resources
from itertools import pairwise

import pytest

from revector import lifecycle
from revector.errors import IllegalStep
from revector.history.notices import MESSAGES
from revector.lifecycle import BUILDING, FORWARD, STEPS, Phase, remaining
from worlds import World


def test_doctests_hold() -> None:
    assert doctest.testmod(lifecycle).failed == 0


def test_each_forward_step_starts_where_the_last_one_ended() -> None:
    for before, after in pairwise(FORWARD):
        STEPS[after].check("7c41", STEPS[before].leads_to)


def test_the_forward_steps_pass_every_building_phase_in_order() -> None:
    assert tuple(STEPS[name].leads_to for name in FORWARD) == (Phase.NONE, *BUILDING, Phase.LIVE)


def test_dual_write_starts_before_the_backfill() -> None:
    assert FORWARD.index("provision") < FORWARD.index("backfill")


def test_the_keys_are_the_names_and_each_step_says_what_it_does() -> None:
    assert all(name == step.name and step.does for name, step in STEPS.items())


def test_every_phase_is_needed_or_reached_by_a_step() -> None:
    """But for ``retired``: that is what `retire` makes of the other generation."""
    touched = {step.leads_to for step in STEPS.values()}.union(*(step.needs for step in STEPS.values()))
    assert touched == set(Phase) - {Phase.RETIRED}


@pytest.mark.parametrize("phase", Phase)
def test_abort_starts_from_every_building_phase_and_from_no_other(phase: Phase) -> None:
    if phase in BUILDING:
        STEPS["abort"].check("7c41", phase)
    else:
        with pytest.raises(IllegalStep):
            STEPS["abort"].check("7c41", phase)


def test_rollback_and_swap_lead_back_and_forth() -> None:
    STEPS["rollback"].check("7c41", STEPS["swap"].leads_to)
    STEPS["swap"].check("7c41", STEPS["rollback"].leads_to)


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.RETIRED, Phase.ABORTED])
def test_nothing_starts_from_an_end(phase: Phase) -> None:
    assert not [step.name for step in STEPS.values() if phase in step.needs]


def test_remaining_counts_down_along_the_line() -> None:
    assert tuple(step.name for step in remaining(Phase.NONE)) == FORWARD
    for i, phase in enumerate(BUILDING, start=2):
        assert tuple(step.name for step in remaining(phase)) == FORWARD[i:]


@pytest.mark.parametrize("phase", [Phase.LIVE, Phase.COMPLETED, Phase.RETIRED, Phase.ABORTED])
def test_nothing_remains_once_live_or_ended(phase: Phase) -> None:
    assert remaining(phase) == ()


def test_after_a_rollback_the_swap_remains() -> None:
    assert [step.name for step in remaining(Phase.ROLLED_BACK)] == ["swap"]


def test_a_step_out_of_turn_says_what_was_asked_found_and_allowed() -> None:
    with pytest.raises(IllegalStep) as refused:
        STEPS["swap"].check("7c41", Phase.BACKFILLED)
    assert str(refused.value) == (
        "step swap of revision 7c41 was asked for; it starts from phase approved or rolled_back, the migration is in "
        "phase backfilled. Nothing was changed; see `revector status`."
    )


# Others follow the table ----------------------------------------------------------------------------------------------


def test_the_database_allows_exactly_the_phases_of_the_table(served: World) -> None:
    written = served.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'generation'::regclass AND conname = "
        "'generation_phase_check'"
    )
    assert set(re.findall(r"'(\w+)'", written)) == {phase.value for phase in Phase} - {"none"}


def test_every_step_between_provisioning_and_swap_has_its_work(served: World) -> None:
    assert [name for name in FORWARD if name in served.migrator._forward.building] == list(FORWARD[2:-1])
    assert set(served.migrator._forward.building) == set(FORWARD[2:-1])


def test_the_page_asks_people_only_in_phases_of_the_table() -> None:
    script = (resources.files("revector.airflow") / "static" / "page.js").read_text(encoding="utf-8")
    [asking] = re.findall(r"const ASKING = new Set\(\[(.*?)\]\)", script)
    phases = {Phase(word) for word in re.findall(r'"(\w+)"', asking)}
    assert STEPS["approve"].needs <= phases
    assert STEPS["retire"].needs & phases


def test_every_move_is_told_to_the_webhook() -> None:
    moves = {step.name for step in STEPS.values()} - {"plan", "provision", "backfill", "index", "verify", "gate"}
    assert moves <= set(MESSAGES)
