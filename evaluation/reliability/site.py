"""The one builder of a project to be attacked: a collection, hashing models in a row, labels, and an observer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import sqlalchemy as sa
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import Judge
from evaluation.reliability.traffic import do, first, recorded, text_of, tokens_put
from evaluation.reliability.truth import IMAGES, Truth

from revector import embedded
from revector.config import Project, load_project
from revector.spec import Chunking, ModelSpec

COLLECTION = "docs"
MODELS = 5
"""Hashing models, one after the other: of one width, so that no mix-up of theirs is an error of the database."""

PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a project is; the first ``labelled`` documents are those that queries are labelled with."""

    documents: int
    labelled: int
    dim: int = 16
    max_tokens: int = 12
    overlap_tokens: int = 2
    most_words: int = 40
    index: str = "IndexSpec(m=4, ef_construction=16)"
    settings: str = "drain_s = 0\n"
    of_collection: str = "shards = 2\nwindow_hours = 1\n"
    images: bool = False
    """Whether documents hold an image beside their text, and models embed both."""


SMALL = Shape(documents=38, labelled=6)
"""So small that a migration takes a second; with shrunk pages (``playing.shrink``) every loop is passed twice."""


def name_of(number: int) -> str:
    """Return the id of the ``number``-th revision."""
    return f"r{number:05d}"


OLD, NEW = name_of(0), name_of(1)


def doc_id_of(number: int) -> str:
    """Return a document's id; no two of its kind are words of one another."""
    return f"d{number:06d}"


def model_of(number: int, shape: Shape) -> str:
    """Return the name of the ``number``-th revision's model."""
    return f"hashing:seed{number % MODELS}{IMAGES if shape.images else ''}"


class Site:
    """A project in a folder, on a database (None: an embedded one of its own), as an observer sees it."""

    def __init__(self, folder: Path, url: str | None, shape: Shape = SMALL) -> None:
        self.folder, self.url, self.shape, self.log = folder, url, shape, folder / "log"
        if not (folder / "revector.toml").exists():
            self.log.mkdir(parents=True)
            self._lay_out()

    @cached_property
    def project(self) -> Project:
        """The project."""
        return load_project(self.folder)

    @property
    def engine(self) -> sa.Engine:
        """The observer's connections."""
        return self.project.raw_engine

    @property
    def cid(self) -> int:
        """The collection's number."""
        return self.project.cid(COLLECTION)

    @property
    def ids(self) -> list[str]:
        """Every document that a site begins with."""
        return [doc_id_of(number) for number in range(self.shape.documents)]

    @property
    def kept(self) -> frozenset[str]:
        """Those that queries are labelled with."""
        return frozenset(self.ids[: self.shape.labelled])

    def text(self, token: str) -> str:
        """Return the text of a put."""
        return text_of(token, self.shape.most_words)

    def own(self, revision: str) -> Truth:
        """Return what a revision must make of texts, by its number alone."""
        return _truth(int(revision[1:]) % MODELS, self.shape)

    def judge(self, candidates: Callable[[str, str], Iterable[str]] | Recorder) -> Judge:
        """Return the judge of this site; contents that a document may show are told, or those that were recorded."""
        others = [_truth(number, self.shape) for number in range(MODELS)]
        if isinstance(candidates, Recorder):
            puts = tokens_put(candidates.records)
            return Judge(self.own, self.text, lambda doc_id, _: puts.get(doc_id, ()), others)
        return Judge(self.own, self.text, candidates, others)

    def begin(self, recorder: Recorder) -> None:
        """Create the tables, write the corpus as acknowledged writes, and make the first revision live."""
        self.project.init()
        documents, ids = self.project.documents(COLLECTION), self.ids
        for start in range(0, len(ids), PAGE):
            page = {doc_id: first(doc_id) for doc_id in ids[start : start + PAGE]}
            with recorded(recorder, "first", page, survives=()) as told:
                told.update(do(documents, page, self.text, images=self.shape.images))
        self.project.migrator(COLLECTION, actor="first").upgrade(OLD)

    def add_revision(self, number: int, parent: str | None = None) -> str:
        """Write the ``number``-th revision, after the one before or ``parent``, if it is not there; return its id."""
        path = self.folder / "migrations" / COLLECTION / f"{name_of(number)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            parent = parent or (name_of(number - 1) if number else None)
            chunking = f"max_tokens={self.shape.max_tokens}, overlap_tokens={self.shape.overlap_tokens}"
            path.write_text(
                f'"""{name_of(number)}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n\n'
                f"revision = {name_of(number)!r}\ndown_revision = {parent!r}\n"
                f"model = ModelSpec(name={model_of(number, self.shape)!r}, dim={self.shape.dim})\n"
                f"chunking = Chunking({chunking})\nindex = {self.shape.index}\n"
                f"gate = Gate(max_drop=1.0, min_queries={min(self.shape.labelled, 50)}, min_overlap=None)\n"
            )
        return name_of(number)

    def close(self) -> None:
        """Close the observer's connections."""
        self.engine.dispose()

    def remove(self) -> None:
        """Delete the project with its embedded database."""
        self.close()
        if self.url is None:
            embedded.remove(self.project.state)
        shutil.rmtree(self.folder)

    def _lay_out(self) -> None:
        place = "" if self.url is None else f"database_url = {json.dumps(self.url)}\n"
        (self.folder / "revector.toml").write_text(
            f"{place}archive_days = 0\n{self.shape.settings}[collections.{COLLECTION}]\n"
            f'qrels = "labels"\n{self.shape.of_collection}'
        )
        labels = self.folder / "labels"
        (labels / "qrels").mkdir(parents=True)
        asked = [json.dumps({"_id": f"q{doc_id}", "text": doc_id}) for doc_id in sorted(self.kept)]
        judged = [f"q{doc_id}\t{doc_id}\t1" for doc_id in sorted(self.kept)]
        (labels / "queries.jsonl").write_text("\n".join(asked) + "\n")
        (labels / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
        for number in (0, 1):
            self.add_revision(number)


@cache
def _truth(number: int, shape: Shape) -> Truth:
    chunking = Chunking(max_tokens=shape.max_tokens, overlap_tokens=shape.overlap_tokens)
    return Truth(ModelSpec(model_of(number, shape), shape.dim), chunking)
