"""What commands print: tables and sentences for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import TextIO

from rich.console import Console
from rich.table import Table

_WIDE = 10_000
"""Columns where no terminal sets a limit: what is piped is never wrapped or cut."""


def console_for(stream: TextIO) -> Console:
    """Return a console for ``stream`` that prints text as it is; colours only on a terminal."""
    terminal = stream.isatty()
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=None if terminal else _WIDE)


class Output:
    """Where one command prints its result: once, as JSON or for people."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = console_for(sys.stdout)

    def show(self, data: object, human: Callable[[Console], None]) -> None:
        """Print ``data`` as JSON if that was asked for, else what ``human`` prints."""
        if self.as_json:
            self.json(data)
        else:
            human(self.console)

    def json(self, data: object) -> None:
        """Print ``data`` as indented JSON; dataclasses become objects, everything else that JSON lacks its text."""
        sys.stdout.write(as_json(data, indent=2) + "\n")

    def say(self, line: str, *, style: str | None = None) -> None:
        """Print a sentence for people; nothing where JSON was asked for."""
        if not self.as_json:
            self.console.print(line, style=style, soft_wrap=True)


def as_json(data: object, *, indent: int | None = None) -> str:
    """Return ``data`` as JSON text."""
    return json.dumps(data, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "as_data"):
        return value.as_data()
    return dict(value) if isinstance(value, Mapping) else str(value)


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return a plain table; the columns named in ``right`` are aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def pairs(console: Console, values: Mapping[str, str]) -> None:
    """Print names and values, one pair a line, the values under each other."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value)
    console.print(table)


def size(count_bytes: float) -> str:
    """Return a number of bytes for people.

    >>> size(1536)
    '1.5 KiB'
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    unit = 0
    while count_bytes >= 1024 and unit < len(units) - 1:
        count_bytes, unit = count_bytes / 1024, unit + 1
    return f"{count_bytes:.{1 if unit else 0}f} {units[unit]}"


def span(seconds: float) -> str:
    """Return a time span for people.

    >>> span(0.25), span(75), span(172_740)
    ('0.25 s', '1 min 15 s', '47 h 59 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60)} min"


def one_line(text: str, width: int) -> str:
    """Return ``text`` on one line, cut to ``width`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
