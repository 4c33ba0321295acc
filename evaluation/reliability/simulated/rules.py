"""What a rule is, and how rules are chosen: by a seed, or by a caller who looks for the shortest failing history."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.reliability.simulated.stage import Fate
from evaluation.reliability.simulated.world import World

Step = tuple[str, tuple[Any, ...]]
"""A rule's name and its arguments: a list of them is a history, and repeats it."""

ENDS: tuple[Literal["kill", "lost"], ...] = ("kill", "lost")
CHANCE_FATES = (
    *(Fate("kill", n) for n in range(1, 9)),
    *(Fate("lost", n) for n in range(2, 6)),
    Fate("cut", 1),
    Fate("cut", 3),
)


def paces(*places: str) -> tuple[int | str, ...]:
    """Return where a call may stand: mostly nowhere; at the n-th place where it can; at one of ``places``."""
    return (*(0,) * 8, 1, 2, 3, 4, 6, 8, 11, *places)


def fates(*points: str, safe: int = 50) -> tuple[Fate | None, ...]:
    """Return what may befall a call: nothing (as often as ``safe`` says), anything, or its end at one of ``points``."""
    named = [Fate(kind, point) for point in points for kind in ENDS]
    return (*(None,) * safe, *CHANCE_FATES, *named)


@dataclass(frozen=True, slots=True)
class Rule:
    """``act`` returns False where it does not apply. ``arguments``: the values of each; a repeated one is likelier."""

    act: Callable[..., bool]
    weight: int
    arguments: tuple[Sequence[Any], ...]


RULES: dict[str, Rule] = {}
STORE_RULES: dict[str, Rule] = {}
"""What happens besides where indexes are in a store."""


def rule(
    weight: int, *arguments: Sequence[Any], of: dict[str, Rule] = RULES
) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Register a rule under its function's name."""

    def register(act: Callable[..., bool]) -> Callable[..., bool]:
        of[act.__name__] = Rule(act, weight, arguments)
        return act

    return register


def draw(chance: random.Random, *, stored: bool = False) -> Step:
    """Draw a rule and its arguments; ``stored``: also of those for indexes in a store."""
    rules: Mapping[str, Rule] = {**RULES, **STORE_RULES} if stored else RULES
    names = list(rules)
    name = chance.choices(names, [rules[one].weight for one in names])[0]
    return name, tuple(chance.choice(values) for values in rules[name].arguments)


def take(world: World, step: Step) -> bool:
    """Take a step and judge the world after it; return whether it applied."""
    name, arguments = step
    if not (RULES.get(name) or STORE_RULES[name]).act(world, *arguments):
        return False
    world.judge()
    return True
