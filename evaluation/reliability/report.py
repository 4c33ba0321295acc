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


def write(path: Path, rows: Sequence[Row], *, seed: int, targets: Sequence[str], repeats: int, documents: int) -> bool:
    """Put the trials of ``targets`` into the file in place of those that were there; return whether all holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        known: dict[str, Any] = json.loads(text) if text else {"runs": [], "trials": []}
        runs = [one for one in known["runs"] if not set(one["targets"]) & set(targets)]
        options = f"--targets {','.join(targets)} --repeats {repeats} --seed {seed} --documents {documents}"
        command = f"python -m evaluation.reliability.kill {options}"
        runs.append({"command": command, "seed": seed, "targets": list(targets), "repeats": repeats})
        trials = [one for one in known["trials"] if one["target"] not in targets] + list(rows)
        found = figures(trials, max(one["repeats"] for one in runs))
        content = {
            "command": "; ".join(one["command"] for one in runs),
            "machine": _machine(),
            "figures": found,
            "runs": runs,
            "trials": trials,
        }
        file.truncate(0)
        file.write(json.dumps(content, indent=1) + "\n")
    return all(figure["holds"] is not False for figure in found)


def figures(trials: Sequence[Row], repeats: int) -> list[dict[str, Any]]:
    """Return kills, recovery times and what was wrong; ``holds`` is None where nothing was promised."""
    found = []
    for target in sorted({row["target"] for row in trials}):
        rows = [row for row in trials if row["target"] == target]
        through = [row["finished_s"] for row in rows]
        back = [row["back_s"] for row in rows]
        found += [
            _figure(f"{target}: kills", len(rows), "kills", f"≥ {repeats}", len(rows) >= repeats),
            _figure(f"{target}: back after the kill, median", statistics.median(back), "s"),
            _figure(f"{target}: back after the kill, longest", max(back), "s"),
            _figure(f"{target}: migration through after the kill, median", statistics.median(through), "s"),
            _figure(f"{target}: migration through after the kill, longest", max(through), "s"),
        ]
    for what in ("lost", "stale", "resurrected"):
        found.append(_zero(f"documents {what}", sum(row[what] for row in trials), "documents"))
    counts: Counter[str] = Counter()
    for row in trials:
        counts.update(row["application"])
    for what in ("wrong model", "deleted documents in answers", "query failed", "write failed"):
        found.append(_zero(what, counts[what], "operations"))
    for what in ("put", "delete", "query"):
        found.append(_figure(f"acknowledged: {what}", counts[what], "operations", "> 0", counts[what] > 0))
    for what in ("query refused: database down", "write refused: database down"):
        found.append(_figure(what, counts[what], "operations"))
    return found


def _zero(name: str, value: int, unit: str) -> dict[str, Any]:
    return _figure(name, value, unit, "0", value == 0)


def _figure(name: str, value: float, unit: str, goal: str | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "goal": goal, "holds": holds}


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
