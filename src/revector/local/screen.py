"""What the demo shows: the run's steps with progress in a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from revector.local.airflow_client import TaskInstance
    from revector.local.record import ApplicationCounts
    from revector.status import Status

QUIET_S = 15.0
"""Without a terminal a line is printed when something changed, and at most this long after the last."""

_MARKS = {
    "success": "[green]✓[/]",
    "running": "[cyan]▸[/]",
    "failed": "[red]✗[/]",
    "awaiting_input": "[yellow]?[/]",
    "skipped": "–",
    "up_for_retry": "[yellow]↻[/]",
}


@contextmanager
def phase(console: Console, words: str) -> Iterator[Callable[[str], None]]:
    """Show from the first second that something goes on, and at the end how long it took.

    Yields what takes the progress so far in words. A terminal shows a spinner with the seconds; elsewhere a line is
    printed at the beginning, every ``QUIET_S``, and at the end.
    """
    begun, ended, detail = time.monotonic(), threading.Event(), [""]

    def now() -> str:
        return f"{words} {' · '.join(filter(None, [detail[0], f'{time.monotonic() - begun:.0f} s']))}"

    def tell(what: str) -> None:
        detail[0] = what

    def show(live: Live | None) -> None:
        while not ended.wait(0.25 if live else QUIET_S):
            if live:
                live.update(Spinner("dots", now()))
            else:
                console.print(f"  … {now()}", highlight=False, soft_wrap=True)

    live = Live(Spinner("dots", now()), console=console, transient=True) if console.is_terminal else None
    console.print(words, highlight=False)
    shown = threading.Thread(target=show, args=(live,), daemon=True)
    try:
        if live:
            live.start()
        shown.start()
        yield tell
    finally:
        ended.set()
        shown.join()
        if live:
            live.stop()
    console.print(f"  {now().removeprefix(words).strip()}", highlight=False)


class Screen:
    """Shows a run again and again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last, self._printed = "", 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: Status, tasks: Sequence[TaskInstance], application: str) -> None:
        """Show the state of the run, of the backfill and, in words, of the application."""
        if self._live:
            self._live.update(Group(_steps(tasks), _backfill(status), _application(application, status)))
            return
        current = ", ".join(sorted({task["task_id"] for task in tasks if task["state"] == "running"})) or "waiting"
        if current != self._last or time.monotonic() - self._printed > QUIET_S:
            self._last, self._printed = current, time.monotonic()
            self._console.print(f"{current}: {progress_text(status)}; {application}", highlight=False, soft_wrap=True)


def progress_text(status: Status) -> str:
    """Return documents, rate and ETA of the backfill in one line."""
    migration = status.migration
    if migration is None:
        return "no index is made yet"
    progress = migration.progress
    eta = "" if progress.eta_s is None else f", ETA {progress.eta_s:.0f} s"
    return (
        f"phase {migration.phase}, {progress.published:,} of {progress.planned:,} documents embedded, "
        f"{progress.documents_per_s:.1f}/s{eta}"
    )


def application_text(counts: ApplicationCounts) -> str:
    """Return the application's counts in one line."""
    answered = ", ".join(f"{n} by {revision}" for revision, n in counts.by_revision.items())
    return (
        f"{counts.writes} writes, {counts.deletes} deletes, {counts.queries} queries ({answered}), "
        f"{counts.failed} failed, {counts.wrong_model} by a wrong model"
    )


def _steps(tasks: Sequence[TaskInstance]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        *[
            Text.from_markup(f"{_MARKS.get(state, '·')} {name}")
            for name, state in _states(tasks).items()
            if name not in ("rollback", "retire", "shards")
        ]
    )
    return table


def _states(tasks: Sequence[TaskInstance]) -> dict[str, str]:
    order = (
        "plan",
        "provision",
        "embed",
        "backfill",
        "index",
        "verify",
        "gate",
        "approval",
        "approve",
        "swap",
        "rollback_window",
    )
    found: dict[str, list[str]] = {}
    for task in tasks:
        found.setdefault(task["task_id"], []).append(task["state"] or "waiting")
    return {
        name: next(
            (state for state in ("failed", "running", "up_for_retry", "awaiting_input") if state in states),
            states[0] if len(set(states)) == 1 else "running",
        )
        for name in order
        if (states := found.get(name))
    }


def _backfill(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    if status.migration is not None:
        progress = status.migration.progress
        table.add_row(
            ProgressBar(total=max(1, progress.planned), completed=progress.published, width=40),
            progress_text(status),
        )
    return table


def _application(application: str, status: Status) -> Text:
    lag = max((slot.lag_s for slot in status.slots.filled.values()), default=0.0)
    return Text(f"application: {application}; indexing lag {lag:.1f} s")


def result_table(figures: Mapping[str, Any]) -> Table:
    """Return the table that ends the demo."""
    return _ended(_migrated(figures), figures)


def images_table(figures: Mapping[str, Any]) -> Table:
    """Return the table that ends the act with images: what the first one's says, and what was found of the towers."""
    found = figures["cross_modal"]
    rows = [
        (f"{words} found, recall@{found['k']}", f"{_mean(found[way]['old'])} → {_mean(found[way]['new'])}")
        for way, words in (("text_to_image", "pictures by their names"), ("image_to_text", "names by their pictures"))
    ]
    refused = "refused before anything was embedded" if figures["refused"] else "[red]NOT refused[/]"
    return _ended([*_migrated(figures), *rows, ("the tower for texts alone", refused)], figures)


def _mean(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} (95 % {interval['low']:.3f} to {interval['high']:.3f})"


def _migrated(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, recall = figures["application"], figures["recall"]
    answered = ", ".join(f"{n} by revision {revision}" for revision, n in counts["by_revision"].items())
    return [
        ("documents", f"{figures['documents']:,}"),
        ("writes and deletes during the run", f"{counts['writes']} and {counts['deletes']}"),
        ("queries answered", f"{counts['queries'] - counts['failed']:,} ({answered})"),
        ("queries failed", str(counts["failed"])),
        ("queries answered by an index of another model", str(counts["wrong_model"])),
        ("documents lost / stale / resurrected", f"{figures['lost']} / {figures['stale']} / {figures['resurrected']}"),
        (f"recall@{recall['k']} old", _mean(recall["old"])),
        (f"recall@{recall['k']} new", _mean(recall["new"])),
        ("writers paused by the swap", f"{figures['swap_pause_ms']:.0f} ms"),
        ("rollback open until", figures["rollback_until"]),
    ]


def adoption_table(figures: Mapping[str, Any]) -> Table:
    """Return the table that ends the second act."""
    counts, answers = figures["application"], figures["answers"]
    answered = ", ".join(f"{n} by {way}" for way, n in counts["by_revision"].items())
    rows = [
        ("rows written, deleted, transactions rolled back",
         f"{counts['writes']}, {counts['deletes']}, {figures['rolled_back']}"),
        ("queries answered", f"{counts['queries'] - counts['failed']:,} ({answered})"),
        ("refused as of the old model, and asked again", str(figures["asked_again"])),
        ("writes failed", str(figures["failed_writes"])),
        ("queries failed", str(counts["failed"])),
        ("answers of an index of another model", f"{answers['wrong_model']} of {answers['judged']:,}"),
        ("answers that show a deleted row", f"{answers['resurrected']} of {answers['judged']:,}"),
    ]  # fmt: skip
    for one in figures["looks"]:
        lost, stale, risen = (len(one[kind]) for kind in ("lost", "stale", "resurrected"))
        rows.append(
            (f"lost / stale / resurrected {one['when']}", f"{lost} / {stale} / {risen} of {one['rows']:,} rows")
        )
    left = figures["catalogue"]
    rows += [
        ("the tables' catalogue", "as it was before" if not left else f"[red]{len(left)} differences[/]"),
    ]
    return _ended(rows, figures)


def _ended(rows: Sequence[tuple[str, str]], figures: Mapping[str, Any]) -> Table:
    """Return a table of ``rows``, then of the time and the verdict, with which every act ends."""
    steps = ", ".join(f"{step['step']} {step['seconds']:.0f}" for step in figures["steps"])
    table = Table(title="What was seen", show_header=False)
    for row in (
        *rows,
        ("wall time", f"{figures['wall_s']:.0f} s: {steps}"),
        ("as promised", "[green]yes[/]" if figures["as_promised"] else "[red]NO[/]"),
    ):
        table.add_row(*row)
    return table
