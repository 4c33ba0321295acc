"""The one generator of traffic: texts that name their put, writes drawn at random and recorded, and questions."""

from __future__ import annotations

import io
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from evaluation.reliability.history import Record, Recorder

from revector.documents.documents import Documents
from revector.errors import DatabaseUnavailable, RevectorError
from revector.interfaces import Document

ERRORS = (RevectorError, sa.exc.SQLAlchemyError)
"""What a call may end with; anything else ends the process that called."""

TOKEN = re.compile(r"\b([a-z]+\d+)x(\w*?)x(\d+)\b")
"""The token of a put: its document, its author, and its number among that author's."""

VOCABULARY = 400
T = TypeVar("T")


def token_of(doc_id: str, author: object, number: int) -> str:
    """Return the token of a put, one word to every chunker."""
    return f"{doc_id}x{author}x{number}"


def first(doc_id: str) -> str:
    """Return the token of the text that a document begins with."""
    return token_of(doc_id, "first", 0)


@lru_cache(maxsize=400_000)
def text_of(token: str, most_words: int) -> str:
    """Return the text of a put: its document's id, then up to ``most_words`` words, every fourth of them the token."""
    draw = random.Random(token)
    words = [token.partition("x")[0]]
    for _ in range(draw.randrange(1, max(2, most_words // 4))):
        words += [token, *(f"word{draw.randrange(VOCABULARY)}" for _ in range(3))]
    return " ".join([*words, token])


def colours_of(token: str) -> list[tuple[int, int, int]]:
    """Return the three colours of the image of a put."""
    draw = random.Random(f"image of {token}")
    return [(draw.randrange(256), draw.randrange(256), draw.randrange(256)) for _ in range(3)]


@lru_cache(maxsize=400_000)
def image_of(token: str) -> bytes:
    """Return the image of a put, a PNG of three pixels."""
    from PIL import Image

    picture, out = Image.new("RGB", (3, 1)), io.BytesIO()
    picture.putdata(colours_of(token))
    picture.save(out, "PNG")
    return out.getvalue()


def token_in(text: str) -> str | None:
    """Return the first token in a text or a chunk of one."""
    found = TOKEN.search(text)
    return found and found[0]


Writes = Mapping[str, str | None]
"""By document the token of its put; None is a delete."""


@dataclass
class Author:
    """Draws what an application writes. Documents in ``kept`` are never deleted, for queries are labelled with them."""

    name: object
    ids: Sequence[str]
    kept: frozenset[str]
    draw: random.Random
    deletes: float = 0.3
    most: int = 4
    fresh: float = 0.0
    """How often a document is a new one."""
    numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By document how many puts it has had."""

    def put(self, *doc_ids: str) -> dict[str, str | None]:
        """Return new contents for documents."""
        for doc_id in doc_ids:
            self.numbers[doc_id] += 1
        return {doc_id: token_of(doc_id, self.name, self.numbers[doc_id]) for doc_id in doc_ids}

    def some(self) -> dict[str, str | None]:
        """Draw the next write: one document or several, a put or a delete."""
        if self.draw.random() < self.fresh:
            self.ids = [*self.ids, f"n{self.draw.getrandbits(40)}"]
            return self.put(self.ids[-1])
        chosen = self.draw.sample(self.ids, self.draw.choice((1, 1, 1, self.most)))
        doomed = [doc_id for doc_id in chosen if doc_id not in self.kept] if self.draw.random() < self.deletes else []
        return dict.fromkeys(doomed) if doomed else self.put(*chosen)


class NotDone(Exception):
    """Raised inside ``recorded`` by a write that certainly did not happen."""


@contextmanager
def recorded(
    recorder: Recorder,
    process: str,
    writes: Writes,
    *,
    whole: bool = True,
    survives: tuple[type[BaseException], ...] = (DatabaseUnavailable,),
) -> Iterator[dict[str, int]]:
    """Record writes; the block fills in the versions that it was told. An error leaves the outcome unknown.

    ``whole``: they are written together or not at all. Errors that are not among ``survives`` are raised.
    """
    batch = f"{process} {next(iter(writes), '')} {time.monotonic_ns()}"
    detail = {"batch": batch} if whole and len(writes) > 1 else {}
    calls = {
        doc_id: (
            recorder.invoke(op, process, doc_id=doc_id, content=token, detail=detail),
            op,
        )
        for doc_id, token in writes.items()
        for op in ("delete" if token is None else "put",)
    }
    versions: dict[str, int] = {}
    try:
        yield versions
    except BaseException as error:
        end = recorder.fail if isinstance(error, NotDone) else recorder.info
        for doc_id, (call, op) in calls.items():
            end(call, op, process, doc_id=doc_id, detail=said(error))
        if not isinstance(error, (NotDone, *survives)):
            raise
    else:
        for doc_id, (call, op) in calls.items():
            recorder.ok(call, op, process, doc_id=doc_id, content=writes[doc_id], version=versions.get(doc_id))


def said(error: BaseException) -> dict[str, Any]:
    """Return what a record keeps of an error, and whether it is only that the database was away."""
    return {"error": f"{type(error).__name__}: {error}"[:300], "down": isinstance(error, DatabaseUnavailable)}


def do(documents: Documents, writes: Writes, text: Callable[[str], str], *, images: bool = False) -> Mapping[str, int]:
    """Carry writes out by the library, puts in one call and deletes in one; return the new versions.

    ``images``: each document holds an image beside its text.
    """
    puts = [
        Document(doc_id, text(token), image=image_of(token) if images else None)
        for doc_id, token in writes.items()
        if token is not None
    ]
    doomed = [doc_id for doc_id, token in writes.items() if token is None]
    versions: dict[str, int] = {}
    if puts:
        versions |= documents.put_many(puts).versions
    if doomed:
        versions |= documents.delete_many(doomed).versions
    return versions


def tokens_put(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return, by document, the tokens of all puts that ever began, the latest first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.op == "put" and record.kind == "invoke":
            found[str(record.doc_id)].insert(0, str(record.content))
    return found


class Told:
    """What may be shown of a document: all that was ever put into it, by the notes that children keep in a folder."""

    def __init__(self, notes: Path) -> None:
        self._notes, self._read = notes, dict[Path, int]()
        self._puts: defaultdict[str, list[str]] = defaultdict(list)

    def __call__(self, doc_id: str, shown: str) -> Iterator[str]:
        """Yield tokens, the likeliest first; a put is noted before it begins, so none is missed in the end."""
        yield shown or first(doc_id)
        yield first(doc_id)
        known = len(self._puts[doc_id])
        yield from reversed(self._puts[doc_id])
        self._look()
        yield from self._puts[doc_id][known:]

    def _look(self) -> None:
        for path in self._notes.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if line.endswith(b"\n"):
                        self._read[path] = self._read.get(path, 0) + len(line)
                        if b'"invoke", "op": "put"' in line:
                            put = json.loads(line)
                            self._puts[put["doc_id"]].append(put["content"])


def paced(until: float, per_s: float) -> Iterator[None]:
    """Yield ``per_s`` times a second until then, as far as the machine can; 0 means without a pause."""
    due = time.monotonic()
    while time.monotonic() < until:
        yield
        if per_s:
            due = max(due + 1 / per_s, time.monotonic() - 1)
            time.sleep(max(0.0, min(due, until) - time.monotonic()))


def waited_for(make: Callable[[], T]) -> T:
    """Return what ``make`` gives; try again while the database is down: it is restarted under some proofs."""
    for _ in range(600):
        with suppress(DatabaseUnavailable, sa.exc.OperationalError):
            return make()
        time.sleep(0.1)
    return make()
