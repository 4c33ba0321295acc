"""What every layer of the proof records: calls with their outcomes, in one form that the checker reads.

A call is two records with the same ``call``: ``invoke``, then ``ok``, ``fail`` (it certainly did not happen) or
``info`` (nobody knows: the connection was lost, the process was killed). A call without an outcome counts as ``info``.
Every put has a content of its own (``content`` is a token that no other put has), so that a result names its write.

| op | invoke has | ok adds |
|---|---|---|
| put | doc_id, content | version (None: unchanged) |
| delete | doc_id | version (None: nothing to delete) |
| query | | gen (who answered), encoder (what encoded), index_encoder (the index's own), epoch if known, hits |
| register, swap, rollback, retire, abort | gen | epoch after it, detail: see ``Record`` |
| standby | | gen, detail {"missing": documents it neither shows nor has work for}: a sample inside the window |
| documents | | hits: the document table, whole, after heal |
| index | | gen, hits: one live index, whole, after heal |

A put that is one of several written together has their number in ``detail["batch"]``; an ``info`` whose process was
dead by then, and its sessions gone, says so in ``detail["dead"]``.

``at`` is monotonic: seconds of one clock, or the number of a simulation's step. ``process`` is a session: its answers
must never go back in time.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["invoke", "ok", "fail", "info"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that was served or found: ``content`` is the token of the put whose text it is."""

    doc_id: str
    content: str
    version: int
    chunk: int = 0
    chunks: int | None = None
    """How many chunks the put of that content has, where the recorder knows it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a history.

    ``detail`` of a swap: ``{"old": gen | None, "verified": bool, "recalled": bool, "waiting": int, "waived": int}`` as
    its transaction saw them; of a rollback: ``{"old": gen, "forced": bool}``; of a retirement: ``{"deadline_passed":
    bool, "given_up": bool}``.
    """

    call: int
    kind: Kind
    op: str
    process: str
    at: float
    doc_id: str | None = None
    content: str | None = None
    version: int | None = None
    gen: int | None = None
    epoch: int | None = None
    encoder: str | None = None
    index_encoder: str | None = None
    hits: tuple[Hit, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


class Recorder:
    """Collects records from any number of threads, in the order of its clock; calls are numbered from ``first`` on.

    With ``path`` each record is also appended there in one write, so that what the kernel was told survives SIGKILL.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, first: int = 1, path: Path | None = None
    ) -> None:
        self.records: list[Record] = []
        self._clock, self._calls, self._lock = clock, itertools.count(first), threading.Lock()
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def invoke(self, op: str, process: str, **facts: Any) -> int:
        """Note that a call begins; return its number."""
        call = next(self._calls)
        self._add(call, "invoke", op, process, facts)
        return call

    def ok(self, call: int, op: str, process: str, **facts: Any) -> None:
        """Note a call's answer."""
        self._add(call, "ok", op, process, facts)

    def fail(self, call: int, op: str, process: str, **facts: Any) -> None:
        """Note a call that certainly had no effect."""
        self._add(call, "fail", op, process, facts)

    def info(self, call: int, op: str, process: str, **facts: Any) -> None:
        """Note a call whose effect nobody knows."""
        self._add(call, "info", op, process, facts)

    def _add(self, call: int, kind: Kind, op: str, process: str, facts: Mapping[str, Any]) -> None:
        with self._lock:
            self.records.append(Record(call, kind, op, process, self._clock(), **facts))
            if self._file is not None:
                os.write(self._file, (json.dumps(asdict(self.records[-1]), ensure_ascii=False) + "\n").encode())


def save(path: Path, records: Iterable[Record]) -> None:
    """Write a history as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def load(path: Path) -> Iterator[Record]:
    """Read a history that ``save`` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # killed in the middle of it
            row = json.loads(line)
            yield Record(**{**row, "hits": tuple(Hit(**hit) for hit in row["hits"])})
