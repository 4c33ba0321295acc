"""How fast this machine is from moment to moment: a small fixed work beside what is measured, on the same core.

On a shared machine a CPU-second is worth less while others fight for the same caches and execution units. The work (a
loop, and random reads from 64 MB) is done every two seconds by a process of its own; what it takes tells how much less.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np

EVERY_S = 2.0
FORK = multiprocessing.get_context("fork")


class Pace:
    """Samples of the fixed work: when each was taken, and its CPU-seconds."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._samples = pipe, list[tuple[float, float]]()

    def mean(self, since: float) -> float:
        """Return the mean CPU-seconds of the fixed work since a moment of ``time.monotonic``, at least one sample."""
        while True:
            while self._pipe.poll():
                self._samples.append(self._pipe.recv())
            found = [took for at, took in self._samples if at >= since]
            if found:
                return sum(found) / len(found)
            self._pipe.poll(EVERY_S)


@contextmanager
def pacing() -> Iterator[Pace]:
    """Take samples as long as the block runs."""
    ours, theirs = FORK.Pipe(duplex=False)
    worker = FORK.Process(target=_work, args=(theirs,), daemon=True)
    worker.start()
    try:
        yield Pace(ours)
    finally:
        worker.terminate()
        worker.join()


def _work(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    numbers = np.random.default_rng(0)
    memory, places = np.zeros(8_000_000), numbers.integers(0, 8_000_000, 200_000)
    while True:
        started, total = time.process_time(), 0
        for n in range(300_000):
            total += n & 3
        memory[places].sum()
        pipe.send((time.monotonic(), time.process_time() - started))
        time.sleep(EVERY_S)
