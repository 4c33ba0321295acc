"""What crash proofs report: kills by point, process and move, what was acknowledged, and which promises broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability import checks
from evaluation.reliability.checker import Finding
from evaluation.reliability.forks import End, Forks, Notes
from evaluation.reliability.judge import at_rest
from evaluation.reliability.pieces import Piece, none, not_run, totals
from evaluation.reliability.site import Site

from revector.crash import POINTS
from revector.lifecycle import FORWARD

KILLS = 2_000
"""Goal of all pieces together, where so many were asked for."""

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
    "half",
    "effects",
    "leftover",
)
"""Promises of the first importance; anything else that was found is counted together."""


COUNTS = {
    "acknowledged": ("documents' writes that were acknowledged", "writes"),
    "unknown": ("documents' writes whose answer a kill took", "writes"),
    "migrations": ("migrations that were killed into, and finished", "migrations"),
    "comparisons": ("comparisons of the documents and every live index, whole", "comparisons"),
}


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
    """What a run did and found."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    migrations: int = 0
    comparisons: int = 0
    acknowledged: int = 0
    unknown: int = 0
    seconds: float = 0.0

    def find(self, where: str, findings: Sequence[Finding]) -> None:
        """Note what was found."""
        self.findings += [replace(one, where=where) for one in findings]

    def add(self, other: Report) -> None:
        """Take over what another run, on another database, did and found."""
        self.kills += other.kills
        self.findings += other.findings
        for name in (*COUNTS, "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

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
            **{name: getattr(self, name) for name in COUNTS},
            "seconds": round(self.seconds, 1),
            "findings": [str(one) for one in self.findings],
        }


class Trials:
    """Migrations on one database that are killed into, whose history grows from one to the next."""

    def __init__(self, forks: Forks, site: Site, *, seed: int, plant: str | None = None) -> None:
        self.site, self.report, self.notes = site, Report(seed), Notes()
        self.forks, self.intended, self._plant, self._newest = forks, Counter[str](), plant, 0

    def begin(self) -> None:
        """Write the corpus and make the first generation live, unharmed; from here on bugs are planted."""
        self.site.begin(self.notes.recorder)
        self.intended.update(FORWARD[1:])
        self.forks.open(self.site, self._plant)

    def instant(self) -> list[Finding]:
        """Check what is true at every instant."""
        return checks.instant(self.site.engine, self.site.cid)

    def run(self, actor: str, arm: str = "", **arguments: Any) -> End:
        """Run one process to its end and take over its notes."""
        end = self.forks.run(actor, arm, **arguments)
        self.notes.read(self.site, end)
        return end

    def compare(self, where: str, *, overlapped: bool = False) -> None:
        """Let one worker heal, and compare everything with what the victims were told."""
        site = self.site
        self.report.find(where, checks.sessions(site.engine))
        end = self.run("drain")
        if end.status:
            self.report.find(where, [Finding("not caught up", self.notes.said(end))])
        found = self.instant()
        found += at_rest(site.engine, site.cid, site.judge(self.notes.recorder), self.notes.recorder)
        self._newest, parts = checks.parts(
            site.engine, site.project.state / "archive", self._newest, overlapped=overlapped
        )
        self.report.find(where, found + parts)
        self.report.comparisons += 1
        self.report.acknowledged, self.report.unknown = self.notes.count("ok"), self.notes.count("info")

    def settled(self, where: str) -> None:
        """Check that each intended move had one effect, and that nothing ended is left."""
        engine = self.site.engine
        self.report.find(where, checks.effects(engine, self.site.cid, self.intended) + checks.leftovers(engine))


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return kills by point, process and move, and that nothing was found."""
    points, kinds, moves = (totals(pieces, name) for name in ("points", "kinds", "moves"))
    total = Counter[str]()
    for piece in pieces:
        total.update({name: piece[name] for name in ("kills", "asked", "seconds", *COUNTS)})
    modes = {piece["mode"] for piece in pieces}
    wanted, met = min(KILLS, total["asked"]), len(points.keys() & POINTS.keys())
    reachable, named = BY_STORIES * ("points" in modes) + ("task" in modes), "named crash points that killed"
    rate = round(total["kills"] / max(1e-9, total["seconds"]), 2)
    findings = [finding for piece in pieces for finding in piece["findings"]]
    broken = Counter(next((one for one in PROMISES if finding.startswith(f"{one}:")), "other") for finding in findings)
    return [
        Figure("processes killed with SIGKILL", total["kills"], "kills", f"≥ {wanted:,}", total["kills"] >= wanted),
        Figure(named, met, f"of {len(POINTS)}", f"≥ {reachable}", met >= reachable) if reachable else not_run(named),
        Figure("kills of our processes a second, recovery and comparison included", rate, "1/s"),
        *(Figure(says, total[name], unit) for name, (says, unit) in COUNTS.items()),
        *(none(f"found: {one}", broken[one]) for one in (*PROMISES, "other")),
        *(Figure(f"kills at {point}", count, "kills") for point, count in sorted(points.items())),
        *(Figure(f"kills of a {kind}", count, "kills") for kind, count in sorted(kinds.items())),
        *(Figure(f"kills during {move}", count, "kills") for move, count in sorted(moves.items())),
    ]
