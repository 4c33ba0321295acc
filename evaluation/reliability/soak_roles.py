"""The processes of a soak that write, ask, work, look and disturb; each has an engine and a record of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from evaluation.reliability.history import Recorder, save
from evaluation.reliability.soak_site import COLLECTION, Content, Judge, Site, doc_id_of, query_of, text_of

from revector.config import Project
from revector.errors import DatabaseUnavailable, RevectorError

CALLS = 10**9
"""Numbers of calls that each process may use."""

UPDATES, PUTS = 0.6, 0.3
SAMPLE_S = 1.0
T = TypeVar("T")
ERRORS = (RevectorError, sa.exc.SQLAlchemyError)


@dataclass(frozen=True, slots=True)
class Load:
    """What one window of a soak is asked for; ``queries_per_s`` 0 means as many as the machine gives."""

    window: int
    seed: int
    until: float
    """Of ``time.monotonic``, which is one clock for all processes of a machine."""
    writes_per_s: float
    sessions: int
    queries_per_s: float
    query_sessions: int
    before: Mapping[str, str]
    """Content of every document at the window's start."""


class Log(Recorder):
    """A recorder whose calls no other process of the window uses."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self._calls = itertools.count(process * CALLS + 1)


def paced(until: float, per_s: float) -> Iterator[None]:
    """Yield ``per_s`` times a second until then, as far as the machine can; 0 means without a pause."""
    due = time.monotonic()
    while time.monotonic() < until:
        yield
        if per_s:
            due = max(due + 1 / per_s, time.monotonic() - 1)
            time.sleep(max(0.0, min(due, until) - time.monotonic()))


def run_threads(bodies: list[Callable[[], None]]) -> None:
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


# Writers --------------------------------------------------------------------------------------------------------------


def write(site: Site, load: Load, process: int, path: Path) -> None:
    """Update, put and delete hot documents in several sessions, each document from any of them."""
    log, documents = Log(process), waited_for(lambda: site.project().documents(COLLECTION))
    turns = [itertools.count(1) for _ in range(site.hot)]
    gone = {n for n in range(site.hot) if doc_id_of(site.documents - site.hot + n) not in load.before}

    def session(number: int) -> None:
        draw = random.Random(f"{load.seed} {load.window} {process} {number}")  # noqa: S311 - a workload
        name = f"writer {process}.{number}"
        for _ in paced(load.until, load.writes_per_s / load.sessions):
            kind = draw.random()
            absent = list(gone) if UPDATES <= kind < UPDATES + PUTS else []
            n = draw.choice(absent) if absent else draw.randrange(site.hot)
            doc_number = site.documents - site.hot + n
            doc_id = doc_id_of(doc_number)
            if kind < UPDATES + PUTS:
                gone.discard(n)
                token = str(Content(doc_number, load.window, next(turns[n])))
                call = log.invoke("put", name, doc_id=doc_id, content=token)
                with _answered(log, call, "put", name, doc_id):
                    log.ok(call, "put", name, version=documents.put(doc_id, text_of(token)).versions.get(doc_id))
            else:
                call = log.invoke("delete", name, doc_id=doc_id)
                with _answered(log, call, "delete", name, doc_id):
                    log.ok(call, "delete", name, version=documents.delete(doc_id).versions.get(doc_id))
                    gone.add(n)

    run_threads([lambda n=n: session(n) for n in range(load.sessions)])  # type: ignore[misc]
    save(path, log.records)


@contextlib.contextmanager
def _answered(log: Log, call: int, op: str, name: str, doc_id: str) -> Iterator[None]:
    """Note a write that ended in an error: it is done or not done, never half."""
    try:
        yield
    except ERRORS as error:
        log.info(call, op, name, doc_id=doc_id, detail=_said(error))


def _said(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"[:300], "down": isinstance(error, DatabaseUnavailable)}


# Queries --------------------------------------------------------------------------------------------------------------


def ask(site: Site, load: Load, process: int, path: Path) -> None:
    """Search through the alias, for any document or a hot one, by document or by chunk; judge every answer."""
    log, project = Log(process), waited_for(lambda: opened(site))
    searcher, judge = project.searcher(COLLECTION), Judge(load.before)

    def session(number: int) -> None:
        draw = random.Random(f"{load.seed} {load.window} {process} {number}")  # noqa: S311 - a workload
        name = f"searcher {load.window}.{process}.{number}"
        for _ in paced(load.until, load.queries_per_s / load.query_sessions):
            hot = draw.random() < 0.5
            query = query_of(draw.randrange(site.documents - site.hot if hot else 0, site.documents))
            by = "chunk" if draw.random() < 0.2 else "document"
            call = log.invoke("query", name)
            try:
                answer = searcher.search(query, 5, by=by)
            except ERRORS as error:
                log.fail(call, "query", name, detail=_said(error))
                continue
            hits, encoder, own = judge.judged(query, answer)
            log.ok(call, "query", name, gen=answer.generation, hits=hits, encoder=encoder, index_encoder=own)

    run_threads([lambda n=n: session(n) for n in range(load.query_sessions)])  # type: ignore[misc]
    save(path, log.records)


def waited_for(make: Callable[[], T]) -> T:
    """Return what ``make`` gives; try again while the database is down: it is restarted under the soak."""
    for _ in range(600):
        with contextlib.suppress(DatabaseUnavailable, sa.exc.OperationalError):
            return make()
        time.sleep(0.1)
    return make()


# Workers, samples, disturbance ----------------------------------------------------------------------------------------


def work(site: Site) -> None:
    """Run a worker until it is killed."""
    logging.basicConfig(filename=site.root / "worker.log", level=logging.WARNING, format="%(asctime)s %(message)s")
    waited_for(lambda: opened(site)).worker().run(threading.Event())


def opened(site: Site) -> Project:
    """Return the project with an engine that has met its database."""
    project = site.project()
    project.engine.connect().close()
    return project


_MISSING = """
SELECT count(*) FROM document d
  LEFT JOIN (SELECT DISTINCT doc_id, version FROM {name}) i
    ON i.doc_id = d.doc_id AND (d.deleted OR i.version = d.version)
  LEFT JOIN pending p ON p.gen = :gen AND p.doc_id = d.doc_id AND p.version >= d.version
WHERE d.cid = :cid AND p.gen IS NULL AND d.deleted = (i.doc_id IS NOT NULL)
"""
"""Documents that an index neither shows as they are nor has work for; every put of a soak changes the version."""

_LAGS = """
SELECT extract(epoch FROM l.applied_at - d.changed_at)::float8 FROM ledger l JOIN collection c ON c.active_gen = l.gen
JOIN document d ON d.cid = c.cid AND d.doc_id = l.doc_id AND d.version = l.version WHERE c.cid = :cid AND
l.applied_at > clock_timestamp() - :seconds * interval '1 second' AND d.changed_at > :since
"""


def sample(site: Site, load: Load, process: int, path: Path) -> None:
    """Look at the standby generation, whole, once a second; and at the lag of what was just applied."""
    log, project = Log(process), waited_for(lambda: opened(site))
    cid, lags = waited_for(lambda: project.cid(COLLECTION)), list[float]()
    since = waited_for(lambda: _value(project, "SELECT clock_timestamp()"))
    for _ in paced(load.until, 1 / SAMPLE_S):
        with contextlib.suppress(*ERRORS):
            with project.engine.connect() as connection:
                lags += connection.scalars(sa.text(_LAGS), {"cid": cid, "seconds": SAMPLE_S, "since": since})
            call = log.invoke("standby", "sampler")
            standby = _standby(project, cid)
            if standby is not None:
                log.ok(call, "standby", "sampler", gen=standby[0], detail={"missing": standby[1]})
    save(path, log.records)
    path.with_suffix(".lags").write_text(json.dumps(lags))


def _standby(project: Project, cid: int) -> tuple[int, int] | None:
    """Return the standby generation and how many documents it misses, in one snapshot."""
    engine = project.engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection, connection.begin():
        row = connection.execute(
            sa.text(
                "SELECT g.gen, g.physical_name FROM collection c JOIN generation g ON g.gen = c.standby_gen "
                "WHERE c.cid = :cid"
            ),
            {"cid": cid},
        ).one_or_none()
        if row is None:
            return None
        values = {"gen": row.gen, "cid": cid}
        return row.gen, int(connection.scalar(sa.text(_MISSING.format(name=row.physical_name)), values) or 0)


def _value(project: Project, sql: str) -> Any:
    with project.engine.connect() as connection:
        return connection.scalar(sa.text(sql))


def end_backends(site: Site, load: Load, every_s: float, path: Path) -> None:
    """End a random connection of the database now and then, as an administrator or a proxy would; count them."""
    draw, ended = random.Random(f"{load.seed} {load.window} backends"), 0  # noqa: S311 - a moment
    project = waited_for(lambda: opened(site))
    while (pause_s := draw.expovariate(1 / every_s)) < load.until - time.monotonic():
        time.sleep(pause_s)
        with contextlib.suppress(*ERRORS), project.engine.connect() as connection:
            others = connection.scalars(
                sa.text(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend' ORDER BY pid"
                )
            ).all()
            if others:
                ended += bool(
                    connection.scalar(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": draw.choice(others)})
                )
    path.write_text(json.dumps(ended))
