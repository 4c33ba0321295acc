"""Pools for people to judge: the best results of several generations together, no model named, and the way back.

A pool is a CSV or JSON-lines file with the columns of ``COLUMNS``, one document of one query a row. ``judged`` says
whether the labels have that pair already; people fill ``score`` (0: not relevant) and may leave rows empty. Pooling:
Spärck Jones & van Rijsbergen, *Report on the Need for and Provision of an "Ideal" Information Retrieval Test
Collection* (1975); Voorhees & Harman, *TREC* (MIT Press 2005), chapter 2.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from revector.errors import LabelError
from revector.formats.cells import guarded, unguarded
from revector.formats.strict_json import DoubledName, parse
from revector.formats.values import as_id
from revector.labels.beir import add_to_beir, find, write_beir
from revector.labels.lines import csv_rows, is_id, lines, malformed, some, whole_number
from revector.labels.model import Judgement, LabelledQuery, Labels, Read, believe

COLUMNS = ("query_id", "query", "doc_id", "text", "judged", "score")
EXAMPLE = "q1,how do I begin,d7,The text of the document.,no,1"
ENDINGS = (".csv", ".jsonl")
_NEEDED = ("query_id", "query", "doc_id", "score")


class HasText(Protocol):
    """A stored document."""

    @property
    def text(self) -> str:
        """Its cleaned text."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One row that a person judged."""

    place: str
    query: str
    text: str
    document: str
    score: int


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What came of a judged pool: rows by what was done with them."""

    rows: int
    added: int
    known: int
    """Judged as before."""
    empty: int
    """Without a score."""
    new_queries: int


def pool_rows(
    queries: Mapping[str, str],
    found: Mapping[str, Sequence[str]],
    judged: Callable[[str, str], bool],
    get: Callable[[str], HasText | None],
    seed: int,
) -> Iterator[dict[str, str]]:
    """Yield the rows of a pool.

    Args:
        queries: Query id → text.
        found: Query id → documents that some generation found; in which order, or how often, does not matter.
        judged: Whether the labels have a judgement of ``(query, document)``.
        get: Returns a document with its ``text``; one that is None was deleted meanwhile and is left out.
        seed: Decides the order of documents within a query, and nothing else does.

    """
    for query, text in queries.items():
        documents = sorted(set(found[query]))
        random.Random(f"{seed}\x1f{query}").shuffle(documents)  # noqa: S311 - an order, not a secret
        for document in documents:
            if (stored := get(document)) is not None:
                yes = "yes" if judged(query, document) else "no"
                yield dict(zip(COLUMNS, (query, text, document, stored.text, yes, ""), strict=True))


def write_pool(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as CSV or JSON lines, by the ending of ``path``; what a spreadsheet would run is quoted."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return
    made = io.StringIO()
    writer = csv.DictWriter(made, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guarded(value) for name, value in row.items()} for row in rows)
    path.write_text(made.getvalue(), "utf-8")


def read_pool(path: Path) -> tuple[list[JudgedRow], int]:
    """Return the judged rows of a pool and the number of those without a score. Raises ``LabelError``."""
    judged: list[JudgedRow] = []
    empty = 0
    rows = _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    for place, row in rows:
        score = whole_number(row["score"])
        if row["score"] is None or not str(row["score"]).strip():
            empty += 1
            continue
        query, document, text = as_id(row["query_id"]), as_id(row["doc_id"]), row["query"]
        if score is None or not (
            isinstance(query, str) and isinstance(document, str) and is_id(query) and is_id(document)
        ):
            found = f"query_id {query!r}, doc_id {document!r} and score {row['score']!r}"
            raise malformed(place, found, f"two ids and an integer score or none, such as {EXAMPLE!r}")
        judged.append(JudgedRow(place, query, str(text), document, score))
    if not judged:
        raise LabelError(
            f"{path} holds no judged row ({empty:,} without a score). Nothing was written; fill the column score, such "
            f"as {EXAMPLE!r}."
        )
    return judged, empty


def add_judged(folder: Path, split: str, before: Read | None, judged: Sequence[JudgedRow], empty: int) -> PoolReport:
    """Write judged rows into the labels of ``folder``, which is made if ``before``, its content, is None.

    Raises:
        LabelError: If a row contradicts the labels or another row, or gives a query another text. Nothing is written.

    """
    texts = {} if before is None else {query.id: query.text for query in before.queries}
    had = {} if before is None else {(one.query, one.document): one for one in before.judgements}
    new_texts: dict[str, str] = {}
    new: dict[tuple[str, str], int] = {}
    conflicts: list[str] = []
    for row in judged:
        pair = (row.query, row.document)
        text = texts[row.query] if row.query in texts else new_texts.setdefault(row.query, row.text)
        old = had.get(pair)
        if text.split() != row.text.split() or not text.strip():  # spreadsheets change line breaks
            conflicts.append(f"{row.place}: query {row.query!r} is {row.text[:60]!r} here and {text[:60]!r} elsewhere")
        elif old is not None and old.span is not None:
            conflicts.append(f"{row.place}: {pair} is judged by spans at {old.place}")
        elif (known := old.score if old else new.setdefault(pair, row.score)) != row.score:
            conflicts.append(
                f"{row.place}: {pair} is {row.score} here and {known} {f'at {old.place}' if old else 'above'}"
            )
    if conflicts:
        raise LabelError(
            f"{len(conflicts):,} of {len(judged):,} judged rows contradict what is known: {'; '.join(conflicts[:10])}. "
            "Nothing was written; let the judges agree, and correct the file or the labels."
        )
    _write(folder, split, before, new_texts, new)
    return PoolReport(len(judged) + empty, len(new), len(judged) - len(new), empty, len(new_texts))


def _write(
    folder: Path, split: str, before: Read | None, texts: Mapping[str, str], scores: Mapping[tuple[str, str], int]
) -> None:
    judgements = [(query, document, score) for (query, document), score in scores.items()]
    if before is not None:
        add_to_beir(folder, split, texts, judgements)
        return
    read = Read(
        name=folder.name,
        queries_at="the pool",
        judged_at="the pool",
        queries=[LabelledQuery("the pool", query, text) for query, text in texts.items()],
        judgements=[Judgement("the pool", *one) for one in judgements],
    )
    write_beir(folder, believe(read))


def is_beir(folder: Path) -> bool:
    """Whether there is a folder in BEIR layout. Raises ``LabelError`` for a folder that holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    find(folder, "queries.jsonl")
    return True


def judged_pairs(labels: Labels | None) -> Callable[[str, str], bool]:
    """Return whether a pair has been judged; nothing has where there are no labels."""
    return lambda query, document: labels is not None and document in labels.qrels.get(query, {})


def check_same_texts(labels: Labels, queries: Mapping[str, str]) -> None:
    """Raise ``LabelError`` if a query has another text in the labels: its judgements could not be added later."""
    if differing := [q for q, text in queries.items() if labels.queries.get(q, text) != text]:
        raise LabelError(
            f"{some(differing)} have another text in the labels {labels.name}. Nothing was written; give them ids of "
            "their own."
        )


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for place, row in csv_rows(path, needs=_NEEDED, example=EXAMPLE):
        yield place, {name: unguarded(value) for name, value in row.items()}


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for place, line in lines(path):
        try:
            row = parse(line)
        except DoubledName as error:
            raise malformed(place, str(error), "each key once") from error
        except ValueError as error:
            raise malformed(place, repr(line[:80]), f"a JSON object with {', '.join(_NEEDED)}") from error
        if not isinstance(row, dict) or any(name not in row for name in _NEEDED):
            raise malformed(place, repr(line[:80]), f"a JSON object with {', '.join(_NEEDED)}")
        yield place, row
