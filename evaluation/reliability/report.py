"""The figures of the kill trials, kept in one JSON file: trials of other targets stay as they are."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def write(path: Path, run: Mapping[str, Any]) -> bool:
    """Put a run into the file, in place of an older one by the same command; return whether all is as promised.

    ``run`` has the options of the command and its ``migrations`` so far.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        older = json.loads(text)["runs"] if text else []
        runs = [one for one in older if _command(one) != _command(run)] + [dict(run) | {"machine": machine()}]
        found = figures(runs)
        content = {"command": "; ".join(map(_command, runs)), "machine": machine(), "figures": found, "runs": runs}
        file.truncate(0)
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return all(figure["holds"] is not False for figure in found)


def _command(run: Mapping[str, Any]) -> str:
    options = " ".join(f"--{name} {run[name]}" for name in ("repeats", "kills", "seed", "documents"))
    return f"python -m evaluation.reliability.kill --targets {','.join(run['targets'])} {options}"


def figures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return kills, recovery times and what was wrong; ``holds`` is None where nothing was promised."""
    found = []
    trials = [trial for run in runs for trial in run["migrations"]]
    kills = [kill for trial in trials for kill in trial["kills"]]
    for target in dict.fromkeys(target for run in runs for target in run["targets"]):
        wanted = max(run["repeats"] for run in runs if target in run["targets"])
        back = [kill["back_s"] for kill in kills if kill["target"] == target]
        found.append(_figure(f"{target}: kills", len(back), "kills", f"≥ {wanted}", len(back) >= wanted))
        if back:
            found.append(_figure(f"{target}: back after a kill, median", statistics.median(back), "s"))
            found.append(_figure(f"{target}: back after a kill, longest", max(back), "s"))
    phases = Counter(kill["phase"] for kill in kills)
    found += [_figure(f"kills in phase {phase}", count, "kills") for phase, count in phases.items()]
    hit = [trial for trial in trials if trial["kills"]]
    for driver in sorted({trial["driver"] for trial in hit}):
        through = [trial["through_s"] for trial in hit if trial["driver"] == driver]
        found.append(_figure(f"{driver}: through after the last kill, median", statistics.median(through), "s"))
        found.append(_figure(f"{driver}: through after the last kill, longest", max(through), "s"))
    found.append(_figure("migrations that were hit, and finished", len(hit), "migrations"))
    counts: Counter[str] = Counter()
    for row in trials:
        counts.update(row["application"])
        for what in ("lost", "stale", "resurrected"):
            counts[f"documents {what}"] += sum(len(one[what]) for one in row["differences"])
    wrong = ("documents lost", "documents stale", "documents resurrected", "wrong model")
    zeros = (*wrong, "deleted documents in answers", "query failed", "write failed")
    found += [_figure(what, counts[what], "count", "0", counts[what] == 0) for what in zeros]
    done = ("put", "delete", "query")
    found += [_figure(f"acknowledged: {what}", counts[what], "operations", "> 0", counts[what] > 0) for what in done]
    refused = ("query refused: database down", "write refused: database down")
    found += [_figure(what, counts[what], "operations") for what in refused]
    return found


def _figure(name: str, value: float, unit: str, goal: str | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "goal": goal, "holds": holds}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, and how busy it was."""
    return {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
