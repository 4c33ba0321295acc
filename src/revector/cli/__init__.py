"""The command ``revector``: runs it, and turns what nobody foresaw into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from revector.cli.exits import UNEXPECTED


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: that of ``sys.argv``) and return its exit code; see ``exits.EXITS``."""
    from revector.cli.app import app

    try:
        app(arguments, prog_name="revector")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a defect becomes an exit code
        if os.environ.get("REVECTOR_DEBUG"):
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            sys.stderr.write(
                f"revector: unexpected {type(error).__name__}: {first}. REVECTOR_DEBUG=1 shows all of it.\n"
            )
        return UNEXPECTED
    return 0
