"""SIGKILL of real processes at every named crash point and at random: `evaluation/reliability/crashes.py`, in short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa
from evaluation.reliability import crash_checks
from evaluation.reliability.crash_chaos import CHANGED_FLOOR, Chaos
from evaluation.reliability.crash_checks import (
    check_effects,
    check_instant,
    check_leftovers,
    check_parts,
    check_sessions,
    compare,
)
from evaluation.reliability.crash_points import PASSES, Stories
from evaluation.reliability.crash_report import Report, figures
from evaluation.reliability.crash_server import Forks
from evaluation.reliability.crash_site import COLLECTION, Site, free, labelled, name_of
from evaluation.reliability.crash_task import POINT, run_tasks
from evaluation.reliability.crash_truth import Truth, write_first
from evaluation.reliability.crashes import run_points
from evaluation.reliability.history import Kind, Record

from copies import Databases
from revector.crash import POINTS

SEED = 7

Sites = Callable[..., Site]


@pytest.fixture(scope="module")
def sites(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Makes projects, each on a database of its own: one with our tables, or a copy of the one named."""
    made: list[Site] = []

    def make(copied: str = template) -> Site:
        url = databases.url(databases.create(copied))
        made.append(Site(url, tmp_path_factory.mktemp("crashes") / "project"))
        return made[-1]

    yield make
    for site in made:
        site.close()


def stories_of_all_points() -> list[dict[str, str]]:
    """Spread the points over as few stories as can be: in each story, each turn dies at one point at most."""
    told: list[dict[str, str]] = []
    for point in sorted(PASSES, key=lambda point: len(PASSES[point])):
        for armed in [*told, {}]:
            if free_turns := [does for does in PASSES[point] if does not in armed]:
                armed[free_turns[0]] = point
                if len(armed) == 1:
                    told.append(armed)
                break
    return told


STORIES = stories_of_all_points()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


@pytest.mark.parametrize("number", range(len(STORIES)))
def test_what_is_killed_at_a_point_is_run_again_and_nothing_acknowledged_is_lost(
    sites: Sites, forks: Forks, number: int
) -> None:
    """Each point in one of its turns; `make prove` kills at each in all of its turns."""
    stories = Stories(forks, sites(), seed=SEED + number)
    stories.begin()
    kills = stories.tell_of(STORIES[number], f"story {number}")
    assert stories.report.findings == []
    assert {(kill.during, kill.point) for kill in kills} == set(STORIES[number].items())


def test_each_point_kills_in_one_of_the_stories() -> None:
    assert sorted(point for armed in STORIES for point in armed.values()) == sorted(PASSES)


def test_every_point_is_in_the_stories_or_in_the_dag() -> None:
    assert set(PASSES) | {POINT} == set(POINTS)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("airflow") is None, reason="the extra `airflow` is not installed")
def test_a_dag_killed_after_its_swap_runs_to_its_end_again_and_swaps_once(
    databases: Databases, template: str, tmp_path: Path
) -> None:
    url = databases.url(databases.create(template))
    report = run_tasks(url, tmp_path / "project", seed=SEED, tasks=["swap"])
    assert report.findings == []
    assert [kill.during for kill in report.kills] == ["swap"]


def test_migrations_survive_kills_at_random_moments(sites: Sites) -> None:
    with Forks(CHANGED_FLOOR) as forks:
        chaos = Chaos(forks, sites(), seed=SEED)
        chaos.begin()
        while len(chaos.report.kills) < 10:
            chaos.go_on()
    assert chaos.report.findings == []
    assert chaos.report.acknowledged > 0


def test_one_call_tells_the_stories_of_some_points(databases: Databases, template: str, tmp_path: Path) -> None:
    url = databases.url(databases.create(template))
    report = run_points(url, tmp_path / "project", seed=SEED, points=["index.after_build"])
    assert report.findings == []
    assert Counter(kill.point for kill in report.kills) == {"index.after_build": 1}
    named = {figure.name: figure for figure in figures([report.piece("points", 1)])}
    assert named["kills at index.after_build"].value == 1
    assert named["processes killed with SIGKILL"].holds is True
    assert named["named crash points that killed"].holds is False
    assert named["found: lost"].holds is True


# What the comparison sees ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(sites: Sites) -> tuple[str, Truth]:
    """A database whose first generation is live, unharmed, and what was written into it."""
    site, truth = sites(), Truth()
    site.project.init()
    write_first(site, truth, labelled() + free())
    site.project.migrator(COLLECTION, actor="first").upgrade(name_of(0))
    assert _findings(site, truth) == []
    site.close()
    return str(sa.make_url(site.url).database), truth


@pytest.fixture
def served(sites: Sites, first: tuple[str, Truth]) -> Iterator[tuple[Site, Truth]]:
    """A copy of ``first``."""
    name, truth = first
    site = sites(name)
    yield site, deepcopy(truth)
    site.close()


def _findings(site: Site, truth: Truth) -> list[str]:
    parts = check_parts(site, 0, overlapped=False)[1]
    return check_sessions(site) + check_instant(site) + compare(site, truth) + parts + check_leftovers(site)


def _unguarded(site: Site, *statements: str) -> None:
    with site.engine.begin() as connection:
        for table in ("document", "ledger", "event"):
            connection.exec_driver_sql(f"ALTER TABLE revector.{table} DISABLE TRIGGER ALL")
        for statement in statements:
            connection.exec_driver_sql(statement)


INDEX = "revector.idx_docs_g1"
LONGEST = f"(SELECT doc_id FROM {INDEX} ORDER BY chunk DESC, doc_id LIMIT 1)"


@pytest.mark.parametrize(
    ("promise", "fault"),
    [
        ("lost", f"DELETE FROM {INDEX} WHERE doc_id = 'k000'"),
        ("lost", "DELETE FROM revector.ledger WHERE doc_id = 'k000'"),
        ("lost", "DELETE FROM revector.document WHERE doc_id = 'd000'"),
        ("stale", f"UPDATE {INDEX} SET version = version - 1 WHERE doc_id = 'k001'"),
        ("mixed chunks", f"DELETE FROM {INDEX} WHERE doc_id = {LONGEST} AND chunk = 0"),
        ("wrong model", f"UPDATE {INDEX} SET embedding = (SELECT avg(embedding) FROM {INDEX}) WHERE doc_id = 'k001'"),
        ("resurrected", f"UPDATE {INDEX} SET doc_id = 'gone' WHERE doc_id = 'k002'"),
        ("went back", "UPDATE revector.document SET version = version + 9 WHERE doc_id = 'k003'"),
        ("phantom", "UPDATE revector.document SET content = 'k004 forged text' WHERE doc_id = 'k004'"),
        ("history", "UPDATE revector.event SET actor = 'nobody' WHERE seq = 3"),
        ("epochs", "UPDATE revector.collection SET epoch = epoch + 1"),
        ("invariant i1_lost", "UPDATE revector.ledger SET version = version - 1 WHERE doc_id = 'k005'"),
        ("leftover table", "CREATE TABLE revector.idx_docs_g99 ()"),
        ("parts", "UPDATE revector.part SET sha256 = 'another'"),
        ("parts", "UPDATE revector.part SET published_at = NULL"),
    ],
)
def test_a_fault_is_named_by_the_promise_that_it_breaks(served: tuple[Site, Truth], promise: str, fault: str) -> None:
    site, truth = served
    _unguarded(site, fault)
    assert any(finding.startswith(promise) for finding in _findings(site, truth))


def test_a_file_that_a_dead_task_left_is_found_once_a_later_backfill_could_have_removed_it(
    served: tuple[Site, Truth],
) -> None:
    site, truth = served
    archive = site.project.state / "archive"
    archive.mkdir(parents=True)
    (archive / ".left.tmp").write_text("by a killed task")
    assert _findings(site, truth) == []
    assert _findings(site, truth) == ["leftover files in the archive: .left.tmp and 0 more"]


def test_a_session_that_outlives_its_client_is_found(
    served: tuple[Site, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = served
    monkeypatch.setattr(crash_checks, "SESSIONS_S", 0.0)
    with Site(site.url, site.folder).engine.connect():
        assert any(finding.startswith("leftover session") for finding in check_sessions(site))


def test_an_effect_that_happened_twice_or_not_at_all_is_found(served: tuple[Site, Truth]) -> None:
    site, _ = served
    assert check_effects(site, Counter(swap=1, rollback=0)) == []
    assert check_effects(site, Counter(swap=2)) == ["effects: swap was meant 2 times and done 1 times"]


# What a victim's notes leave possible ---------------------------------------------------------------------------------


def _note(
    truth: Truth, call: int, at: float, kind: Kind, *, version: int | None = None, content: str | None = None
) -> None:
    op = "put" if content else "delete"
    truth.note(Record(call, kind, op, "w", at, doc_id="d", content=content, version=version, detail={"batch": call}))


def _possible(truth: Truth) -> list[str | None]:
    return [write.content for write in truth.possible()["d"]]


def test_a_write_without_an_answer_is_possible_beside_the_newest_acknowledged_one() -> None:
    truth = Truth()
    _note(truth, 1, 1.0, "invoke", content="a")
    _note(truth, 1, 2.0, "ok", version=5, content="a")
    _note(truth, 2, 3.0, "invoke")
    assert _possible(truth) == ["a", None]


def test_a_write_whose_process_was_dead_before_a_later_acknowledged_one_is_not_possible() -> None:
    truth = Truth()
    _note(truth, 1, 1.0, "invoke", content="a")
    truth.writes[1].ended = 2.0
    _note(truth, 2, 3.0, "invoke", content="b")
    _note(truth, 2, 4.0, "ok", version=6, content="b")
    assert _possible(truth) == ["b"]


def test_the_newest_version_counts_not_the_latest_answer() -> None:
    truth = Truth()
    for call, version, content, at in ((1, 9, "new", 4.0), (2, 8, "old", 5.0)):
        _note(truth, call, 1.0, "invoke", content=content)
        _note(truth, call, at, "ok", version=version, content=content)
    assert _possible(truth) == ["new"]


def test_a_victim_dies_by_sigkill_where_it_is_armed_and_its_acknowledged_writes_are_read_from_its_notes(
    served: tuple[Site, Truth], forks: Forks
) -> None:
    site, truth = served
    before = truth.acknowledged
    forks.open(site)
    end = forks.run("write", "write.after_commit:3", seed=1, count=9)
    truth.read(site, end)
    assert end.killed
    assert truth.unknown > 0  # committed, and never answered
    assert truth.acknowledged > before
    assert forks.run("drain").status == 0
    assert compare(site, truth) == []


def test_a_child_that_fails_says_what_it_met(served: tuple[Site, Truth], forks: Forks) -> None:
    site, truth = served
    forks.open(site)
    end = forks.run("control", move="swap", revision="r001")
    truth.read(site, end)
    assert end.status == 1
    assert "run the step provision first" in truth.failures[end.child].detail["error"]


def test_reports_of_several_databases_add_up() -> None:
    one, two = Report(1, acknowledged=3), Report(2, acknowledged=4, findings=["lost: x"])
    one.add(two)
    named = {figure.name: figure.value for figure in figures([one.piece("random", 0), two.piece("random", 0)])}
    assert (one.acknowledged, one.findings) == (7, ["lost: x"])
    assert named["found: lost"] == 2
