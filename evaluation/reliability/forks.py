"""The victims of the proofs that kill: forked from one process that has imported the library, noted, killed, awaited.

``multiprocessing``'s fork server is that process. It has one thread and no open connection when it forks, so each child
begins as a fresh process would, some milliseconds later.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, Self

import psutil
import sqlalchemy as sa
from evaluation.bench.common import ROOT
from evaluation.reliability import actors
from evaluation.reliability.bugs import BUGS, changed_database
from evaluation.reliability.history import Record, Recorder, load
from evaluation.reliability.playing import Order, play
from evaluation.reliability.site import Site

from revector.errors import DatabaseUnavailable
from revector.registry.verdicts import EVIDENCE_CHANGED_FLOOR

QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
}
"""No library may start a thread before the fork."""

_FORKED = get_context("forkserver")
_FORKED.set_forkserver_preload(["evaluation.reliability.actors", "h5py"])


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended; ``at`` (monotonic) is after its death. ``status`` is negative for a signal."""

    child: int
    status: int
    at: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL


@dataclass
class Forks:
    """Starts, kills and awaits children. Use it as a context: at its end none of them is left."""

    changed_floor: int = EVIDENCE_CHANGED_FLOOR
    """See ``playing.shrink``; 0 leaves the library's limits as they are."""

    _place: tuple[Any, ...] = ()
    _running: dict[int, BaseProcess] = field(default_factory=dict)
    _ends: dict[int, End] = field(default_factory=dict)
    _children: int = 0
    _planted: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with _quiet():
            forkserver.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self._running):
            self.kill(child)
        while self._running:
            self._listen(1.0)
        self._take_bug_away()

    def open(self, site: Site, bug: str | None = None) -> None:
        """Make ``site`` the one that children work on, with a seeded bug (``bugs.BUGS``) in all of them or none."""
        self._take_bug_away()
        if bug:
            self._planted.enter_context(changed_database(BUGS[bug], site.engine))
        site.log.mkdir(parents=True, exist_ok=True)
        self._place = (site.folder, site.url, site.shape, bug)

    def start(self, actor: str, arm: str = "", **arguments: Any) -> int:
        """Start a child that plays ``actor`` (a function of ``actors``) with crash points armed; return its number."""
        self._children += 1
        act = getattr(actors, actor)
        order = Order(*self._place, self.changed_floor, self._children, act, arm, arguments)
        self._running[self._children] = process = _FORKED.Process(target=play, args=(order,), daemon=True)
        process.start()
        return self._children

    def kill(self, child: int, with_signal: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens to a child that ended."""
        if pid := self.pid(child):
            with suppress(ProcessLookupError):
                os.kill(pid, with_signal)

    def pid(self, child: int) -> int:
        """Return the number of a child's process; 0 if it ended."""
        process = self._running.get(child)
        return (process.pid or 0) if process is not None and process.is_alive() else 0

    def memory_mib(self, child: int) -> float:
        """Return the resident memory of a child; 0 if it ended."""
        pid = self.pid(child)
        return psutil.Process(pid).memory_info().rss / 2**20 if pid else 0.0

    def next_end(self, limit_s: float) -> End | None:
        """Return the next end that nobody has asked for, or None after ``limit_s``."""
        if not self._ends:
            self._listen(limit_s)
        return self._ends.pop(next(iter(self._ends))) if self._ends else None

    def ended(self, child: int) -> End | None:
        """Return a child's end, if it has ended."""
        self._listen(0.0)
        return self._ends.get(child)

    def end_of(self, child: int, limit_s: float) -> End:
        """Return a child's end. Raises ``TimeoutError`` after ``limit_s``, when it has been killed."""
        deadline = time.monotonic() + limit_s
        while child not in self._ends:
            if (left_s := deadline - time.monotonic()) <= 0:
                self.kill(child)
                raise TimeoutError(f"the process {child} did not end within {limit_s:.0f} s")
            self._listen(left_s)
        return self._ends.pop(child)

    def run(
        self, actor: str, arm: str = "", *, kill_after_s: float | None = None, limit_s: float = 120.0, **arguments: Any
    ) -> End:
        """Start a child, kill it after so many seconds if it still runs, and return its end.

        Raises ``TimeoutError`` after ``limit_s``, when it has been killed.
        """
        child = self.start(actor, arm, **arguments)
        if kill_after_s is not None:
            self._listen(kill_after_s)
            self.kill(child)
        try:
            return self.end_of(child, limit_s)
        except TimeoutError as error:
            raise TimeoutError(f"{actor} {arguments}: {error}") from error

    def _listen(self, limit_s: float) -> None:
        """Wait until some child ends."""
        ended = connection.wait([process.sentinel for process in self._running.values()], max(0.0, limit_s))
        for child, process in list(self._running.items()):
            if process.sentinel in ended:
                process.join()
                self._ends[child] = End(child, process.exitcode or 0, time.monotonic())
                process.close()
                del self._running[child]

    def _take_bug_away(self) -> None:
        with suppress(DatabaseUnavailable, sa.exc.SQLAlchemyError):  # of a database that is gone
            self._planted.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let what is started have one thread, no armed crash point, and SIGINT waiting: who is interrupted, lets it in."""
    before = dict(os.environ)
    resource_tracker.ensure_running()  # which lets SIGINT in
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.pop("REVECTOR_CRASH_AT", None)
    os.environ.update(QUIET)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@dataclass
class Notes:
    """What children were told, as one history: they note every call before it and after it, in files of their own."""

    recorder: Recorder = field(default_factory=Recorder)
    failures: dict[int, Record] = field(default_factory=dict)
    """By child: what it raised."""
    latest: dict[int, bool] = field(default_factory=dict)
    """By child: whether its last write was acknowledged."""

    def read(self, site: Site, end: End) -> None:
        """Take over the notes of a child that ended; what it had not been answered by then, nobody ever will be."""
        path, unanswered = site.log / f"{end.child}.jsonl", dict[int, Record]()
        for record in load(path) if path.exists() else ():
            if record.op == "process":
                self.failures[end.child] = record
                continue
            if record.op in ("put", "delete"):
                self.latest[end.child] = record.kind == "ok"
                if record.kind in ("invoke", "info"):
                    unanswered[record.call] = record
                else:
                    unanswered.pop(record.call, None)
            if record.op not in ("put", "delete") or record.kind != "info":
                self.recorder.records.append(record)
        for call, record in unanswered.items():
            detail = {**record.detail, "dead": True}
            gone = Record(call, "info", record.op, record.process, end.at, doc_id=record.doc_id, detail=detail)
            self.recorder.records.append(gone)

    def said(self, end: End) -> str:
        """Return what a child raised, or the status that it ended with."""
        failed = self.failures.get(end.child)
        return str(failed.detail["error"] if failed else end.status)

    def count(self, kind: str) -> int:
        """Return how many writes ended so: ``ok``, or ``info`` where nobody knows."""
        ended = {one.call: one.kind for one in self.recorder.records if one.op in ("put", "delete")}
        return sum(one == kind for one in ended.values())
