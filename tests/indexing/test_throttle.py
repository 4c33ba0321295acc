"""The pace of the bulk lane: the dial while it runs, and yielding when searches or the live lane suffer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.cli import run as cli
from revector.config import current_actor
from revector.errors import ArchiveError, ConfigError, GenerationGone, StateError
from revector.indexing import backfill
from revector.indexing.dial import read_share, set_share, worked_lag_s
from revector.indexing.throttle import LEAST_SHARE, SLICE_S, Throttle, ThrottleLimits, yielded
from revector.registry import work
from stages import AtStep
from worlds import World

AT_EASE = ThrottleLimits(math.inf, math.inf)


class Slept(list[float]):
    """Stands in for sleeping; ``then`` happens after so many pauses."""

    def __init__(self, after: int = 1_000, then: Callable[[], object] = lambda: None) -> None:
        self._after, self._then = after, then

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        assert len(self) < 10_000
        if len(self) == self._after:
            self._then()


@pytest.fixture
def building(at_step: AtStep) -> World:
    return at_step("provision")


def dial(world: World, share: float) -> int:
    return set_share(world.engine, "docs", share, actor="tester")


def paced(world: World, pause: Callable[[float], None], bars: ThrottleLimits = AT_EASE) -> Throttle:
    return Throttle(world.engine, world.generation("building"), bars, pause=pause)


# The dial -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "rest_s"), [(1.0, 0), (0.5, 10), (0.8, 2.5), (0.1, 90)])
def test_at_a_share_the_rest_of_the_time_is_left_to_others(building: World, share: float, rest_s: float) -> None:
    dial(building, share)
    slept = Slept()
    assert paced(building, slept).rest(10) == pytest.approx(rest_s)
    assert sum(slept) == pytest.approx(rest_s)
    assert max(slept, default=0) <= SLICE_S


def test_before_anybody_touches_the_dial_nothing_rests(building: World) -> None:
    assert paced(building, Slept()).rest(10) == 0


def test_turned_up_in_a_pause_it_goes_on_within_a_second(building: World) -> None:
    dial(building, 0.01)
    slept = Slept(after=3, then=lambda: dial(building, 1))
    assert paced(building, slept).rest(10) == 3 * SLICE_S


def test_paused_it_waits_also_before_the_first_window_and_until_the_dial_moves(building: World) -> None:
    dial(building, 0)
    slept = Slept(after=7, then=lambda: dial(building, 1))
    assert paced(building, slept).rest(0) == 7 * SLICE_S


def test_nobody_waits_for_the_dial_of_a_migration_that_was_aborted(building: World) -> None:
    dial(building, 0)
    with pytest.raises(GenerationGone):
        paced(building, Slept(after=2, then=lambda: building.migrator.abort("enough"))).rest(0)


def test_the_dial_is_history_and_status_and_counts_for_one_migration(building: World) -> None:
    gen = dial(building, 0.25)
    event = building.events("throttle")[0]
    assert (event["actor"], event["gen"], event["detail"]) == ("tester", gen, {"share": 0.25})
    assert building.project.status("docs").migration.progress.share == 0.25
    assert building.migrator.abort("another one")
    building.upgrade("b200", to="provision")
    assert building.project.status("docs").migration.progress.share == 1


def test_a_backfill_rests_between_its_windows_and_loses_nothing(
    building: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "PART_CHARACTERS", (500, 500))
    slept = Slept(after=5, then=lambda: dial(building, 1))
    pause = Throttle.__init__.__kwdefaults__
    monkeypatch.setitem(pause, "pause", slept)
    dial(building, 0)
    outcomes = [building.migrator.embed_shard("b200", shard) for shard in (0, 1)]
    assert [outcome.facts["paused_s"] for outcome in outcomes] == [5 * SLICE_S, 0]
    assert sum(outcome.facts["published"] for outcome in outcomes) == 120
    building.upgrade("b200", to="verify")
    assert building.differences(building.generation("building")) == []


def test_the_first_two_parts_are_small_and_later_ones_take_what_their_time_allows(
    building: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "PART_CHARACTERS", (500, 1_000))
    building.migrator.embed_shard("b200", 0)
    sizes = building.sql("SELECT documents FROM part WHERE gen = 2 ORDER BY part")
    assert [row.documents for row in sizes] == [14, 13, 25, 8], "of about 37 characters each"


@pytest.mark.parametrize(
    ("used", "free_gib", "goes_on"), [(0.9, 1, False), (0.9, 3, True), (0.5, 1, True), (0.85, 1, True)]
)
def test_a_part_is_begun_unless_the_disk_is_full_and_little_is_free(
    building: World, monkeypatch: pytest.MonkeyPatch, used: float, free_gib: int, goes_on: bool
) -> None:
    disk = SimpleNamespace(total=1_000, used=used * 1_000, free=free_gib << 30)
    monkeypatch.setattr(backfill, "shutil", SimpleNamespace(disk_usage=lambda _: disk))
    if goes_on:
        assert building.migrator.embed_shard("b200", 0).facts["published"] == 60
        return
    said = "90% are used and 1,024 MiB free; a part is begun at up to 85%, or with 2,048 MiB"
    with pytest.raises(ArchiveError, match=said):
        building.migrator.embed_shard("b200", 0)
    assert building.value("SELECT count(*) FROM part WHERE gen = 2") == 0


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_beyond_0_to_100_percent_is_refused(building: World, share: float) -> None:
    with pytest.raises(ConfigError):
        dial(building, share)
    assert building.events("throttle") == []


def test_without_an_open_backfill_there_is_nothing_to_slow_down(served: World) -> None:
    for step in ("plan", "index"):
        served.upgrade("b200", to=step)
        with pytest.raises(StateError, match="no open backfill"):
            dial(served, 0.5)
    assert served.events("throttle") == []


def test_the_command_sets_the_dial_and_refuses_what_is_no_share(
    building: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(building.root)
    gen = building.generation("building").gen
    for words, share in ((["50%"], 0.5), (["pause", "--reason", "sale"], 0.0), (["12.5 %"], 0.125), (["100%"], 1.0)):
        assert cli(["throttle", "docs", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"collection": "docs", "generation": gen, "share": share}
        with building.engine.connect() as connection:
            assert read_share(connection, gen) == share
    dial(building, 0.5)
    assert cli(["status"]) == 0
    assert "throttled to 50% of the time" in capsys.readouterr().out
    assert [event["detail"].get("reason") for event in building.events("throttle")] == [None, None, None, "sale", None]
    assert {event["actor"] for event in building.events("throttle")} == {"tester", current_actor()}
    for wrong in ("101%", "0.5", "fast", "-5%", "%"):
        assert cli(["throttle", "docs", "--", wrong]) == 2, wrong
    assert cli(["throttle", "nowhere", "50%"]) == 2
    assert len(building.events("throttle")) == 5


# Yielding -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=60))
def test_under_strain_the_share_halves_and_at_ease_it_comes_back(strains: list[bool]) -> None:
    share = 1.0
    for strained in strains:
        before, share = share, yielded(share, strained=strained)
        assert LEAST_SHARE <= share <= 1
        assert (share < before or before == LEAST_SHARE) if strained else (share > before or before == 1)
    for _ in range(7):
        share = yielded(share, strained=False)
    assert share == 1


def waiting(world: World, age_s: int) -> list[str]:
    """Changes that the active index lacks for so long."""
    gen = world.generation().gen
    world.put(3, start=900)
    world.sql(f"UPDATE pending SET since = since - interval '{age_s} s' WHERE gen = :gen", gen=gen)
    return [f"d{n:05d}" for n in range(900, 903)]


def test_it_yields_when_the_active_index_lags_behind_a_busy_worker(building: World) -> None:
    waiting(building, 100)
    work.claim(building.engine, building.generation().gen, rows=1)
    slept = Slept()
    pace = paced(building, slept, ThrottleLimits(lag_s=60, search_ms=math.inf))
    assert pace.rest(4) == pytest.approx(4)
    assert pace.share == 0.5
    assert paced(building, Slept(), ThrottleLimits(lag_s=200, search_ms=math.inf)).rest(4) == 0


def test_a_lag_at_which_nobody_works_slows_nothing_down(building: World) -> None:
    waiting(building, 100)
    gen = building.generation().gen
    with building.engine.connect() as connection:
        assert worked_lag_s(connection, gen) == 0
    work.claim(building.engine, gen, rows=1)
    with building.engine.connect() as connection:
        assert 100 <= worked_lag_s(connection, gen) < 120


def test_a_change_that_failed_and_waits_for_its_next_try_is_no_lag(building: World) -> None:
    ids, gen = waiting(building, 100), building.generation().gen
    work.claim(building.engine, gen, rows=3)
    for doc_id in ids[:2]:
        work.fail(building.engine, gen, doc_id, 10**6, "no", final=False)
    building.sql("UPDATE pending SET due_at = clock_timestamp() + interval '9 s' WHERE last_error IS NOT NULL")
    building.sql("UPDATE pending SET since = clock_timestamp() WHERE last_error IS NULL")
    with building.engine.connect() as connection:
        assert worked_lag_s(connection, gen) < 60


def test_it_yields_when_searches_are_slow_and_recovers(building: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revector.indexing.throttle.LOOK_S", 0.0)
    slow, quick = ThrottleLimits(math.inf, search_ms=1e-6), AT_EASE
    pace = paced(building, Slept(), slow)
    shares = []
    for _ in range(5):
        pace.rest(0.1)
        shares.append(pace.share)
    assert shares == [0.5, 0.25, 0.125, 0.125, 0.125]
    pace._bars = quick
    for _ in range(7):
        pace.rest(0.1)
    assert pace.share == 1


def test_what_a_person_allows_is_shared_with_what_yielding_leaves(building: World) -> None:
    dial(building, 0.5)
    pace = paced(building, Slept(), ThrottleLimits(math.inf, search_ms=1e-6))
    assert pace.rest(10) == pytest.approx(30)
    assert pace.share == 0.25


def test_the_first_migration_yields_to_nobody(world: World) -> None:
    world.put(60)
    world.upgrade("a100", to="provision")
    assert paced(world, Slept(), ThrottleLimits(1e-9, 1e-9)).rest(10) == 0


def test_bars_are_settings(served: World, tmp_path: Path) -> None:
    with (tmp_path / "revector.toml").open("a") as file:
        file.write("\n[collections.docs.bulk]\nmax_lag_s = 5\nmax_search_ms = inf\n")
    del served.project
    assert served.migrator._settings.bars == ThrottleLimits(5, math.inf)
