"""Pools for people to judge: the best results of several generations together, no model named, and the way back.

A pool is a CSV or JSON-lines file with the columns of ``COLUMNS``, one document of one query a row. ``judged`` says
whether the labels have that pair already; people fill ``score`` (0: not relevant) and may leave rows empty. On the page
(``batch``) each judgement becomes a row of its own, with the name of its ``judge``. Pooling:
Spärck Jones & van Rijsbergen, *Report on the Need for and Provision of an "Ideal" Information Retrieval Test
Collection* (1975); Voorhees & Harman, *TREC* (MIT Press 2005), chapter 2.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from revector.labels.opinions import JudgeAgreement, Pair, agreement, disputed, scores_of, standing_score

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
class PoolRow:
    """One row as it was read: ``text`` is the query's, ``content`` the document's, None where the row has none.

    ``score`` is None where nobody judged; ``known``: whether the labels had the pair when the pool was written.
    ``judge`` is empty in the rows that were written to be judged, and in what was filled in there.
    """

    place: str
    query: str
    text: str
    document: str
    content: str | None
    score: int | None
    judge: str
    known: bool


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One judgement that stands."""

    place: str
    query: str
    text: str
    document: str
    score: int


@dataclass(frozen=True, slots=True)
class JudgedPool:
    """The judgements of a pool that stand, and how many of its rows have none.

    ``empty``: nobody judged them. ``disputed``: their judges gave different scores, and none more than half of them.
    ``held_back``: judged, but of a query that is not judged as a whole. ``agreement``: None without two judges.
    """

    rows: Sequence[JudgedRow]
    empty: int
    disputed: int = 0
    held_back: int = 0
    agreement: JudgeAgreement | None = None


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
    disputed: int
    """Judged differently, and not agreed on."""
    held_back: int
    """Judged, but of a query with rows that are empty or disputed: as a whole it would look judged."""
    agreement: JudgeAgreement | None


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


def read_rows(path: Path) -> list[PoolRow]:
    """Return the rows of a pool. Raises ``LabelError`` for a malformed one."""
    return [_pool_row(place, row) for place, row in (_json_rows if path.suffix == ".jsonl" else _csv_rows)(path)]


def read_pool(path: Path) -> JudgedPool:
    """Return the judgements of a pool that stand (``opinions``). Raises ``LabelError`` where there are none."""
    rows = read_rows(path)
    pool = _of_judges(rows) if any(row.judge for row in rows) else _of_one(rows)
    if not pool.rows:
        left = f"{pool.empty:,} without a score, {pool.disputed:,} disputed, {pool.held_back:,} of queries with such"
        raise LabelError(
            f"{path} holds no judged row that can be added ({left}). Nothing was written; fill the column score, such "
            f"as {EXAMPLE!r}, or go on with `revector labels judge`."
        )
    return pool


def opinions(rows: Iterable[PoolRow], asked: Collection[Pair]) -> dict[str, dict[Pair, int]]:
    """Return what each judge said last of each pair; a row of a judge without a score takes back what was said.

    Raises ``LabelError`` for a judge's row of a pair that is none of ``asked``.
    """
    said: dict[str, dict[Pair, int]] = {}
    for row in rows:
        if row.judge and (row.query, row.document) not in asked:
            found = f"a judgement by {row.judge!r} of {(row.query, row.document)}"
            raise malformed(row.place, found, "one of the pairs that the file asks for in a row without a judge")
        scores = said.setdefault(row.judge, {})
        if row.score is not None:
            scores[row.query, row.document] = row.score
        elif row.judge:
            scores.pop((row.query, row.document), None)
    return {judge: scores for judge, scores in said.items() if scores}


def to_judge(rows: Iterable[PoolRow]) -> dict[Pair, PoolRow]:
    """Return the rows that are there to be judged, each pair once."""
    asked: dict[Pair, PoolRow] = {}
    for row in rows:
        if not row.judge and not row.known:
            asked.setdefault((row.query, row.document), row)
    return asked


def _of_one(rows: Sequence[PoolRow]) -> JudgedPool:
    judged = [
        JudgedRow(row.place, row.query, row.text, row.document, row.score) for row in rows if row.score is not None
    ]
    return JudgedPool(judged, len(rows) - len(judged))


def _of_judges(rows: Sequence[PoolRow]) -> JudgedPool:
    asked = to_judge(rows)
    said = opinions(rows, asked)
    scores = {pair: standing_score(scores_of(said, pair)) for pair in asked}
    unfinished = {query for (query, _), score in scores.items() if score is None}
    standing = {pair: score for pair, score in scores.items() if score is not None}
    whole = [
        JudgedRow(asked[pair].place, pair[0], asked[pair].text, pair[1], score)
        for pair, score in standing.items()
        if pair[0] not in unfinished
    ]
    open_pairs = len(disputed(said, asked))
    found = agreement(said)
    return JudgedPool(
        whole,
        len(scores) - len(standing) - open_pairs,
        open_pairs,
        len(standing) - len(whole),
        found if found.judges > 1 else None,
    )


def _pool_row(place: str, row: Mapping[str, object]) -> PoolRow:
    raw = row["score"]
    empty = raw is None or not str(raw).strip()
    score = None if empty else whole_number(raw)
    query, document = as_id(row["query_id"]), as_id(row["doc_id"])
    judge = str(row.get("judge") or "")
    if (score is None and not empty) or not (
        isinstance(query, str) and isinstance(document, str) and is_id(query) and is_id(document)
    ):
        found = f"query_id {query!r}, doc_id {document!r} and score {raw!r}"
        raise malformed(place, found, f"two ids and an integer score or none, such as {EXAMPLE!r}")
    content = row.get("text")
    known = row.get("judged") == "yes"
    return PoolRow(
        place, query, str(row["query"]), document, None if content is None else str(content), score, judge, known
    )


def add_judged(folder: Path, split: str, before: Read | None, pool: JudgedPool) -> PoolReport:
    """Write judged rows into the labels of ``folder``, which is made if ``before``, its content, is None.

    Raises:
        LabelError: If a row contradicts the labels or another row, or gives a query another text. Nothing is written.

    """
    texts = {} if before is None else {query.id: query.text for query in before.queries}
    had = {} if before is None else {(one.query, one.document): one for one in before.judgements}
    new_texts: dict[str, str] = {}
    new: dict[tuple[str, str], int] = {}
    conflicts: list[str] = []
    judged = pool.rows
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
    return PoolReport(
        rows=len(judged) + pool.empty + pool.disputed + pool.held_back,
        added=len(new),
        known=len(judged) - len(new),
        empty=pool.empty,
        new_queries=len(new_texts),
        disputed=pool.disputed,
        held_back=pool.held_back,
        agreement=pool.agreement,
    )


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
