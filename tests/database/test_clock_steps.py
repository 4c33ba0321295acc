"""The database's clock is set by hours and days, forward and back, wherever something waits or is decided by it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

import revector
from revector.database.engine import make_engine
from revector.errors import WindowOpen
from revector.indexing import waiting
from revector.indexing.waiting import wait_until_done
from revector.interfaces import Document, NoProgress
from revector.registry import moves
from revector.registry.control import control
from revector.upkeep.rereading import reread_source
from worlds import World, working

SOURCE = Path(revector.__file__).parent
HOUR_S = 3_600.0
STEPS_S = [-72 * HOUR_S, -3 * HOUR_S, 3 * HOUR_S, 72 * HOUR_S]

PATH = "revector, pg_catalog, public, extensions"

INSTALL = """
CREATE SCHEMA IF NOT EXISTS simulated;
CREATE TABLE IF NOT EXISTS simulated.clock (ahead interval NOT NULL);
TRUNCATE simulated.clock;
INSERT INTO simulated.clock VALUES ('0');
CREATE OR REPLACE FUNCTION revector.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  $$ SELECT pg_catalog.clock_timestamp() + ahead FROM simulated.clock $$;
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT d.adrelid::regclass AS place, a.attname AS name FROM pg_attrdef d
    JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
    WHERE pg_get_expr(d.adbin, d.adrelid) = 'clock_timestamp()' LOOP
    EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT revector.clock_timestamp()', one.place, one.name);
  END LOOP;
END $$;
"""
"""A ``clock_timestamp()`` of the schema's own, which the sessions under test find first; the product is not touched.

Triggers follow it as statements do; column defaults are bound to it once.
"""

BY_THE_CLOCK = {
    "documents/deadletters.py": "due now, whatever the clock says later: test_leases_and_pauses",
    "gate/ann.py": "measures which documents changed meanwhile",
    "gate/shadow_time.py": "hours of shadow reads: test_shadow_time",
    "history/audit.py": "shown",
    "history/canary_series.py": "when the weekly test of a canary is due: it comes earlier or later",
    "history/news.py": "which events are still news: a notice may be left out after a step of a day",
    "indexing/backfill.py": "shown: when a part was published",
    "indexing/dial.py": "how long the oldest item waits: a backfill slows down until it is done",
    "indexing/loads.py": "charts, and whether a worker was seen, said where a wait gave up",
    "indexing/publish.py": "age of an entry, for `stale`: another embedding",
    "indexing/watch.py": "notices a step: test_watch",
    "migration/leftovers.py": "wait before a drop: test_a_drop_waits",
    "monitoring/gauges.py": "metrics",
    "pages/over_time.py": "charts",
    "planning/estimating.py": "an estimate of the daily change",
    "registry/archived.py": "how long embeddings are kept: another embedding",
    "registry/collections.py": "end of a window: test_watch",
    "registry/control.py": "shown: who took a lease, when; the time of an event",
    "registry/moves.py": "windows: test_watch",
    "registry/sharding.py": "rate of a backfill, shown",
    "registry/spending.py": "the month of a cap",
    "registry/verdicts.py": "evidence: here",
    "registry/watching.py": "windows: test_watch",
    "registry/work.py": "test_leases_and_pauses",
    "rehearsal/trial.py": "a rehearsal's own rows are due now",
    "serving/keys.py": "shown: when a key was revoked",
    "serving/servers.py": "which processes answer: each says so again in seconds",
    "serving/shadow_rows.py": "the hour of a sum that is shown",
    "status.py": "shown",
    "upkeep/stale.py": "age of an entry: another embedding",
    "registry/intents.py": (
        "garbage waits longer, or is removed early: then its successor is shown, and an attempt in flight is made again"
    ),
    "indexing/rearm.py": "due now: test_leases_and_pauses",
}
"""Every file that asks the database for its time, and what a step does there or which test steps it."""


def test_every_use_of_the_databases_clock_is_known_with_what_a_step_does() -> None:
    asks = re.compile(r"clock_timestamp\(\)|\bnow\(\) [-+](?!>)|\bnow\(\), epoch|current_timestamp", re.IGNORECASE)
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if asks.search(path.read_text(encoding="utf-8")) and "schema" not in path.parts
    }
    assert found == BY_THE_CLOCK.keys()


@dataclass
class Stepped:
    """A world whose database has a clock that can be set."""

    world: World

    def set(self, seconds: float) -> None:
        self.world.sql("UPDATE simulated.clock SET ahead = make_interval(secs => :seconds)", seconds=seconds)


@pytest.fixture
def stepped(served: World) -> Iterator[Stepped]:
    with served.engine.begin() as connection:
        connection.connection.cursor().execute(INSTALL)
    engine = make_engine(served.database_url, search_path=PATH)
    served.project.__dict__["raw_engine"].dispose()
    served.project.__dict__["raw_engine"] = served.project.__dict__["engine"] = engine
    yield Stepped(served)
    engine.dispose()


class Source:
    """Documents of which the last comes after something else happened."""

    name = "a source"

    def __init__(self, documents: list[Document], meanwhile: object) -> None:
        self.documents, self.meanwhile = documents, meanwhile

    def __iter__(self) -> Iterator[Document]:
        *first, last = self.documents
        yield from first
        self.meanwhile()  # type: ignore[operator]
        yield last


@pytest.mark.parametrize("seconds", STEPS_S)
def test_a_document_written_while_a_source_is_read_is_never_deleted_as_missing_whatever_the_clock_did(
    stepped: Stepped, seconds: float
) -> None:
    world = stepped.world
    rows = [Document(row.doc_id, row.content) for row in world.sql("SELECT doc_id, content FROM document")]

    def write() -> None:
        stepped.set(seconds)
        world.documents.put("mine", "written by another application meanwhile")
        world.documents.put(rows[0].id, "and this was changed by it")

    with world.engine.connect() as connection:
        cid = connection.scalar(sa.text("SELECT cid FROM collection"))
    kept, gone = [one for one in rows if one.id not in (rows[0].id, rows[1].id)], rows[1].id
    done = reread_source(world.engine, cid, world.documents, Source(kept, write), max_missing=0.5, actor="tester")
    assert done.deleted == 1
    assert world.documents.get("mine").text == "written by another application meanwhile"
    assert world.documents.get(rows[0].id).text == "and this was changed by it"
    assert world.value("SELECT deleted FROM document WHERE doc_id = :id", id=gone)


@pytest.mark.parametrize("seconds", STEPS_S)
def test_a_wait_for_workers_ends_with_what_was_due_whatever_the_clock_did(
    stepped: Stepped, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… though someone goes on writing: what comes later is not waited for."""
    world, number = stepped.world, iter(range(1_000, 100_000))
    world.put(5, start=500)
    polls = list[float]()

    class Time:
        monotonic = staticmethod(lambda: float(len(polls)))

        @staticmethod
        def sleep(seconds_: float) -> None:
            polls.append(seconds_)
            assert len(polls) < 20, "it waits for what came later"
            if len(polls) == 1:
                stepped.set(seconds)
            world.settle()
            world.put(1, start=next(number))

    monkeypatch.setattr(waiting, "time", Time)
    assert wait_until_done(world.engine, world.collection.cid, "docs", patience_s=60) == 5


@pytest.mark.parametrize("seconds", STEPS_S)
def test_evidence_of_another_time_is_measured_again_before_a_swap(stepped: Stepped, seconds: float) -> None:
    world = stepped.world
    world.upgrade("b200", to="approve")
    measured = world.value("SELECT count(*) FROM gate_result")
    stepped.set(seconds)
    world.upgrade("b200")
    assert world.generation().revision == "b200"
    again = world.value("SELECT count(*) FROM gate_result") - measured
    assert (again > 0) == (seconds < 0 or seconds > 24 * HOUR_S), "within a day ahead it is current"


@pytest.mark.parametrize("seconds", STEPS_S)
def test_a_migration_and_its_worker_go_on_while_the_clock_steps_before_each_of_its_steps(
    stepped: Stepped, seconds: float
) -> None:
    world, ahead = stepped.world, 0.0
    for step in ("plan", "provision", "backfill", "index", "verify", "gate", "approve", "swap"):
        ahead = 0.0 if ahead else seconds
        world.put(2, start=700)
        stepped.set(ahead)
        with working(world):
            world.upgrade("b200", to=step)
            world.documents.wait_until_served(world.put(2, start=800), timeout_s=30)
    assert world.generation().revision == "b200"
    with pytest.raises(WindowOpen):
        world.migrator.retire("it is not over")
    stepped.set(ahead)
    world.settle()
    for role in ("active", "standby"):
        assert world.differences(world.generation(role)) == []


@pytest.mark.parametrize("seconds", STEPS_S)
def test_leases_and_pauses_of_work_end_soon_whatever_the_clock_did(stepped: Stepped, seconds: float) -> None:
    world = stepped.world
    ids = sorted(world.put(3, start=600).versions)
    world.sql(
        "UPDATE pending SET lease_until = revector.clock_timestamp() + interval '60 s' WHERE doc_id = :id", id=ids[0]
    )
    pause = "UPDATE pending SET attempts = 1, due_at = revector.clock_timestamp() + interval '1 s' WHERE doc_id = :id"
    world.sql(pause, id=ids[1])
    stepped.set(seconds)
    world.settle()
    stepped.set(seconds + 120)  # both are over by any clock
    world.settle()
    assert world.sql("SELECT doc_id FROM pending WHERE doc_id = ANY(:ids)", ids=ids) == []


class Impatient(NoProgress):
    """Refuses to wait for long."""

    def start(self, what: str, *_: object, **__: object) -> None:
        assert not what.startswith("wait") or float(what.split()[1]) < 60, what


@pytest.mark.parametrize("seconds", [-3 * HOUR_S, 72 * HOUR_S])
def test_a_drop_waits_its_drain_time_whatever_the_clock_did(stepped: Stepped, seconds: float) -> None:
    world = stepped.world
    world.upgrade("b200")
    world.migrator.rollback("a trial")
    with control(world.engine, world.collection.cid, actor="tester", epoch=world.collection.epoch) as held:
        moves.retire(held, reason="a trial", now=True)
    stepped.set(seconds)
    world.project.migrator("docs", actor="tester", progress=Impatient()).retire()
    assert world.value("SELECT count(*) FROM generation WHERE revision = 'b200' AND NOT dropped") == 0


def test_no_decision_is_made_by_the_clock_of_a_host() -> None:
    """The time of day of a process is read where it is shown, measured or compared with the same host's files."""
    allowed = {
        "archive/storage.py": "age of temporary files on this very host",
        "encoders/api/limits.py": "how far away the date in a provider's Retry-After is",
        "labels/batch.py": "shown: when a passage was judged",
        "local/application.py": "figures of the demo",
        "registry/intents.py": "names of attempts; a wrong one leaves a loss of the last minute to verify",
        "local/airflow_client.py": "name and start of a run in Airflow's own time",
    }
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today")
    }
    assert found == set(allowed)
