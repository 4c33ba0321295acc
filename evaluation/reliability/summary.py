"""The report of the proof in Markdown, made from the layers' figures, the seeded bugs and the catalogue of races."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.reliability.pieces import NOT_RUN

HERE = Path(__file__).parent
CAUSE = (
    "A goal of so many runs is missed for want of machine time, not because anything was found: on two shared cores a "
    "process does 1.5 to 5 histories (L1) or 1 to 2 interleavings (L2) a second, and a soak checks about 400 queries a "
    "second. The same command with another seed adds a piece."
)
MARKS = {None: "", True: "✓", False: "**missed**"}
PROMISES = (
    ("No write is lost, stale or resurrected", "L0 to L6: 0 found of each, below"),
    ("No query is answered by an index of another model", "L1, L2, L6: every answer computed again by its own encoder"),
    ("Rollback loses nothing", "L1 to L3, L6: both generations compared, whole, after every rollback"),
    ("Every step can be killed and run again", "L3: every named point; L6: at random; L4: answers lost after COMMIT"),
    ("The proof can see", "L7: each seeded bug, and the layer that caught it"),
)


def races() -> dict[str, dict[str, Any]]:
    """Return the catalogue: by number, ``what``, ``how`` and ``tests``."""
    return tomllib.loads((HERE / "races.toml").read_text(encoding="utf-8"))


def write_report(layers: Sequence[tuple[str, str, str]], folder: Path) -> Path:
    """Write ``REPORT.md`` beside the results (for the committed ones, one folder up) and return its path.

    ``layers`` are (name, what it does, file of results without its ending).
    """
    path = (folder.parent if folder == HERE / "results" else folder) / "REPORT.md"
    found = {name: _read(folder / f"{results}.json") for name, _, results in layers}
    lines = [
        "# The proof: what was tried in order to break the promises, and what came of it",
        "",
        "Written by `python -m evaluation.reliability.prove`; every figure is from the JSON files of its run, where",
        "commands, seeds, machine and load stand beside it. Run any command again with its seed.",
        "",
        *_table(("promise", "evidence"), PROMISES),
        "",
        *_shortfalls(found),
    ]
    for name, says, _ in layers:
        lines += ["", f"## {name}. {says}", "", *_layer(found[name])]
    lines += ["", "## Bugs of revector that the proof found", "", *_found()]
    lines += ["", "## Seeded bugs, and who caught them", "", *_bugs(found.get("L7"))]
    lines += ["", "## Races and faults R01 to R79", "", *_races()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (list(head), ["---"] * len(head), *cells)]


def _shortfalls(found: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    shown = [(name, figure) for name, results in found.items() for figure in (results or {}).get("figures", ())]
    missed = [
        (name, figure["name"], f"{_number(figure['value'])} {figure['unit']}", figure["goal"])
        for name, figure in shown
        if figure["holds"] is False
    ]
    absent = [name for name, results in found.items() if results is None]
    absent += [f"{name}: {figure['name']}" for name, figure in shown if figure["value"] == NOT_RUN]
    lines = ["## Shortfalls", ""]
    if absent:
        lines += [f"Not run: {'; '.join(absent)}.", ""]
    return lines + ([*_table(("layer", "figure", "found", "goal"), missed), "", CAUSE] if missed else ["None."])


def _layer(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return ["Not run."]
    rows = [
        (figure["name"], f"{_number(figure['value'])} {figure['unit']}", figure["goal"] or "", MARKS[figure["holds"]])
        for figure in results["figures"]
    ]
    commands = [f"* `{command}`" for command in results["command"].split("; ")]
    return [*_table(("figure", "found", "goal", ""), rows), "", "Commands:", "", *commands]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _bugs(results: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return ["Not run."]
    latest = {bug["name"]: bug for piece in results["pieces"] for bug in piece["bugs"]}
    rows = [
        (bug["name"], bug["says"], ", ".join(bug["races"]), bug["caught_by"] or "**nobody**", bug["shown_as"])
        for bug in latest.values()
    ]
    return _table(("bug", "what is wrong", "races", "caught by", "as"), rows)


def _found() -> list[str]:
    bugs = tomllib.loads((HERE / "found.toml").read_text(encoding="utf-8"))["bug"]
    rows = [
        (bug["layer"], bug["what"], bug["seen"], f"`{bug['kept']}`" if "kept" in bug else f"open: {bug['open']}")
        for bug in bugs
    ]
    return _table(("layer", "what was wrong", "shown by", "kept by"), rows)


def _races() -> list[str]:
    rows = [
        (number, race["what"], race["how"], "<br>".join(f"`{test}`" for test in race.get("tests", ())))
        for number, race in races().items()
    ]
    return _table(("race", "what goes wrong", "what stops it", "tests"), rows)
