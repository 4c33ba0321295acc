"""The command ``revector``: runs it, and turns what nobody foresaw into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from revector.cli.exits import INTERRUPTED, UNEXPECTED, is_interrupted


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    sys.unraisablehook = _interrupt_again
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: that of ``sys.argv``) and return its exit code; see ``exits.EXITS``."""
    try:
        from revector.cli.app import app

        app(arguments, prog_name="revector")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:  # outside any command: while modules are loaded, or at the very end
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a defect becomes an exit code
        if is_interrupted(error):
            return INTERRUPTED
        if os.environ.get("REVECTOR_DEBUG"):
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            sys.stderr.write(
                f"revector: unexpected {type(error).__name__}: {first}. REVECTOR_DEBUG=1 shows all of it.\n"
            )
        return UNEXPECTED
    return 0


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Raise Ctrl-C once more where it fell into a destructor or a callback of the garbage collector.

    Python prints an exception there and goes on; the command would never learn that it was to end.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        # From another thread and a little later: at once, it would fall into this very callback and be lost again.
        again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
