"""Layer L1: the real code, under a clock of its own, keeps every promise in drawn histories; and the judge can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from evaluation.reliability.beginnings import BEGINNINGS
from evaluation.reliability.bugs import plant
from evaluation.reliability.simulate import run_histories, run_history
from evaluation.reliability.simulated.heal import heal
from evaluation.reliability.simulated.place import Place, place
from evaluation.reliability.simulated.rules import RULES, take
from evaluation.reliability.simulated.world import World
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from revector.registry import moves
from revector.stores.opening import MEMORY

SEED, HISTORIES = 20_261_120, 30
FIRST, UNTESTED = SEED + 30, SEED + 24
"""Where a seed is near that shows the rarest bug, and one that shows a swap over waiting work."""


@pytest.fixture
def at(database_url: str) -> Iterator[Place]:
    with place(database_url) as made:
        yield made


def test_drawn_histories_break_no_promise(at: Place) -> None:
    for seed in range(SEED, SEED + HISTORIES):
        assert run_history(at, seed) is None
    assert at.tally["swap"] > HISTORIES / 5
    assert at.tally["queries"] > HISTORIES
    assert at.tally["kills"] > HISTORIES / 5


def test_a_history_is_repeated_by_its_seed(at: Place) -> None:
    done = []
    for _ in range(2):
        at.tally.clear()
        run_history(at, SEED)
        done.append(dict(at.tally))
    assert done[0] == done[1]


@pytest.mark.parametrize(
    ("bug", "promises"),
    [
        ("no_version_check", {"lost", "stale", "went back"}),
        ("standby_not_fed", {"lost"}),
        ("no_read_filter", {"resurrected"}),
        ("cache_by_text", {"wrong model"}),
        ("zombie_accepted", {"fencing"}),
    ],
)
def test_a_planted_bug_is_seen_as_what_it_is(database_url: str, bug: str, promises: set[str]) -> None:
    found = run_histories(database_url, range(FIRST, FIRST + 400), plant=partial(plant, bug), shrunk=False)
    assert {one.promise for one in found} & promises, found


@pytest.mark.slow
def test_drawn_histories_of_indexes_in_a_store_break_no_promise(database_url: str) -> None:
    tally: Counter[str] = Counter()
    seeds = range(SEED, SEED + HISTORIES // 2)
    assert run_histories(database_url, seeds, store=MEMORY, tally=tally, shrunk=False) == []
    for what in ("swap", "queries", "kills", "losses", "store_lost"):
        assert tally[what], what


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "near", "promise"), [("no_intent", 10, "unknown"), ("shown_collected", 0, "lost")])
def test_a_bug_of_attempts_is_seen_in_a_store_as_what_it_is(
    database_url: str, bug: str, near: int, promise: str
) -> None:
    seeds = range(SEED + near, SEED + 60)
    found = run_histories(database_url, seeds, plant=partial(plant, bug), store=MEMORY, shrunk=False)
    assert [one.promise for one in found] == [promise]


def test_a_swap_over_waiting_work_is_seen(database_url: str) -> None:
    @contextmanager
    def untested(_: sa.Engine) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moves, "_refuse_waiting", lambda *_: None)
            yield

    found = run_histories(database_url, range(UNTESTED, SEED + 400), plant=untested, shrunk=False)
    assert [one.promise for one in found] == ["lost"]


class Simulation(RuleBasedStateMachine):
    """The same rules, chosen by hypothesis, which shrinks what fails."""

    at: Place

    @initialize(beginning=st.sampled_from(list(BEGINNINGS)))
    def begin(self, beginning: str) -> None:
        self.world, self.broken = World(self.at, beginning), False

    def take(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.broken = True
        take(self.world, (name, arguments))
        self.broken = False

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.broken:
                heal(self.world, finish=True)
        finally:
            self.world.close()


def _add_rule(name: str) -> None:
    def step(self: Simulation, arguments: tuple[Any, ...]) -> None:
        self.take(name, arguments)

    step.__name__ = name
    arguments = st.tuples(*map(st.sampled_from, RULES[name].arguments))
    setattr(Simulation, name, rule(arguments=arguments)(step))


for _name in RULES:
    _add_rule(_name)


@pytest.mark.long
def test_hypothesis_finds_no_history_that_breaks_a_promise(at: Place) -> None:
    Simulation.at = at
    run_state_machine_as_test(
        Simulation,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
