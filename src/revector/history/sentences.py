"""Owns what an event of the history says, as one sentence for people; the whole of its figures stays in the event."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Detail = Mapping[str, Any]

LONGEST = 300
"""Characters of a sentence; what is cut off is in the event's detail."""

_ASIDE = frozenset({"reason", "airflow"})
"""Facts that a history shows in columns of their own."""


def sentence(kind: str, detail: Detail | None) -> str:
    """Return what an event of this kind found or did, without who and why; empty if there is nothing to add.

    A kind that is not known here, or a detail of an older release, gives its plain facts: ``filled 3, more no``.
    """
    facts = detail or {}
    try:
        said = SENTENCES[kind](facts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        said = plain(facts)
    said = said[:1].upper() + said[1:]
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def plain(facts: Detail) -> str:
    """Return the facts that fit into a line: no nested ones, hashes cut short, numbers to six digits."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in facts.items()
        if name not in _ASIDE and value is not None and not isinstance(value, (Mapping, list))
    )


def moment(iso: str) -> str:
    """Return a time with its zone.

    >>> moment("2026-11-20T10:30:59.123+01:00")
    '2026-11-20 09:30 UTC'
    """
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", str(value))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _spent(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _plan(facts: Detail) -> str:
    cost = f" and about {facts['usd']:,.2f} USD" if facts.get("usd") else ""
    return (
        f"revision {facts['revision']} will take about {_spent(sum(facts['seconds'].values()))}{cost}: "
        f"{_count(facts['documents'], 'document')}, {facts['reused']:,} of them reused, {facts['chunks']:,} chunks"
    )


def _provision(facts: Detail) -> str:
    fidelity = facts.get("fidelity") or {}
    same = f"; {fidelity['overlap_at_10']:.1%} of neighbours as in plain float32" if fidelity else ""
    return (
        f"dual-write is on for {facts['model']}, {_count(facts['shards'], 'shard')}, a way back of "
        f"{facts['window_hours']:g} h{same}"
    )


def _backfill(facts: Detail) -> str:
    return f"{_count(facts['documents'], 'document')} in the index, {_count(facts['chunks'], 'chunk')}"


def _gate(facts: Detail) -> str:
    if "not_measured" in facts:
        return f"not measured: {facts['not_measured']}"
    new = facts["new"]["recall"]
    said = f"recall@{facts['k']} {new['mean']:.4f}"
    if "old" in facts:
        apart = facts["difference"]
        said += (
            f" against {facts['old']['recall']['mean']:.4f} now served: {apart['mean']:+.4f} ({apart['low']:+.4f} to "
            f"{apart['high']:+.4f})"
        )
    by, worst = facts.get("judged_by"), facts.get("worst_slice")
    said += f" on {facts['queries']:,} labelled queries" + (f"; judged by {by}" if by else "")
    return said + (f"; worst slice {worst['words']}" if worst else "")


def _failed(facts: Detail) -> str:
    reasons = "; ".join(facts["reasons"])
    return f"{reasons} ({_gate(facts)})" if "new" in facts else reasons


def _swap(facts: Detail) -> str:
    until = facts.get("rollback_deadline")
    way = f"; the way back is open until {moment(until)}" if until else ""
    again = " again" if facts.get("forward_again") else ""
    return f"revision {facts['revision']} answers{again}; writers waited {facts['pause_ms']:.0f} ms{_moved(facts)}{way}"


def _rollback(facts: Detail) -> str:
    forced = f", over {_count(facts['forced_over'], 'waiting change')}" if facts["forced_over"] else ""
    return (
        f"revision {facts['revision']} answers again{forced}; writers waited {facts['pause_ms']:.0f} ms{_moved(facts)}"
    )


def _cutoffs(facts: Detail) -> str:
    if "dropped" in facts:
        return f"cut-offs dropped: {', '.join(facts['dropped'])}"
    before = facts["before"]
    said = [
        f"{name} is {score:g}" + (f", was {before[name]:g}" if name in before else "")
        for name, score in facts["set"].items()
    ]
    return f"cut-offs of revision {facts['revision']}: {'; '.join(said)}"


def _moved(facts: Detail) -> str:
    """Return the cut-offs that a move of the alias took along."""
    told = [f"{name} {before} → {after}" for name, (before, after) in _in_short(facts.get("cutoffs") or {})]
    return f"; cut-offs {', '.join(told)}" if told else ""


def _in_short(cutoffs: Mapping[str, list[float | None]]) -> Iterator[tuple[str, list[str]]]:
    for name, pair in cutoffs.items():
        yield name, ["none" if one is None else f"{one:.4g}" for one in pair]


def _verify(facts: Detail) -> str:
    wrong = {name: number for name, number in facts["invariants"].items() if number}
    if facts["passed"]:
        return f"every index equals its documents (looked for {_spent(facts['wall_s'])})"
    broken = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in wrong.items())
    links = f"{_count(facts['broken_events'], 'broken event')} in the history" if facts["broken_events"] else ""
    return f"not every index equals its documents: {'; '.join(filter(None, [broken, links])) or 'see the figures'}"


def _ingest(facts: Detail) -> str:
    counts = ", ".join(f"{value:,} {name}" for name, value in facts.items() if isinstance(value, int) and value)
    return f"{counts or 'nothing new'}, from {facts['source']}"


def _stale(facts: Detail) -> str:
    left = f"; {facts['left']:,} left for the next run" if facts["left"] else ""
    stale = f"{facts['old']:,} old, {facts['behind']:,} behind"
    return f"{facts['due']:,} of {facts['entries']:,} entries made due: {stale}{left}"


def _field(facts: Detail) -> str:
    rest = f", {facts['without']:,} have none to give" if facts["without"] else ""
    return f"field {facts['field']} set in {_count(facts['filled'], 'document')}{rest}"


def _waived(facts: Detail) -> str:
    if facts.get("documents", 1) > 1:
        return f"{_count(facts['documents'], 'document')} may stay out: {facts['why']}"
    (doc_id,) = facts.get("doc_ids") or [facts["doc_id"]]  # older releases waived one at a time
    return f"document {doc_id} may stay out: {facts['why']}"


def _told(facts: Detail) -> str:
    return (
        f"{_count(facts['sent'], 'notice')} sent to the webhook" if facts.get("sent") else "the webhook is up to date"
    )


SENTENCES: dict[str, Callable[[Detail], str]] = {
    "plan": _plan,
    "provision": _provision,
    "backfill": _backfill,
    "index": lambda facts: "the HNSW index is built" if facts["built"] else "nothing to build",
    "verify": lambda _: "the shadow index equals the documents",
    "verify_again": lambda _: "the shadow index still equals the documents",
    "verify_failed": _failed,
    "gate": _gate,
    "gate_again": _gate,
    "gate_failed": _failed,
    "gate_override": lambda facts: f"{facts['by']} lets it pass although the verdict was {facts['verdict']}",
    "labels_next": lambda facts: (
        f"queries were drawn for people to judge, {len(facts['asked']):,} of {facts['differing']:,} that revisions "
        f"{facts['old']} and {facts['new']} answer differently"
    ),
    "approve": lambda facts: (
        f"{facts['by']} approved the swap" if facts["asked_for"] or facts.get("reason") else "nobody had to approve"
    ),
    "swap": _swap,
    "rollback": _rollback,
    "retire": lambda facts: (
        f"revision {facts['revision']} gets no more writes; there is no way back"
        + (", given up before its window was over" if facts["window_given_up"] else "")
    ),
    "cutoffs": _cutoffs,
    "abort": lambda facts: f"revision {facts['revision']} was given up before it was served",
    "drop": lambda facts: f"the table {facts['physical']} is dropped",
    "verify_live": _verify,
    "canary_alert": lambda facts: "; ".join(facts["alerts"]),
    "ingest": _ingest,
    "adopt": lambda facts: (
        f"{facts['table']} is copied from now on: {facts['proof']['said']}"
        if facts.get("copied")
        else f"the table {facts['table']} is followed from now on: {facts['proof']['said']}"
    ),
    "view": lambda facts: f"the table {facts['table']} is read through the view {facts['view']}",
    "no_view": lambda facts: f"the view {facts['view']} is dropped",
    "unadopt": lambda facts: f"the table {facts['table']} is followed no longer, and is as it was found",
    "stale": _stale,
    "field": _field,
    "repair": lambda facts: f"{_count(facts['documents'], 'document')} made due again",
    "throttle": lambda facts: f"the backfill may work {facts['share']:.0%} of the time",
    "dlq_retry": lambda facts: f"{_count(facts['items'], 'dead letter')} made due again",
    "dlq_upkeep": lambda facts: f"{_count(len(facts['documents']), 'dead letter')} made due again",
    "dlq_waive": _waived,
    "clock_jump": lambda facts: f"the database's clock jumped by {facts['jump_s']:+g} s",
    "store_lost": lambda facts: (
        f"the store {facts['store']} has lost points: {facts['documents']:,} documents are embedded again"
    ),
    "encoder_failed": lambda _: "the encoder cannot be used",
    "encoder_restored": lambda _: "the encoder works again",
    "notice": _told,
    "rehearse": lambda facts: (
        f"revision {facts['revision']} would be refused: {'; '.join(facts['refusals'])}"
        if facts["refusals"]
        else f"revision {facts['revision']} would pass, in about {_spent(facts['total_s']['value'])}"
    ),
}
"""By the kind of the event."""
