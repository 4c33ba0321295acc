"""The fork server of the proofs that kill: one process that has imported the library, whose children are the victims.

    python -m evaluation.reliability.forks 10        (started by ``Forks``, which talks to it by lines of JSON)

It has one thread and no open connection when it forks, so each child begins as a fresh process would, some milliseconds
later. It alone reaps its children, hence it alone can kill them without ever meeting a recycled process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import sqlalchemy as sa
import tenacity
from evaluation.bench.common import ROOT
from evaluation.reliability.history import Record, Recorder, load
from evaluation.reliability.site import Shape, Site

from revector import crash
from revector.errors import DatabaseUnavailable
from revector.registry.verdicts import EVIDENCE_CHANGED_FLOOR

QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
}
"""No library may start a thread before the fork."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


# The client's side ----------------------------------------------------------------------------------------------------


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
    """See ``actors.shrink``; 0 leaves the library's limits as they are."""

    _server: subprocess.Popen[bytes] = field(init=False)
    _unread: bytes = b""
    _ends: dict[int, End] = field(default_factory=dict)
    _children: int = 0

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REVECTOR_CRASH")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "evaluation.reliability.forks", str(self.changed_floor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | QUIET,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # it ends when its input does

    def open(self, site: Site, bug: str | None = None) -> None:
        """Make ``site`` the one that children work on, with a seeded bug (``bugs.plant``) in all of them or none."""
        self._tell(do="open", url=site.url, folder=str(site.folder), shape=asdict(site.shape), bug=bug)

    def start(self, actor: str, arm: str = "", **arguments: Any) -> int:
        """Start a child that plays ``actor`` (``actors.ACTORS``) with crash points armed; return its number."""
        self._children += 1
        self._tell(do="start", child=self._children, actor=actor, arm=arm, arguments=arguments)
        return self._children

    def kill(self, child: int, with_signal: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens to a child that ended."""
        self._tell(do="kill", child=child, signal=int(with_signal))

    def oldest(self) -> psutil.Process | None:
        """Return the process of the child that has lived longest."""
        children = psutil.Process(self._server.pid).children()
        return min(children, key=lambda one: (one.create_time(), one.pid), default=None)

    def next_end(self, limit_s: float) -> End | None:
        """Return the next end that nobody has asked for, or None after ``limit_s``."""
        if not self._ends:
            self._listen(limit_s)
        return self._ends.pop(next(iter(self._ends))) if self._ends else None

    def run(self, actor: str, arm: str = "", *, limit_s: float = 60.0, **arguments: Any) -> End:
        """Start a child and return its end. Raises ``TimeoutError`` after ``limit_s``, when it has been killed."""
        child, deadline = self.start(actor, arm, **arguments), time.monotonic() + limit_s
        while child not in self._ends:
            if (left_s := deadline - time.monotonic()) <= 0:
                self.kill(child)
                raise TimeoutError(f"{actor} {arguments} did not end within {limit_s:.0f} s")
            self._listen(left_s)
        return self._ends.pop(child)

    def _tell(self, **order: Any) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()

    def _listen(self, limit_s: float) -> None:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], max(0.0, limit_s))[0]:
            return
        said = os.read(self._server.stdout.fileno(), 1 << 16)
        if not said:
            raise ConnectionError(f"the fork server ended with {self._server.wait()}; see what it wrote")
        *lines, self._unread = (self._unread + said).split(b"\n")
        for end in (End(**json.loads(line)) for line in lines):
            self._ends[end.child] = end


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


# The server's side ----------------------------------------------------------------------------------------------------


@dataclass
class _Server:
    wake: int
    site: Site | None = None
    planted: ExitStack = field(default_factory=ExitStack)
    children: dict[int, int] = field(default_factory=dict)

    def obey(self, order: Mapping[str, Any]) -> None:
        if order["do"] == "open":
            self._open(Site(Path(order["folder"]), order["url"], Shape(**order["shape"])), order["bug"])
        elif order["do"] == "start":
            self._fork(order)
        else:
            for pid, child in self.children.items():
                if child == order["child"]:
                    os.kill(pid, order["signal"])

    def _open(self, site: Site, bug: str | None) -> None:
        with contextlib.suppress(DatabaseUnavailable, sa.exc.SQLAlchemyError):  # of a database that is gone
            self.planted.close()
        self.site = site
        if bug:
            from evaluation.reliability.bugs import plant

            self.planted.enter_context(plant(bug, site.engine))
        _first_answer(site)  # SQLAlchemy learns the server once, not in every child
        site.close()  # children inherit the engine with what is planted on it, and no connection

    def _fork(self, order: Mapping[str, Any]) -> None:
        assert self.site is not None
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise RuntimeError("the fork server has threads, so a fork would not be a fresh process")
        pid = os.fork()
        if pid:
            self.children[pid] = order["child"]
            return
        status = 1
        try:
            self._become(self.site, order)
            status = 0
        finally:
            os._exit(status)

    def _become(self, site: Site, order: Mapping[str, Any]) -> None:
        from evaluation.reliability.actors import play

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        site.engine.dispose(close=False)
        crash.arm(order["arm"])
        play(site, order["child"], order["actor"], order["arguments"])

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended = {"child": self.children.pop(found[0]), "status": os.waitstatus_to_exitcode(found[1])}
                os.write(1, json.dumps({**ended, "at": time.monotonic()}).encode() + b"\n")

    def end(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            os.waitpid(pid, 0)
        self.planted.close()


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(DatabaseUnavailable),
    wait=tenacity.wait_fixed(0.1),
    stop=tenacity.stop_after_delay(60),
)
def _first_answer(site: Site) -> None:
    site.engine.connect().close()


def _orders(wake: int) -> Iterator[Mapping[str, Any] | None]:
    """Yield orders as they come, and None whenever a child may have ended; ends with the client."""
    unread = b""
    while True:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            yield None
        if 0 in ready:
            said = os.read(0, 1 << 16)
            if not said:
                return
            *lines, unread = (unread + said).split(b"\n")
            for line in lines:
                yield json.loads(line)


def main() -> int:
    """Serve until the client is gone, then kill what is left."""
    import h5py  # noqa: F401 - once here instead of in every child
    from evaluation.reliability import actors

    logging.disable()  # what children meet, they note
    actors.shrink(int(sys.argv[1]))
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's, whose end is ours
    server = _Server(wake)
    try:
        for order in _orders(wake):
            if order is None:
                server.reap()
            else:
                server.obey(order)
    finally:
        server.end()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
