"""Ctrl-C at random instants of every long command: each must end at once, with 130, and leave no database in disorder.

``python -m evaluation.reliability.interrupts --runs 500``; the figures go to ``results/interrupts.json``. A command
runs in a process that was forked from one with everything imported, so that its instants are those of its work; every
tenth run is a process of its own, so that instants of the start are among them. The process that is forked does nothing
else: a thread of its own, or a lock held by one, would hang its children, and prove nothing.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from evaluation.bench.common import Figure, machine, write
from evaluation.reliability import checks
from evaluation.reliability.arena import database, server
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import look
from evaluation.reliability.observer import apply_all
from evaluation.reliability.site import NEW, Shape, Site
from evaluation.reliability.traffic import first, token_of

from revector.cli import main as main_of_cli
from revector.config import load_project
from revector.errors import StateError

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 60.0
"""Within this an interrupted command has ended: a statement in the server is cancelled, a batch is finished."""

ALLOWED = {130, -signal.SIGINT}
"""Exit statuses of an interrupted command; by the signal itself where Python had not begun to listen."""

DOCUMENTS = 400
PORT = 18_731


@dataclass(frozen=True, slots=True)
class Command:
    """A command, for how long it is let run at most, and what makes it have something to do again."""

    words: tuple[str, ...]
    most_s: float
    before: Callable[[Path], None] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one interrupted run: it ``passed``, had ``ended`` before the signal, or what was wrong."""

    command: str
    after_s: float
    took_s: float
    status: int | None
    wrong: str


def _abort(root: Path) -> None:
    with suppress(StateError):
        load_project(root).migrator("docs", actor="interrupts").abort("the next run starts over")


def _apart(act: Callable[[Path], object], root: Path) -> None:
    """Do it in a process of its own. Raises ``SystemExit`` where it failed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act(root)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("what was done apart failed: see above")


COMMANDS: dict[str, Command] = {
    "watch": Command(("status", "--watch", "--json", "--every", "0.2"), 2.0),
    "upgrade": Command(("upgrade", NEW), 4.0, _abort),
    "worker": Command(("worker",), 2.0),
    "ingest": Command(("ingest", "more.jsonl"), 2.0),
    "serve": Command(("serve", "--port", str(PORT)), 3.0),
    "up": Command(("up", "--no-ui"), 6.0),
}


OURS = "/revector/"
"""In the traceback of an interrupt that came after the first line of ours was run."""


def interrupt(root: Path, name: str, after_s: float, *, whole: bool, cwd: Path | None = None) -> Found:
    """Run a command, send SIGINT ``after_s`` seconds later, and say what came of it; ``whole``: as a new process."""
    words = [*COMMANDS[name].words, "--project", str(root)]
    with tempfile.TemporaryFile("w+") as errors:
        process = _Started(words, errors.fileno(), whole=whole, cwd=cwd)
        time.sleep(after_s)
        ended = process.wait(0.0)
        if ended is not None:
            wrong = "" if ended in (0, 3, 4, 10) else f"ended by itself with {ended}"
            return Found(name, after_s, 0.0, ended, wrong or "ended before")
        os.kill(process.pid, signal.SIGINT)
        began = time.monotonic()
        status = process.wait(LIMIT_S)
        took = time.monotonic() - began
        if status is None:
            os.kill(process.pid, signal.SIGABRT)  # faulthandler writes where every thread is
            if process.wait(5.0) is None:
                process.kill()
            errors.seek(0)
            return Found(name, after_s, took, None, f"had not ended after {LIMIT_S:g} s: {errors.read()[-4000:]}")
        errors.seek(0)
        said = errors.read()
    # A worker that is asked to stop ends well; so does a command whose last line was written before the signal came.
    # Before the first line of ours, Python is still reading its packages: that it ends is all that can be asked.
    fine = ALLOWED | ({0, 1} if "Traceback" in said and OURS not in said else {0})
    wrong = "" if status in fine else f"exit status {status}"
    if "Traceback" in said and status != -signal.SIGINT and not whole:
        wrong = (wrong + " a traceback").strip()
    return Found(name, after_s, took, status, wrong and f"{wrong}: {said[-300:]}")


class _Started:
    """A command in a child process: forked from this one, or new."""

    def __init__(self, words: list[str], errors: int, *, whole: bool, cwd: Path | None) -> None:
        if whole:
            command = [sys.executable, "-X", "faulthandler", "-m", "revector", *words]
            self.pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=cwd).pid
            return
        sys.stdout.flush()
        # Python throws away what a signal raises in what it does itself after a fork; until then, it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.pid = os.fork()
        if self.pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        else:
            status = 70
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(errors, 2)
                faulthandler.enable()
                sys.argv = ["revector", *words]
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                main_of_cli()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
            except KeyboardInterrupt:  # before the first line of ours
                status = 130
            finally:
                os._exit(status)

    def wait(self, limit_s: float) -> int | None:
        """Return the exit status, below 0 for a signal; None if it has not ended within ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def place() -> Iterator[Site]:
    """Make a small project with a served revision and another to migrate to."""
    with server() as at, database(at) as url, tempfile.TemporaryDirectory(prefix="revector-interrupts-") as folder:
        site = Site(Path(folder) / "project", url, Shape(DOCUMENTS, 60, 64))
        lines = [json.dumps({"_id": doc_id, "text": site.text(_more(doc_id))}) for doc_id in site.ids]
        (site.folder / "more.jsonl").write_text("\n".join(lines))
        os.chdir(site.folder)
        _apart(lambda _: site.begin(Recorder()), site.folder)
        yield site


def _more(doc_id: str) -> str:
    return token_of(doc_id, "more", 1)


def sound(site: Site) -> list[str]:
    """Return what is wrong with the project after the runs: an invariant, an index, or no way to finish."""
    _abort(site.folder)
    apply_all(site.project)
    judge = site.judge(lambda doc_id, _: (first(doc_id), _more(doc_id)))
    found = checks.instant(site.engine, site.cid) + look(site.engine, site.cid, judge, Recorder())
    site.close()
    return [str(one) for one in found]


def stress(root: Path, names: list[str], runs: int, seed: int) -> list[Found]:
    """Interrupt ``runs`` runs, the commands in turns, each at a random instant of its time."""
    draw = random.Random(seed)
    found = []
    for n in range(runs):
        name = names[n % len(names)]
        if before := COMMANDS[name].before:
            _apart(before, root)
        found.append(interrupt(root, name, draw.uniform(0, COMMANDS[name].most_s), whole=n % 10 == 9 or name == "up"))
        if found[-1].wrong not in ("", "ended before"):
            print(f"{n}: {found[-1]}", flush=True)
    return found


def main() -> int:
    """Run it; 0 if every command ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--output", type=Path, default=RESULTS / "interrupts.json")
    chosen = parser.parse_args()
    # Started in the background by a shell, this ignores SIGINT, and so would every program that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = machine()
    with place() as site:
        found = stress(site.folder, chosen.commands, chosen.runs, chosen.seed)
        disorder = sound(site)
    command = " ".join(["python -m evaluation.reliability.interrupts", *sys.argv[1:]])
    return write(chosen.output, command, before, figures(found, disorder))


def figures(found: Sequence[Found], disorder: Sequence[str]) -> list[Figure]:
    """Return what came of the runs; what was wrong stands in words, each with its command and instant."""
    wrong = [one for one in found if one.wrong not in ("", "ended before")]
    interrupted = [one for one in found if not one.wrong]
    return [
        Figure("runs that were sent SIGINT", len(found) - sum(one.wrong == "ended before" for one in found), "runs"),
        Figure("runs that ended as they should", len(interrupted), "runs"),
        Figure("runs that did not", len(wrong), "runs", "0", not wrong),
        *(Figure(f"{one.command}, {one.after_s:.3f} s after its start", one.wrong, "", "none", False) for one in wrong),
        Figure("disorder in the database afterwards", "; ".join(disorder) or "none", "", "none", not disorder),
        *(
            Figure(f"longest time from SIGINT to the end of {name}", round(max(took), 2), "s")
            for name in COMMANDS
            if (took := [one.took_s for one in interrupted if one.command == name])
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
