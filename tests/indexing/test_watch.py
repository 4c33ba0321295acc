"""What a worker watches: a database clock that jumps, and encoders that change or fail in the rollback window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import sqlalchemy as sa

from revector.errors import BadVectors, ClockJumped, EncoderError
from revector.indexing import watch
from revector.indexing.watch import Watch
from stages import AtStep
from worlds import World

HOUR = 3_600.0


class Clock:
    """A worker's own clock, and how far the database's is ahead of it."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self._now_s, self._ahead_s = 0.0, 0.0
        patch.setattr(watch, "running_s", lambda: self._now_s)
        sa.event.listen(world.engine, "before_cursor_execute", self._shift, retval=True)

    def pass_by(self, seconds: float, *, jump_s: float = 0.0) -> None:
        self._now_s += seconds
        self._ahead_s += seconds + jump_s

    def back(self) -> None:
        """The jump is seen; what follows is read from a clock that is right again."""
        self._ahead_s = 0.0

    def _shift(self, _c: object, _u: object, statement: str, parameters: object, *_: object) -> tuple[str, object]:
        now = "(pg_catalog.clock_timestamp() + interval '%s s')" % self._ahead_s  # noqa: UP031
        return (statement.replace("SELECT clock_timestamp()", f"SELECT {now}"), parameters)


@pytest.fixture
def clock(swapped: World, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(swapped, monkeypatch)


def watching(world: World) -> Watch:
    found = Watch(world.engine, world.project.encoders)
    found.clock()
    return found


def window_over(world: World) -> None:
    world.sql("UPDATE collection SET rollback_deadline = clock_timestamp() - interval '1 minute'")


@pytest.mark.parametrize("jump_s", [3 * HOUR, -3 * HOUR, 72 * HOUR, 61.0])
def test_a_clock_that_jumped_ends_no_window_by_itself(swapped: World, clock: Clock, jump_s: float) -> None:
    seen = watching(swapped)
    clock.pass_by(60, jump_s=jump_s)
    seen.clock()
    clock.back()
    window_over(swapped)
    with pytest.raises(ClockJumped, match="--now"):
        swapped.migrator.retire_due()
    assert swapped.collection.standby_gen is not None
    assert swapped.project.status("docs").rollback.clock_jumped


@pytest.mark.parametrize(("passed_s", "jump_s"), [(60.0, 0.0), (60.0, 59.0), (72 * HOUR, 0.0), (5.0, 3 * HOUR)])
def test_time_that_passes_is_no_jump(swapped: World, clock: Clock, passed_s: float, jump_s: float) -> None:
    """… nor is anything before the next look, 15 s later."""
    seen = watching(swapped)
    clock.pass_by(passed_s, jump_s=jump_s)
    seen.clock()
    assert swapped.events("clock_jump") == []


def test_a_person_ends_a_window_in_which_the_clock_jumped(swapped: World, clock: Clock) -> None:
    seen = watching(swapped)
    clock.pass_by(60, jump_s=HOUR)
    seen.clock()
    assert swapped.migrator.retire("the clock was fixed", now=True).changed


def test_a_jump_takes_nobody_the_way_back(swapped: World, clock: Clock) -> None:
    old = swapped.generation("standby")
    seen = watching(swapped)
    clock.pass_by(60, jump_s=72 * HOUR)
    seen.clock()
    clock.back()
    window_over(swapped)
    swapped.migrator.rollback("wrong answers")
    assert swapped.generation().gen == old.gen


def test_a_jump_counts_for_the_window_in_which_it_happened_only(swapped: World, clock: Clock) -> None:
    seen = watching(swapped)
    for _ in range(2):
        clock.pass_by(60, jump_s=HOUR)
        seen.clock()
    clock.back()
    assert len(swapped.events("clock_jump")) == 1
    swapped.migrator.rollback("a new window begins with the next swap")
    swapped.upgrade("b200")
    window_over(swapped)
    assert swapped.migrator.retire_due().changed


@contextmanager
def changed_model(world: World, revision: str) -> Iterator[None]:
    """The model answers, but not as the one that the generation was built with."""
    inner = world.loader["hashing" if revision == "a100" else "hashing:seed2"]._inner
    original = inner.encode
    inner.encode = lambda side, pieces: -original(side, pieces)
    try:
        yield
    finally:
        inner.encode = original


def test_an_encoder_that_changes_in_the_window_is_told_before_somebody_needs_the_way_back(
    swapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(watch, "running_s", lambda: now_s)
    worker = swapped.project.worker()
    worker.drain()
    with changed_model(swapped, "a100"):
        worker.drain()
        assert swapped.events("encoder_failed") == []  # it is asked once an hour
        now_s += HOUR
        worker.drain()
        worker.drain()
    slots = swapped.project.status("docs").slots
    assert "probe" in slots.standby.encoder_fault
    assert slots.active.encoder_fault is None
    assert len(swapped.events("encoder_failed")) == 1
    swapped.project.worker().drain()
    assert swapped.project.status("docs").slots.standby.encoder_fault is None
    assert len(swapped.events("encoder_restored")) == 1


def test_one_failing_encoder_does_not_hold_up_the_others(swapped: World) -> None:
    with changed_model(swapped, "a100"):
        worker = swapped.project.worker()
        written = swapped.put(1, start=500)
        worker.drain()
        swapped.documents.wait_until_served(written, timeout_s=0)


def test_an_encoder_that_raises_on_the_probes_makes_its_generation_wait_and_nothing_else(
    swapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = swapped.loader["hashing"]._inner
    original = inner.encode

    def throttled(*_: object) -> object:
        raise RuntimeError("429 Too Many Requests")

    monkeypatch.setattr(inner, "encode", throttled)
    written = swapped.put(1, start=500)
    swapped.project.worker().drain()
    swapped.documents.wait_until_served(written, timeout_s=0)
    assert "429" in swapped.project.status("docs").slots.standby.encoder_fault
    monkeypatch.setattr(inner, "encode", original)
    swapped.settle()
    assert swapped.differences(swapped.generation("standby")) == []


def test_an_encoder_that_fails_during_the_step_verify_condemns_no_index(
    at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = at_step("index")
    inner = served.loader["hashing:seed2"]._inner
    with monkeypatch.context() as broken:
        broken.setattr(inner, "encode", lambda _, pieces: np.full((len(pieces), 64), np.nan))
        with pytest.raises(EncoderError):
            served.migrator.run("verify", "b200")
    assert served.value("SELECT count(*) FROM gate_result WHERE NOT passed") == 0
    served.upgrade("b200")
    assert served.generation().revision == "b200"


def test_an_encoder_that_fails_while_it_is_registered_opens_no_migration(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = served.loader["hashing:seed2"]._inner
    with monkeypatch.context() as broken:
        broken.setattr(inner, "encode", lambda _, pieces: np.full((len(pieces), 64), np.nan))
        with pytest.raises(BadVectors):
            served.upgrade("b200")
    assert served.value("SELECT count(*) FROM generation") == 1
    served.upgrade("b200")
    assert served.generation().revision == "b200"
