"""What a step, and where a collection stands, look like for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from revector.cli.output import make_table, one_line, size, span

if TYPE_CHECKING:
    from revector.adoption.standing import AdoptionStatus
    from revector.gate.figures import GateFigures, GateResult
    from revector.lifecycle import Outcome
    from revector.serving.shadow_rows import ShadowSums
    from revector.status import BulkProgress, MigrationStatus, Slots, SlotStatus, Status, UnusableFiles, WaitingRevision

_MARKS = {"done": "✓", "current": "▸", "waiting": "·"}


def step_line(outcome: Outcome, wall_s: float) -> str:
    """Return one line on what a step did."""
    planned = outcome.step == "plan" and outcome.facts  # a plan changes nothing, and is not repeated on resume
    if outcome.facts.get("already") or not (outcome.changed or planned):
        return f"- {outcome.step:<10} {'done before':>10}"
    said = _SAID[outcome.step](outcome.facts)
    return f"✓ {outcome.step:<10} {span(wall_s):>10}   {said}".rstrip()


def _gate(facts: Mapping[str, Any]) -> str:
    if "by" in facts:
        return f"overridden by {facts['by']}: {facts['reason']}"
    from revector.gate.figures import GateFigures

    return _measured(GateFigures.model_validate(facts))


def _measured(gate: GateFigures) -> str:
    if gate.not_measured is not None:
        return f"not measured: {gate.not_measured}"
    if gate.new is None:
        return ""
    new, old, difference = gate.new.recall, gate.old, gate.difference
    line = f"recall@{gate.k} {new.mean:.4f} ({new.low:.4f} to {new.high:.4f})"
    if old is not None and difference is not None:
        line += (
            f", before {old.recall.mean:.4f}: {difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
        )
    by = "" if gate.judged_by is None else f"; judged by {gate.judged_by}"
    worst = "" if gate.worst_slice is None else f"; worst slice {gate.worst_slice.words}"
    return f"{line} on {gate.queries:,} queries{by}{worst}"


def _fidelity(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    ignored = "".join(f"; {clause}" for clause in found.get("ignored", ()))
    return f"; {found['overlap_at_10']:.1%} of neighbours as in plain float32{ignored}"


def _served(facts: Mapping[str, Any], how: str) -> str:
    return f"generation {facts['to']} is served{how}; writers waited {facts['pause_ms']:g} ms"


def _dropped(facts: Mapping[str, Any]) -> str:
    dropped = ", ".join(map(str, facts["dropped"]))
    return f"dropped the index of generation {dropped}" if dropped else "nothing left to drop"


_SAID: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "plan": lambda facts: (
        f"{facts['documents']:,} documents, about {facts['chunks']['value']:,.0f} chunks and "
        f"{span(facts['seconds']['value'])}"
    ),
    "provision": lambda facts: (
        f"generation {facts['generation']}, index {facts['index']}; dual-write is on{_fidelity(facts.get('fidelity'))}"
    ),
    "backfill": lambda facts: (
        f"{facts['shards']} shards: {facts['embedded']:,} documents embedded"
        + (f", {facts['reused']:,} copied" if facts["reused"] else "")
    ),
    "index": lambda facts: "HNSW built" if facts["built"] else "nothing to build",
    "verify": lambda _: "the index equals the documents",
    "gate": _gate,
    "approve": lambda facts: f"by {facts['by']}" if facts["asked_for"] else "not asked for",
    "swap": lambda facts: _served(facts, ""),
    "rollback": lambda facts: _served(facts, " again"),
    "retire": _dropped,
    "abort": lambda facts: f"generation {facts['generation']} is dropped; what is served stays",
}
"""What each step of ``lifecycle.STEPS`` says about its facts."""


def status_screen(found: Status) -> RenderableType:
    """Return the page of ``revector status``."""
    parts: list[RenderableType] = [
        Text.assemble((found.collection, "bold"), f": {found.documents:,} documents"),
        Text(),
        _slots(found.slots),
    ]
    if found.adoption is not None:
        parts += [Text(), *_adoption(found.adoption)]
    if found.migration is not None:
        parts += [Text(), *_migration(found.migration)]
    if found.next is not None:
        parts += [Text(), _waiting(found.next, open_one=found.migration is not None)]
    if found.rollback is not None:
        left = found.rollback.seconds_left
        line = f"Rollback: {span(left)} left" if left else "Rollback: the window is over; run `revector retire`"
        parts += [Text(), Text(line + (f", until {found.rollback.deadline[:16]} UTC" if left else ""))]
        if found.rollback.clock_jumped:
            line = "The database's clock jumped in this window: it ends only by `revector retire --now --reason …`"
            parts += [Text(line, style="yellow")]
    for role, slot in found.slots.filled.items():
        parts += _beside(role, slot)
    for reads in found.shadow:
        parts += [Text(), Text(shadow_line(reads))]
    if found.dead_letters:
        parts += [Text(), Text(f"Dead letters: {found.dead_letters:,}; see `revector dlq list`", style="yellow")]
    if behind := found.refused.behind:
        line = f"{behind:,} documents are served in an older version, as their latest was refused at ingestion"
        parts += [Text(line, style="yellow")]
    for use in found.spending:
        used = f"{use.tokens:,} tokens in {use.requests:,} requests"
        parts += [Text(), Text(f"Spent on {use.provider}: {use.usd:,.2f} USD, {used}")]
    return Group(*parts)


def _waiting(following: WaitingRevision | UnusableFiles, *, open_one: bool) -> Text:
    from revector.status import UnusableFiles

    if isinstance(following, UnusableFiles):
        return Text(f"The migration files cannot be used: {following.problem}", style="red")
    then = "once this migration is closed" if open_one else "run `revector plan`, then `revector upgrade`"
    return Text(f"Revision {following.revision} ({following.model}) waits: {then}", style="yellow")


def _beside(role: str, slot: SlotStatus) -> list[RenderableType]:
    """Return what there is to say of a slot beside its row: that its encoder fails, and its cut-offs."""
    parts: list[RenderableType] = []
    if slot.encoder_fault:
        lost = "; no rollback while it lasts" if role == "standby" else ""
        parts += [Text(), Text(f"Encoder of {slot.revision} fails{lost}: {slot.encoder_fault}", style="red")]
    if slot.cutoffs:
        scores = (f"{name} {'unknown' if score is None else f'{score:.4f}'}" for name, score in slot.cutoffs.items())
        parts += [Text(), Text(f"Cut-offs of {slot.revision} ({role}): {', '.join(scores)}")]
    return parts


def shadow_line(reads: ShadowSums) -> str:
    """Return a sentence on the shadow reads against one generation."""
    lost = ", ".join(f"{count:,} {what}" for what, count in (("shed", reads.shed), ("errors", reads.errors)) if count)
    found = reads.figures
    if found is None:
        return f"Shadow reads against generation {reads.against}: nothing compared yet{lost and '; ' + lost}"
    overlap, old, new = found.overlap, found.old_latency_ms, found.new_latency_ms
    return (
        f"Shadow reads against generation {reads.against}: {reads.compared:,} live queries compared, "
        f"overlap@{reads.k} {overlap.mean:.3f} ({overlap.low:.3f} to {overlap.high:.3f}), RBO "
        f"{found.rbo.mean:.3f}, p95 {old['p95']:.0f} ms served and {new['p95']:.0f} ms being built"
        f"{lost and '; ' + lost}"
    )


def _slots(slots: Slots) -> RenderableType:
    if not slots.filled:
        return Text("Nothing is served yet: run `revector upgrade`.")
    right = ("generation", "dim", "size", "waiting", "dead", "lag")
    columns = ("slot", "generation", "revision", "message", "model", "dim", "state", "size", "waiting", "dead", "lag")
    table = make_table(*columns, right=right)
    for role, slot in slots.filled.items():
        table.add_row(
            Text(role, style="green" if role == "active" else ""),
            str(slot.generation),
            slot.revision,
            one_line(slot.message, 30),
            slot.model,
            f"{slot.dim:,}",
            slot.state,
            size(slot.bytes),
            f"{slot.waiting.live + slot.waiting.bulk:,}",
            f"{slot.waiting.dead:,}",
            span(slot.lag_s) if slot.lag_s else "-",
        )
    return table


def _adoption(found: AdoptionStatus) -> list[RenderableType]:
    rows = f"its rows where {found.where}" if found.where else "all of its rows"
    vectors = f"vectors of column {found.vector}, by {found.model}" if found.vector else f"embedded by {found.model}"
    kind = "table" if found.followed else "by copy"
    lines: list[RenderableType] = [
        Text(f"Adopted {kind}: {found.table} since {found.since[:16]} UTC; {rows}; {vectors}")
    ]
    if not found.followed:
        lines.append(Text("  what changes there is seen when it is read again: revector adopt"))
    elif not found.faults:
        lines.append(Text("  its writes are followed"))
    lines += [Text(f"  its writes are not followed: {fault}", style="red") for fault in found.faults]
    if found.view and not found.view_faults:
        lines.append(Text(f"  the view {found.view} reads the vectors that are served"))
    lines += [Text(f"  {fault}", style="red") for fault in found.view_faults]
    if found.followed and found.compared is None:
        lines.append(Text("  not compared yet row by row: revector verify", style="yellow"))
    elif found.compared is not None and found.compared.differing:
        lines += [
            Text(f"  {said}, as of {found.compared.at[:16]} UTC", style="red") for said in found.compared.differing
        ]
    elif found.compared is not None:
        lines.append(Text(f"  every row was a document as it stands at {found.compared.at[:16]} UTC"))
    if found.advice:
        lines.append(Text(f"  {found.advice}", style="yellow"))
    return lines


def _migration(found: MigrationStatus) -> list[RenderableType]:
    steps = Text(f"Migration to {found.revision}: ")
    for step in found.steps:
        style = {"done": "green", "current": "bold yellow"}.get(step.state, "dim")
        steps.append(f"{_MARKS[step.state]} {step.name}  ", style=style)
    steps.rstrip()
    lines: list[RenderableType] = [steps]
    if found.building and found.progress.planned:
        lines.append(Text(_progress(found.progress)))
    if found.verify is not None:
        lines += _verdict("verify", found.verify, "the index equals the documents")
    if found.gate is not None:
        lines += _verdict("gate", found.gate, _measured(found.gate))
    if found.phase == "gated" and found.needs_approval:
        lines.append(Text("  waits for approval: revector approve --reason …", style="yellow"))
    return lines


def _progress(progress: BulkProgress) -> str:
    share = progress.published / progress.planned
    line = f"  {progress.published:,} of {progress.planned:,} documents ({share:.0%})"
    if progress.documents_per_s:
        line += f", {progress.documents_per_s:,.0f}/s"
    if progress.eta_s is not None:
        line += f", {span(progress.eta_s)} left"
    if progress.share not in (None, 1):
        line += f", throttled to {progress.share:.0%} of the time"
    return line


def _verdict(name: str, kept: GateResult, passed: str) -> list[RenderableType]:
    judged = {"fail": "failed", "inconclusive": "is inconclusive"}.get(kept.verdict, "")
    said = f"  {name}: {passed}" if kept.passed else f"  {name} {judged}: {'; '.join(kept.reasons)}"
    lines: list[RenderableType] = [Text(said)]
    if (by := kept.overridden) is not None:
        lines.append(Text(f"  overridden by {by.by}: {by.reason}", style="yellow"))
    return lines
