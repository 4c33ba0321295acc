"""What victims do: write, search, ingest, work, embed shards and move the slots, all by the library's real calls.

What a victim was answered, it notes before it goes on, in a file that survives the process (``history.Recorder``). A
call without its second line has an unknown outcome.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import logging
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.controller import Controller
from evaluation.reliability.moves_seen import watched_moves
from evaluation.reliability.observer import rows, value
from evaluation.reliability.playing import Child
from evaluation.reliability.site import COLLECTION, NEW
from evaluation.reliability.traffic import (
    ERRORS,
    Author,
    Told,
    do,
    paced,
    recorded,
    said,
    token_of,
    waited_for,
)

from revector.adoption.presets import AdoptionRequest
from revector.cli import main
from revector.cli.exits import INTERRUPTED, UNEXPECTED
from revector.interfaces import Document

OUTAGE_S = 0.25
INGESTED = 20
"""Documents that a source holds."""

PEOPLE = "approval|rollback_window|rollback|retire"
"""Tasks of the DAG that ask someone, or follow the answer: they count as done."""

SAMPLE_S = 1.0


# Applications ---------------------------------------------------------------------------------------------------------


def write(
    me: Child,
    *,
    seed: int,
    hot: int = 0,
    sessions: int = 1,
    count: int | None = None,
    per_s: float = 0.0,
    until: float = math.inf,
    fresh: float = 0.0,
) -> None:
    """Put, put several, delete and create again, in several sessions: ``count`` calls of each, or until then.

    To the last ``hot`` documents, or to all of them; so often (``fresh``) to a new one.
    """
    documents = waited_for(lambda: me.site.project.documents(COLLECTION))
    kept = frozenset[str]() if hot else me.site.kept

    def session(number: int) -> None:
        draw, name = random.Random(f"{seed} {me.number} {number}"), f"{me.name}.{number}"
        author = Author(f"{me.number}s{number}", me.site.ids[-hot:], kept, draw, fresh=fresh)
        for _ in itertools.islice(paced(until, per_s / sessions), count):
            writes = author.some()
            with recorded(me.recorder, name, writes) as told:
                told.update(do(documents, writes, me.site.text, images=me.site.shape.images))

    run_threads(partial(session, number) for number in range(sessions))


def ask(
    me: Child,
    *,
    seed: int,
    hot: int = 0,
    sessions: int = 1,
    per_s: float = 0.0,
    until: float = math.inf,
    moves: bool = True,
) -> None:
    """Search through the alias, for any document or a hot one, by document or by chunk; judge every answer.

    ``moves``: the history says who is active when.
    """
    searcher = waited_for(lambda: me.site.project.searcher(COLLECTION))
    ids, facts = me.site.ids, {} if moves else {"gen": None}

    def session(number: int) -> None:
        draw, name, judge = random.Random(f"{seed} {number}"), f"{me.name}.{number}", me.site.judge(Told(me.site.log))
        for _ in paced(until, per_s / sessions):
            query = draw.choice(ids[-hot:] if draw.random() < 0.5 else ids)
            by, call = "chunk" if draw.random() < 0.2 else "document", me.recorder.invoke("query", name)
            try:
                answer = searcher.search(query, 5, by=by)
            except ERRORS as error:
                me.recorder.fail(call, "query", name, detail=said(error))
            else:
                me.recorder.ok(call, "query", name, **judge.answer(query, answer, by=by) | facts)

    run_threads(partial(session, number) for number in range(sessions))


def run_threads(bodies: Iterable[Callable[[], None]]) -> None:
    """Run every body in a thread; raise the first error of any."""
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def ingest(me: Child, *, round_: int, pause_s: float = 0.0) -> None:
    """Stream a source in; the same round holds the same texts, so that a re-run finds some of them written."""
    writes = {doc_id: token_of(doc_id, "ingest", round_) for doc_id in (f"i{n:03}" for n in range(INGESTED))}
    documents = me.site.project.documents(COLLECTION)
    time.sleep(pause_s)
    with recorded(me.recorder, me.name, writes, whole=False) as told:
        source = Listed([Document(doc_id, me.site.text(token)) for doc_id, token in writes.items()])
        if documents.ingest(source, actor=me.name).written:  # else by an ingester before, whose notes may say so
            # Nobody else writes these ids.
            found = rows(me.site.engine, "SELECT doc_id, version FROM document WHERE doc_id LIKE 'i%'")
            told.update({row.doc_id: row.version for row in found})
    if me.recorder.records[-1].kind != "ok":
        time.sleep(OUTAGE_S)


@dataclass
class Listed:
    """A source that holds a list."""

    documents: Sequence[Document]
    name: str = "a list"

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)


# Workers and moves ----------------------------------------------------------------------------------------------------


def work(me: Child) -> None:
    """Run the service, for ever."""
    waited_for(me.site.project.worker).run(threading.Event())


def drain(me: Child, *, limit_s: float = 20.0) -> None:
    """Work until nothing waits in any slot. Raises ``TimeoutError``."""
    worker, deadline = me.site.project.worker(), time.monotonic() + limit_s
    waiting = "SELECT count(*), string_agg(DISTINCT p.state, ' ') FROM pending p JOIN slot s USING (gen)"
    while True:
        done = worker.drain()
        [(count, states)] = rows(me.site.engine, waiting)
        if not count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} items still wait after {limit_s:.0f} s ({states})")
        if not done:
            time.sleep(0.02)


def embed(me: Child, *, revision: str, shard: int) -> None:
    """Embed one shard, as a task of the DAG does."""
    me.site.project.migrator(COLLECTION, actor=me.name).embed_shard(revision, shard)


def control(me: Child, *, move: str, **options: Any) -> None:
    """Make one move: a step, a rollback, a retirement, an abort, or an upgrade of many steps."""
    migrator = me.site.project.migrator(COLLECTION, actor=me.name)
    if move == "upgrade":
        migrator.upgrade(**options)
    else:
        migrator.run(move, **options)


def adopt(me: Child) -> None:
    """Take the table of ``adopting`` over, or go on with it."""
    adopter = me.site.project.adopter(COLLECTION)
    if adopter.adoption() is None:
        columns = {"text": ("title", "body"), "separator": " ", "where": "lang = 'en'"}
        adopter.begin(adopter.plan(AdoptionRequest(table="public.notes", model="hashing", **columns)))
    adopter.resume()


def unadopt(me: Child) -> None:
    """Give the table back."""
    me.site.project.adopter(COLLECTION).end()


def command(me: Child, *, words: Sequence[str], whole: bool) -> None:
    """Become `revector` with these words, ``whole``: as a new process; it is open to SIGINT from its beginning on."""
    os.dup2(os.open(me.site.log / f"{me.number}.err", os.O_WRONLY | os.O_CREAT, 0o600), 2)
    os.chdir(me.site.folder)
    sys.argv, status = ["revector", *words], UNEXPECTED
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL if whole else signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if whole:
            os.execv(sys.executable, [sys.executable, "-X", "faulthandler", "-m", *sys.argv])  # noqa: S606
        logging.disable(logging.NOTSET)
        faulthandler.enable()
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:  # before the first line of ours
        status = INTERRUPTED
    finally:
        os._exit(status)


def dag(me: Child) -> None:
    """Run the DAG of the migration once in this process, as `airflow dags test` does. Raises ``RuntimeError``."""
    home = me.site.folder / "airflow"
    (home / "dags").mkdir(parents=True, exist_ok=True)
    (home / "dags" / "migrate.py").write_text(
        "from revector.airflow import migration_dag\n\ndag = migration_dag(deadline=None)\n"
    )
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "REVECTOR_CONFIG": str(me.site.folder / "revector.toml"),
    }
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    if not (home / "airflow.db").exists():
        initdb()
    form = {"collection": COLLECTION, "revision": NEW, "approval": False, "rollback_hours": 1}
    state = DagBag(str(home / "dags")).dags["revector_migrate"].test(run_conf=form, mark_success_pattern=PEOPLE).state
    if state != "success":
        raise RuntimeError(f"the DAG ended with {state}")


def controller(me: Child, *, seed: int, until: float, every_s: float) -> None:
    """Migrate, swap, roll back and retire until then, in one history with the controllers before this one."""
    made = Controller(me.site, f"{seed} {me.number}", me.site.folder / "moves.jsonl")
    with watched_moves(made.note, rows=True):
        made.run(until, every_s)


def several(me: Child, *, scenes: Sequence[Mapping[str, Any]]) -> None:
    """Play several actors, one after another."""
    for scene in scenes:
        globals()[scene["actor"]](me, **scene["arguments"])


# Looking and disturbing -----------------------------------------------------------------------------------------------

_STANDBY = (
    "SELECT g.gen, g.physical_name FROM collection c JOIN generation g ON g.gen = c.standby_gen WHERE c.cid = :cid"
)
_MISSING = """
SELECT count(*) FROM document d
  LEFT JOIN (SELECT DISTINCT doc_id, version FROM {name}) i
    ON i.doc_id = d.doc_id AND (d.deleted OR i.version = d.version)
  LEFT JOIN pending p ON p.gen = :gen AND p.doc_id = d.doc_id AND p.version >= d.version
WHERE d.cid = :cid AND d.deleted = (i.doc_id IS NOT NULL) AND p.gen IS NULL
"""
"""Documents that an index neither shows as they are nor has work for; every put of a soak changes the version."""

_LAGS = """
SELECT extract(epoch FROM l.applied_at - d.changed_at)::float8 FROM ledger l JOIN collection c ON c.active_gen = l.gen
JOIN document d ON d.cid = c.cid AND d.doc_id = l.doc_id AND d.version = l.version WHERE c.cid = :cid AND
l.applied_at > clock_timestamp() - :seconds * interval '1 second' AND d.changed_at > :since
"""
_OTHERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND backend_type = 'client backend' ORDER BY pid
"""


def sample(me: Child, *, until: float) -> None:
    """Look at the standby generation, whole, once a second; and at the lag of what was just applied."""
    engine, cid = me.site.engine, waited_for(lambda: me.site.cid)

    since = waited_for(lambda: value(engine, "SELECT clock_timestamp()"))
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    for _ in paced(until, 1 / SAMPLE_S):
        with contextlib.suppress(*ERRORS), snapshot.connect() as connection:
            values = {"cid": cid, "seconds": SAMPLE_S, "since": since}
            lags = list(connection.scalars(sa.text(_LAGS), values))
            call = me.recorder.invoke("standby", "sampler")
            row = connection.execute(sa.text(_STANDBY), {"cid": cid}).one_or_none()
            missing = 0
            if row is not None:
                statement = sa.text(_MISSING.format(name=row.physical_name))
                missing = int(connection.scalar(statement, {"gen": row.gen, "cid": cid}) or 0)
            gen, detail = row and row.gen, {"missing": missing, "lags": lags}
            me.recorder.ok(call, "standby", "sampler", gen=gen, detail=detail)


def end_backends(me: Child, *, seed: str, every_s: float, until: float) -> None:
    """End a random connection of the database now and then, as an administrator or a proxy would; note each."""
    draw = random.Random(seed)
    while (pause_s := draw.expovariate(1 / every_s)) < until - time.monotonic():
        time.sleep(pause_s)
        with contextlib.suppress(*ERRORS), me.site.engine.connect() as connection:
            others = connection.scalars(sa.text(_OTHERS)).all()
            if others and connection.scalar(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": draw.choice(others)}):
                me.recorder.invoke("backend ended", me.name)
