"""Labels as rows with named columns: a CSV file, or a table that a SQL query reads.

Columns: ``query_id``, ``query``, ``doc_id`` and ``score``, one judgement a row; ``start`` and ``end`` (characters, both
or neither) judge a span, and ``quote`` beside them holds its text. All other columns are metadata of the query, the
same on each of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from revector.errors import LabelError, SourceError
from revector.labels.beir import span_of
from revector.labels.lines import csv_rows, is_id, malformed, whole_number
from revector.labels.model import Judgement, LabelledQuery, Read
from revector.sources.sql import read_sql

NEEDED = ("query_id", "query", "doc_id", "score")
EXAMPLE = "q1,how do I begin,d7,1"
_OWN = {*NEEDED, "start", "end"}
_QUOTE = "quote"


@dataclass(frozen=True, slots=True)
class Table:
    """Labels in a database: a SELECT, and the SQLAlchemy URL of where it is sent."""

    query: str
    url: str = field(repr=False)
    name: str = "sql"


def read_csv(path: Path) -> Read:
    """Read a CSV file. Raises ``LabelError`` for a malformed row and for none at all."""
    return _read(path.name, str(path), csv_rows(path, needs=NEEDED, example=EXAMPLE))


def read_table(table: Table) -> Read:
    """Read what the query returns. Raises ``LabelError`` if it fails, a row is malformed, or there are none."""
    try:
        rows = [(f"{table.name}, {place}", row) for place, row in read_sql(table.url, table.query)]
    except SourceError as error:
        raise LabelError(f"the labels of {table.query[:200]!r}: {error}") from error
    for place, row in rows[:1]:
        if absent := [name for name in NEEDED if name not in row]:
            raise malformed(place, f"no column {', '.join(absent)} among {list(row)}", f"columns {', '.join(NEEDED)}")
    return _read(table.name, f"the query {table.query[:200]!r}", rows)


def _read(name: str, at: str, rows: Iterable[tuple[str, Mapping[str, object]]]) -> Read:
    queries: dict[str, LabelledQuery] = {}
    judgements: list[Judgement] = []
    for place, row in rows:
        query, document = (_text(row[column]) for column in ("query_id", "doc_id"))
        score = whole_number(row["score"])
        if score is None or not is_id(query) or not is_id(document):
            found = f"query_id {query[:80]!r}, doc_id {document[:80]!r} and score {row['score']!r}"
            raise malformed(place, found, f"two ids and an integer score, such as {EXAMPLE!r}")
        own = _OWN | {_QUOTE} if "start" in row else _OWN
        meta = {column: value for column, value in row.items() if column not in own and value not in (None, "")}
        read = LabelledQuery(place, query, _text(row["query"]), meta)
        _check_same(queries.setdefault(query, read), read)
        span = span_of(place, document, row.get("start"), row.get("end"), row.get(_QUOTE) if _QUOTE in own else None)
        judgements.append(Judgement(place, query, document, score, span))
    if not judgements:
        raise LabelError(f"{at} holds no judgement; expected are rows such as {EXAMPLE!r}. Nothing was measured.")
    return Read(name, at, at, list(queries.values()), judgements)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _check_same(first: LabelledQuery, again: LabelledQuery) -> None:
    """Raise ``LabelError`` if two rows say different things about one query."""
    if first.text != again.text:
        raise malformed(
            again.place,
            f"query {again.id!r} with the text {again.text[:80]!r}, and {first.text[:80]!r} before ({first.place})",
            "one text per query",
        )
    differing = [name for name in {**first.meta, **again.meta} if first.meta.get(name) != again.meta.get(name)]
    if differing:
        name = differing[0]
        raise malformed(
            again.place,
            f"{name} {again.meta.get(name)!r} for query {again.id!r}, and {first.meta.get(name)!r} before",
            f"metadata of queries in all columns but {', '.join(sorted(_OWN))}, the same on each row of a query; leave "
            "out the column",
        )
