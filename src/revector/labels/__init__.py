"""Labelled queries: where they come from, what they mean, how far they fit the documents, and how more are made.

Judgements name documents, or spans of documents in characters of their cleaned text; never chunks. So they hold under
any chunking (``items``). A score above 0 means relevant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from revector.errors import LabelError
from revector.labels import beir, records, trec
from revector.labels.beir import write_beir
from revector.labels.drawing import in_random_order
from revector.labels.items import item_of, item_qrels, passage_overlap, ranked_items, shown, span_of
from revector.labels.model import LabelCheck, LabelledQuery, Labels, Read, Span, believe, check_against
from revector.labels.quotes import placed
from revector.labels.records import Table

__all__ = [
    "LabelCheck",
    "LabelSource",
    "Labels",
    "Span",
    "Table",
    "check_against",
    "in_random_order",
    "item_of",
    "item_qrels",
    "label_source",
    "load_labels",
    "passage_overlap",
    "placed",
    "ranked_items",
    "read_labels",
    "read_queries",
    "shown",
    "span_of",
    "write_beir",
]

LabelSource: TypeAlias = Path | Table
"""A folder in BEIR layout or of TREC files, a CSV file, or a table; each has a ``name``."""


def label_source(setting: str, root: Path, url: Callable[[], str]) -> LabelSource:
    """Return what the setting ``qrels`` names: ``sql:SELECT ...``, or a folder or file, from ``root``.

    ``url`` gives the SQLAlchemy URL for ``sql:`` and is called for nothing else.
    """
    kind, _, rest = setting.partition(":")
    return Table(rest.strip(), url()) if kind == "sql" else root / setting


def load_labels(source: LabelSource, split: str = "test") -> Labels:
    """Read labels; ``split`` chooses ``qrels/<split>.tsv`` of a folder in BEIR layout.

    Raises:
        LabelError: If a file is missing, unreadable or empty, a line is malformed (the message names file and line and
            shows a right one), a query id appears twice, a pair is judged twice with different scores, a judged query
            has no text, or nothing is judged relevant.

    """
    return believe(read_labels(source, split))


def read_labels(source: LabelSource, split: str = "test") -> Read:
    """Read what a source says, before anything of it is believed. Raises ``LabelError`` for what cannot be read."""
    if isinstance(source, Table):
        return records.read_table(source)
    path = Path(source)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return records.read_csv(path)
    if path.is_file():
        raise LabelError(
            f"labels were asked for from the file {path}; accepted are .csv and .csv.gz, a folder in BEIR layout or of "
            "TREC files, or sql:SELECT ... Nothing was measured; correct qrels in revector.toml."
        )
    return trec.read_trec(path) if trec.is_trec(path) else beir.read_beir(path, split)


def read_queries(path: Path) -> list[LabelledQuery]:
    """Read queries alone: ``.tsv`` (id, tab, text), else JSON lines with ``_id`` and ``text``; either may be ``.gz``.

    Raises ``LabelError`` for a malformed line, an id that appears twice, a query without text, and for none at all.
    """
    table = path.name.removesuffix(".gz").endswith(".tsv")
    queries = trec.read_table(path) if table else beir.read_queries(path)
    seen: set[str] = set()
    for query in queries:
        if query.id in seen or not query.text.strip():
            found = f"query id {query.id!r} " + ("a second time" if query.id in seen else "without text")
            raise LabelError(f"{query.place}: {found}; expected is each query once, with text. Nothing has run.")
        seen.add(query.id)
    return queries
