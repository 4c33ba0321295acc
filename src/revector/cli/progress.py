"""Progress of long work on stderr: a bar with rate and time left on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from revector.interfaces import Progress

LINE_EVERY_S = 5.0


@contextmanager
def reporting(*, quiet: bool = False, eager: bool = False) -> Iterator[Progress]:
    """Yield the progress that suits stderr; nothing if ``quiet``. The terminal is left in order whatever happens.

    ``eager``: where lines are written, each task is named when it begins, however short it is.
    """
    if quiet:
        from revector.interfaces import NoProgress

        yield NoProgress()
    elif sys.stderr.isatty():
        bar = BarProgress(Console(stderr=True, markup=False, highlight=False))
        try:
            yield bar
        finally:
            bar.stop()
    else:
        yield LineProgress(sys.stderr, eager=eager)


class BarProgress:
    """One bar per task: done of total, rate and time left; a finished bar stays with its rate and time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task = TaskID(0)

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        """Begin a task and show its bar."""
        self.stop()
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            _Count(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )
        self._task = self._bars.add_task(what, total=total, unit=unit, note="")
        self._bars.start()

    def advance(self, n: int = 1) -> None:
        """Move the bar."""
        if self._bars is not None:
            self._bars.advance(self._task, n)

    def done(self, note: str = "") -> None:
        """Fill the bar and leave it on the screen."""
        if self._bars is not None:
            task = self._bars.tasks[0]
            full = task.total if task.total is not None else max(task.completed, 1)
            self._bars.update(self._task, total=full, completed=full, note=note)
        self.stop()

    def stop(self) -> None:
        """Let go of the terminal, the bar as it stands."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Count(ProgressColumn):
    """Done of total, and the rate: of the last half minute, or of the whole when finished."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        whole = task.completed / task.elapsed if task.elapsed else 0.0
        rate = whole if task.finished else task.speed or whole
        shown = f" {rate:,.0f}/s" if rate else ""
        return Text(f"{task.completed:,.0f}{total} {task.fields['unit']}{shown}", style="dim")


class LineProgress:
    """Lines without escape codes, at most one every five seconds; shorter work says nothing, unless ``eager``."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, eager: bool = False) -> None:
        self._stream, self._clock, self._eager = stream, clock, eager
        self._what, self._unit = "work", "documents"
        self._total: int | None = None
        self._done = 0
        self._said = False
        self._spoke = self._began = clock()

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        """Begin a task."""
        self._what, self._total, self._unit = what, total, unit
        self._done, self._said = 0, False
        self._spoke = self._began = self._clock()
        if self._eager:
            self._stream.write(f"{what} …\n")
            self._stream.flush()

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more, and say so if the last line is five seconds old."""
        self._done += n
        now = self._clock()
        if now - self._spoke >= LINE_EVERY_S:
            self._spoke, self._said = now, True
            self._line(self._state(now))

    def done(self, note: str = "") -> None:
        """End the task: a last line if it was spoken of before."""
        if self._said:
            self._line(f"{self._done:,} {self._unit} in {self._clock() - self._began:.0f} s" + f"; {note}" * bool(note))

    def _state(self, now: float) -> str:
        rate = self._done / max(now - self._began, 1e-9)
        if not self._total:
            return f"{self._done:,} {self._unit}, {rate:,.1f}/s"
        left_s = max(0, self._total - self._done) / max(rate, 1e-9)
        return f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s, {left_s:,.0f} s left"

    def _line(self, text: str) -> None:
        self._stream.write(f"{self._what}: {text}\n")
        self._stream.flush()
