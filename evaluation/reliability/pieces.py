"""Proofs that run in pieces: each piece keeps its seed and counts, and the figures speak of all of them together."""

from __future__ import annotations

import argparse
import fcntl
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure, machine, show

RESULTS = Path(__file__).parent / "results"
NOT_RUN = "not run"
Piece = Mapping[str, Any]


def not_run(name: str) -> Figure:
    """Return the figure of what no piece has tried: it holds for nothing, and the report lists it."""
    return Figure(name, NOT_RUN, "")


def none(name: str, count: int, unit: str = "findings") -> Figure:
    """Return the figure of what may not be found even once."""
    return Figure(name, count, unit, "0", count == 0)


def totals(pieces: Sequence[Piece], name: str) -> Counter[str]:
    """Add up what all pieces counted under a name."""
    total = Counter[str]()
    for piece in pieces:
        total.update(piece[name])
    return total


def options(module: str, doc: str | None, *, seed: int, results: str, **numbers: int) -> argparse.ArgumentParser:
    """Return the command line that layers share: ``--seed``, ``--results``, and whole numbers with their defaults."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {"seed": seed, **numbers}.items():
        made.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    made.add_argument("--results", type=Path, default=RESULTS / f"{results}.json", help="default: %(default)s")
    return made


def add_piece(path: Path, piece: Piece, figures: Callable[[Sequence[Piece]], Sequence[Figure]], module: str) -> bool:
    """Put a piece into a file of results, in place of an older one by the same command; return whether all goals hold.

    ``piece`` holds at least ``seed`` and whatever ``figures`` counts; the command is that of this process.
    """
    command = f"python -m {module} {shlex.join(sys.argv[1:])}".strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        older = json.loads(text)["pieces"] if text else []
        pieces = [one for one in older if one["command"] != command] + [{"command": command, **piece}]
        found = list(figures(pieces))
        content = {
            "command": "; ".join(one["command"] for one in pieces),
            "machine": machine(),
            "figures": [asdict(figure) for figure in found],
            "pieces": pieces,
        }
        file.truncate(0)
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return not show(found)
