"""Lines of label files with their place, and the refusal of one that cannot be understood."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from revector.errors import LabelError

MAX_FIELD_CHARACTERS = 16 << 20
"""Longest field of a CSV file that is read: a document is at most a few MiB."""

_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_WHOLE = re.compile(r"-?[0-9]{1,9}")


def malformed(place: str, found: str, allowed: str) -> LabelError:
    """Return the refusal of what stands at ``place``."""
    return LabelError(f"{place}: found {found}; expected {allowed}. Nothing was measured or written; fix the line.")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``(place, line)`` for each line that is not blank; ``place`` is ``file:line``.

    Raises ``LabelError`` for a file that is not there, torn, or not UTF-8 (plain, or gzipped if it ends in ``.gz``).
    """
    for number, line in _numbered(path):
        if line.strip():
            yield f"{path}:{number}", line.rstrip("\r\n")


def csv_rows(path: Path, *, needs: Sequence[str], example: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``(place, row)`` of a CSV file (comma, double quotes) whose first row names the columns.

    Raises ``LabelError`` if one of the columns in ``needs`` is not named, or a row has other than the named columns.
    """
    allowed = f"columns {', '.join(needs)}, such as {example!r}"
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))  # process-wide; 128 KiB at first
    rows = csv.reader((line for _, line in _numbered(path)), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if absent := [name for name in needs if name not in header]:
            raise malformed(f"{path}:1", f"no column {', '.join(absent)} among {header}", allowed)
        if len(set(header)) < len(header):
            raise malformed(f"{path}:1", f"a column twice in {header}", "each column once")
        for row in rows:
            if not row:
                continue
            place = f"{path}:{rows.line_num}"
            if len(row) != len(header):
                raise malformed(place, f"{len(row)} fields under {len(header)} columns", allowed)
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise malformed(f"{path}:{rows.line_num}", f"no CSV ({error})", allowed) from error


def whole_number(value: object) -> int | None:
    """Return the whole number that ``value`` is or spells, of at most nine digits; None for anything else."""
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value % 1 == 0:
        value = int(value)
    text = str(value).strip()
    return int(text) if _WHOLE.fullmatch(text) and not isinstance(value, bool) else None


def is_id(value: str) -> bool:
    """Whether ``value`` can be an id: not empty, no control characters, no half of a surrogate pair."""
    return bool(value) and not _UNFIT.search(value)


def some(ids: Collection[str], what: str = "query") -> str:
    """Return up to three ids as text, and how many more there are."""
    shown = ", ".join(repr(i) for i in list(ids)[:3])
    return f"{what} {shown}" + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path} cannot be read past line {number}: {error}. Expected is UTF-8 text, gzipped if it ends in .gz. "
            "Nothing was measured or written."
        ) from error
