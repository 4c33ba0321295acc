"""Everything that is doubtful in labels, counted and named: what was read against itself and against the documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from revector.errors import LabelError
from revector.labels.model import Judgement, Read, believe, contradictions
from revector.labels.quotes import Texts, placed_span

NAMED = 10

Look: TypeAlias = Callable[[Sequence[str]], Mapping[str, int | None]]
"""Document ids → those ever stored, with the length of the text in characters, or None where it was deleted."""


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """How many there are, and the first few of them by name."""

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelsReport:
    """What was found; ``findings`` has every kind, also where the count is 0.

    ``usable`` queries have a text and a relevant document that exists. ``unjudged`` queries are not used, and no fault:
    another split may judge them. ``refusal`` says why the labels as a whole cannot be used, None where they can.
    """

    name: str
    queries: int
    judgements: int
    usable: int
    findings: dict[str, LabelFinding]
    unjudged: LabelFinding
    refusal: str | None

    @property
    def found(self) -> bool:
        """Whether there is anything to look at."""
        return any(finding.count for finding in self.findings.values())


def check_labels(read: Read, look: Look, contents: Texts) -> LabelsReport:
    """Check labels against themselves and against the documents; ``look`` and ``contents`` are asked once each."""
    judged = dict.fromkeys(one.query for one in read.judgements)
    texts = {query.id: query.text.strip() for query in read.queries}
    ids = sorted({one.document for one in read.judgements})
    there = look(ids)
    relevant: dict[str, set[str]] = {}
    for one in read.judgements:
        if one.score > 0:
            relevant.setdefault(one.query, set()).add(one.document)
    left = {query for query, documents in relevant.items() if any(there.get(doc) is not None for doc in documents)}
    usable = sum(1 for query in left if texts.get(query))
    findings = {
        "unknown documents": (doc for doc in ids if doc not in there),
        "deleted documents": (doc for doc in ids if doc in there and there[doc] is None),
        "spans outside their document": (
            f"{one.named} of {size:,} characters at {one.place}"
            for one in read.judgements
            if one.span and not one.span.quote and (size := there.get(one.document)) is not None and one.span.end > size
        ),
        "spans whose quoted text is not at one place": _misquoted(read.judgements, contents),
        "judgements given twice": _repeated(read.judgements),
        "conflicting judgements": (f"{what} at {one.place}" for one, what, _ in contradictions(read.judgements)),
        "query ids given twice": _again((query.id, query.place) for query in read.queries),
        "queries with the text of another": _same_text(read),
        "judged queries without text": (query for query in judged if not texts.get(query)),
        "queries without a relevant document": (query for query in judged if query not in relevant),
        "queries whose relevant documents are all gone": (query for query in relevant if query not in left),
    }
    return LabelsReport(
        name=read.name,
        queries=len(judged),
        judgements=len(read.judgements),
        usable=usable,
        findings={name: _finding(found) for name, found in findings.items()},
        unjudged=_finding(query for query in texts if query not in judged),
        refusal=_refusal(read, usable),
    )


def _refusal(read: Read, usable: int) -> str | None:
    try:
        believe(read)
    except LabelError as error:
        return str(error)
    if not usable:
        return (
            f"none of the relevant documents that {read.judged_at} names is in the collection: the labels belong to "
            "other documents, or the id field of the source is not the one that they use."
        )
    return None


def _finding(found: Iterable[str]) -> LabelFinding:
    named = list(found)
    return LabelFinding(len(named), tuple(named[:NAMED]))


def _misquoted(judgements: Iterable[Judgement], texts: Texts) -> Iterable[str]:
    quoting = [(one, one.span) for one in judgements if one.span and one.span.quote]
    there = texts(sorted({one.document for one, _ in quoting})) if quoting else {}
    for one, span in quoting:
        if one.document in there and isinstance(wrong := placed_span(span, there[one.document]), str):
            yield f"{one.named} at {one.place}: {wrong}"


def _repeated(judgements: Iterable[Judgement]) -> Iterable[str]:
    first: dict[tuple[object, ...], int] = {}
    for one in judgements:
        key = (one.query, one.document, one.span)
        if key in first and first[key] == one.score:
            yield f"{one.named} at {one.place}"
        first.setdefault(key, one.score)


def _again(named: Iterable[tuple[str, str]]) -> Iterable[str]:
    seen: set[str] = set()
    for name, place in named:
        if name in seen:
            yield f"{name} at {place}"
        seen.add(name)


def _same_text(read: Read) -> Iterable[str]:
    first: dict[str, str] = {}
    for query in read.queries:
        key = " ".join(query.text.casefold().split())
        if key and first.setdefault(key, query.id) != query.id:
            yield f"{query.id} as {first[key]}"
