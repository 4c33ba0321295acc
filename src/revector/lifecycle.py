"""The life of a migration: one table of steps, read by the migrator, CLI, DAG, page, docs and tests.

    (none) ─plan→ (none) ─provision→ provisioned ─backfill→ backfilled ─index→ indexed ─verify→ verified
        ─gate→ gated ─approve→ approved ─swap→ live ─retire→ completed     (the old generation: retired)
    abort: from any phase before ``live`` → aborted        rollback: live ⇄ rolled_back (and forward again by swap)

Dual-write is on from ``provision``, before the first document is re-embedded, until the old generation is retired:
that order is what makes lost writes impossible. A phase is a word, never a rank: ask ``Step.check``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from revector.errors import IllegalStep


class Phase(StrEnum):
    """What is true of the generation that a migration builds."""

    NONE = "none"
    PROVISIONED = "provisioned"
    BACKFILLED = "backfilled"
    INDEXED = "indexed"
    VERIFIED = "verified"
    GATED = "gated"
    APPROVED = "approved"
    LIVE = "live"
    ROLLED_BACK = "rolled_back"
    COMPLETED = "completed"
    RETIRED = "retired"
    ABORTED = "aborted"


BUILDING = (
    Phase.PROVISIONED,
    Phase.BACKFILLED,
    Phase.INDEXED,
    Phase.VERIFIED,
    Phase.GATED,
    Phase.APPROVED,
)
"""Phases of a generation in the building slot, in the order in which a run passes them."""


def state_of(role: str, phase: Phase) -> str:
    """Return in a word what the generation in a slot does: a phase says how far its migration came, not what it is for.

    >>> [state_of("active", Phase.COMPLETED), state_of("standby", Phase.COMPLETED), state_of("building", Phase.GATED)]
    ['serving', 'way back', 'gated']
    """
    if role == "active":
        return "serving"
    if role == "standby" and phase is not Phase.ROLLED_BACK:
        return "way back"
    return phase.value.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Step:
    """One move between phases: ``does`` completes the sentence "this step …"."""

    name: str
    needs: frozenset[Phase]
    leads_to: Phase
    does: str

    def check(self, revision: str, phase: Phase) -> None:
        """Raise ``IllegalStep`` unless this step may start from ``phase``."""
        if phase not in self.needs:
            allowed = " or ".join(sorted(self.needs))
            raise IllegalStep(
                f"step {self.name} of revision {revision} was asked for; it starts from phase {allowed}, "
                f"the migration is in phase {phase}. Nothing was changed; see `revector status`."
            )


def _step(name: str, needs: set[Phase], leads_to: Phase, does: str) -> Step:
    return Step(name, frozenset(needs), leads_to, does)


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        _step("plan", {Phase.NONE}, Phase.NONE, "says what will be redone, reused and needed, and changes nothing"),
        _step("provision", {Phase.NONE}, Phase.PROVISIONED, "creates the shadow index and turns dual-write on"),
        _step("backfill", {Phase.PROVISIONED}, Phase.BACKFILLED, "re-embeds every document into the shadow index"),
        _step("index", {Phase.BACKFILLED}, Phase.INDEXED, "builds the HNSW index over the loaded vectors"),
        _step("verify", {Phase.INDEXED}, Phase.VERIFIED, "proves that the shadow index equals the documents"),
        _step("gate", {Phase.VERIFIED}, Phase.GATED, "measures recall of old and new on the labelled queries"),
        _step("approve", {Phase.GATED}, Phase.APPROVED, "records who approved, where approval is asked for"),
        _step(
            "swap", {Phase.APPROVED, Phase.ROLLED_BACK}, Phase.LIVE, "moves the alias: index and query encoder together"
        ),
        _step("rollback", {Phase.LIVE}, Phase.ROLLED_BACK, "moves the alias back; the old index has every write"),
        _step(
            "retire",
            {Phase.LIVE, Phase.ROLLED_BACK},
            Phase.COMPLETED,
            "gives up the way back and drops the unused index",
        ),
        _step("abort", set(BUILDING), Phase.ABORTED, "stops dual-write and drops the shadow index"),
    )
}

FORWARD = ("plan", "provision", "backfill", "index", "verify", "gate", "approve", "swap")
"""The steps that `revector upgrade` and the DAG run, in order."""


def remaining(phase: Phase) -> tuple[Step, ...]:
    """Return the forward steps still to run from ``phase``, in order; empty once live or ended.

    >>> [step.name for step in remaining(Phase.VERIFIED)]
    ['gate', 'approve', 'swap']
    """
    plan: list[Step] = []
    for name in FORWARD:
        step = STEPS[name]
        if phase in step.needs:
            plan.append(step)
            phase = step.leads_to
    return tuple(plan)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did; ``changed`` is false when it had been done before."""

    step: str
    revision: str
    phase: str
    changed: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
