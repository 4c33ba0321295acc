"""What the victims do: writers, an ingester, workers, shards and control processes, all by the library's real calls.

What a victim was answered, it notes before it goes on: one line before a call and one after it, in a file opened with
O_APPEND, so that what the kernel was told survives the process. A call without its second line has an unknown outcome.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.crash_site import COLLECTION, Site, free, ingested, labelled, text_of
from evaluation.reliability.history import Kind, Record

from revector.errors import DatabaseUnavailable
from revector.interfaces import Document

CALLS = 1_000_000
"""Calls of one child: more than any makes, so that their numbers are unique among all children."""

OUTAGE_S = 0.25
MOST_WRITTEN = 4


@dataclass
class Log:
    """One child's notes."""

    path: Path
    child: int
    process: str
    calls: int = 0
    _file: int = field(init=False)

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *records: Record) -> None:
        """Append records in one write: all of them or none."""
        os.write(self._file, "".join(json.dumps(asdict(one)) + "\n" for one in records).encode())

    def number(self) -> int:
        """Return the number of a new call."""
        self.calls += 1
        return self.child * CALLS + self.calls

    def answered(
        self, op: str, contents: Mapping[str, str | None], call: Callable[[], Mapping[str, int]], *, whole: bool = True
    ) -> None:
        """Do one write of several documents between its two notes; ``call`` returns the new versions.

        ``whole``: the documents are written together or not at all. An error leaves the outcome unknown; a lost
        connection is survived, anything else is raised.
        """
        numbers = {doc_id: self.number() for doc_id in contents}
        detail = {"batch": min(numbers.values())} if whole else {}

        def note(kind: Kind, versions: Mapping[str, int]) -> None:
            at, process = time.monotonic(), self.process
            self.write(
                *(
                    Record(
                        numbers[doc_id],
                        kind,
                        op,
                        process,
                        at,
                        doc_id=doc_id,
                        content=content,
                        version=versions.get(doc_id),
                        detail=detail,
                    )
                    for doc_id, content in contents.items()
                )
            )

        note("invoke", {})
        try:
            versions = call()
        except Exception as error:
            note("info", {})
            if not isinstance(error, DatabaseUnavailable):
                raise
            time.sleep(OUTAGE_S)
        else:
            note("ok", versions)


def play(site: Site, child: int, actor: str, arguments: Mapping[str, Any]) -> None:
    """Play an actor to its end. What it raises is noted and raised."""
    log = Log(site.log / f"{child}.jsonl", child, f"{actor}-{child}")
    number = log.number()
    try:
        ACTORS[actor](site, log, **arguments)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        detail = {"error": f"{type(error).__name__}: {error}"[:2_000], "kinds": kinds, "trace": traceback.format_exc()}
        log.write(Record(number, "fail", actor, log.process, time.monotonic(), detail=detail))
        raise SystemExit(1) from error


# Actors ---------------------------------------------------------------------------------------------------------------


def write(site: Site, log: Log, *, seed: int, count: int | None, pause_s: float = 0.0) -> None:
    """Put, put several, delete and create again: ``count`` calls, or for ever."""
    documents, draw = site.project.documents(COLLECTION), random.Random(seed)  # noqa: S311 - a simulation
    while count is None or count > 0:
        count = None if count is None else count - 1
        ids = draw.sample(labelled() + free(), draw.choice((1, 1, 1, MOST_WRITTEN)))
        doomed = [doc_id for doc_id in ids if doc_id in free()] if draw.random() < 0.3 else []
        if doomed:
            log.answered("delete", dict.fromkeys(doomed), lambda ids=doomed: documents.delete_many(ids).versions)
        else:
            author = log.process.replace("-", "_")  # one word to every chunker
            contents = {doc_id: f"{author}.{log.calls + number}" for number, doc_id in enumerate(ids)}
            log.answered("put", contents, lambda new=contents: documents.put_many(list(_documents(new))).versions)
        time.sleep(pause_s)


def ingest(site: Site, log: Log, *, round_: int, pause_s: float = 0.0) -> None:
    """Stream a source in; the same round holds the same texts, so that a re-run finds some of them written."""
    contents = {doc_id: f"ingest.{round_}.{doc_id}" for doc_id in ingested()}

    def call() -> Mapping[str, int]:
        documents = site.project.documents(COLLECTION)
        if not documents.ingest(_Listed(list(_documents(contents))), actor=log.process).written:
            return {}  # by an ingester before, whose notes may say so
        with site.engine.connect() as connection:  # nobody else writes these ids
            found = connection.execute(sa.text("SELECT doc_id, version FROM document WHERE doc_id LIKE 'i%'"))
            return {row.doc_id: row.version for row in found}

    time.sleep(pause_s)
    log.answered("put", contents, call, whole=False)


@dataclass
class _Listed:
    documents: Sequence[Document]
    name: str = "list"

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)


def _documents(contents: Mapping[str, str]) -> Iterator[Document]:
    for doc_id, content in contents.items():
        yield Document(doc_id, text_of(doc_id, content))


def work(site: Site, log: Log) -> None:  # noqa: ARG001 - every actor has a log
    """Run the service, for ever."""
    site.project.worker().run(threading.Event())


def drain(site: Site, log: Log, *, limit_s: float = 20.0) -> None:  # noqa: ARG001
    """Work until nothing waits in any slot. Raises ``TimeoutError``."""
    worker, deadline = site.project.worker(), time.monotonic() + limit_s
    waiting = sa.text("SELECT count(*), string_agg(DISTINCT p.state, ' ') FROM pending p JOIN slot s USING (gen)")
    while True:
        done = worker.drain()
        with site.engine.connect() as connection:
            count, states = connection.execute(waiting).one()
        if not count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} items still wait after {limit_s:.0f} s ({states})")
        if not done:
            time.sleep(0.02)


def embed(site: Site, log: Log, *, revision: str, shard: int) -> None:
    """Embed one shard, as a task of the DAG does."""
    site.project.migrator(COLLECTION, actor=log.process).embed_shard(revision, shard)


def control(site: Site, log: Log, *, move: str, **options: Any) -> None:
    """Make one move: a step, a rollback, a retirement, an abort, or an upgrade of many steps."""
    migrator = site.project.migrator(COLLECTION, actor=log.process)
    if move == "upgrade":
        migrator.upgrade(**options)
    else:
        migrator.run(move, **options)


def several(site: Site, log: Log, *, scenes: Sequence[Mapping[str, Any]]) -> None:
    """Play several actors, one after another."""
    for scene in scenes:
        ACTORS[scene["actor"]](site, log, **scene["arguments"])


ACTORS: dict[str, Callable[..., None]] = {
    "write": write,
    "ingest": ingest,
    "work": work,
    "drain": drain,
    "embed": embed,
    "control": control,
    "several": several,
}
"""Every kind of victim."""
