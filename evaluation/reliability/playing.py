"""What every victim is: a child of the fork server with an order, notes of its own, small limits, and perhaps a bug."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.reliability.bugs import BUGS
from evaluation.reliability.history import Recorder
from evaluation.reliability.site import Shape, Site

from revector import crash
from revector.documents import ingesting
from revector.guards import instead
from revector.indexing import backfill, worker
from revector.migration import catch_up
from revector.registry import sharding, verdicts
from revector.registry import work as work_set

CALLS = 1_000_000
"""Calls of one child: more than any makes, so that their numbers are unique among all children."""

PAGE_ROWS, LEASE_S = 9, 0.1
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def shrink(changed_floor: int) -> None:
    """Make pages, parts, leases and pauses of this process small, unless ``changed_floor`` is 0.

    So many changed documents age the evidence for a swap; where writers never rest, the product's 10 would let no
    evidence of a tiny corpus live long enough.
    """
    if not changed_floor:
        return
    verdicts.EVIDENCE_CHANGED_FLOOR = changed_floor
    ingesting.BATCH_ROWS = sharding.SEED_ROWS = backfill.PART_DOCUMENTS = PAGE_ROWS
    work_set.LEASE_S = LEASE_S  # type: ignore[assignment]
    worker.POLL_S, worker.BACK_OFF_S, catch_up.GATE_BUDGET_S = 0.1, 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Child:
    """One victim: the project that it works on, its notes, and its name in them."""

    site: Site
    recorder: Recorder
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do, and where: a site's folder, database and shape, with a seeded bug planted or none."""

    folder: Path
    url: str | None
    shape: Shape
    bug: str | None
    changed_floor: int
    child: int
    actor: Callable[..., None]
    arm: str
    arguments: Mapping[str, Any]


def play(order: Order) -> None:
    """Play an actor to its end, in a child of the fork server. What it raises is noted and raised."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    logging.disable()  # what children meet, they note
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    shrink(order.changed_floor)
    site = Site(order.folder, order.url, order.shape)
    recorder = Recorder(first=order.child * CALLS + 1, path=site.log / f"{order.child}.jsonl")
    name = order.actor.__name__
    me = Child(site, recorder, f"{name}-{order.child}", order.child)
    crash.arm(order.arm)
    try:
        with planted(order.bug):
            order.actor(me, **order.arguments)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        detail = {"error": f"{type(error).__name__}: {error}"[:2_000], "kinds": kinds, "trace": traceback.format_exc()}
        recorder.fail(recorder.invoke("process", name), "process", name, detail=detail)
        raise SystemExit(1) from error


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant the part of a seeded bug that is in a process; the database has the other part by then."""
    if name is None:
        yield
        return
    bug = BUGS[name]
    with instead(bug.guards), bug.patch() if bug.patch else nullcontext():
        yield
