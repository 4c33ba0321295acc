"""Owns what a rehearsal found, as plain data: what its page and `--json` show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from revector.formats.kept import plain
from revector.gate.figures import GateResult
from revector.planning.estimate import Estimate


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step took in a rehearsal, in seconds, and would take for the whole collection if ``assumes`` holds."""

    step: str
    rehearsed_s: float
    estimated_s: Estimate
    assumes: str


@dataclass(frozen=True, slots=True)
class RehearsedRollback:
    """What going back and forth showed: ``reasons`` say what was not as promised, after so many writes and deletes."""

    passed: bool
    reasons: list[str]
    written: int
    deleted: int


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """What a rehearsal found: ``refusals`` say why the real migration would be refused, and are empty if it would not.

    ``rollback`` is None where there is nothing to go back to, or the copy was not moved; ``kept`` names the schema that
    still holds the copy.
    """

    collection: str
    revision: str
    active_revision: str | None
    seed: int
    documents: int
    sampled: int
    labelled: int
    queries_usable: int
    steps: tuple[StepTime, ...]
    total_s: Estimate
    pauses_ms: Mapping[str, float]
    chunks: Estimate
    tokens: Estimate
    chunks_per_document: float
    tokens_per_s: float
    documents_per_s: float
    truncated: Estimate
    index_bytes: Estimate
    memory_bytes: Estimate
    archive_bytes: Estimate
    active_bytes: int
    embedding_hours: Estimate
    gate: GateResult | None
    verify: GateResult
    rollback: RehearsedRollback | None
    dead_letters: int
    dead_expected: Estimate
    dead_reasons: Mapping[str, str]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        """Return everything as plain JSON data."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}

    wall_s: float = 0.0
    kept: str | None = None
    cutoffs: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Name → the number on the served model, and the one that the gate mapped it to: None where it could not tell."""
