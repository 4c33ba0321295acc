"""What a verification found, as plain data: of each generation, and of a collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from revector.adoption.checking import TableFindings
from revector.verify.alike import Alike
from revector.verify.readback import WRONG, BrokenInvariant

FIRST = 20
"""Documents that are named of each kind."""


@dataclass(frozen=True, slots=True)
class WrongDocument:
    """One document that an index does not show as it is: missing, stale, extra or damaged, and why."""

    kind: str
    id: str
    reason: str


@dataclass(slots=True)
class IndexFindings:
    """What was found in one generation; ``wrong`` counts documents by kind, ``first`` names some of each."""

    generation: int
    revision: str
    role: str
    checked: int = 0
    deleted: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    chunks: int = 0
    reembedded: int = 0
    tolerance: float | None = None
    """Cosine distance allowed between a stored vector and the one re-embedded."""
    farthest: float = 0.0
    """Largest distance among those that passed."""
    wrong: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[WrongDocument]] = field(default_factory=dict)
    alike: list[Alike] = field(default_factory=list)
    """Vectors of unlike texts: no damage, but nothing can tell these apart."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Documents that were re-embedded and would be refused today, and why: too many unknown tokens."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the index or its encoder as a whole."""
    rearmed: int = 0
    through: str = ""
    """Last id that was looked at: the next sample goes on from here."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong and not self.faults

    @property
    def reasons(self) -> list[str]:
        """What is wrong, in words."""
        some = {kind: "; ".join(f"{one.id}: {one.reason}" for one in self.first[kind][:3]) for kind in self.wrong}
        return [f"{n:,} documents are {kind} ({some[kind]})" for kind, n in self.wrong.items()] + self.faults

    @property
    def counts(self) -> dict[str, object]:
        """The figures, for the history."""
        apart = ("wrong", "first", "through", "alike", "unreadable")
        data = {name: getattr(self, name) for name in self.__slots__ if name not in apart}
        told = {"alike": sum(one.texts for one in self.alike), "unreadable": len(self.unreadable)}
        return data | told | {kind: self.wrong[kind] for kind in WRONG}

    def note(self, one: WrongDocument) -> None:
        """Count one document that is wrong."""
        self.wrong[one.kind] += 1
        known = self.first.setdefault(one.kind, [])
        if len(known) < FIRST:
            known.append(one)


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What one verification of a collection found; ``sample`` is None where every id was looked at."""

    collection: str
    sample: float | None
    seed: int
    broken_events: tuple[int, ...]
    """Events at which the history's hash chain does not hold."""
    invariants: Mapping[str, BrokenInvariant]
    """The views of ``readback.INVARIANTS`` that were not empty."""
    generations: tuple[IndexFindings, ...]
    left_out: Mapping[int, str]
    """Generations that were not verified to their end, and why."""
    wall_s: float
    table: TableFindings | None = None
    """The adopted table against the documents; None where none was adopted."""

    @property
    def passed(self) -> bool:
        """Whether everything equals the documents, and these the adopted table."""
        sound = self.table is None or self.table.ok
        return (
            sound and not self.broken_events and not self.invariants and all(found.passed for found in self.generations)
        )

    def as_data(self) -> dict[str, object]:
        """Return it for machines: each kind of wrong document with its count and first ids."""
        generations = [
            found.counts
            | {kind: {"count": found.wrong[kind], "first": found.first.get(kind, [])} for kind in WRONG}
            | {"alike": found.alike, "unreadable": found.unreadable}
            for found in self.generations
        ]
        data: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return data | {"passed": self.passed, "generations": generations}

    def for_history(self) -> dict[str, object]:
        """Return what the history keeps: figures, the first ids, and where a sample ended."""
        detail: dict[str, object] = {
            "passed": self.passed,
            "sample": self.sample,
            "seed": self.seed,
            "wall_s": self.wall_s,
            "broken_events": len(self.broken_events),
            "invariants": {view: broken.count for view, broken in self.invariants.items()},
            "left_out": self.left_out,
            "table": [] if self.table is None else self.table.said,
            "generations": [
                found.counts | {"first": sorted(one.id for named in found.first.values() for one in named)[:FIRST]}
                for found in self.generations
            ],
        }
        if self.sample is not None:
            detail["cursor"] = {found.generation: found.through for found in self.generations}
        return detail
