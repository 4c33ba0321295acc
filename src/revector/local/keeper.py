"""Keeps the embedded PostgreSQL of a state folder running until it is told to stop.

python -m revector.local.keeper STATE
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

log = logging.getLogger("revector.keeper")

POLL_S = 1.0


def main() -> None:
    """Look after the server until SIGTERM or SIGINT; one that was killed is back within seconds."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    state, ending = Path(sys.argv[1]), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    # After the handlers: told to stop while it loads, it must still stop the server.
    from revector.embedded import ensure_running, stop
    from revector.errors import DatabaseError

    while not ending.wait(POLL_S):
        try:
            ensure_running(state)
        except DatabaseError as error:
            log.warning("%s", error)
    stop(state)


if __name__ == "__main__":
    main()
