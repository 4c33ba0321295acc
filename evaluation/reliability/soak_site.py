"""What a soak runs on: a project with hashing encoders, documents whose every chunk names its put, and a judge.

The judge believes neither index nor registry nor the product's encoder: it works out each score from the content that
is shown and the model that the revision's number stands for.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluation.reliability.history import Hit
from evaluation.reliability.truth import Truth

from revector.config import Project, load_project
from revector.interfaces import Chunk, Document, Vectors
from revector.serving.searcher import Answer
from revector.spec import Chunking, ModelSpec

COLLECTION = "docs"
DIM = 24
MODELS = ("hashing", "hashing:seed1", "hashing:seed2", "hashing:seed3", "hashing:seed4")
"""One after the other: all of one width, so that a query that meets the wrong index raises nothing."""

CHUNK_TOKENS = 24
VOCABULARY = 2_000
LABELLED = 60
HOT_SHARE = 0.009
"""Evidence of a gate lapses when 1 % of the documents changed, so writers have a hot set, as applications have."""

TOLERANCE = 1e-5
"""Of a score or a component: float32 sums in another order."""

LOOK_AHEAD = 12
"""Sessions race for a document's turns: an index that lags may show one that was begun later."""

CONTENT = re.compile(r"d\d+w\d+t\d+")


@dataclass(frozen=True, slots=True)
class Content:
    """The token of a put: which document, in which window of the soak, and its how manieth write there."""

    number: int
    window: int
    turn: int

    def __str__(self) -> str:
        return f"d{self.number:06d}w{self.window}t{self.turn}"

    @classmethod
    def of(cls, token: str) -> Content:
        """Read a token."""
        number, window, turn = re.findall(r"\d+", token)
        return cls(int(number), int(window), int(turn))


@functools.lru_cache(maxsize=400_000)
def text_of(token: str) -> str:
    """Return the text of a put: 6 to 70 words, no chunk without the token."""
    draw = random.Random(token)  # noqa: S311 - a corpus, not a secret
    number = Content.of(token).number
    words = [f"apple{number}", f"pear{number}"]
    for _ in range(draw.randrange(1, 18)):
        words += [token, *(f"word{draw.randrange(VOCABULARY)}" for _ in range(3))]
    return " ".join([*words, token])


def model_of(revision: str) -> str:
    """Return the model's name that the migration file of ``revision`` names."""
    return MODELS[int(revision[1:]) % len(MODELS)]


@functools.cache
def truth_of(model: str) -> Truth:
    """Return what a model makes of texts, without a look at the project or its database."""
    return Truth(ModelSpec(model, DIM), Chunking(max_tokens=CHUNK_TOKENS, overlap_tokens=4))


@functools.lru_cache(maxsize=400_000)
def chunks_of(token: str) -> tuple[Chunk, ...]:
    """Return the chunks that every revision cuts a put's text into."""
    return tuple(truth_of(MODELS[0]).chunks(text_of(token)))


@functools.lru_cache(maxsize=200_000)
def vectors_of(model: str, token: str) -> Vectors:
    """Embed the chunks of a put: ``(chunks, DIM)``."""
    return truth_of(model).vectors([chunk.text for chunk in chunks_of(token)])


@functools.lru_cache(maxsize=50_000)
def query_vector(model: str, query: str) -> Vectors:
    """Embed a query: ``(DIM,)``."""
    return truth_of(model).vector(query)


# The judge ------------------------------------------------------------------------------------------------------------


class Judge:
    """Says what an answer shows and by which encoders it was made; ``before`` is each document's content at first."""

    def __init__(self, before: Mapping[str, str]) -> None:
        self._before = before

    def judged(self, query: str, answer: Answer) -> tuple[tuple[Hit, ...], str, str]:
        """Return the hits with their tokens, the model that encoded the query, and the index's own."""
        model = model_of(answer.revision)
        hits = tuple(_hit(one.id, one.text, one.version, one.chunk) for one in answer.hits)
        if answer.encoder_fp != truth_of(model).fingerprint:
            return hits, f"fingerprint {answer.encoder_fp[:12]}", model
        scores = [(one.id, one.chunk, hit.content, one.score) for one, hit in zip(answer.hits, hits, strict=True)]
        if all(self._explains(model, model, query, score) for score in scores):
            return hits, model, model
        for other in MODELS:
            if all(self._explains(other, model, query, score) for score in scores):
                return hits, other, model
        strange = next(score for score in scores if not self._explains(model, model, query, score))
        return hits, f"none that explains {strange} of {query!r}", model

    def _explains(self, asked: str, model: str, query: str, score: tuple[str, int, str, float]) -> bool:
        """Whether a content that the document has or had gives the score, the query being encoded by ``asked``."""
        doc_id, chunk, token, found = score
        if not CONTENT.fullmatch(token):
            return True  # what nobody put is told by the checker
        wanted = query_vector(asked, query)
        for candidate in self._candidates(doc_id, token):
            rows = vectors_of(model, candidate)
            if chunk < len(rows) and abs(float(rows[chunk] @ wanted) - found) < TOLERANCE:
                return True
        return False

    def _candidates(self, doc_id: str, token: str) -> Iterator[str]:
        """Yield what the index may still show instead, the likeliest first: an answer shows the newest text."""
        yield token
        shown = Content.of(token)
        if doc_id in self._before:
            yield self._before[doc_id]
        for turn in range(shown.turn + LOOK_AHEAD, 0, -1):
            yield str(Content(shown.number, shown.window, turn))


def _hit(doc_id: str, text: str, version: int, chunk: int) -> Hit:
    found = CONTENT.search(text)
    if found is None:
        return Hit(doc_id, f"no token in {text[:40]!r}", version, chunk)
    token, chunks = found[0], chunks_of(found[0])
    if chunk < len(chunks) and text == chunks[chunk].text:
        return Hit(doc_id, token, version, chunk, len(chunks))
    # The whole document: a newer version than the index's row waits to be embedded.
    return Hit(doc_id, token if text == text_of(token) else f"a piece of {token}", version, chunk)


def token_of(model: str, rows: Sequence[Vectors], candidates: Sequence[str]) -> str:
    """Return which content an index shows of a document: the first that gives just these chunks' vectors."""
    for token in candidates:
        fresh = vectors_of(model, token)
        if fresh.shape == np.shape(rows) and np.allclose(fresh, rows, atol=TOLERANCE):
            return token
    return "no content of this document"


# The project ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """A project's folder and how many documents it has, of which the last ``hot`` are written to."""

    root: Path
    documents: int

    @property
    def hot(self) -> int:
        """How many documents writers change."""
        return max(8, int(HOT_SHARE * self.documents))

    def project(self) -> Project:
        """Open the project in this process."""
        return load_project(self.root)


def doc_id_of(number: int) -> str:
    """Return a document's id."""
    return f"d{number:06d}"


def write_revision(root: Path, number: int) -> str:
    """Write the migration file of revision ``number`` after the one before it; return its id."""
    folder = root / "migrations" / COLLECTION
    folder.mkdir(parents=True, exist_ok=True)
    name, parent = f"r{number:05d}", f"r{number - 1:05d}" if number > 1 else None
    (folder / f"{name}.py").write_text(
        f'"""{name}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n\nrevision = {name!r}\n'
        f"down_revision = {parent!r}\nmodel = ModelSpec(name={model_of(name)!r}, dim={DIM})\n"
        f"chunking = Chunking(max_tokens={CHUNK_TOKENS}, overlap_tokens=4)\n"
        'index = IndexSpec(kind="hnsw", m=8, ef_construction=32, ef_search=10)\n'
        "gate = Gate(max_drop=1.0, min_overlap=None)\n"
    )
    return name


def make_site(root: Path, database_url: str, documents: int) -> tuple[Site, dict[str, tuple[str, int]]]:
    """Make the project with revision 1 live; return it, and content and version of every document."""
    (root / "revector.toml").write_text(
        f"database_url = {json.dumps(database_url)}\ndrain_s = 1\narchive_days = 0\n[collections.{COLLECTION}]\n"
        'qrels = "labels"\nshards = 2\n'
    )
    _write_labels(root / "labels")
    first = write_revision(root, 1)
    site = Site(root, documents)
    project = site.project()
    project.init()
    store = project.documents(COLLECTION)
    state: dict[str, tuple[str, int]] = {}
    for start in range(0, documents, 2_000):
        tokens = {doc_id_of(n): str(Content(n, 0, 0)) for n in range(start, min(start + 2_000, documents))}
        written = store.put_many([Document(doc_id, text_of(token)) for doc_id, token in tokens.items()])
        for doc_id, token in tokens.items():
            state[doc_id] = token, written.versions[doc_id]
            chunks_of(token)  # what is cut before the processes fork, all of them have
    project.migrator(COLLECTION, actor="soak").upgrade(first)
    project.engine.dispose()
    return site, state


def _write_labels(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    queries = [json.dumps({"_id": f"q{n}", "text": query_of(n)}) for n in range(LABELLED)]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    judged = [f"q{n}\t{doc_id_of(n)}\t1" for n in range(LABELLED)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


def query_of(number: int) -> str:
    """Return a query for a document: the two words that it has in every content."""
    return f"apple{number} pear{number}"
