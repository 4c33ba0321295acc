"""Labelled queries on disk, in the BEIR layout: read, checked, fingerprinted, and matched with the documents there are.

A folder holds ``queries.jsonl`` (``{"_id": "q1", "text": "…"}`` per line) and ``qrels/<split>.tsv`` (query id,
document id and integer score, tab-separated, with or without a header); either may be gzipped, with ``.gz`` appended.
Layout: Thakur et al., *BEIR* (NeurIPS 2021). A score above 0 means relevant.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from revector.errors import LabelError
from revector.spec import stable_hash

_SCORE = re.compile(r"-?[0-9]{1,9}")
_HEADER = {"score", "relevance", "rel"}


@dataclass(frozen=True, slots=True)
class Labels:
    """Judged queries: ``queries`` and ``qrels`` have the same keys, in the order of the query file.

    ``name`` is ``<folder>/<split>``. ``fingerprint`` (SHA-256 hex) changes with any judged query's text or judgement,
    and with nothing else. ``unjudged`` are ids of the queries kept out because nothing was judged for them.
    """

    name: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    fingerprint: str
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """How far labels fit a collection; only relevant judgements count.

    ``known_pairs`` of ``pairs`` (query, document) judgements name a document that exists; ``unknown_ids`` are the
    documents that do not. ``queries_left`` have at least one relevant document, ``queries_lost`` had only unknown ones.
    """

    pairs: int
    known_pairs: int
    unknown_ids: tuple[str, ...]
    queries_left: tuple[str, ...]
    queries_lost: tuple[str, ...]


def load_labels(folder: Path, split: str = "test") -> Labels:
    """Read ``queries.jsonl`` and ``qrels/<split>.tsv`` (or their ``.gz``; the plain file is taken if both exist).

    Raises:
        LabelError: If a file is missing, unreadable or empty, a line is malformed (the message names file and line), a
            query id appears twice, a pair is judged twice with different scores, a judged query has no text, or
            nothing is judged relevant.

    """
    folder = Path(folder)
    queries_path = _find(folder, "queries.jsonl")
    qrels_path = _find(folder, f"qrels/{split}.tsv")
    texts = _read_queries(queries_path)
    judged = _read_qrels(qrels_path)
    if without := [query for query in judged if not texts.get(query, "").strip()]:
        raise LabelError(
            f"{qrels_path} judges {_some(without)}, without text in {queries_path}; every judged query needs a text. "
            "Nothing was measured; add the text or remove the judgements."
        )
    if not any(score > 0 for documents in judged.values() for score in documents.values()):
        raise LabelError(
            f"{qrels_path} judges {len(judged)} queries but no document relevant (score above 0), so no recall can be "
            "measured. Nothing was measured; check the third column."
        )
    queries = {query: text for query, text in texts.items() if query in judged}
    qrels = {query: judged[query] for query in queries}
    return Labels(
        name=f"{folder.resolve().name}/{split}",
        queries=queries,
        qrels=qrels,
        fingerprint=stable_hash({"queries": queries, "qrels": qrels}),
        unjudged=tuple(query for query in texts if query not in judged),
    )


def check_against(labels: Labels, known_ids: Callable[[Sequence[str]], set[str]]) -> LabelCheck:
    """Match the relevant documents of ``labels`` with those that exist.

    Args:
        labels: Judged queries.
        known_ids: Given document ids, returns those that exist; called once.

    Raises:
        LabelError: If none of the documents exists: the labels belong to another collection.

    """
    positive = {query: {d for d, score in judged.items() if score > 0} for query, judged in labels.qrels.items()}
    relevant = {query: ids for query, ids in positive.items() if ids}
    asked = sorted(set().union(*relevant.values()))
    known = known_ids(asked) & set(asked)
    if not known:
        raise LabelError(
            f"labels {labels.name} name {len(asked)} relevant documents, {_some(asked, 'document')}, and the "
            "collection holds none of them. Nothing was measured; these labels belong to other documents, or the id "
            "field of the source is not the one that the labels use."
        )
    left = tuple(query for query, ids in relevant.items() if ids & known)
    return LabelCheck(
        pairs=sum(map(len, relevant.values())),
        known_pairs=sum(len(ids & known) for ids in relevant.values()),
        unknown_ids=tuple(document for document in asked if document not in known),
        queries_left=left,
        queries_lost=tuple(query for query, ids in relevant.items() if not ids & known),
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    splits = sorted(path.name.removesuffix(".gz").removesuffix(".tsv") for path in folder.glob("qrels/*.tsv*"))
    raise LabelError(
        f"labels were asked for from {folder}; {name} or {name}.gz is not there. Expected are queries.jsonl and "
        f"qrels/<split>.tsv (BEIR layout); splits found: {', '.join(splits) or 'none'}. Nothing was measured."
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``(place, line)`` for each line that is not blank; ``place`` is ``file:line``."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path} cannot be read past line {number}: {error}. Expected is UTF-8 text, gzipped if it ends in .gz. "
            "Nothing was measured."
        ) from error


def _malformed(place: str, found: str, allowed: str) -> LabelError:
    return LabelError(f"{place}: found {found}; expected {allowed}. Nothing was measured; mend the line.")


def _read_queries(path: Path) -> dict[str, str]:
    allowed = 'a JSON object with strings "_id" and "text"'
    texts: dict[str, str] = {}
    for place, line in _lines(path):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _malformed(place, f"{line[:80]!r} ({error})", allowed) from error
        query = record.get("_id") if isinstance(record, dict) else None
        text = (record.get("text") or "") if isinstance(record, dict) else ""
        if not (isinstance(query, str) and query and isinstance(text, str)):
            raise _malformed(place, repr(line[:80]), allowed)
        if re.search("[\ud800-\udfff]", query + text):
            raise _malformed(place, "half of a surrogate pair (\\ud800 to \\udfff)", "whole Unicode characters")
        if query in texts:
            raise _malformed(place, f"query id {query!r} a second time", "each query once")
        texts[query] = text
    if not texts:
        raise LabelError(f"{path} holds no query; expected is {allowed} per line. Nothing was measured.")
    return texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    allowed = "query id, document id and an integer score, separated by tabs"
    judged: dict[str, dict[str, int]] = {}
    for i, (place, line) in enumerate(_lines(path)):
        fields = line.split("\t")
        if i == 0 and len(fields) == 3 and fields[2].strip().lower() in _HEADER:
            continue
        if len(fields) != 3 or not fields[0] or not fields[1] or not _SCORE.fullmatch(fields[2].strip()):
            raise _malformed(place, repr(line[:80]), allowed)
        query, document, score = fields[0], fields[1], int(fields[2])
        before = judged.setdefault(query, {}).setdefault(document, score)
        if before != score:
            raise _malformed(place, f"({query!r}, {document!r}) judged {before} and {score}", "one score per pair")
    if not judged:
        raise LabelError(f"{path} holds no judgement; expected is {allowed}, per line. Nothing was measured.")
    return judged


def _some(ids: Collection[str], what: str = "query") -> str:
    """Return up to three ids as text, and how many more there are."""
    shown = ", ".join(repr(i) for i in list(ids)[:3])
    return f"{what} {shown}" + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
