"""The small project that the crash proofs kill processes in: a database, cheap models, and texts made from tokens.

Pages, parts and leases are shrunk so far that a corpus of some dozens passes every loop more than once; the code that
is killed is the library's own.
"""

from __future__ import annotations

import json
import random
from functools import cached_property, lru_cache
from pathlib import Path

import sqlalchemy as sa
from evaluation.reliability.truth import Truth

from revector.config import Project, load_project
from revector.documents import ingesting
from revector.indexing import backfill, worker
from revector.migration import catch_up
from revector.registry import sharding, verdicts, work
from revector.revisions import RevisionGraph

COLLECTION = "docs"
LABELLED, FREE, INGESTED = 6, 32, 20
"""Documents that queries ask for (never deleted), documents that anything may happen to, documents of a source."""

PAGE_ROWS, LEASE_S = 9, 0.1


def labelled() -> list[str]:
    """Ids of the documents that are updated, never deleted."""
    return [f"k{number:03}" for number in range(LABELLED)]


def free() -> list[str]:
    """Ids of the documents that come, change and go."""
    return [f"d{number:03}" for number in range(FREE)]


def ingested() -> list[str]:
    """Ids of the documents that a source holds."""
    return [f"i{number:03}" for number in range(INGESTED)]


def text_of(doc_id: str, content: str) -> str:
    """Return the text that belongs to a token: one to several chunks, and the token is its second word."""
    draw = random.Random(content)  # noqa: S311 - a corpus
    return f"{doc_id} {content} {' '.join(f'word{draw.randrange(300)}' for _ in range(draw.randrange(4, 40)))}"


def content_of(text: str | None) -> str | None:
    """Return the token of a text that ``text_of`` made."""
    return None if text is None else text.split(" ", 2)[1]


def shrink(changed_floor: int) -> None:
    """Make pages, parts, leases and pauses of this process small.

    ``changed_floor``: so many changed documents age the evidence for a swap; where writers never rest, the product's
    10 would let no evidence of a tiny corpus live long enough.
    """
    verdicts.EVIDENCE_CHANGED_FLOOR = changed_floor
    ingesting.BATCH_ROWS = sharding.SEED_ROWS = backfill.PART_DOCUMENTS = PAGE_ROWS
    work.LEASE_S = LEASE_S  # type: ignore[assignment]
    worker.POLL_S, worker.BACK_OFF_S, catch_up.GATE_BUDGET_S = 0.1, 0.1, 0.5


def _lay_out(folder: Path, url: str) -> None:
    """Write the project into ``folder``: settings, labels and the first two revisions."""
    (folder / "labels" / "qrels").mkdir(parents=True)
    (folder / "revector.toml").write_text(
        f"database_url = {json.dumps(url)}\ndrain_s = 0\narchive_days = 0\n[collections.{COLLECTION}]\n"
        'qrels = "labels"\nshards = 2\nwindow_hours = 1\n'
    )
    asked = [json.dumps({"_id": f"q{number}", "text": doc_id}) for number, doc_id in enumerate(labelled())]
    judged = [f"q{number}\t{doc_id}\t1" for number, doc_id in enumerate(labelled())]
    (folder / "labels" / "queries.jsonl").write_text("\n".join(asked) + "\n")
    (folder / "labels" / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    for number in (0, 1):
        add_revision(folder, number)


def name_of(number: int) -> str:
    """Return the id of the ``number``-th revision."""
    return f"r{number:03}"


def add_revision(folder: Path, number: int) -> str:
    """Write the ``number``-th revision if it is not there and return its id.

    All have one width, so that PostgreSQL would not refuse vectors of another model.
    """
    path = folder / "migrations" / COLLECTION / f"{name_of(number)}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(
            f'"""{name_of(number)}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n\n'
            f"revision = {name_of(number)!r}\ndown_revision = {name_of(number - 1) if number else None!r}\n"
            f'model = ModelSpec(name="hashing:seed{number}", dim=16)\n'
            "chunking = Chunking(max_tokens=12, overlap_tokens=2)\nindex = IndexSpec(m=4, ef_construction=16)\n"
            f"gate = Gate(max_drop=1.0, min_queries={LABELLED}, min_overlap=None)\n"
        )
    return name_of(number)


class Site:
    """A project on a database, as an observer sees it: its own connections, and its own idea of what texts become."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.log = url, folder, folder / "log"
        if not (folder / "revector.toml").exists():
            self.log.mkdir(parents=True)
            _lay_out(folder, url)

    @cached_property
    def project(self) -> Project:
        """The project."""
        return load_project(self.folder)

    @property
    def engine(self) -> sa.Engine:
        """The observer's connections."""
        return self.project.raw_engine

    def own(self, revision: str) -> Truth:
        """Return what a revision must make of texts, by its migration file."""
        return _own(self.folder, revision)

    def close(self) -> None:
        """Close the observer's connections."""
        self.engine.dispose()


@lru_cache(maxsize=64)
def _own(folder: Path, revision: str) -> Truth:
    return Truth.of(RevisionGraph.from_folder(load_project(folder).migrations(COLLECTION))[revision])
