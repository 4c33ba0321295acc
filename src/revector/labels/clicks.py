"""Labels from a log of clicks: queries aggregated by their cleaned text, and the bias of such labels stated.

Where positions are given, clicks are weighed by the position-based model: a result at position r is looked at with a
probability that falls as 1/r, so a click there counts as r clicks at position 1, at most ``MOST_WEIGHT``. Weights are
divided by their mean over the log, so that N clicks remain N clicks; and a document needs N real clicks as well, so
that positions only ever take labels away: those that owe their clicks to the top of the page.

Source: Joachims, Swaminathan & Schnabel, *Unbiased Learning-to-Rank with Biased Feedback* (WSDM 2017), for the model
(their eta is 1 here), the weights 1/propensity and clipping them; Swaminathan & Joachims, *The Self-Normalized
Estimator for Counterfactual Learning* (NIPS 2015), for the division.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from revector.documents.text import clean
from revector.errors import DocumentError, LabelError
from revector.labels.lines import csv_rows, is_id, malformed, whole_number
from revector.labels.model import Judgement, LabelledQuery, Labels, Read, believe

NEEDED = ("query", "doc_id", "time")
EXAMPLE = "how do I begin,d7,2026-03-01T12:00:00Z"
MOST_WEIGHT = 10
"""Weight of a click at position 10 and below: without a limit a single click far down would outweigh all others."""

NAMED = 10


@dataclass(frozen=True, slots=True)
class Click:
    """One click; ``position`` counts from 1 and is None where the log has none."""

    place: str
    query: str
    document: str
    time: datetime
    position: int | None


@dataclass(slots=True)
class Counts:
    """What became of the clicks of a log, and of the pairs (query, document) and queries in it."""

    clicks: int = 0
    """Used."""
    outside_days: int = 0
    unusable: int = 0
    """With an empty or damaged query."""
    first_unusable: list[str] = field(default_factory=list)
    """Places of the first ten."""
    pairs: int = 0
    pairs_below: int = 0
    """With too few clicks."""
    queries: int = 0
    queries_below: int = 0
    """Without a relevant document."""


@dataclass(frozen=True, slots=True)
class ClickReport:
    """What a log of clicks came to; ``mean_weight`` of a click is None where the log has no positions."""

    labels: Labels
    counts: Counts
    mean_weight: float | None


@dataclass(slots=True)
class _ClickSums:
    clicks: int = 0
    weight: int = 0


_Tallies: TypeAlias = dict[str, dict[str, _ClickSums]]
"""Cleaned query → document → its clicks."""


def read_clicks(path: Path) -> Iterator[Click]:
    """Yield the clicks of a CSV file with the columns ``query``, ``doc_id``, ``time`` and, perhaps, ``position``.

    ``time`` is ISO 8601, UTC where it names no zone. Raises ``LabelError`` for a malformed row.
    """
    for place, row in csv_rows(path, needs=NEEDED, example=EXAMPLE):
        position = whole_number(row["position"]) if "position" in row else None
        if "position" in row and (position is None or position < 1):
            raise malformed(
                place, f"position {row['position']!r}", f"a whole number from 1, such as {EXAMPLE + ',3'!r}"
            )
        if not is_id(row["doc_id"]):
            raise malformed(place, f"doc_id {row['doc_id']!r}", f"a document id, such as {EXAMPLE!r}")
        try:
            time = datetime.fromisoformat(row["time"].strip())
        except ValueError as error:
            raise malformed(place, f"time {row['time']!r}", f"a time in ISO 8601, such as {EXAMPLE!r}") from error
        yield Click(place, row["query"], row["doc_id"], time if time.tzinfo else time.replace(tzinfo=UTC), position)


def label_clicks(path: Path, *, min_clicks: int, days: float | None) -> ClickReport:
    """Make labels of a log: a document is relevant for a query from ``min_clicks`` clicks on.

    Queries that differ in white space and letter case alone are one; its text is the first that was seen. ``days``
    keeps the clicks of that many days before the newest click of the log. Clicks whose query is empty or damaged are
    counted, not used. Memory grows with distinct (query, document) pairs, not with clicks.

    Raises:
        LabelError: If a row is malformed, there is no click, or no document reaches ``min_clicks``.

    """
    since = None
    if days is not None:
        newest = max((one.time for one in read_clicks(path)), default=datetime.max.replace(tzinfo=UTC))
        since = newest - timedelta(days=days)
    counts = Counts()
    texts, tallies = _tally(read_clicks(path), since, counts)
    if not counts.clicks:
        raise LabelError(
            f"{path} holds no click that can be used ({counts.unusable:,} have an empty or damaged query); expected "
            f"are rows such as {EXAMPLE!r} under {', '.join(NEEDED)}. Nothing was written."
        )
    weight = sum(tally.weight for of_query in tallies.values() for tally in of_query.values())
    mean = weight / counts.clicks if weight else None
    relevant = _relevant(tallies, min_clicks, mean, counts)
    if not relevant:
        raise LabelError(
            f"none of the {counts.pairs:,} pairs of query and document in {path} has {min_clicks} clicks. Nothing was "
            "written; ask for fewer (--min-clicks), for more days, or take a longer log."
        )
    at, ids = str(path), {key: "c" + hashlib.sha256(key.encode()).hexdigest()[:16] for key in relevant}
    queries = [
        LabelledQuery(at, ids[key], texts[key], {"clicks": sum(tally.clicks for tally in tallies[key].values())})
        for key in relevant
    ]
    judgements = [Judgement(at, ids[key], document, 1) for key, documents in relevant.items() for document in documents]
    return ClickReport(believe(Read(path.name, at, at, queries, judgements)), counts, mean)


def readme(found: ClickReport, *, min_clicks: int, days: float | None) -> str:
    """Return what the folder says about itself."""
    counts, labels = found.counts, found.labels
    log = "the whole log" if days is None else f"the last {days:g} days of the log"
    older = "" if days is None else f"; {counts.outside_days:,} older clicks"
    return (
        f"# Labels from clicks\n\n{counts.clicks:,} clicks, {log}. A document is relevant for a query from "
        f"{min_clicks} clicks on: {sum(map(len, labels.qrels.values())):,} judgements of {len(labels.queries):,} "
        f"queries. Left out: {counts.pairs_below:,} of {counts.pairs:,} pairs of query and document with fewer clicks, "
        f"and with them {counts.queries_below:,} of {counts.queries:,} queries; {counts.unusable:,} clicks with an "
        f"empty or damaged query{older}.\n\n## Their bias\n\n" + "".join(f"* {line}\n" for line in bias(found))
    )


def bias(found: ClickReport) -> tuple[str, ...]:
    """Return, in sentences, what is wrong with labels from clicks."""
    if found.mean_weight is None:
        position = (
            "Position: people click what stands at the top. The log has no column position, so nothing was done about "
            "it; these labels favour whatever the searches of that time put first."
        )
    else:
        position = (
            "Position: people click what stands at the top. A click at position r was counted as min(r, "
            f"{MOST_WEIGHT}) / {found.mean_weight:.3g} clicks (position-based model, Joachims, Swaminathan & Schnabel, "
            "WSDM 2017; divided by the mean weight). That evens out how often a place is looked at, not what people "
            "make of it: some bias is left."
        )
    selection = (
        "Selection: only what was shown could be clicked. A document that the old model never found has no label, so "
        "a better model that finds it gets no credit, and the old model looks better than it is. Judge a pool of old "
        "and new results as well: revector labels pool."
    )
    doubt = "A click is no judgement: titles attract, people err, and robots and one busy person count like many."
    return position, selection, doubt


def _tally(clicks: Iterable[Click], since: datetime | None, counts: Counts) -> tuple[dict[str, str], _Tallies]:
    """Return the text of each cleaned query, and the tallies."""
    texts: dict[str, str] = {}
    tallies: _Tallies = {}
    keys: dict[str, str] = {}  # as logged → cleaned, empty where it cannot be: cleaning costs more than looking up
    for one in clicks:
        if since is not None and one.time < since:
            counts.outside_days += 1
            continue
        if (key := keys.get(one.query)) is None:
            text = _cleaned(one.query)
            key = keys[one.query] = unicodedata.normalize("NFC", text.casefold())
            texts.setdefault(key, text)
        if not key:
            counts.unusable += 1
            if len(counts.first_unusable) < NAMED:
                counts.first_unusable.append(one.place)
            continue
        tally = tallies.setdefault(key, {}).setdefault(one.document, _ClickSums())
        tally.clicks += 1
        counts.clicks += 1
        if one.position is not None:
            tally.weight += min(one.position, MOST_WEIGHT)
    return texts, tallies


def _relevant(tallies: _Tallies, min_clicks: int, mean: float | None, counts: Counts) -> dict[str, list[str]]:
    """Return the relevant documents of each cleaned query that has any; count those that fell short."""
    relevant: dict[str, list[str]] = {}
    for key, of_query in tallies.items():
        chosen = sorted(
            document
            for document, tally in of_query.items()
            if tally.clicks >= min_clicks and (mean is None or tally.weight / mean >= min_clicks)
        )
        counts.queries += 1
        counts.pairs += len(of_query)
        counts.pairs_below += len(of_query) - len(chosen)
        if chosen:
            relevant[key] = chosen
    counts.queries_below = counts.queries - len(relevant)
    return relevant


def _cleaned(query: str) -> str:
    """Return the query on one line; empty if it holds nothing that can be searched for."""
    try:
        return " ".join(clean(query).split())
    except DocumentError:
        return ""
