"""What a soak is asked for, what it gave, and the figures of one piece or of many."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from evaluation.bench.common import Figure
from evaluation.reliability.checker import Finding
from evaluation.reliability.history import Record
from evaluation.reliability.pieces import Piece, none, totals

CHAOS = ("kill", "pause", "backend", "postmaster")
CHECKED_QUERIES = 1_000_000
FLAT = 1.25
"""A process that works for long may hold this many times what it held after its first window."""

LAGS = {"p50": 0.5, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a soak does: for at least ``seconds``, and until so many swaps, rollbacks and kills of workers were met."""

    seconds: float = 1_800.0
    seed: int = 1
    documents: int = 10_000
    window_s: float = 60.0
    writes_per_s: float = 200.0
    sessions: int = 4
    query_processes: int = 2
    query_sessions: int = 2
    queries_per_s: float = 20.0
    """Of each query process; 0: as many as the machine gives."""
    workers: int = 2
    move_every_s: float = 60.0
    chaos: tuple[str, ...] = CHAOS
    chaos_every_s: float = 5.0
    postmaster_every_s: float = 120.0
    swaps: int = 0
    rollbacks: int = 0
    workers_killed: int = 0
    floor: int = 0
    """See ``playing.shrink``."""
    keep: Path = Path(tempfile.gettempdir())
    """Where the history of a window with findings is kept."""


@dataclass
class Outcome:
    """What a soak did and found."""

    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    chaos: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """Why moves were not made, by class of error."""
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    """Resident memory of the worker that is never killed, once a window."""
    sizes: list[Mapping[str, int]] = field(default_factory=list)
    garbage: Mapping[str, int] = field(default_factory=dict)

    def count(self, record: Record) -> None:
        """Count one record of a window."""
        if record.op == "backend ended":
            self.chaos["backends ended"] += 1
        if record.process == "before" or record.kind == "invoke":
            return
        if record.op == "standby":
            self.lags += record.detail["lags"]
        if record.op != "standby" or record.gen is not None:
            self.counts[f"{record.op} {record.kind}"] += 1
        self.counts["queries checked"] += record.op == "query" and record.kind == "ok" and bool(record.hits)
        if record.detail.get("error") and not record.detail["down"]:
            self.errors[f"{record.op}: {record.detail['error']}"[:160]] += 1

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and not self.problems


def piece_of(seed: int, outcome: Outcome) -> dict[str, Any]:
    """Return what is kept of one soak."""
    promises = Counter(one.promise for one in outcome.findings)
    return {
        "seed": seed,
        "seconds": outcome.seconds,
        "counts": dict(outcome.counts),
        "moves": dict(outcome.moves),
        "chaos": dict(outcome.chaos),
        "errors": dict(outcome.errors.most_common(20)),
        "refusals": dict(outcome.refusals),
        "findings": dict(promises),
        "examples": [f"{one.promise}: {one.detail}" for one in outcome.findings[:20]],
        "problems": outcome.problems,
        "lag_s": {name: round(percentile(outcome.lags, share), 3) for name, share in LAGS.items()},
        "lags": len(outcome.lags),
        "worker_mib": outcome.memory_mib[:1] + outcome.memory_mib[-1:],
        "sizes": list(outcome.sizes[:1]) + list(outcome.sizes[-1:]),
        "garbage": dict(outcome.garbage),
    }


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return the figures of all pieces together."""
    total = {name: totals(pieces, name) for name in ("counts", "moves", "chaos", "findings", "errors", "refusals")}
    counts, moves, found = total["counts"], total["moves"], total["findings"]
    problems = sum(len(piece["problems"]) for piece in pieces)
    checked = counts["queries checked"]
    done = {name.removesuffix(" ok"): count for name, count in moves.items() if name.endswith(" ok")}
    written = counts["put ok"] + counts["delete ok"]
    shown = [
        Figure("soaked for", round(sum(piece["seconds"] for piece in pieces) / 60, 1), "minutes"),
        Figure("acknowledged writes", written, "writes"),
        Figure("writes whose outcome nobody was told", counts["put info"] + counts["delete info"], "writes"),
        Figure(
            "queries whose scores were computed again",
            checked,
            "queries",
            "at least 1,000,000",
            checked >= CHECKED_QUERIES,
        ),
        none("queries encoded by the wrong encoder", found["wrong model"], "queries"),
        none("deleted documents served or kept", found["resurrected"], "documents"),
        none(
            "acknowledged writes lost, stale or half-done", found["lost"] + found["stale"] + found["half"], "documents"
        ),
        none("findings of the checker in all", found.total(), "findings"),
        none("invariants broken, or not healed in time", problems, "times"),
        Figure("samples of a whole standby index", counts["standby ok"], "samples"),
        *(Figure(f"moves: {name}", count, "times") for name, count in sorted(done.items())),
        *(Figure(f"moves refused: {name}", count, "times") for name, count in sorted(total["refusals"].items())),
        *(Figure(name, count, "times") for name, count in sorted(total["chaos"].items())),
        none("errors that were not of a database going away", total["errors"].total(), "errors"),
    ]
    shown += [Figure(f"lag of the active index, {name}", max(p["lag_s"][name] for p in pieces), "s") for name in LAGS]
    return shown + _growth(pieces)


def _growth(pieces: Sequence[Piece]) -> list[Figure]:
    """Compare the first rest with the last, in the longest piece: what grows there has no bound."""
    longest = max(pieces, key=lambda piece: float(piece["seconds"]))
    memory, sizes = longest["worker_mib"], longest["sizes"]
    shown: list[Figure] = []
    if memory:
        flat = memory[-1] <= FLAT * memory[0]
        shown.append(Figure("memory of a worker after the first window", memory[0], "MiB"))
        shown.append(Figure("memory of that worker at the end", memory[-1], "MiB", f"at most {FLAT} times", flat))
    for name in sizes[-1] if sizes else ():
        unit = "rows" if name.endswith("rows") else "KiB"
        first, last = (size[name] if unit == "rows" else round(size[name] / 1024) for size in (sizes[0], sizes[-1]))
        shown += [Figure(f"{name}, after the first window", first, unit), Figure(f"{name}, at the end", last, unit)]
    for name, count in longest["garbage"].items():
        shown.append(none(f"left at the end: {name}", count, ""))
    return shown


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie; 0 for none."""
    return float(np.quantile(np.array(values), share)) if values else 0.0
