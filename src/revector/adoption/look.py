"""Owns what was seen of rows before they are adopted: how many, which are documents, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass, field

from revector.adoption.terms import AdoptedTable


@dataclass(slots=True)
class AdoptionLook:
    """What the rows of ``terms`` are. ``problems`` keep them from being adopted; ``grants`` would solve some."""

    terms: AdoptedTable
    candidates: tuple[str, ...] = field(default=(), kw_only=True)
    """Columns that the text may have been made of, in the order of the table, where nobody said which."""
    rows: int = 0
    documents: int = 0
    """Rows that meet the condition and have a text."""
    without_text: int = 0
    without_vector: int = 0
    bad_vectors: int = 0
    """Vectors of zeros, or with NaN or infinite numbers."""
    widths: dict[int, int] = field(default_factory=dict)
    """Rows by the width of their vectors."""
    chunked: tuple[int, int] | None = None
    """How many documents the rows are chunks of, and rows that name none; None where nobody asked."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grants: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int | None:
        """The width that most vectors have; None where there are none."""
        return max(self.widths, key=lambda width: self.widths[width]) if self.widths else None

    @property
    def taken(self) -> int:
        """Documents whose vectors can be taken."""
        return 0 if self.dim is None else self.widths[self.dim] - self.bad_vectors
