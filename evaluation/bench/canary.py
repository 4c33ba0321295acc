"""How often a canary is wrong in a year, and how soon it tells a fall: its own tests on simulated days.

Queries are a sample, drawn once; each has a chance of its own to be found. By *turnover* a share of them is drawn again
each day, so that a day is much like the one before it; by *flicker* the same share is drawn again each day, so that
days depend on each other by little; after *one change* all days are the same. In all of these nothing falls: the mean
over all queries is what it was.

A fall of two points begins on a random day of the eighth week, and stays: ``2 lose`` (2 % of the queries lose all) or
``3 lose, 1 gains``. Alarms are counted as a person meets them: days in a row are one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product

import numpy as np
import numpy.typing as npt

from evaluation.bench.common import Figure, machine, parser, write
from revector.gate import canary_falls
from revector.gate.canary_falls import fall_check

Scores = npt.NDArray[np.float64]
Today = Callable[[int, Scores, Scores, np.random.Generator], Scores]

MAX_DROP = 0.02
YEAR = 365
BEGIN = 49
"""The first day on which a fall may begin; day 0 is the baseline."""


def turnover(share: float, day: int, found: Scores, chance: Scores, rng: np.random.Generator) -> Scores:
    """Draw a share of the queries again each day."""
    del day
    again = rng.random(len(found)) < share
    return np.where(again, rng.random(len(found)) < chance, found)


def flicker(share: float, day: int, found: Scores, chance: Scores, rng: np.random.Generator) -> Scores:
    """Draw the same share of the queries again each day: the first ones, for their order is random."""
    del day
    first = np.arange(len(found)) < share * len(found)
    return np.where(first, rng.random(len(found)) < chance, found)


def one_change(share: float, day: int, found: Scores, chance: Scores, rng: np.random.Generator) -> Scores:
    """Draw a share of the queries again on one day."""
    return turnover(share, day, found, chance, rng) if day == BEGIN else found


WORLDS: dict[str, Today] = {
    "nothing changes": lambda _day, found, _chance, _rng: found,
    "one change of 20 % of the queries": partial(one_change, 0.2),
    "turnover of 0.1 % of the queries a day": partial(turnover, 0.001),
    "turnover of 1 % of the queries a day": partial(turnover, 0.01),
    "flicker of 5 % of the queries": partial(flicker, 0.05),
}
FALLS = {"2 lose": (0.02, 0.0), "3 lose, 1 gains": (0.03, 0.01)}
"""Shares of all queries that lose what they found, and that gain."""


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 where the tests are wrong more than once a year, or late."""
    options = parser("evaluation.bench.canary", __doc__)
    options.add_argument("--repetitions", type=int, default=200)
    chosen = options.parse_args(argv)
    before, started = machine(), time.process_time()
    _check_rule()
    figures = list[Figure]()
    for one in _figures(chosen.repetitions):
        figures.append(one)
        print(f"  {time.process_time() - started:5.1f} s  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    said = f"python -m evaluation.bench.canary --repetitions {chosen.repetitions}"
    return write(chosen.output, said, before, figures)


def _figures(repetitions: int) -> Iterator[Figure]:
    rng = np.random.default_rng(178)
    for queries in (60, 300, 600):
        for name, today in WORLDS.items():
            alarms = [_alarms(_year(queries, today, rng, days=YEAR)) for _ in range(repetitions)]
            error = 2 * float(np.std(alarms)) / repetitions**0.5
            rate = round(float(np.mean(alarms)), 3)
            where = f"{queries} queries, {name}, nothing falls: false alarms"
            yield Figure(where, rate, "a year", "at most 1", rate <= 1 + error)
    for queries in (300, 600):
        for name in ("nothing changes", "turnover of 0.1 % of the queries a day", "flicker of 5 % of the queries"):
            for fall, shares in FALLS.items():
                yield from _found(f"{queries} queries, {name}, {fall}", queries, WORLDS[name], shares, repetitions, rng)


def _found(
    where: str, queries: int, today: Today, shares: tuple[float, float], repetitions: int, rng: np.random.Generator
) -> Iterator[Figure]:
    delays = []
    for _ in range(repetitions):
        begin = BEGIN + int(rng.integers(7))
        told = _year(queries, today, rng, days=begin + 28, fall=(begin, *shares))
        delays.append(min((day - begin for day in told if day >= begin), default=99))
    asked = queries == 600 and where.endswith("2 lose")
    for days, said in ((0, "the same day"), (7, "within a week"), (14, "within two weeks")):
        share = round(100 * float(np.mean(np.array(delays) <= days)), 1)
        bound = asked and days == 7
        goal, holds = ("at least 80", share >= 80) if bound else (None, None)
        yield Figure(f"{where}: told {said}", share, "%", goal, holds)
    median = float(np.median(delays))
    yield Figure(f"{where}: median delay", median if median < 99 else "more than 28", "days")


def _year(
    queries: int, today: Today, rng: np.random.Generator, *, days: int, fall: tuple[int, float, float] | None = None
) -> list[int]:
    """Return the days, from 1, on which a canary alerts that runs each day.

    When the test of the week is due is as in ``gate.canary``.
    """
    chance = rng.beta(2, 0.5, queries)
    found = (rng.random(queries) < chance).astype(float)
    kind = rng.random(queries)  # whether a fall takes a query, or gives one
    then, told = found, list[int]()
    week_day, week_alerted = 0, False
    for day in range(1, days + 1):
        found = today(day, found, chance, rng).astype(float)
        now = found if fall is None or day < fall[0] else _fallen(found, chance, kind, fall[1:])
        weekly = week_alerted or day - week_day >= canary_falls.WEEK_DAYS
        alert = _alert(queries, int((now < then).sum()), int((now > then).sum()), weekly=weekly)
        told += [day] if alert else []
        if weekly:
            week_day, week_alerted = day, alert
    return told


def _fallen(found: Scores, chance: Scores, kind: Scores, shares: tuple[float, float]) -> Scores:
    """Take what they found from a share of all queries, and give it to another share; each found or did not before."""
    lose, gain = shares
    average = float(chance.mean())
    lost, gained = kind < lose / average, kind > 1 - gain / (1 - average)
    return np.where(lost, 0.0, np.where(gained, 1.0, found))


@cache
def _alert(queries: int, losses: int, gains: int, *, weekly: bool) -> bool:
    """Whether the canary alerts where so many queries lost all, and so many found what they had not.

    For such scores the upper end of the interval is below 0 where a sign test says so: of weights by Dirichlet the
    losses have a Gamma(losses), the gains and the added query together a Gamma(gains + 1), and the first is the smaller
    one with the chance of at least ``losses`` heads in ``losses + gains`` throws. ``_check_rule`` holds it against the
    canary's own test.
    """
    if losses - gains < queries * MAX_DROP / 2 - canary_falls.ROUNDING:
        return False
    thrown = losses + gains
    chance = sum(math.comb(thrown, heads) for heads in range(losses, thrown + 1)) / 2**thrown
    return bool(chance <= (canary_falls.WEEK if weekly else canary_falls.DAY))


def _check_rule() -> None:
    """Raise ``AssertionError`` where the rule above is not that of the canary."""
    for queries, losses, gains in product((60, 600), (5, 6, 9, 12, 20, 40), (0, 1, 4, 12)):
        before = [1.0] * losses + [0.0] * (queries - losses)
        after = [0.0] * losses + [1.0] * gains + [0.0] * (queries - losses - gains)
        then, now = ({str(query): score for query, score in enumerate(side)} for side in (before, after))
        for weekly in (False, True):
            own = fall_check(then, now, what="recall", max_drop=MAX_DROP, weekly=weekly).alert
            assert _alert(queries, losses, gains, weekly=weekly) is own, (queries, losses, gains, weekly)


def _alarms(days: Sequence[int]) -> int:
    """Count days in a row once."""
    return sum(day - 1 not in set(days) for day in days)


if __name__ == "__main__":
    raise SystemExit(main())
