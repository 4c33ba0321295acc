"""Owns pairs of a query and what answers it: as a file, a log of clicks or labels name them, matched with documents."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from revector.documents.text import clean, clean_query, is_id
from revector.errors import DocumentError, LabelError, QueryRefused
from revector.formats.strict_json import parse
from revector.labels import Labels, LabelSource, load_labels
from revector.labels.clicks import label_clicks
from revector.labels.lines import lines, malformed, some
from revector.training.corpus import Corpus

MIN_CLICKS = 3
"""A document answers a query from so many clicks on, as in `labels from-clicks`."""

_CLICKS = "clicks:"
_PAIR = (
    'a JSON object with "query" and either "positive", a text, or "doc_id", a document of the collection, such as '
    '{"query": "how do I begin", "doc_id": "d7"}'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A cleaned query and the document of the corpus that answers it."""

    query: str
    doc_id: str


@dataclass(frozen=True, slots=True)
class NamedPair:
    """A pair as it was read: a cleaned query, and the id of a document or a cleaned text."""

    place: str
    query: str
    doc_id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Pairs matched with documents; ``read``: how many there were, ``repeated`` of them a second time.

    ``unknown``: ids of documents that do not exist; ``lost`` pairs named one of them.
    """

    pairs: tuple[Pair, ...]
    read: int
    repeated: int
    lost: int
    unknown: tuple[str, ...]


def same_query(query: str) -> str:
    """Return what two queries share that differ in white space and letter case alone, as for logs of clicks."""
    return unicodedata.normalize("NFC", " ".join(query.split()).casefold())


def read_pairs(source: str, root: Path, labels: LabelSource | None) -> list[NamedPair]:
    """Read what ``source`` names, from ``root``: ``qrels``, ``clicks:FILE.csv``, ``FOLDER/qrels/SPLIT.tsv`` or a file.

    ``qrels`` are the collection's own ``labels``. A file holds a pair per line, JSON. Raises ``LabelError`` for labels
    that are not configured or cannot be read, and for a malformed line.
    """
    if source == "qrels":
        if labels is None:
            raise LabelError(
                "pairs were asked for from qrels, and the collection names none in revector.toml. Nothing was trained; "
                "set qrels, or name a file of pairs."
            )
        return of_labels(load_labels(labels))
    if source.startswith(_CLICKS):
        return of_labels(label_clicks(root / source.removeprefix(_CLICKS), min_clicks=MIN_CLICKS, days=None).labels)
    path = root / Path(source).expanduser()
    if path.name.removesuffix(".gz").endswith(".tsv") and path.parent.name == "qrels":
        split = path.name.removesuffix(".gz").removesuffix(".tsv")
        return of_labels(load_labels(path.parent.parent, split))
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        raise LabelError(
            f"pairs were asked for from {source!r}; accepted are FILE.jsonl, clicks:FILE.csv, FOLDER/qrels/SPLIT.tsv "
            "and qrels, the collection's own labelled queries. Nothing was trained."
        )
    return list(_of_file(path))


def of_labels(labels: Labels) -> list[NamedPair]:
    """Return a pair for every relevant document of every query. Raises ``LabelError`` for a damaged query."""
    found = []
    for query, judged in labels.qrels.items():
        place = f"{labels.name}, query {query!r}"
        text = _query(place, labels.queries[query])
        found += [NamedPair(place, text, doc_id) for doc_id, score in judged.items() if score > 0]
    return found


def _of_file(path: Path) -> Iterator[NamedPair]:
    for place, line in lines(path):
        try:
            record = parse(line)
        except ValueError as error:
            raise malformed(place, f"{line[:80]!r} ({error})", _PAIR) from error
        if not isinstance(record, dict) or not isinstance(record.get("query"), str):
            raise malformed(place, repr(line[:80]), _PAIR)
        doc_id, text = record.get("doc_id"), record.get("positive")
        if isinstance(doc_id, str) and is_id(doc_id):
            yield NamedPair(place, _query(place, record["query"]), doc_id)
        elif doc_id is None and isinstance(text, str):
            yield NamedPair(place, _query(place, record["query"]), text=_text(place, text))
        else:
            raise malformed(place, repr(line[:80]), _PAIR)


def _query(place: str, query: str) -> str:
    try:
        return " ".join(clean_query(query).split())
    except QueryRefused as error:
        raise malformed(place, f"the query {query[:40]!r} ({error})", "a query that can be searched for") from error


def _text(place: str, text: str) -> str:
    try:
        return clean(text)
    except DocumentError as error:
        raise malformed(place, f"the text {text[:40]!r} ({error})", "a text that can be embedded") from error


def matched(named: Sequence[NamedPair], documents: Corpus) -> tuple[MatchedPairs, Corpus]:
    """Match pairs with documents; return the corpus with the texts that are no document's, too.

    Raises ``LabelError`` where pairs name documents, and none of them exists.
    """
    corpus = documents.with_texts(one.text for one in named if one.text is not None)
    by_text = dict(zip(reversed(corpus.texts), reversed(corpus.ids), strict=True))
    known, unknown = set(corpus.ids), Counter[str]()
    pairs: dict[tuple[str, str], Pair] = {}
    for one in named:
        doc_id = one.doc_id if one.text is None else by_text[one.text]
        assert doc_id is not None  # a pair names one of the two
        if doc_id in known:
            pairs.setdefault((same_query(one.query), doc_id), Pair(one.query, doc_id))
        else:
            unknown[doc_id] += 1
    lost = unknown.total()
    if not pairs:
        raise LabelError(
            f"{len(named):,} pairs name {len(unknown):,} documents, {some(list(unknown), 'document')}, and the "
            "collection holds none of them. Nothing was trained; these pairs belong to other documents."
        )
    return MatchedPairs(tuple(pairs.values()), len(named), len(named) - lost - len(pairs), lost, tuple(unknown)), corpus
