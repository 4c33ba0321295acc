"""Owns the old names of commands: they still work for one version, and say what the command is called now."""

from __future__ import annotations

import sys
from collections.abc import Sequence

UNTIL = "0.3"

RENAMED = {
    "ann": "compare --exact",
    "delete": "document delete",
    "export": "vectors export",
    "get": "document get",
    "heads": "current",
    "import": "vectors import",
    "put": "document put",
    "train-lsa": "train lsa",
    "train-pca": "train pca",
}


def as_named_now(args: Sequence[str]) -> list[str]:
    """Return a command line with today's names; an old name works, with a notice on standard error."""
    if not args or args[0] not in RENAMED:
        return list(args)
    now = RENAMED[args[0]]
    sys.stderr.write(f"revector: `{args[0]}` is called `{now}` now; the old name goes with version {UNTIL}.\n")
    return [*now.split(), *args[1:]]
