"""The exhaustive model: no interleaving breaks a promise, and every guard's removal is seen to break one."""

from __future__ import annotations

from functools import cache

import pytest
from evaluation.reliability.model.__main__ import figures
from evaluation.reliability.model.explore import Explored, Layout, Steps, explore
from evaluation.reliability.model.guards import GUARDS, hunt, is_covered
from evaluation.reliability.model.settings import SHORT, models

MODELS = models(SHORT)
COVERED = [name for name, guard in GUARDS.items() if guard.covered_by]
APPENDIX_A = ("gate", "version_check", "intent_cas", "attempt_id", "filter", "cutcheck", "standby", "retirelock")


@cache
def explored(name: str) -> Explored:
    return explore(MODELS[name](frozenset()), setting=name)


@pytest.mark.parametrize("name", MODELS)
def test_no_interleaving_breaks_a_promise(name: str) -> None:
    found = explored(name)
    assert found.trace is None, str(found.trace)
    assert found.whole


def test_that_is_at_least_200_000_states() -> None:
    assert sum(explored(name).states for name in MODELS) >= 200_000


@pytest.mark.parametrize("name", GUARDS)
def test_the_removal_of_a_guard_breaks_a_promise(name: str) -> None:
    found = hunt(name)
    assert found is not None
    assert found.steps
    assert all(changed for _, changed in found.steps)


@pytest.mark.parametrize("name", COVERED)
def test_a_covered_guard_changes_nothing_when_it_alone_is_removed(name: str) -> None:
    assert is_covered(name)


def test_the_guards_of_the_designs_appendix_are_all_there() -> None:
    assert set(APPENDIX_A) <= set(GUARDS)


def test_a_counter_example_is_the_same_each_time_and_tells_every_step() -> None:
    first, second = hunt("row_lock_for_repeatable_read"), hunt("row_lock_for_repeatable_read")
    assert first == second
    assert "writer 0 takes its snapshot" in str(first)
    assert "REGISTER" in str(first)
    assert "building 0→2" in str(first)


class TwoCounters:
    """Two processes add one to a number that both have read before: an update is lost after four steps."""

    def __init__(self, *, atomic: bool) -> None:
        self.layout = Layout()
        self.layout.take("number", "read0", "read1", "done0", "done1")
        self.start, self._atomic = bytes(5), atomic

    def steps(self, state: bytes) -> Steps:
        out: Steps = []
        for n in (0, 1):
            after = bytearray(state)
            read, done = state[1 + n], state[3 + n]
            if done:
                continue
            if self._atomic:
                after[0], after[3 + n] = state[0] + 1, 1
                out.append((f"{n} adds", bytes(after)))
            elif read:
                after[0], after[3 + n] = read, 1
                out.append((f"{n} writes", bytes(after)))
            else:
                after[1 + n] = state[0] + 1
                out.append((f"{n} reads", bytes(after)))
        return out

    def broken(self, state: bytes) -> str | None:
        return "an update is lost" if state[3] and state[4] and state[0] != 2 else None


def test_the_explorer_finds_a_planted_bug_by_the_shortest_way() -> None:
    found = explore(TwoCounters(atomic=False))
    assert found.trace is not None
    assert found.trace.promise == "an update is lost"
    assert [name for name, _ in found.trace.steps] == ["0 reads", "1 reads", "0 writes", "1 writes"]
    assert [changed for _, changed in found.trace.steps] == [
        "read0 0→1",
        "read1 0→1",
        "number 0→1, done0 0→1",
        "done1 0→1",
    ]
    assert not found.whole


def test_the_explorer_visits_every_state_once() -> None:
    found = explore(TwoCounters(atomic=True))
    assert (found.states, found.transitions, found.depth, found.whole, found.trace) == (4, 4, 3, True, None)


def test_the_explorer_says_when_it_gave_up() -> None:
    found = explore(MODELS["A writes"](frozenset()), most_states=100)
    assert found.states >= 100
    assert not found.whole
    assert found.trace is None


def piece(*, found: bool = True, covered: bool | None = None, trace: object = None) -> dict[str, object]:
    guard = {"name": "gate", "found": found, "covered": covered, "covered_by": ["x"] if covered is not None else []}
    setting = {"states": 300_000, "transitions": 1, "seconds": 1.0, "whole": True, "trace": trace}
    return {"size": "short", "settings": [setting], "guards": [{**guard, "steps": ["a", "b"]}]}


@pytest.mark.parametrize(
    ("bad", "missed"),
    [
        (piece(found=False), "guards whose removal is seen to break a promise"),
        (piece(covered=False), "guards whose removal is seen to break a promise"),
        (piece(trace={}), "settings in which a promise broke"),
        ({**piece(), "size": "long"}, "states explored, every interleaving of each setting"),
    ],
)
def test_a_missed_goal_is_named(bad: dict[str, object], missed: str) -> None:
    assert [figure.name for figure in figures([bad]) if figure.holds is False] == [missed]
    assert all(figure.holds is not False for figure in figures([piece(), piece(covered=True)]))
