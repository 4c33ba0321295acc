"""What the columns of a CSV file hold, whose cells are all text: numbers, flags or text, told by all of its cells.

A column becomes numbers or flags only where that loses nothing. Whole numbers have no leading zero or plus and decimals
are written out, with 15 digits at most; where a decimal ends in 0, all cells have as many places, for 1.9 and 1.10 may
be versions. Flags are ``true`` and ``false``. Empty cells count for neither, and become null in a column of either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from revector.errors import ConfigError

ColumnType: TypeAlias = Literal["text", "number", "bool"]
ALL = "*"
"""Stands for every column that is not named."""

MOST_DIGITS = 15
"""More are not exact in the floating point of most readers."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.([0-9]+))?")
_FLAGS = {"true": True, "false": False}
_CHOSEN_FLAGS = _FLAGS | {"1": True, "0": False, "yes": True, "no": False, "t": True, "f": False, "y": True, "n": False}


def parse_types(options: Iterable[str]) -> dict[str, ColumnType]:
    """Return ``NAME=TYPE`` options as a mapping. Raises ``ConfigError`` for another type or form."""
    found: dict[str, ColumnType] = {}
    for option in options:
        name, _, kind = option.rpartition("=")
        if not name or kind not in get_args(ColumnType) or found.setdefault(name, kind) != kind:  # type: ignore[arg-type]
            raise ConfigError(
                f"the column type {option!r} must be NAME=TYPE, once for each name, with a type of "
                f"{', '.join(get_args(ColumnType))}, such as zip=text or '*=text'. Nothing was read."
            )
    return found


def column_types(
    rows: Iterable[Mapping[str, str]], names: Iterable[str], chosen: Mapping[str, ColumnType]
) -> dict[str, ColumnType]:
    """Return the type of each of the columns ``names``: the chosen one, else what every cell agrees with."""
    told = {name: _Cells() for name in names if name not in chosen and ALL not in chosen}
    if told:
        for row in rows:
            for name, cells in told.items():
                cells.add(row[name])
    return {name: told[name].type if name in told else chosen.get(name, chosen.get(ALL, "text")) for name in names}


def typed(cell: str, kind: ColumnType) -> object:
    """Return a cell as its column's type, None where it is empty. Raises ``ValueError`` for one that does not fit."""
    if kind == "text":
        return cell
    text = cell.strip().casefold()
    if not text:
        return None
    if kind == "bool":
        if text not in _CHOSEN_FLAGS:
            raise ValueError(f"holds {cell[:40]!r}, which is not true or false")
        return _CHOSEN_FLAGS[text]
    try:
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise ValueError(f"holds {cell[:40]!r}, which is no number")
    return number


@dataclass(slots=True)
class _Cells:
    """What the cells of one column have in common so far."""

    filled: bool = False
    numbers: bool = True
    flags: bool = True
    zeros: bool = False
    places: set[int] = field(default_factory=set)

    def add(self, cell: str) -> None:
        """Take note of a cell."""
        if not cell or not (self.numbers or self.flags):
            return
        self.filled = True
        self.flags = self.flags and cell.casefold() in _FLAGS
        number = _NUMBER.fullmatch(cell) if self.numbers else None
        if number is None or sum(map(str.isdecimal, cell)) > MOST_DIGITS or (cell[0] == "-" and not cell.strip("-0.")):
            self.numbers = False
            return
        decimals = number[1] or ""
        self.zeros = self.zeros or decimals.endswith("0")
        self.places.add(len(decimals))

    @property
    def type(self) -> ColumnType:
        """The type that loses nothing."""
        if not self.filled:
            return "text"
        if self.numbers and not (self.zeros and len(self.places) > 1):
            return "number"
        return "bool" if self.flags else "text"
