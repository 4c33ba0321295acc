"""Owns the record of the demo's application: what was acknowledged, line by line, and how often."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from revector.measure.metrics import latency_ms


class Record:
    """The log of acknowledged operations, one JSON line each."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._lock = file, threading.Lock()

    def add(self, **line: object) -> None:
        """Append a line."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


@dataclass(slots=True)
class ApplicationCounts:
    """Operations by their end; ``latency_ms`` are the percentiles of the queries that were answered."""

    writes: int = 0
    deletes: int = 0
    unknown: int = 0
    queries: int = 0
    failed: int = 0
    wrong_model: int = 0
    by_revision: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)


def read_record(record: Path) -> list[dict[str, Any]]:
    """Return the lines of the application's record; a last line cut off by a kill was never acknowledged."""
    lines = record.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def count(record: Path) -> ApplicationCounts:
    """Return how often the application did what."""
    counts = ApplicationCounts()
    milliseconds = []
    for line in read_record(record):
        match line["op"]:
            case "put":
                counts.writes += 1
            case "delete":
                counts.deletes += 1
            case "unknown":
                counts.unknown += 1
            case "query":
                counts.queries += 1
                counts.failed += not line["ok"]
                counts.wrong_model += line.get("wrong_model", False)
                if line["ok"]:
                    milliseconds.append(line["ms"])
                    counts.by_revision[line["revision"]] = counts.by_revision.get(line["revision"], 0) + 1
    counts.latency_ms = latency_ms(milliseconds) if milliseconds else {}
    return counts
