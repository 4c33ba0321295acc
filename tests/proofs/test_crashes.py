"""SIGKILL of real processes at every named crash point and at random: `evaluation/reliability/crashes.py`, in short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa
from evaluation.reliability import checks
from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_points import OF_TASKS, PASSES, Stories
from evaluation.reliability.crashes import LAYER, run_points, run_tasks
from evaluation.reliability.forks import Forks, Notes
from evaluation.reliability.history import Record, Recorder
from evaluation.reliability.judge import at_rest
from evaluation.reliability.site import Site

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
        made.append(Site(tmp_path_factory.mktemp("crashes") / "project", url))
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
    assert stories.findings == []
    assert {(kill.during, kill.point) for kill in kills} == set(STORIES[number].items())


def test_each_point_kills_in_one_of_the_stories() -> None:
    assert sorted(point for armed in STORIES for point in armed.values()) == sorted(PASSES)


def test_every_point_is_in_the_stories_or_in_the_dag() -> None:
    assert set(PASSES) | {OF_TASKS} == set(POINTS)


@pytest.mark.long
@pytest.mark.skipif(find_spec("airflow") is None, reason="the extra `airflow` is not installed")
def test_a_dag_killed_after_its_swap_runs_to_its_end_again_and_swaps_once(
    databases: Databases, template: str, tmp_path: Path
) -> None:
    url = databases.url(databases.create(template))
    story = run_tasks(url, tmp_path / "project", ["swap"])
    assert story.findings == []
    assert [kill.during for kill in story.kills] == ["swap"]


def test_one_call_tells_the_stories_of_some_points(databases: Databases, template: str, tmp_path: Path) -> None:
    url = databases.url(databases.create(template))
    stories = run_points(url, tmp_path / "project", [(SEED, "index.after_build", False)])
    assert stories.findings == []
    assert Counter(kill.point for kill in stories.kills) == {"index.after_build": 1}
    piece = {"runs": 1, "seconds": 1.0, "broken": 0, "tally": stories.tally, "findings": []}
    named = {figure.name: figure for figure in LAYER.figures([piece])}
    assert named["kills at index.after_build"].value == 1
    assert named["processes killed with SIGKILL"].value == 1
    assert named["named crash points that killed"].holds is False
    assert named["found: lost"].holds is True


# What the comparison sees ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(sites: Sites) -> tuple[str, list[Record]]:
    """A database whose first generation is live, unharmed, and what was written into it."""
    site, recorder = sites(), Recorder()
    site.begin(recorder)
    told = copy(recorder.records)
    assert _findings(site, recorder) == []
    site.close()
    return str(sa.make_url(site.url).database), told


@pytest.fixture
def served(sites: Sites, first: tuple[str, list[Record]]) -> Iterator[tuple[Site, Recorder]]:
    """A copy of ``first``."""
    site, recorder = sites(first[0]), Recorder(first=1_000)
    recorder.records = copy(first[1])
    yield site, recorder
    site.close()


def _findings(site: Site, recorder: Recorder) -> list[Finding]:
    engine, cid = site.engine, site.cid
    found = checks.sessions(engine) + checks.instant(engine, cid) + checks.leftovers(engine)
    found += checks.parts(engine, site.project.state / "archive", 0, overlapped=False)[1]
    return found + at_rest(engine, cid, site.judge(recorder), recorder)


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
        ("lost", f"DELETE FROM {INDEX} WHERE doc_id = 'd000000'"),
        ("lost", "DELETE FROM revector.ledger WHERE doc_id = 'd000000'"),
        ("lost", "DELETE FROM revector.document WHERE doc_id = 'd000009'"),
        ("lost", "INSERT INTO revector.pending (gen, doc_id, version) SELECT 1, doc_id, version FROM document LIMIT 1"),
        ("phantom", f"UPDATE {INDEX} SET version = version - 1 WHERE doc_id = 'd000001'"),
        ("mixed chunks", f"DELETE FROM {INDEX} WHERE doc_id = {LONGEST} AND chunk = 0"),
        ("mixed chunks", f"UPDATE {INDEX} SET start = start + 1 WHERE doc_id = 'd000001' AND chunk = 0"),
        (
            "wrong model",
            f"UPDATE {INDEX} SET embedding = (SELECT avg(embedding) FROM {INDEX}) WHERE doc_id = 'd000001'",
        ),
        ("resurrected", f"UPDATE {INDEX} SET doc_id = 'gone' WHERE doc_id = 'd000002'"),
        ("phantom", "UPDATE revector.document SET version = version + 9 WHERE doc_id = 'd000003'"),
        ("phantom", "UPDATE revector.document SET content = 'd000004 forged text' WHERE doc_id = 'd000004'"),
        ("history", "UPDATE revector.event SET actor = 'nobody' WHERE seq = 3"),
        ("swap history", "UPDATE revector.collection SET epoch = epoch + 1"),
        ("lost", "UPDATE revector.ledger SET version = version - 1 WHERE doc_id = 'd000005'"),
        ("leftover", "CREATE TABLE revector.idx_docs_g99 ()"),
        ("parts", "UPDATE revector.part SET sha256 = 'another'"),
        ("parts", "UPDATE revector.part SET published_at = NULL"),
    ],
)
def test_a_fault_is_named_by_the_promise_that_it_breaks(
    served: tuple[Site, Recorder], promise: str, fault: str
) -> None:
    site, recorder = served
    _unguarded(site, fault)
    assert promise in {finding.promise for finding in _findings(site, recorder)}


def test_a_file_that_a_dead_task_left_is_found_once_a_later_backfill_could_have_removed_it(
    served: tuple[Site, Recorder],
) -> None:
    site, recorder = served
    archive = site.project.state / "archive"
    archive.mkdir(parents=True)
    (archive / ".left.tmp").write_text("by a killed task")
    assert _findings(site, recorder) == []
    assert _findings(site, recorder) == [Finding("leftover", "files in the archive: .left.tmp and 0 more")]


def test_a_session_that_outlives_its_client_is_found(
    served: tuple[Site, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = served
    monkeypatch.setattr(checks, "SESSIONS_S", 0.0)
    with Site(site.folder, site.url).engine.connect():
        assert [finding.promise for finding in checks.sessions(site.engine)] == ["leftover"]


def test_an_effect_that_happened_twice_or_not_at_all_is_found(served: tuple[Site, Recorder]) -> None:
    site, _ = served
    assert checks.effects(site.engine, site.cid, Counter(swap=1, rollback=0)) == []
    [found] = checks.effects(site.engine, site.cid, Counter(swap=2))
    assert str(found) == "effects: swap was meant 2 times and done 1 times"


# What victims note ----------------------------------------------------------------------------------------------------


def test_a_victim_dies_by_sigkill_where_it_is_armed_and_its_acknowledged_writes_are_read_from_its_notes(
    served: tuple[Site, Recorder], forks: Forks
) -> None:
    site, recorder = served
    notes = Notes(recorder)
    before = notes.count("ok")
    forks.open(site)
    end = forks.run("write", "write.after_commit:3", seed=1, count=9)
    notes.read(site, end)
    assert end.killed
    assert notes.count("info") > 0  # committed, and never answered
    assert notes.count("ok") > before
    assert forks.run("drain").status == 0
    assert at_rest(site.engine, site.cid, site.judge(recorder), recorder) == []


def test_a_child_that_fails_says_what_it_met(served: tuple[Site, Recorder], forks: Forks) -> None:
    site, recorder = served
    forks.open(site)
    end, notes = forks.run("control", move="swap", revision="r00001"), Notes(recorder)
    notes.read(site, end)
    assert end.status == 1
    assert "run the step provision first" in notes.said(end)


def test_findings_of_several_pieces_add_up() -> None:
    piece = {"runs": 1, "seconds": 1.0, "broken": 1, "tally": {"acknowledged": 3}, "findings": ["seed 1: lost: x"]}
    named = {figure.name: figure.value for figure in LAYER.figures([piece, piece])}
    assert (named["documents' writes that were acknowledged"], named["found: lost"]) == (6, 2)
