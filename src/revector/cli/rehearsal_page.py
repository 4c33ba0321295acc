"""What a rehearsal found, for people: the verdict, the time of each step, and the figures behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from revector.cli.output import make_table, one_line, pairs, size, span

if TYPE_CHECKING:
    from revector.gate.figures import GateResult
    from revector.measure.metrics import Interval
    from revector.planning.estimate import Estimate
    from revector.rehearsal.report import RehearsalReport


def rehearsal_page(found: RehearsalReport, console: Console) -> None:
    """Print the report of ``revector rehearse``, from the data that ``--json`` prints."""
    console.print(
        f"Rehearsed revision {found.revision} of {found.collection} on {found.sampled:,} of {found.documents:,} "
        f"documents ({found.labelled:,} of them labelled, seed {found.seed}) in {span(found.wall_s)}.",
        style="bold",
        soft_wrap=True,
    )
    if found.refusals:
        console.print("The real migration would be refused:", style="bold red")
        for reason in found.refusals:
            console.print(f"  {reason}", style="red", soft_wrap=True)
    else:
        console.print("Nothing in the sample would stop the real migration.", style="green")
    console.print()
    _times(found, console)
    console.print()
    pairs(console, {**_verdicts(found), **_costs(found)})
    for doc_id, reason in found.dead_reasons.items():
        console.print(f"  {doc_id}: {one_line(reason, 300)}", style="yellow", soft_wrap=True)
    for warning in found.warnings:
        console.print(f"Warning: {warning}.", style="yellow", soft_wrap=True)
    for note in found.notes:
        console.print(f"Note: {note}.", style="dim", soft_wrap=True)
    if found.kept:
        console.print(
            f"The copy is in the schema {found.kept} until the next rehearsal; or: DROP SCHEMA {found.kept} CASCADE",
            soft_wrap=True,
        )


def _times(found: RehearsalReport, console: Console) -> None:
    table = make_table("step", "rehearsed", f"all {found.documents:,}", "95 %", "if it", right=("rehearsed",))
    for one in found.steps:
        table.add_row(
            one.step, span(one.rehearsed_s), span(one.estimated_s.value), _ends(one.estimated_s, span), one.assumes
        )
    table.add_row("to the swap", "", span(found.total_s.value), _ends(found.total_s, span), "")
    console.print(table)


def _verdicts(found: RehearsalReport) -> dict[str, str]:
    back = "nothing is served yet, so there is nothing to go back to"
    if found.rollback is not None:
        how = "lost nothing" if found.rollback.passed else "; ".join(found.rollback.reasons)
        writes = f"{found.rollback.written} documents written and {found.rollback.deleted} deleted after the swap"
        back = f"{how}; {writes}"
    elif not found.verify.passed:
        back = "not tried: the copy failed its verification"
    held = ", ".join(f"{move} {ms:g} ms" for move, ms in found.pauses_ms.items())
    mapped = (f"{name} {_score(old)}, then {_score(new)}" for name, (old, new) in found.cutoffs.items())
    return {
        "gate": _gate(found.gate),
        **({"cut-offs": "; ".join(mapped)} if found.cutoffs else {}),
        "verification": "the index equals the documents" if found.verify.passed else "failed",
        "rollback": back,
        "writers wait": held or "not measured",
        "dead letters": f"{found.dead_letters:,} in the sample, {_about(found.dead_expected)} in all",
    }


def _gate(kept: GateResult | None) -> str:
    """Return old and new side by side."""
    if kept is None:
        return "not measured: the copy failed its verification"
    if kept.not_measured is not None:
        return f"not measured: {kept.not_measured}"
    sides = [f"{role} {_interval(side.recall)}" for role, side in reversed(kept.sides.items())]
    if kept.difference is not None:
        sides.append(f"difference {_interval(kept.difference, '+')}")
    judged = {"pass": "passed", "fail": "failed"}.get(kept.verdict, kept.verdict)
    worst = "" if kept.worst_slice is None else f"; worst slice {kept.worst_slice.words}"
    return f"{judged}: recall@{kept.k} {', '.join(sides)} on {kept.queries:,} queries{worst}"


def _score(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _interval(one: Interval, sign: str = "") -> str:
    return f"{one.mean:{sign}.4f} ({one.low:{sign}.4f} to {one.high:{sign}.4f})"


def _costs(found: RehearsalReport) -> dict[str, str]:
    embedding = found.embedding_hours.times(3_600)
    return {
        "chunks": f"{_about(found.chunks)}, {found.chunks_per_document:.1f} per document",
        "tokens": _about(found.tokens),
        "truncated": f"{_about(found.truncated)} documents",
        "speed": f"{found.tokens_per_s:,.0f} tokens/s, {found.documents_per_s:,.1f} documents/s",
        "re-embedding": f"{span(embedding.value)} ({span(embedding.low)} to {span(embedding.high)}) of this machine",
        "disk": f"{_size(found.index_bytes)} of index beside the {size(found.active_bytes)} served now, "
        f"{_size(found.archive_bytes)} of archive",
        "memory": f"{_size(found.memory_bytes)} of index that searches walk through",
    }


def _about(one: Estimate) -> str:
    return f"{one.value:,.0f}" if one.low == one.high else f"about {one.value:,.0f} ({one.low:,.0f} to {one.high:,.0f})"


def _size(one: Estimate) -> str:
    return size(one.value) if one.low == one.high else f"about {size(one.value)}"


def _ends(one: Estimate, show: Callable[[float], str]) -> str:
    return "" if one.low == one.high else f"{show(one.low)} to {show(one.high)}"
