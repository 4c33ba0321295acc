"""Labels in BEIR layout: read, written as a whole, and added to.

A folder holds ``queries.jsonl`` (``{"_id": "q1", "text": "…"}`` per line; a ``metadata`` object and all other fields
are kept) and ``qrels/<split>.tsv`` (query id, document id and integer score, tab-separated, with or without a header;
two more columns, start and end, judge a span, and a sixth quotes its text). Either may be gzipped, with ``.gz``
appended. Layout: Thakur et al., *BEIR* (NeurIPS 2021); start, end and quote are ours.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from revector.errors import LabelError
from revector.formats.strict_json import DoubledName, parse
from revector.formats.values import as_id
from revector.labels.lines import lines, malformed, whole_number
from revector.labels.model import Judgement, LabelledQuery, Labels, Read, Span

QUERIES = "queries.jsonl"
_HEADER = {"score", "relevance", "rel"}
_QUERY = (
    'a JSON object with "_id", a string or a whole number, and a string "text", such as {"_id": "q1", "text": "how do '
    'I begin"}'
)
_JUDGEMENT = "query id, document id and an integer score, separated by tabs, such as 'q1\\td7\\t1'"


def read_beir(folder: Path, split: str) -> Read:
    """Read ``queries.jsonl`` and ``qrels/<split>.tsv`` (or their ``.gz``; the plain file is taken if both exist)."""
    queries, judged = find(folder, QUERIES), find(folder, f"qrels/{split}.tsv")
    return Read(
        name=f"{folder.resolve().name}/{split}",
        queries_at=str(queries),
        judged_at=str(judged),
        queries=read_queries(queries),
        judgements=_read_qrels(judged),
    )


def find(folder: Path, name: str) -> Path:
    """Return the file, plain or gzipped. Raises ``LabelError`` saying what is expected and what is there."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    splits = sorted(path.name.removesuffix(".gz").removesuffix(".tsv") for path in folder.glob("qrels/*.tsv*"))
    raise LabelError(
        f"labels were asked for from {folder}; {name} or {name}.gz is not there. Expected are queries.jsonl and "
        f"qrels/<split>.tsv (BEIR layout); splits found: {', '.join(splits) or 'none'}. Other forms are a folder with "
        "qrels.txt and queries.tsv or topics.txt (TREC), a .csv file, or sql:SELECT ... Nothing was measured."
    )


def read_queries(path: Path) -> list[LabelledQuery]:
    """Read one query per line. Raises ``LabelError`` for a malformed line and for none at all."""
    queries: list[LabelledQuery] = []
    for place, line in lines(path):
        try:
            record = parse(line)
        except DoubledName as error:
            raise malformed(place, str(error), "each key once") from error
        except ValueError as error:
            raise malformed(place, f"{line[:80]!r} ({error})", _QUERY) from error
        if not isinstance(record, dict):
            raise malformed(place, repr(line[:80]), _QUERY)
        query, text = as_id(record.get("_id")), record.get("text") or ""
        if not (isinstance(query, str) and query and isinstance(text, str)):
            raise malformed(place, repr(line[:80]), _QUERY)
        if re.search("[\ud800-\udfff]", query + text):
            raise malformed(place, "half of a surrogate pair (\\ud800 to \\udfff)", "whole Unicode characters")
        queries.append(LabelledQuery(place, query, text, _meta(place, record)))
    if not queries:
        raise LabelError(f"{path} holds no query; expected is {_QUERY} per line. Nothing was measured.")
    return queries


def write_beir(
    folder: Path, labels: Labels, queries: Iterable[str] | None = None, *, readme: str | None = None
) -> Path:
    """Write queries (default: all) with their judgements as a new folder, split ``test``, whole or not at all.

    Raises ``LabelError`` if the folder is there already and holds something.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabelError(f"{folder} is there already and not empty. Nothing was written; name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(0o755)
        (made / "qrels").mkdir()
        chosen = list(labels.queries if queries is None else queries)
        (made / QUERIES).write_text(
            "".join(query_line(query, labels.queries[query], labels.meta.get(query)) for query in chosen), "utf-8"
        )
        (made / "qrels" / "test.tsv").write_text(_qrels_text(labels, chosen), "utf-8")
        if readme is not None:
            (made / "README.md").write_text(readme, "utf-8")
        made.replace(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def add_to_beir(folder: Path, split: str, queries: Mapping[str, str], scores: Sequence[tuple[str, str, int]]) -> None:
    """Append queries and judgements to the folder's files; what was in them stays byte for byte.

    The queries come first: without their judgements, should this be the last thing that happens, they are not used.
    """
    _append(find(folder, QUERIES), "".join(query_line(query, text) for query, text in queries.items()))
    _append(
        find(folder, f"qrels/{split}.tsv"),
        "".join(f"{query}\t{document}\t{score}\n" for query, document, score in scores),
    )


def query_line(query: str, text: str, meta: Mapping[str, object] | None = None) -> str:
    """Return one line of ``queries.jsonl``."""
    record = {"_id": query, "text": text} | ({"metadata": dict(meta)} if meta else {})
    return json.dumps(record, ensure_ascii=False, default=str) + "\n"


def _meta(place: str, record: Mapping[str, object]) -> dict[str, object]:
    inner = record.get("metadata")
    beside = {name: value for name, value in record.items() if name not in ("_id", "text", "metadata")}
    if isinstance(inner, Mapping):
        if differing := [name for name, value in inner.items() if beside.get(name, value) != value]:
            raise malformed(
                place, f"{differing[0]!r} in `metadata` and beside it, with different values", "one of them"
            )
        return {**inner, **beside}
    return beside if inner is None else {**beside, "metadata": inner}


def _read_qrels(path: Path) -> list[Judgement]:
    judgements: list[Judgement] = []
    for i, (place, line) in enumerate(lines(path)):
        fields = line.split("\t")
        if i == 0 and len(fields) in (3, 5, 6) and fields[2].strip().lower() in _HEADER:
            continue
        score = whole_number(fields[2]) if len(fields) in (3, 5, 6) else None
        if score is None or not fields[0] or not fields[1]:
            raise malformed(place, repr(line[:80]), _JUDGEMENT)
        span = span_of(place, fields[1], *fields[3:]) if len(fields) > 3 else None
        judgements.append(Judgement(place, fields[0], fields[1], score, span))
    if not judgements:
        raise LabelError(f"{path} holds no judgement; expected is {_JUDGEMENT}, per line. Nothing was measured.")
    return judgements


def span_of(place: str, document: str, start: object, end: object, quote: object = None) -> Span | None:
    """Return the span between two columns; None where both are empty. Raises ``LabelError`` for anything odd."""
    quoted = "" if quote is None else str(quote)
    if all(value is None or not str(value).strip() for value in (start, end)):
        if quoted.strip():
            raise malformed(place, f"the quoted text {quoted[:40]!r} without start and end", "start and end beside it")
        return None
    first, last = whole_number(start), whole_number(end)
    if first is None or last is None or not 0 <= first < last:
        raise malformed(
            place,
            f"start {start!r} and end {end!r}",
            "both empty, or two whole numbers with 0 <= start < end (characters), such as 120 and 340",
        )
    return Span(document, first, last, quoted)


def _qrels_text(labels: Labels, queries: Sequence[str]) -> str:
    """Return the rows under their header; start and end only where something was judged by spans."""
    spanned = any(query in labels.spans for query in queries)
    quoted = any(span.quote for query in queries for span in labels.spans.get(query, {}))
    empty = "\t" * (2 * spanned + quoted)
    rows = ["query-id\tcorpus-id\tscore" + "\tstart\tend" * spanned + "\tquote" * quoted]
    for query in queries:
        spans = labels.spans.get(query, {})
        by_span = {span.doc_id for span in spans}
        rows += [f"{query}\t{doc}\t{score}{empty}" for doc, score in labels.qrels[query].items() if doc not in by_span]
        for span, score in spans.items():
            quote = "\t" + " ".join(span.quote.split()) if quoted else ""
            rows.append(f"{query}\t{span.doc_id}\t{score}\t{span.start}\t{span.end}{quote}")
    return "\n".join(rows) + "\n"


def _append(path: Path, text: str) -> None:
    if not text:
        return
    gzipped = path.suffix == ".gz"
    before = gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()
    after = before + (b"" if before.endswith(b"\n") or not before else b"\n") + text.encode()
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(gzip.compress(after) if gzipped else after)
        file.flush()
        os.fsync(file.fileno())
    shutil.copymode(path, beside)
    beside.replace(path)
