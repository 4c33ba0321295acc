"""Labels in the files of TREC: qrels of four columns, and queries as a table or as topics.

A folder holds ``qrels.txt`` (query id, iteration, document id and integer score, separated by white space; the second
column is not used) and ``queries.tsv`` (query id, tab, text) or ``topics.txt`` (``<top>`` blocks with ``<num>`` and
``<title>``, of which the title is the query). Each may be gzipped, with ``.gz`` appended. Format: trec_eval's README,
and Voorhees & Harman, *TREC* (MIT Press 2005), chapter 2.
"""

from __future__ import annotations

import re
from pathlib import Path

from revector.errors import LabelError
from revector.labels.lines import lines, malformed, whole_number
from revector.labels.model import Judgement, LabelledQuery, Read

QRELS = "qrels.txt"
_JUDGEMENT = "query id, iteration, document id and an integer score, such as '301 0 FBIS3-10082 1'"
_ROW = "query id, tab and text, such as '301\\tinternational organised crime'"
_TOPIC = "'<top>', '<num> Number: 301', '<title> organised crime' and '</top>', each on a line"
_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.IGNORECASE)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?([^<]*)", re.IGNORECASE)


def is_trec(folder: Path) -> bool:
    """Whether ``folder`` holds the qrels of TREC."""
    return _there(folder, QRELS) is not None


def read_trec(folder: Path) -> Read:
    """Read the folder. Raises ``LabelError`` for a malformed line, and where a file is missing or empty."""
    judged = _there(folder, QRELS)
    table, topics = _there(folder, "queries.tsv"), _there(folder, "topics.txt")
    path = table or topics
    if judged is None or path is None:
        raise LabelError(
            f"{folder} holds {QRELS} but neither queries.tsv nor topics.txt (nor their .gz), so the queries have no "
            f"text. Nothing was measured; add one: {_ROW} per line, or topics with {_TOPIC}."
        )
    return Read(
        name=folder.resolve().name,
        queries_at=str(path),
        judged_at=str(judged),
        queries=read_table(path) if table else _read_topics(path),
        judgements=_read_qrels(judged),
    )


def read_table(path: Path) -> list[LabelledQuery]:
    """Read one query per line. Raises ``LabelError`` for a malformed line and for none at all."""
    queries: list[LabelledQuery] = []
    for place, line in lines(path):
        query, tab, text = line.partition("\t")
        if not tab or not query.strip():
            raise malformed(place, repr(line[:80]), _ROW)
        queries.append(LabelledQuery(place, query.strip(), text.strip()))
    if not queries:
        raise LabelError(f"{path} holds no query; expected is {_ROW} per line. Nothing was measured.")
    return queries


def _there(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_topics(path: Path) -> list[LabelledQuery]:
    queries: list[LabelledQuery] = []
    begun: str | None = None
    block: list[str] = []
    for place, line in lines(path):
        at = begun or place
        block.append(line)
        begun = at
        if "</top>" not in line.lower():
            continue
        text = "\n".join(block)
        number, title = _NUMBER.search(text), _TITLE.search(text)
        if number is None or title is None:
            raise malformed(at, f"{text[:80]!r}, a topic without number or title", _TOPIC)
        queries.append(LabelledQuery(at, number[1], " ".join(title[1].split())))
        begun, block = None, []
    if begun is not None:
        raise malformed(begun, "a topic without </top>", _TOPIC)
    if not queries:
        raise LabelError(f"{path} holds no topic; expected are {_TOPIC}. Nothing was measured.")
    return queries


def _read_qrels(path: Path) -> list[Judgement]:
    judgements: list[Judgement] = []
    for place, line in lines(path):
        fields = line.split()
        score = whole_number(fields[3]) if len(fields) == 4 else None
        if score is None:
            raise malformed(place, repr(line[:80]), _JUDGEMENT)
        judgements.append(Judgement(place, fields[0], fields[2], score))
    if not judgements:
        raise LabelError(f"{path} holds no judgement; expected is {_JUDGEMENT}, per line. Nothing was measured.")
    return judgements
