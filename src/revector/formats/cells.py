"""Cells of CSV files that spreadsheets open: what they would run as a formula is quoted, and read back as it was."""

from __future__ import annotations

import re
from typing import TypeVar

# Texts come from anywhere (OWASP, "CSV Injection"); spreadsheets take the full-width signs for the others.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")

T = TypeVar("T")


def guarded(value: T) -> T | str:
    """Return a text that a spreadsheet would run with an apostrophe before it; all else, numbers too, as it is.

    >>> guarded("=1+1"), guarded("'=1"), guarded("plain"), guarded(-1)
    ("'=1+1", "''=1", 'plain', -1)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unguarded(value: str) -> str:
    """Return what ``guarded`` was given.

    >>> unguarded(guarded("=1+1")), unguarded(guarded("'=1")), unguarded("'tis")
    ('=1+1', "'=1", "'tis")
    """
    return value[1:] if value.startswith("'") and _FORMULA.match(value) else value
