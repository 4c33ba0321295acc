"""Supervised programs: restarted when they die, and never left behind, however the supervisor ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from revector.errors import RevectorError, StateError
from revector.local.guard import members
from revector.local.processes import Supervisor

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT_AND_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])",
]


def until(met: Callable[[], bool], what: str, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not met():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.05)


def session(folder: Path, name: str) -> int:
    """Return the session of a program that has been started."""
    file = folder / "run" / f"{name}.json"

    def written() -> bool:
        try:
            return bool(json.loads(file.read_text()))
        except (OSError, ValueError):
            return False

    until(written, f"{name} is started")
    return int(json.loads(file.read_text())["session"])


def test_stop_ends_the_program_and_its_children(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=1) as supervisor:
        supervisor.start("tree", PARENT_AND_CHILD, env=dict(os.environ), cwd=tmp_path)
        tree = session(tmp_path, "tree")
        until(lambda: len(members(tree)) == 2, "parent and child run")
    assert members(tree) == []


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        supervisor.start("deaf", [sys.executable, "-c", deaf], env=dict(os.environ), cwd=tmp_path)
        alive = session(tmp_path, "deaf")
        until(lambda: "deaf" in supervisor.tail("deaf"), "it has said that it is deaf")
    assert members(alive) == []


def test_a_killed_program_is_started_again_and_its_children_are_not_left(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=1) as supervisor:
        supervisor.start("tree", PARENT_AND_CHILD, env=dict(os.environ), cwd=tmp_path)
        first = session(tmp_path, "tree")
        until(lambda: len(members(first)) == 2, "parent and child run")
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.restarts["tree"] == 1, "it is started again")
        until(lambda: session(tmp_path, "tree") != first, "the new one runs")
        assert members(first) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start cleans up")
def test_a_killed_guard_takes_its_program_along(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=1) as supervisor:
        supervisor.start("sleeper", SLEEPER, env=dict(os.environ), cwd=tmp_path)
        first = session(tmp_path, "sleeper")
        guard = psutil.Process(first).parent()
        assert guard is not None
        guard.kill()
        until(lambda: members(first) == [], "the program is gone")
        until(lambda: supervisor.restarts["sleeper"] == 1, "it is started again")


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from revector.local.processes import Supervisor
supervisor = Supervisor(Path({str(tmp_path)!r}), grace_s=1)
supervisor.start("tree", {PARENT_AND_CHILD!r}, env=dict(os.environ), cwd=Path({str(tmp_path)!r}))
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code])
    tree = session(tmp_path, "tree")
    until(lambda: len(members(tree)) == 2, "parent and child run")
    owner.kill()
    owner.wait()
    until(lambda: members(tree) == [], "nothing is left")


def test_one_folder_has_one_supervisor(tmp_path: Path) -> None:
    with Supervisor(tmp_path), pytest.raises(StateError, match=f"process {os.getpid()} runs it already"):
        Supervisor(tmp_path).acquire()
    with Supervisor(tmp_path):
        pass


def test_a_program_that_must_succeed_and_does_not_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace_s=1) as supervisor:
        with pytest.raises(RevectorError, match="disk on fire"):
            supervisor.run(
                "once", [sys.executable, "-c", "exit('disk on fire')"], env=dict(os.environ), cwd=tmp_path, timeout_s=60
            )
        supervisor.run("once", [sys.executable, "-c", ""], env=dict(os.environ), cwd=tmp_path, timeout_s=60)


def test_a_process_that_got_the_number_of_an_old_one_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER, start_new_session=True)
    (tmp_path / "run").mkdir()
    note = {"session": stranger.pid, "started": time.time() - 10_000, "words": ["python"]}
    (tmp_path / "run" / "sleeper.json").write_text(json.dumps(note))
    try:
        with Supervisor(tmp_path, grace_s=1) as supervisor:
            supervisor.start("sleeper", SLEEPER, env=dict(os.environ), cwd=tmp_path)
            until(lambda: session(tmp_path, "sleeper") != stranger.pid, "ours runs")
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
