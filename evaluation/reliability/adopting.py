"""Adoptions under SIGKILL: an application writes its table while it is taken over, migrated and given back.

    python -m evaluation.reliability.adopting [--seed N] [--count N] [--kills N] [--bug NAME] [--results PATH]

In each history the adoption, the migration after it and the giving back each run in a process of their own, which is
killed at random instants and started again until it comes through. The application writes its own SQL all the while:
it knows nothing of revector. The truth is its table, read by code that shares nothing with the product.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from evaluation.reliability.arena import database
from evaluation.reliability.checks import wait_until
from evaluation.reliability.forks import Forks
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import Judge, at_rest
from evaluation.reliability.observer import apply_all, rows, value
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.site import COLLECTION, Shape, Site
from evaluation.reliability.traffic import token_in, token_of
from evaluation.reliability.truth import Truth

from revector.local.table_oracle import catalogue, changed
from revector.registry.work import LEASE_S
from revector.revisions import RevisionGraph
from revector.spec import Chunking, ModelSpec

ROWS, LONGEST_S, TRIES = 600, 2.5, 20
KEPT = 9_999
"""The row that is labelled, and never written again."""

LAYOUTS = {
    "one column": "CREATE TABLE public.notes (id bigint PRIMARY KEY, lang text, title text, body text, "
    "embedding vector(16))",
    "two columns": "CREATE TABLE public.notes (id bigint, lang text, title text, body text, embedding vector(16), "
    "PRIMARY KEY (id, lang))",
    "partitions": "CREATE TABLE public.notes (id bigint PRIMARY KEY, lang text, title text, body text, "
    "embedding vector(16)) PARTITION BY RANGE (id); CREATE TABLE public.notes_low PARTITION OF public.notes FOR VALUES "
    "FROM (0) TO (300); CREATE TABLE public.notes_high PARTITION OF public.notes FOR VALUES FROM (300) TO (10000)",
}
KINDS = {"insert": 4, "text": 4, "vector": 2, "delete": 3, "key": 1, "hide": 2}
"""What the application does, and how often."""

SHAPE = Shape(documents=0, labelled=1, max_tokens=256, overlap_tokens=32)
SECOND = 2
STAGES: Sequence[tuple[str, str, dict[str, str]]] = (
    ("after the adoption", "adopt", {}),
    ("after the swap", "control", {"move": "upgrade", "revision": f"r{SECOND:05d}"}),
    ("after the rollback", "control", {"move": "rollback", "reason": "a history"}),
    ("", "unadopt", {}),
)
"""What is done to the table, each by which actor, and after which of them everything is compared."""


class Writer:
    """The application: one transaction after the other, in its own SQL, until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        self.engine = sa.create_engine(url)
        self.random, self.did, self.error = random.Random(seed), Counter[str](), ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._own = Truth(ModelSpec("hashing", SHAPE.dim), Chunking())

    def fill(self, layout: str) -> None:
        """Create the table and its first rows."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(layout)
            for n in (*range(ROWS), KEPT):
                self._insert(connection, n)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End, with what was being written."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self.engine.begin() as connection:
                    for _ in range(self.random.choice((1, 1, 1, 5))):
                        self._write(connection)
                    if self.random.random() < 0.1:
                        connection.rollback()
                        self.did["rolled back"] += 1
            except sa.exc.SQLAlchemyError as error:  # no write of the application may ever fail because of us
                self.error = self.error or str(error)
            time.sleep(self.random.random() * 0.02)

    def _write(self, connection: sa.Connection) -> None:
        [kind] = self.random.choices(list(KINDS), list(KINDS.values()))
        n = self.random.randrange(ROWS * 2)
        self.did[kind] += 1
        if kind == "insert":
            self._insert(connection, n)
            return
        statement = {
            "text": "UPDATE public.notes SET title = :word, embedding = NULL WHERE id = :n",
            "vector": "UPDATE public.notes SET embedding = NULL WHERE id = :n",
            "delete": "DELETE FROM public.notes WHERE id = :n",
            "key": "UPDATE public.notes SET id = :m WHERE id = :n AND NOT EXISTS (SELECT 1 FROM public.notes WHERE "
            "id = :m)",
            "hide": "UPDATE public.notes SET body = CASE WHEN body = '' THEN :word ELSE '' END, title = '', "
            "embedding = NULL WHERE id = :n",
        }[kind]
        given = {"word": self._word(n), "n": n, "m": n + 2 * ROWS}
        connection.execute(sa.text(statement), {name: one for name, one in given.items() if f":{name}" in statement})

    def _word(self, n: int) -> str:
        """Return a word that names this write alone."""
        return token_of(f"t{n}", "app", self.did.total())

    def _insert(self, connection: sa.Connection, n: int) -> None:
        title, body = self._word(n), f"b{n} some words"
        connection.execute(
            sa.text(
                "INSERT INTO public.notes (id, lang, title, body, embedding) VALUES (:n, :lang, :title, :body, "
                "CAST(:v AS vector)) ON CONFLICT DO NOTHING"
            ),
            {"n": n, "lang": "de" if n % 5 == 0 else "en", "title": title, "body": body,
             "v": json.dumps(self._own.vector(f"{title} {body}").tolist())},
        )  # fmt: skip


def truth(engine: sa.Engine, *, composite: bool) -> dict[str, str]:
    """Return what must be searchable, by id: the table's English rows with a text."""
    texts = {
        f"{row.id}/{row.lang}" if composite else str(row.id): " ".join(filter(None, (row.title, row.body)))
        for row in rows(engine, "SELECT id, lang, title, body FROM public.notes WHERE lang = 'en'")
    }
    return {doc_id: text for doc_id, text in texts.items() if text.strip()}


class History:
    """One table's adoption, migration, rollback and giving back; ``did`` counts, ``broken`` says what was promised."""

    def __init__(self, forks: Forks, folder: Path, url: str, seed: int, kills: int, bug: str | None) -> None:
        self.layout, self.writer = sorted(LAYOUTS)[seed % len(LAYOUTS)], Writer(url, seed)
        self.did, self.broken = Counter[str](), list[str]()
        self._forks, self._draw, self._kills = forks, random.Random(seed), kills
        self._composite = self.layout == "two columns"
        (folder / "revector.toml").write_text(
            f"database_url = {json.dumps(url)}\ndrain_s = 0\n[collections.{COLLECTION}]\nshards = 2\n"
            'qrels = "labels.csv"\n'
        )
        labelled = f"{KEPT}/en" if self._composite else str(KEPT)
        (folder / "labels.csv").write_text(f"query_id,query,doc_id,score\nq1,b{KEPT},{labelled},1\n")
        self.site = Site(folder, url, SHAPE)
        self.site.project.init()
        forks.open(self.site, bug)

    def run(self) -> None:
        """Run it, while the application writes."""
        site = self.site
        self.writer.fill(LAYOUTS[self.layout])
        before = self._catalogue()
        self.writer.start()
        try:
            for when, actor, arguments in STAGES:
                self._through(1 if arguments.get("move") == "rollback" else self._kills, actor, **arguments)
                if actor == "adopt":
                    [first] = (site.folder / "migrations" / COLLECTION).glob("*.py")
                    site.add_revision(SECOND, first.name.split("_")[0])
                if when:
                    self.broken += self._judge(when)
            self.broken += [f"unadopt: {one}" for one in changed(before, self._catalogue())]
        finally:
            self.writer.stop()
            site.close()
        self.broken += [f"a write of the application failed: {self.writer.error}"] if self.writer.error else []
        self.did.update({f"writes: {kind}": n for kind, n in self.writer.did.items()})
        self.writer.engine.dispose()

    def _through(self, kills: int, actor: str, **arguments: str) -> None:
        """Play an actor in processes that are killed up to ``kills`` times, at random instants, until one is through.

        Raises ``AssertionError`` if none is.
        """
        for attempt in range(TRIES):
            kill_after_s = self._draw.random() * LONGEST_S if attempt < kills else None
            end = self._forks.run(actor, kill_after_s=kill_after_s, limit_s=5 * LEASE_S, **arguments)
            if end.status == 0:
                return
            self.did["kills" if end.killed else "errors"] += 1
        raise AssertionError(f"{actor} did not come through")

    def _catalogue(self) -> list[tuple[str, str, str]]:
        with self.site.engine.connect() as connection:
            return catalogue(connection, "notes%")

    def _is_settled(self) -> bool:
        """Do what is due; return whether nothing is left, also none that a killed process had claimed."""
        apply_all(self.site.project)
        return value(self.site.engine, "SELECT true FROM pending JOIN slot USING (gen) LIMIT 1") is None

    def _judge(self, when: str) -> Iterator[str]:
        """Hold the application for a moment; compare its table with documents, indexes and answers."""
        site = self.site
        with self.writer.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE public.notes IN SHARE MODE"))
            wait_until(self._is_settled, 2 * LEASE_S, "all work is done")
            wanted, recorder = truth(self.writer.engine, composite=self._composite), Recorder()
            tokens = {doc_id: str(token_in(text)) for doc_id, text in wanted.items()}
            versions = {row.doc_id: row.version for row in rows(site.engine, "SELECT doc_id, version FROM document")}
            for doc_id, token in tokens.items():
                call = recorder.invoke("put", "application", doc_id=doc_id, content=token)
                version = versions.get(doc_id, 0)
                recorder.ok(call, "put", "application", doc_id=doc_id, content=token, version=version)
            graph = RevisionGraph.from_folder(site.project.migrations(COLLECTION))
            texts = {token: wanted[doc_id] for doc_id, token in tokens.items()}
            judge = Judge(
                lambda revision: Truth.of(graph[revision]), lambda token: texts.get(token, ""), lambda *_: (), []
            )
            yield from (f"{when}: {one}" for one in at_rest(site.engine, site.cid, judge, recorder, exact=False))
            searcher = site.project.searcher(COLLECTION)
            for doc_id in random.Random(len(wanted)).sample(sorted(wanted), 40):
                # The small graph (m = 4) may miss a row that is there, which is no loss; exact search may not.
                exact, near = (
                    [hit.id for hit in searcher.search(wanted[doc_id], 5, exact=one).hits] for one in (True, False)
                )
                self.did["answers judged"] += 2
                if doc_id not in exact:
                    yield f"{when}: a search for the text of {doc_id} gave {exact}"
                if gone := {*exact, *near} - wanted.keys():
                    yield f"{when}: a search showed {gone}, which are no rows"


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run some histories, each in a database of its own."""
    drawn = Drawn()
    with Forks(0) as forks:
        for seed in seeds:
            with database(sa.make_url(url)) as fresh, TemporaryDirectory(prefix="revector-adopting-") as folder:
                done = History(forks, Path(folder), fresh, seed, given.kills, given.bug)
                done.run()
            drawn.tally += done.did
            drawn.findings += [(seed, f"{done.layout}: {one}") for one in done.broken]
            print(f"history {seed}: {dict(done.did)} {done.broken[:3]}", flush=True)
    return drawn


COUNTED = {
    name: name for name in ("answers judged", "kills", "errors", *(f"writes: {one}" for one in (*KINDS, "rolled back")))
}
LAYER = Layer(
    "evaluation.reliability.adopting",
    __doc__,
    "adopting",
    "adoptions, each migrated and given back",
    run,
    COUNTED,
    4,
)

if __name__ == "__main__":
    raise SystemExit(LAYER.main(LAYER.options(seed=0, count=12, kills=3, processes=1).parse_args()))
