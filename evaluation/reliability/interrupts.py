"""Ctrl-C at random instants of every long command: each must end at once, with 130, and leave no database in disorder.

``python -m evaluation.reliability.interrupts --runs 500``; the figures go to ``results/interrupts.json``. A command
runs in a process that was forked from one with everything imported, so that its instants are those of its work; every
tenth run is a process of its own, so that instants of the start are among them.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.bench.common import Figure, machine, write
from evaluation.reliability import checks
from evaluation.reliability.arena import database, server
from evaluation.reliability.forks import Forks
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import look
from evaluation.reliability.observer import apply_all
from evaluation.reliability.pieces import RESULTS
from evaluation.reliability.site import NEW, Shape, Site
from evaluation.reliability.traffic import first, token_of

LIMIT_S = 60.0
"""Within this an interrupted command has ended: a statement in the server is cancelled, a batch is finished."""

ALLOWED = {130, -signal.SIGINT}
"""Exit statuses of an interrupted command; by the signal itself where Python had not begun to listen."""

DOCUMENTS = 400
PORT = 18_731
ABORT = {"move": "abort", "reason": "the next run starts over"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command, for how long it is let run at most, and the move that makes it have something to do again."""

    words: tuple[str, ...]
    most_s: float
    before: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one interrupted run: it ``passed``, had ``ended`` before the signal, or what was wrong."""

    command: str
    after_s: float
    took_s: float
    status: int | None
    wrong: str


COMMANDS: dict[str, Command] = {
    "watch": Command(("status", "--watch", "--json", "--every", "0.2"), 2.0),
    "upgrade": Command(("upgrade", NEW), 4.0, ABORT),
    "worker": Command(("worker",), 2.0),
    "ingest": Command(("ingest", "more.jsonl"), 2.0),
    "serve": Command(("serve", "--port", str(PORT)), 3.0),
    "up": Command(("up", "--no-ui"), 6.0),
}


OURS = "/revector/"
"""In the traceback of an interrupt that came after the first line of ours was run."""


def interrupt(forks: Forks, site: Site, name: str, after_s: float, *, whole: bool) -> Found:
    """Run a command, send SIGINT ``after_s`` seconds later, and say what came of it; ``whole``: as a new process."""
    child = forks.start("command", words=[*COMMANDS[name].words, "--project", str(site.folder)], whole=whole)
    if end := forks.next_end(after_s):
        wrong = "" if end.status in (0, 3, 4, 10) else f"ended by itself with {end.status}"
        return Found(name, after_s, 0.0, end.status, wrong or "ended before")
    began, errors = time.monotonic(), site.log / f"{child}.err"
    forks.kill(child, signal.SIGINT)
    end = forks.next_end(LIMIT_S)
    took = time.monotonic() - began
    if end is None:
        forks.kill(child, signal.SIGABRT)  # faulthandler writes where every thread is
        if forks.next_end(5.0) is None:
            forks.kill(child)
            forks.next_end(5.0)
        wrong = f"had not ended after {LIMIT_S:g} s: {errors.read_text()[-4000:]}"
        return Found(name, after_s, took, None, wrong)
    said = errors.read_text() if errors.exists() else ""
    # A worker that is asked to stop ends well; so does a command whose last line was written before the signal came.
    # Before the first line of ours, Python is still reading its packages: that it ends is all that can be asked.
    fine = ALLOWED | ({0, 1} if "Traceback" in said and OURS not in said else {0})
    wrong = "" if end.status in fine else f"exit status {end.status}"
    if "Traceback" in said and end.status != -signal.SIGINT and not whole:
        wrong = (wrong + " a traceback").strip()
    return Found(name, after_s, took, end.status, wrong and f"{wrong}: {said[-300:]}")


@contextmanager
def place() -> Iterator[Site]:
    """Make a small project with a served revision and another to migrate to."""
    with server() as at, database(at) as url, tempfile.TemporaryDirectory(prefix="revector-interrupts-") as folder:
        site = Site(Path(folder) / "project", url, Shape(DOCUMENTS, 60, 64))
        lines = [json.dumps({"_id": doc_id, "text": site.text(_more(doc_id))}) for doc_id in site.ids]
        (site.folder / "more.jsonl").write_text("\n".join(lines))
        site.begin(Recorder())
        yield site
        site.close()


def _more(doc_id: str) -> str:
    return token_of(doc_id, "more", 1)


def sound(forks: Forks, site: Site) -> list[str]:
    """Return what is wrong with the project after the runs: an invariant, an index, or no way to finish."""
    forks.run("control", **ABORT)
    apply_all(site.project)
    judge = site.judge(lambda doc_id, _: (first(doc_id), _more(doc_id)))
    found = checks.instant(site.engine, site.cid) + look(site.engine, site.cid, judge, Recorder())
    return [str(one) for one in found]


def stress(forks: Forks, site: Site, names: Sequence[str], runs: int, seed: int) -> list[Found]:
    """Interrupt ``runs`` runs, the commands in turns, each at a random instant of its time."""
    draw, found = random.Random(seed), list[Found]()
    for n in range(runs):
        name = names[n % len(names)]
        if before := COMMANDS[name].before:
            forks.run("control", **before)
        after_s = draw.uniform(0, COMMANDS[name].most_s)
        found.append(interrupt(forks, site, name, after_s, whole=n % 10 == 9 or name == "up"))
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
    before = machine()
    with place() as site, Forks(0) as forks:
        forks.open(site)
        found = stress(forks, site, chosen.commands, chosen.runs, chosen.seed)
        disorder = sound(forks, site)
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
