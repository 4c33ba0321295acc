"""The small process that stands between a supervisor and one of its programs, so that nothing outlives either.

    python -m revector.local.guard --parent PID --state FILE --grace SECONDS -- PROGRAM ARGUMENT...

The program runs in a session of its own. The guard ends with the program's exit status and then kills what is left of
that session (an executor's workers, for instance, would otherwise wait for ever). It stops the program when it is told
to (SIGTERM) or when its parent is gone, killed or not. Should the guard itself be killed, Linux ends the program at
once, and the next guard of the same state file cleans up what remains.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import psutil

POLL_S = 0.2
PR_SET_PDEATHSIG = 1


def members(session: int) -> list[psutil.Process]:
    """Return the processes of a session, without zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_session(session: int, *, words: list[str] | None = None, deadline_s: float = 5.0) -> None:
    """Kill every process of a session (with ``words``: those whose command line has one of them) until none is left.

    Gives up after ``deadline_s`` seconds: a process in uninterruptible sleep cannot be waited for.
    """
    end = time.monotonic() + deadline_s
    while (left := [p for p in members(session) if words is None or _looks_like(p, words)]) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def _looks_like(process: psutil.Process, words: list[str]) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(word in line for word in words)


def clean_leftovers(state: Path) -> None:
    """Kill what an earlier guard of this state file left behind.

    The file names a session and the time its leader started. A number that the system has given to someone else since
    is told by that time, and each process must still look like the program that was started.
    """
    try:
        known = json.loads(state.read_text())
        session, started, words = int(known["session"]), float(known["started"]), list(known["words"])
    except (OSError, ValueError, KeyError):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        if session == os.getsid(0) or abs(psutil.Process(session).create_time() - started) > 2:
            return
    kill_session(session, words=words)


def _die_with_parent() -> None:
    # Runs in the child between fork and exec; elsewhere than on Linux the clean-up of the next start has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)


def guard(program: list[str], *, parent: int, state: Path, grace_s: float) -> int:
    """Run ``program`` until it ends, its parent is gone, or SIGTERM asks; return its exit status."""
    stopping = False

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    clean_leftovers(state)
    process = subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - the guard has one thread
    )
    try:
        words = [Path(word).name for word in program[:4] if not word.startswith("-")]
        started = psutil.Process(process.pid).create_time()
        state.write_text(json.dumps({"session": process.pid, "started": started, "words": words}))
        while process.poll() is None and not stopping and os.getppid() == parent:
            time.sleep(POLL_S)
        if process.poll() is None:
            _stop(process, grace_s)
    finally:
        kill_session(process.pid)
    return process.wait()


def main() -> int:
    """Read the command line and guard."""
    parser = argparse.ArgumentParser(prog="python -m revector.local.guard")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("program", nargs="+")
    given = parser.parse_args()
    status = guard(given.program, parent=given.parent, state=given.state, grace_s=given.grace)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
