"""How often the rule for slices is wrong: gates on simulated pairs of models, one of which may be broken in a language.

Queries of the worlds of ``evaluation.bench.gate`` have a language, in shares of 60 to 5 %, and a length that means
nothing. *False alarm*: a slice fails although both models find the same. *Open*: no slice fails, and not all of the
large ones are cleared; all queries together would then be inconclusive by the slices alone. A broken language loses a
share of its queries whole. ``--drops`` says for which ``max_slice_drop``.

Bounded by the confidence are the two errors where every slice falls by just what is allowed: to fail, and to pass. How
often equal models are left open, and broken ones pass, is what the queries that people have can tell.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.bench.common import Figure, machine, parser, write
from evaluation.bench.gate import WORLDS, Floats, World, _rate
from revector.gate.demands.max_slice_drop import DEMAND
from revector.gate.figures import GateFigures, Value
from revector.measure.changes import Bounds
from revector.measure.comparison import Comparison
from revector.measure.sliced import slices_of
from revector.measure.slices import Slices, length_slices
from revector.spec import Gate

CONFIDENCE = 0.95
SHARES = {"en": 0.6, "de": 0.25, "fi": 0.1, "el": 0.05}
SIZES = (100, 300)
BROKEN = 0.55
"""Queries of a broken language that are lost whole, as a share of those that were answered."""


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if a good model fails by a slice more often than its confidence allows."""
    options = parser("evaluation.bench.gate_slices", __doc__)
    options.add_argument("--repetitions", type=int, default=120)
    options.add_argument("--drops", type=float, nargs="+", default=[0.15])
    chosen = options.parse_args(argv)
    before, started = machine(), time.process_time()
    figures = list[Figure]()
    for one in _figures(chosen.repetitions, chosen.drops):
        figures.append(one)
        print(f"  {time.process_time() - started:5.1f} s  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    said = f"--repetitions {chosen.repetitions} --drops {' '.join(map(str, chosen.drops))}"
    return write(chosen.output, f"python -m evaluation.bench.gate_slices {said}", before, figures)


def _figures(repetitions: int, drops: Sequence[float]) -> Iterator[Figure]:
    rng = np.random.default_rng(17)
    for world in WORLDS:
        for size in SIZES:
            for drop in drops:
                where = f"{world.name}, {size} queries, {drop:g} allowed in a slice"
                equal = Counter(_verdict(*_draw(world, size, rng), drop) for _ in range(repetitions))
                yield _rate(
                    f"{where}, equal models: a slice fails (false alarm)", equal, Value.FAIL, (1 - CONFIDENCE) / 2
                )
                yield _rate(f"{where}, equal models: open", equal, Value.INCONCLUSIVE)
                limit = Counter(_verdict(*_draw(world, size, rng, lost=drop), drop) for _ in range(2 * repetitions))
                at_it = f"{where}, every slice falls by just that"
                yield _rate(f"{at_it}: fails", limit, Value.FAIL, (1 - CONFIDENCE) / 2)
                yield _rate(f"{at_it}: passes", limit, Value.PASS, (1 - CONFIDENCE) / 2)
                for language in ("el", "fi"):
                    found = Counter(_verdict(*_draw(world, size, rng, language), drop) for _ in range(repetitions))
                    share = f"{language}, {SHARES[language]:.0%} of queries, loses {BROKEN:.0%}"
                    yield _rate(f"{where}, {share}: fails", found, Value.FAIL)
                    yield _rate(f"{where}, {share}: passes", found, Value.PASS)


def _draw(
    world: World, size: int, rng: np.random.Generator, broken: str | None = None, *, lost: float = 0.0
) -> tuple[Floats, Floats, Slices]:
    """Return recall of old and new, and the queries by language and length; as many of a language as its share says."""
    old, new = world.draw(size, rng, lost)
    ends = np.cumsum([0, *(round(share * size) for share in SHARES.values())])
    languages = {name: range(ends[n], ends[n + 1]) for n, name in enumerate(SHARES)}
    if broken is not None:
        place = languages[broken]
        new[place] *= rng.random(len(place)) >= BROKEN
    lengths = length_slices({str(query): int(words) for query, words in enumerate(rng.integers(1, 40, size))})
    by_language = {name: [str(query) for query in place] for name, place in languages.items()}
    return old, new, {"language": by_language, "length": lengths}


def _verdict(old: Floats, new: Floats, slices: Slices, drop: float) -> Value:
    """Let the gate's own demand judge the slices."""
    before, after = ({str(query): float(score) for query, score in enumerate(scores)} for scores in (old, new))
    found = tuple(slices_of(slices, after, before, Bounds(CONFIDENCE, CONFIDENCE, drop)))
    figures = GateFigures(
        comparison=Comparison(
            k=10,
            documents=10_000,
            queries=len(old),
            fingerprint="",
            confidence=CONFIDENCE,
            new="new",
            old="old",
            metrics={},
            ceiling=1.0,
            saturated_by=(),
            slices=found,
        )
    )
    assert DEMAND.judge is not None
    values = [one.value for one in DEMAND.judge(Gate(max_slice_drop=drop), figures)]
    return max(values, key=[Value.PASS, Value.INCONCLUSIVE, Value.FAIL].index)


if __name__ == "__main__":
    raise SystemExit(main())
