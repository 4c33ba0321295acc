"""Explores every interleaving of the protocol in small worlds, then takes each guard away and finds what breaks.

    python -m evaluation.reliability.model [--size short|long] [--states N] [--bug NAME] [--results PATH]

Class A is the protocol of vectors beside the documents, in PostgreSQL; class B is the one for stores outside of it.
``--bug`` removes one guard and prints the shortest way to a broken promise. Nothing is random: the same command visits
the same states.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.model.explore import MOST_STATES, Explored, Trace, explore
from evaluation.reliability.model.guards import ASKED_FOR, GUARDS, hunt, is_covered
from evaluation.reliability.model.settings import LONG, SHORT, models
from evaluation.reliability.pieces import Piece, add_piece, none, options

MODULE = "evaluation.reliability.model"
GOAL = {"short": 200_000, "long": 10_000_000}


def main() -> int:
    """Explore and hunt; return 1 if a promise broke, a guard's loss was not seen, or too little was explored."""
    parser = options(MODULE, __doc__, seed=0, results="model", states=MOST_STATES)
    parser.add_argument("--size", choices=tuple(GOAL), default="short")
    parser.add_argument("--bug", choices=sorted(GUARDS), metavar="NAME", help="remove this guard; nothing else is done")
    chosen = parser.parse_args()
    if chosen.bug:
        found = hunt(chosen.bug)
        print(f"without {chosen.bug} ({GUARDS[chosen.bug].says}): {found or 'no promise breaks'}")
        return int(found is not None)
    explored = explore_settings(chosen.size, chosen.states)
    removed = [remove(name) for name in GUARDS]
    piece = {"seed": 0, "size": chosen.size, "settings": explored, "guards": removed}
    return 0 if add_piece(chosen.results, piece, figures, MODULE) else 1


def explore_settings(size: str, most_states: int) -> list[Mapping[str, Any]]:
    """Explore every setting of a size; print each as it is done."""
    settings = SHORT if size == "short" else LONG
    bounds = {setting.name: str(setting) for setting in settings}
    explored: list[Mapping[str, Any]] = []
    made, started, states = models(settings), time.monotonic(), 0
    for number, (name, make) in enumerate(made.items(), 1):
        found = explore(make(frozenset()), most_states=most_states, setting=name)
        states += found.states
        rate = states / (time.monotonic() - started)
        print(f"{number:2d} of {len(made)}: {said(name, found)}; {states:,} in all, {rate:,.0f} states/s", flush=True)
        explored.append({"name": name, "bounds": bounds.get(name, name), **_plain(asdict(found))})
    return explored


def said(name: str, found: Explored) -> str:
    """Say in a line what an exploration gave, or print its counter-example."""
    end = str(found.trace) if found.trace else "no promise breaks" if found.whole else "not explored to its end"
    return f"{name}: {found.states:,} states, {found.transitions:,} transitions, {end}"


def remove(name: str) -> Mapping[str, Any]:
    """Remove a guard and say what was seen; a covered one must change nothing when it alone is removed."""
    guard, found = GUARDS[name], hunt(name)
    covered = is_covered(name) if guard.covered_by else None
    with_it = f" (with {', '.join(guard.covered_by)}, which cover it)" if guard.covered_by else ""
    print(f"without {name}{with_it}: {_brief(found)}", flush=True)
    return {
        "name": name,
        "says": guard.says,
        "races": guard.races,
        "covered_by": guard.covered_by,
        "covered": covered,
        "found": found is not None,
        **({} if found is None else {"promise": found.promise, "setting": found.setting, "steps": _names(found)}),
    }


def _brief(found: Trace | None) -> str:
    return "NOT SEEN" if found is None else f"{found.promise}, {len(found.steps)} steps ({found.setting})"


def _names(found: Trace) -> list[str]:
    return [name for name, _ in found.steps]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "seconds": round(found["seconds"], 1)}


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return what all pieces together show."""
    settings = [one for piece in pieces for one in piece["settings"]]
    guards = {one["name"]: one for piece in pieces for one in piece["guards"]}
    states = sum(one["states"] for one in settings)
    goal = max(GOAL[piece["size"]] for piece in pieces)
    broken = sum(one["trace"] is not None for one in settings)
    whole = sum(one["whole"] for one in settings)
    seen = [one for one in guards.values() if one["found"] and one["covered"] is not False]
    lengths = sorted(len(one["steps"]) for one in guards.values() if one["found"])
    covered = sum(bool(one["covered_by"]) for one in guards.values())
    return [
        Figure("states explored, every interleaving of each setting", states, "states", f"≥ {goal:,}", states >= goal),
        Figure("transitions between them", sum(one["transitions"] for one in settings), "transitions"),
        Figure(
            "rate of the exploration", round(states / max(0.1, sum(one["seconds"] for one in settings))), "states/s"
        ),
        none("settings in which a promise broke", broken, "settings"),
        Figure("settings explored to their end", f"{whole} of {len(settings)}", "settings"),
        Figure(
            "guards whose removal is seen to break a promise",
            f"{len(seen)} of {len(guards)}",
            "guards",
            "all",
            len(seen) == len(guards),
        ),
        Figure("of these, covered by another guard, which must go too", covered, "guards"),
        Figure("of these, found missing in revector by this model", ", ".join(ASKED_FOR), "guards"),
        Figure("shortest counter-examples", f"{lengths[0]} to {lengths[-1]}" if lengths else None, "steps"),
    ]


if __name__ == "__main__":
    sys.exit(main())
