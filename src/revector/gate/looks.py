"""Owns how often a revision was looked at: each look at new judgements is counted, and pays for its chance of luck.

"Label more and run it again" is optional stopping: an interval that holds for one look is missed ever more often by
many. So the looks of a test share the error that ``Gate.confidence`` leaves: look ``n`` takes ``1 / (n (n + 1))`` of it
(Bonferroni, an infinite series of sum 1), the first half of it. Nothing need be known of how many there will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from revector.formats.kept import Kept
from revector.gate.query_set import QuerySet
from revector.spec import Gate, stable_hash

TERMS = ("k", "metric", "max_drop", "min_recall", "max_slice_drop", "slices", "confidence", "method")
"""Fields of ``Gate`` that say what is tested; with others, a new test begins."""

_EARLIER = {"metric": Gate().metric}
"""What was tested by looks that could not say so."""

_LAST = (
    "SELECT r.detail->'test' FROM gate_result r JOIN generation g USING (gen) WHERE g.cid = :cid AND r.kind = 'recall' "
    "AND g.revision = :revision AND r.detail ? 'test' ORDER BY r.id DESC LIMIT 1"
)


class GateLook(Kept):
    """One look, 1 and up, of the test that ``terms`` describe: demands, and the ``old`` revision.

    ``judged``: query → hash of its text, of all that were judged. ``evidence`` changes with any judgement. ``begins``:
    why a new test began, empty for the first one.
    """

    number: int
    terms: Mapping[str, object]
    judged: Mapping[str, str]
    evidence: str
    begins: str = ""


def look_confidence(gate: Gate, number: int) -> float:
    """Return the two-sided confidence, 0 to 1, of the intervals that look ``number`` (1 and up) is judged by.

    >>> look_confidence(Gate(), 1), look_confidence(Gate(method="fixed"), 1)
    (0.95, 0.9)
    """
    share = 1.0 if gate.method == "fixed" else 1 / (number * (number + 1))
    return round(1 - 2 * (1 - gate.confidence) * share, 9)


def next_look(
    connection: sa.Connection,
    cid: int,
    revision: str,
    old: str | None,
    gate: Gate,
    queries: QuerySet,
    pipeline: str | None = None,
    proxy: str | None = None,
) -> GateLook:
    """Return which look it is to measure ``revision`` now: aborted generations of it count too.

    The same judgements are the same look, however often they are measured. Other demands, another ``old`` revision,
    another ``pipeline``, or judged queries that are gone or read otherwise than at the last look begin a new test.
    ``proxy``: fingerprint of what a judge said beside people; to believe it, or more of it, is another look.
    """
    found = connection.scalar(sa.text(_LAST), {"cid": cid, "revision": revision})
    last = None if found is None else GateLook.model_validate(found)
    labels = queries.labels
    now = GateLook(
        number=1,
        terms={"old": old, "pipeline": pipeline, **{name: _plain(getattr(gate, name)) for name in TERMS}},
        judged={query: stable_hash(text)[:8] for query, text in labels.queries.items()},
        evidence=labels.fingerprint if proxy is None else stable_hash([labels.fingerprint, proxy]),
    )
    if last is None:
        return now
    if changed := "; ".join(_changes(last, now)):
        return now.model_copy(update={"begins": changed})
    same = last.evidence == now.evidence
    return now.model_copy(update={"number": last.number + (not same), "begins": last.begins})


def _changes(last: GateLook, now: GateLook) -> Iterator[str]:
    for name, value in now.terms.items():
        if (before := last.terms.get(name, _EARLIER.get(name))) != value:
            yield f"{name} is {value}, and was {before}"
    if gone := [query for query, text in last.judged.items() if now.judged.get(query) != text]:
        yield f"{len(gone):,} of {len(last.judged):,} judged queries are gone or have another text"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
