"""What victims do: write, search, ingest, work, embed shards and move the slots, all by the library's real calls.

What a victim was answered, it notes before it goes on, in a file that survives the process (``history.Recorder``). A
call without its second line has an unknown outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import signal
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.bugs import BUGS
from evaluation.reliability.controller import migrate
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import Judge
from evaluation.reliability.observer import rows, value
from evaluation.reliability.site import COLLECTION, Shape, Site
from evaluation.reliability.traffic import (
    ERRORS,
    TOKEN,
    Author,
    do,
    first,
    paced,
    recorded,
    said,
    token_of,
    waited_for,
)

from revector import crash
from revector.documents import ingesting
from revector.guards import instead
from revector.indexing import backfill, worker
from revector.interfaces import Document
from revector.migration import catch_up
from revector.registry import sharding, verdicts
from revector.registry import work as work_set
from revector.serving.searcher import Searcher

CALLS = 1_000_000
"""Calls of one child: more than any makes, so that their numbers are unique among all children."""

PAGE_ROWS, LEASE_S, OUTAGE_S = 9, 0.1, 0.25
INGESTED = 20
"""Documents that a source holds."""

LOOK_AHEAD = 12
"""Sessions race for a document's turns: an index that lags may show one that was begun later."""

SAMPLE_S = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def shrink(changed_floor: int) -> None:
    """Make pages, parts, leases and pauses of this process small, unless ``changed_floor`` is 0.

    So many changed documents age the evidence for a swap; where writers never rest, the product's 10 would let no
    evidence of a tiny corpus live long enough.
    """
    if not changed_floor:
        return
    verdicts.EVIDENCE_CHANGED_FLOOR = changed_floor
    ingesting.BATCH_ROWS = sharding.SEED_ROWS = backfill.PART_DOCUMENTS = PAGE_ROWS
    work_set.LEASE_S = LEASE_S  # type: ignore[assignment]
    worker.POLL_S, worker.BACK_OFF_S, catch_up.GATE_BUDGET_S = 0.1, 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Child:
    """One victim: the project that it works on, its notes, and its name in them."""

    site: Site
    recorder: Recorder
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do, and where: a site's folder, database and shape, with a seeded bug planted or none."""

    folder: Path
    url: str | None
    shape: Shape
    bug: str | None
    changed_floor: int
    child: int
    actor: str
    arm: str
    arguments: Mapping[str, Any]


def play(order: Order) -> None:
    """Play an actor to its end, in a child of the fork server. What it raises is noted and raised."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    logging.disable()  # what children meet, they note
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    shrink(order.changed_floor)
    site = Site(order.folder, order.url, order.shape)
    recorder = Recorder(first=order.child * CALLS + 1, path=site.log / f"{order.child}.jsonl")
    me = Child(site, recorder, f"{order.actor}-{order.child}", order.child)
    crash.arm(order.arm)
    try:
        with planted(order.bug):
            ACTORS[order.actor](me, **order.arguments)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        detail = {"error": f"{type(error).__name__}: {error}"[:2_000], "kinds": kinds, "trace": traceback.format_exc()}
        recorder.fail(recorder.invoke("process", order.actor), "process", order.actor, detail=detail)
        raise SystemExit(1) from error


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant the part of a seeded bug that is in a process; the database has the other part by then."""
    if name is None:
        yield
        return
    bug = BUGS[name]
    with instead(bug.guards), bug.patch() if bug.patch else nullcontext():
        yield


# Applications ---------------------------------------------------------------------------------------------------------


def write(me: Child, *, seed: int, count: int | None, pause_s: float = 0.0) -> None:
    """Put, put several, delete and create again: ``count`` calls, or for ever."""
    documents = waited_for(lambda: me.site.project.documents(COLLECTION))
    author = Author(me.number, me.site.ids, me.site.kept, random.Random(seed))
    while count is None or count > 0:
        count = None if count is None else count - 1
        writes = author.some()
        with recorded(me.recorder, me.name, writes) as told:
            told.update(do(documents, writes, me.site.text))
        time.sleep(pause_s)


def write_hot(
    me: Child, *, window: int, hot: int, gone: Sequence[str], sessions: int, per_s: float, until: float
) -> None:
    """Write to the last ``hot`` documents in several sessions, each document from any of them, until then."""
    documents = waited_for(lambda: me.site.project.documents(COLLECTION))
    turns: defaultdict[str, int] = defaultdict(int)
    absent = set(gone)

    def session(number: int) -> None:
        draw, name = random.Random(f"{window} {me.number} {number}"), f"{me.name}.{number}"
        author = Author(window, me.site.ids[-hot:], frozenset(), draw, deletes=0.1, most=1, numbers=turns)
        for _ in paced(until, per_s / sessions):
            writes = author.put(draw.choice(sorted(absent))) if absent and draw.random() < 0.3 else author.some()
            absent.difference_update(doc_id for doc_id, token in writes.items() if token is not None)
            with recorded(me.recorder, name, writes, survives=ERRORS) as told:
                told.update(do(documents, writes, me.site.text))
                absent.update(doc_id for doc_id, token in writes.items() if token is None)

    run_threads(partial(session, number) for number in range(sessions))


def ask(
    me: Child, *, window: int, hot: int, before: Mapping[str, str], sessions: int, per_s: float, until: float
) -> None:
    """Search through the alias, for any document or a hot one, by document or by chunk; judge every answer.

    ``before`` has the contents of hot documents when the window began.
    """
    searcher = waited_for(lambda: me.site.project.searcher(COLLECTION))

    def candidates(doc_id: str, shown: str) -> Iterator[str]:
        yield shown or first(doc_id)
        yield before.get(doc_id) or first(doc_id)
        found = TOKEN.fullmatch(shown)
        turn = int(found[3]) if found and found[2] == str(window) else 0
        for number in range(turn + LOOK_AHEAD, 0, -1):
            yield token_of(doc_id, window, number)

    judge, ids = me.site.judge(candidates), me.site.ids

    def session(number: int) -> None:
        draw, name = random.Random(f"ask {window} {me.number} {number}"), f"{me.name}.{number}"
        for _ in paced(until, per_s / sessions):
            query = draw.choice(ids[-hot:] if draw.random() < 0.5 else ids)
            ask_once(me.recorder, name, searcher, judge, query, by="chunk" if draw.random() < 0.2 else "document")

    run_threads(partial(session, number) for number in range(sessions))


def ask_once(
    recorder: Recorder, name: str, searcher: Searcher, judge: Judge, query: str, *, by: str = "document", **facts: Any
) -> None:
    """Ask one question and record the judged answer, or why there was none; ``facts`` replace what the judge says."""
    call = recorder.invoke("query", name)
    try:
        answer = searcher.search(query, 5, by=by)
    except ERRORS as error:
        recorder.fail(call, "query", name, detail=said(error))
    else:
        recorder.ok(call, "query", name, **judge.answer(query, answer, by=by) | facts)


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


def controller(me: Child, *, seed: str, until: float, every_s: float) -> None:
    """Migrate, swap, roll back and retire until then, in one history with the controllers before this one."""
    migrate(me.site, seed, me.site.folder / "moves.jsonl", until, every_s)


def several(me: Child, *, scenes: Sequence[Mapping[str, Any]]) -> None:
    """Play several actors, one after another."""
    for scene in scenes:
        ACTORS[scene["actor"]](me, **scene["arguments"])


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


ACTORS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (write, write_hot, ask, ingest, work, drain, embed, control, controller, several, sample, end_backends)
}
"""Every kind of victim."""
