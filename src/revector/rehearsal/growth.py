"""How the times of a rehearsal grow to those of the whole collection, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from revector.planning.estimate import Estimate
from revector.rehearsal.report import StepTime


@dataclass(frozen=True, slots=True)
class Growth:
    """How many times the rehearsed copy the whole collection is, by what the time of a step depends on."""

    chunks: Estimate
    tokens: Estimate
    graph: Estimate
    queries: Estimate


_NOTHING = Estimate(0.0, 0.0, 0.0)
_SAME = "takes no longer for a larger collection; measured without other load"
_GROWS = {
    "backfill": ("tokens", "as fast per token as here: one process on this machine"),
    "index": ("graph", "n log n in the number of chunks, and the graph fits into the memory of its build"),
    "verify": ("chunks", "reads every chunk once"),
    "gate": ("queries", "as fast per query as here, in a smaller index"),
}


def graph_growth(chunks: Estimate, rehearsed: float) -> Estimate:
    """Return how many times longer an HNSW graph of ``chunks`` is built than one of ``rehearsed``: n log n."""

    def work(n: float) -> float:
        return n * math.log(max(n, 2.0))

    return Estimate(work(chunks.value), work(chunks.low), work(chunks.high)).times(1 / work(max(rehearsed, 1.0)))


def step_times(
    rehearsed_s: Mapping[str, float], growth: Growth, *, ranges_s: float, drain_s: float, reembedded_s: float
) -> tuple[StepTime, ...]:
    """Return the time of each rehearsed step for the whole collection.

    ``ranges_s`` is what it takes to cut the real ids into shards; ``drain_s`` lies before the drop of an index;
    ``reembedded_s`` of the step verify go into a fixed number of documents that are re-embedded. What else a step
    takes however small the collection is (connections, locks) is scaled with the rest, so a small copy overstates.
    """
    times = []
    for step, seconds in rehearsed_s.items():
        by, assumes = _GROWS.get(step, (None, _SAME))
        fixed = seconds if by is None else min(seconds, reembedded_s) if step == "verify" else 0.0
        grown = _NOTHING if by is None else getattr(growth, by).times(seconds - fixed)
        more = {"provision": ranges_s, "retire": drain_s}.get(step, 0.0)
        estimated = Estimate(*(end + fixed + more for end in (grown.value, grown.low, grown.high)))
        times.append(StepTime(step, seconds, estimated, assumes))
    return tuple(times)
