"""The time that a revision asks for shadow reads: refused without any, waited out, and told with the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import ConfigError, GenerationGone, SpecError
from revector.gate import shadow_time
from revector.measure.agreement import AgreementTally
from revector.pages.gate_result import kept_result, page
from revector.registry import watching
from revector.serving import shadow_rows
from revector.spec import Gate
from worlds import World

B200 = 'model = ModelSpec(name="hashing:seed2", dim=64)'


@pytest.fixture
def asking(served: World) -> World:
    """b200 asks for two hours of shadow reads, and they are switched on."""
    served.revision("b200", "a100", B200, "gate = Gate(max_drop=0.1, shadow_hours=2)")
    served.settings(shadow={"share": 0.5})
    file = served.root / "revector.toml"
    file.write_text(file.read_text().replace('shadow = {"share": 0.5}', "shadow = { share = 0.5 }"))
    return served


def age_index(world: World, hours: float) -> None:
    world.sql("ALTER TABLE event DISABLE TRIGGER USER")
    world.sql("UPDATE event SET at = at - :hours * interval '1 hour' WHERE kind = 'index'", hours=float(hours))
    world.sql("ALTER TABLE event ENABLE TRIGGER USER")


class Sleeps:
    """Stands in for the module ``time``: an hour passes in each sleep, and what it is told to do is done."""

    def __init__(self, world: World) -> None:
        self.world, self.slept, self.now_s = world, list[float](), 0.0
        self.instead: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += 3_600
        self.instead()


@pytest.fixture
def sleeps(asking: World, monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    made = Sleeps(asking)
    monkeypatch.setattr(shadow_time, "time", made)
    monkeypatch.setattr(watching, "running_s", lambda: made.now_s)
    return made


def test_an_upgrade_waits_the_time_out_before_its_gate_judges(asking: World, sleeps: Sleeps) -> None:
    def still_verified() -> None:
        assert asking.generation("building").phase == "verified"

    sleeps.instead = still_verified
    asking.upgrade("b200")
    assert len(sleeps.slept) == 2
    assert asking.generation().revision == "b200"


def test_so_does_the_step_of_a_dag_and_a_killed_one_waits_for_the_rest_only(asking: World, sleeps: Sleeps) -> None:
    asking.upgrade("b200", to="verify")
    age_index(asking, 1.5)
    asking.migrator.run("gate", "b200")
    assert len(sleeps.slept) == 1
    asking.migrator.run("approve", "b200")
    assert len(sleeps.slept) == 1


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_step_of_the_databases_clock_neither_ends_the_wait_nor_makes_it_longer(
    asking: World, sleeps: Sleeps, hours: float
) -> None:
    asking.upgrade("b200", to="verify")
    sleeps.instead = lambda: age_index(asking, hours)
    asking.migrator.run("gate", "b200")
    assert len(sleeps.slept) == 2


def test_an_abort_ends_the_wait(asking: World, sleeps: Sleeps) -> None:
    asking.upgrade("b200", to="verify")
    sleeps.instead = lambda: asking.migrator.abort("no more")
    with pytest.raises(GenerationGone, match="aborted"):
        asking.migrator.run("gate", "b200")


def test_the_verdict_tells_what_live_queries_found(asking: World, sleeps: Sleeps) -> None:
    asking.upgrade("b200", to="verify")
    tally = AgreementTally()
    for _ in range(30):
        tally.note(0.9, 0.8, old_ms=3.0, new_ms=4.0)
    building, active = asking.generation("building").gen, asking.generation().gen
    with asking.engine.begin() as connection:
        shadow_rows.add(connection, [{"gen": building, "against": active, "k": 10, **tally.as_row()}])
    asking.upgrade("b200", to="gate")
    kept = kept_result(asking.project, "docs")
    shadow = kept.as_data()["shadow"]
    assert shadow["hours"] == 2
    (reads,) = shadow["reads"]
    assert (reads["compared"], reads["overlap"]["mean"]) == (30, pytest.approx(0.9))
    assert "Do live queries find the same?" in page(asking.project, "docs", kept)
    said = CliRunner().invoke(app, ["gate", "--project", str(asking.root)]).output
    assert "30 live queries compared, overlap@10 0.900" in said
    assert sleeps.slept


def test_that_no_query_came_is_told_too(asking: World, sleeps: Sleeps) -> None:
    asking.upgrade("b200", to="gate")
    assert (
        "no live query was compared in 2 h" in CliRunner().invoke(app, ["gate", "--project", str(asking.root)]).output
    )
    assert "No live query was compared." in page(asking.project, "docs", kept_result(asking.project, "docs"))
    assert sleeps.slept


def test_shadow_reads_that_are_switched_off_are_no_time_for_them(asking: World) -> None:
    asking.settings()
    before = asking.state()
    with pytest.raises(ConfigError, match=r"2 h of shadow reads .* switched off. Nothing was changed"):
        asking.upgrade("b200")
    assert asking.state() == before
    assert any("switched off" in said for said in asking.migrator.plan("b200").warnings)


def test_a_first_revision_has_nothing_to_be_compared_with(world: World) -> None:
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)', "gate = Gate(shadow_hours=500)")
    world.put(120)
    world.upgrade("a100")
    assert world.generation().revision == "a100"


@pytest.mark.parametrize("hours", [-1.0, 721.0, math.nan, math.inf])
def test_a_time_that_cannot_be_is_refused(hours: float) -> None:
    with pytest.raises(SpecError, match=r"gate\.shadow_hours"):
        Gate(shadow_hours=hours)
