"""What crash proofs report: kills by point, process and move, what was acknowledged, and which promises broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.pieces import Piece, not_run

from revector.crash import POINTS

KILLS, POSTMASTERS = 2_000, 50
"""Goals of all pieces together, where so many were asked for: kills in all, and of the postmaster."""

BY_STORIES = len(POINTS) - 1
"""Points that stories kill at; the last is the DAG's own."""

PROMISES = (
    "lost",
    "stale",
    "resurrected",
    "went back",
    "wrong model",
    "mixed chunks",
    "phantom",
    "torn",
    "effects",
    "leftover",
)
"""How a finding of the first importance begins; anything else that was found is counted together."""

DATABASE = ("postmaster", "backend")


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: where (None: at a random moment), what kind of process, doing what, at which passing.

    At a random moment, "doing" is the move that the migration made at that time.
    """

    point: str | None
    kind: str
    during: str
    passing: int = 0


@dataclass
class Report:
    """What a run did and found. ``findings`` begin with the promise that broke."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    migrations: int = 0
    comparisons: int = 0
    acknowledged: int = 0
    unknown: int = 0
    seconds: float = 0.0

    def find(self, where: str, findings: Sequence[str]) -> None:
        """Note what was found."""
        self.findings += [f"{one} [{where}]" for one in findings]

    def add(self, other: Report) -> None:
        """Take over what another run, on another database, did and found."""
        self.kills += other.kills
        self.findings += other.findings
        for name in ("migrations", "comparisons", "acknowledged", "unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def counted(self, mode: str) -> int:
        """Return how many kills a run of a mode was asked for has made: of the postmaster, or of anything."""
        return sum(mode != "postgres" or kill.kind == "postmaster" for kill in self.kills)

    def piece(self, mode: str, asked: int) -> dict[str, Any]:
        """Return what ``figures`` counts."""
        return {
            "seed": self.seed,
            "mode": mode,
            "asked": asked,
            "kills": len(self.kills),
            "points": dict(Counter(kill.point for kill in self.kills if kill.point)),
            "kinds": dict(Counter(kill.kind for kill in self.kills)),
            "moves": dict(Counter(kill.during for kill in self.kills)),
            **{name: getattr(self, name) for name in ("migrations", "comparisons", "acknowledged", "unknown")},
            "seconds": round(self.seconds, 1),
            "findings": self.findings,
        }


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return kills by point, process and move, and that nothing was found."""

    def total(name: str) -> int:
        return sum(piece[name] for piece in pieces)

    def counts(name: str) -> Counter[str]:
        return sum((Counter(piece[name]) for piece in pieces), Counter[str]())

    def asked(*modes: str) -> int:
        return sum(piece["asked"] for piece in pieces if piece["mode"] in modes)

    points, kinds, kills = counts("points"), counts("kinds"), total("kills")
    modes = {piece["mode"] for piece in pieces}
    wanted, outages = min(KILLS, asked(*modes)), min(POSTMASTERS, asked("postgres"))
    reachable = BY_STORIES * ("points" in modes) + ("task" in modes)
    processes = [piece for piece in pieces if piece["mode"] in ("points", "random")]
    rate = sum(piece["kills"] for piece in processes) / max(1e-9, sum(piece["seconds"] for piece in processes))
    met, postmasters = len(points.keys() & POINTS.keys()), kinds["postmaster"]
    server, named = "of them PostgreSQL's postmaster", "named crash points that killed"
    found = [
        Figure("processes killed with SIGKILL", kills, "kills", f"≥ {wanted:,}", kills >= wanted),
        Figure(server, postmasters, "kills", f"≥ {outages}", postmasters >= outages) if outages else not_run(server),
        Figure(named, met, f"of {len(POINTS)}", f"≥ {reachable}", met >= reachable) if reachable else not_run(named),
        Figure("kills of our processes a second, recovery and comparison included", round(rate, 2), "1/s"),
        Figure("documents' writes that were acknowledged", total("acknowledged"), "writes"),
        Figure("documents' writes whose answer a kill took", total("unknown"), "writes"),
        Figure("migrations that were killed into, and finished", total("migrations"), "migrations"),
        Figure("comparisons of the documents and every live index, whole", total("comparisons"), "comparisons"),
    ]
    findings = [finding for piece in pieces for finding in piece["findings"]]
    broken = Counter(next((one for one in PROMISES if finding.startswith(one)), "other") for finding in findings)
    found += [Figure(f"found: {one}", broken[one], "findings", "0", broken[one] == 0) for one in (*PROMISES, "other")]
    found += [Figure(f"kills at {point}", count, "kills") for point, count in sorted(points.items())]
    found += [Figure(f"kills of a {kind}", count, "kills") for kind, count in sorted(kinds.items())]
    return found + [Figure(f"kills during {move}", count, "kills") for move, count in sorted(counts("moves").items())]
