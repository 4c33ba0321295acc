"""The lanes of a worker: no generation waits for another's encoder, and the served ones go first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from revector.errors import DatabaseUnavailable
from revector.indexing import worker as module
from revector.indexing.encoding import Encoders
from revector.spec import ModelSpec
from stages import AtStep
from worlds import LIMIT_S, World, working


@pytest.fixture
def building(at_step: AtStep) -> World:
    """``served`` with revision b200 being built: seeded, so that it follows every write."""
    made = at_step("index")
    made.settle()
    return made


def held(begun: threading.Event, end: threading.Event) -> Callable[[Any, Any], Any]:
    def hook(_texts: Any, vectors: Any) -> Any:
        begun.set()
        assert end.wait(LIMIT_S)
        return vectors

    return hook


def test_a_building_encoder_that_takes_for_ever_holds_up_no_write_to_what_is_served(building: World) -> None:
    begun, end = threading.Event(), threading.Event()
    building.loader["hashing:seed2"].hook = held(begun, end)
    with working(building):
        try:
            building.put(1, start=500)
            assert begun.wait(LIMIT_S)
            for n in range(501, 504):
                building.documents.wait_until_served(building.put(1, start=n), timeout_s=LIMIT_S)
            assert not end.is_set()
        finally:
            end.set()
    building.settle()
    assert building.differences(building.generation("building")) == []


def test_an_encoder_that_is_being_loaded_holds_up_no_write_to_what_is_served(building: World) -> None:
    begun, end = threading.Event(), threading.Event()
    load = building.loader

    def slow(model: ModelSpec) -> Any:
        if model.name == "hashing:seed2":
            begun.set()
            assert end.wait(LIMIT_S)
        return load(model)

    building.project.__dict__["encoders"] = Encoders(slow)
    with working(building):
        try:
            assert begun.wait(LIMIT_S)
            building.documents.wait_until_served(building.put(1, start=500), timeout_s=LIMIT_S)
            assert not end.is_set()
        finally:
            end.set()
    building.settle()
    assert building.differences(building.generation("building")) == []


def test_a_standby_that_hangs_holds_up_no_write_either(swapped: World) -> None:
    begun, end = threading.Event(), threading.Event()
    swapped.loader["hashing"].hook = held(begun, end)
    with working(swapped):
        try:
            swapped.put(1, start=500)
            assert begun.wait(LIMIT_S)
            swapped.documents.wait_until_served(swapped.put(1, start=501), timeout_s=LIMIT_S)
        finally:
            end.set()


def test_served_indexes_go_first_and_starve_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    order = list[str]()
    precedence = module._Precedence()

    def other(done: threading.Event) -> None:
        with precedence.turn(served=False):
            order.append("other")
        done.set()

    monkeypatch.setattr(module, "YIELD_S", LIMIT_S)
    done = threading.Event()
    with precedence.turn(served=True):
        thread = threading.Thread(target=other, args=(done,))
        thread.start()
        order.append("served")
    assert done.wait(LIMIT_S)
    thread.join()
    assert order == ["served", "other"]
    monkeypatch.setattr(module, "YIELD_S", 0.0)
    with precedence.turn(served=True):
        other(done)


def test_a_generation_that_is_new_gets_its_lane_while_the_worker_runs_and_one_that_is_gone_loses_it(
    served: World,
) -> None:
    with working(served):
        served.upgrade("b200")
        served.documents.wait_until_served(served.put(1, start=500), timeout_s=LIMIT_S)
        served.migrator.retire("seen enough", now=True)
        served.documents.wait_until_served(served.put(1, start=501), timeout_s=LIMIT_S)
    assert served.differences(served.generation()) == []


def test_several_threads_of_a_lane_probe_the_encoder_once(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = list[int]()
    probe = served.project.encoders.probe
    monkeypatch.setattr(served.project.encoders, "probe", lambda generation: (probed.append(1), probe(generation)))
    with working(served, threads=4):
        served.documents.wait_until_served(served.put(40, start=500), timeout_s=LIMIT_S)
    assert len(probed) == 1


def test_an_unexpected_error_in_a_lane_ends_the_worker_with_it(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> list[str]:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(module.work, "claim", broken)
    with pytest.raises(LookupError, match="nobody"):
        served.project.worker().run(threading.Event())


def test_a_database_that_is_down_for_a_lane_is_waited_for(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, failures = module.work.claim, list[int]()

    def flaky(*arguments: Any, **options: Any) -> list[str]:
        if len(failures) < 3:
            failures.append(1)
            raise DatabaseUnavailable("gone for a moment")
        return claim(*arguments, **options)

    monkeypatch.setattr(module, "BACK_OFF_S", 0.01)
    monkeypatch.setattr(module.work, "claim", flaky)
    with working(served):
        served.documents.wait_until_served(served.put(1, start=500), timeout_s=LIMIT_S)
    assert len(failures) == 3


def test_once_ends_when_nothing_is_due_anywhere(building: World) -> None:
    building.put(80, start=500)
    building.project.worker().run(threading.Event(), once=True)
    assert building.value("SELECT count(*) FROM pending") == 0


def test_once_raises_when_the_database_is_down(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> list[str]:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(module.work, "claim", down)
    with pytest.raises(DatabaseUnavailable):
        served.project.worker().run(threading.Event(), once=True)


def test_a_batch_in_hand_is_finished_when_the_worker_is_stopped(served: World) -> None:
    begun, end = threading.Event(), threading.Event()
    served.loader["hashing"].hook = held(begun, end)
    with working(served) as stop:
        written = served.put(1, start=500)
        assert begun.wait(LIMIT_S)
        stop.set()
        end.set()
    served.documents.wait_until_served(written, timeout_s=0)
