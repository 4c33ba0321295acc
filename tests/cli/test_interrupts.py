"""Ctrl-C ends a command wherever it falls: in its work, in a destructor, while modules are loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from evaluation.reliability.forks import Forks
from evaluation.reliability.interrupts import LIMIT_S, interrupt
from evaluation.reliability.site import NEW, Site

from revector import cli
from revector.errors import StateError
from worlds import World

IN_A_DESTRUCTOR = """
import os, signal, sys, time
from revector import cli

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1_000_000):  # Python runs the signal's handler in here, and throws away what it raises
            pass

def work():
    one = Dying()
    del one
    time.sleep(30)
    print("went on")

cli.run = lambda: work()
cli.main()
"""

AT_IMPORT = """
import builtins, os, signal, sys
real = builtins.__import__
def importing(name, *more):
    if name == "revector.cli.app":
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *more)
builtins.__import__ = importing
from revector import cli
sys.argv = ["revector", "--version"]
cli.main()
"""


def ended(code: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=limit_s, check=False)


def test_an_interrupt_that_falls_into_a_destructor_is_not_lost() -> None:
    done = ended(IN_A_DESTRUCTOR, 25)
    assert "went on" not in done.stdout
    assert done.returncode in (-signal.SIGINT, 130), done


def test_next_to_nothing_is_loaded_before_the_command_listens() -> None:
    """An interrupt that falls into a callback of the import system is lost until ``main`` has set its hook."""
    loaded = "import revector.cli, sys; print(*sorted(one for one in sys.modules if one.startswith('revector')))"
    assert ended(loaded).stdout.split() == ["revector", "revector.cli", "revector.cli.exits"]
    heavy = "import revector.cli, sys; print(len(sys.modules))"
    bare = "import threading, typing, signal, collections.abc, sys; print(len(sys.modules))"
    assert int(ended(heavy).stdout) - int(ended(bare).stdout) < 20


def test_an_interrupt_while_modules_are_loaded_is_no_traceback() -> None:
    done = ended(AT_IMPORT)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("error", [StateError("the transaction was undone."), ZeroDivisionError("cleaning up")])
def test_an_interrupt_whose_cleaning_up_fails_is_an_interrupt(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise error from OSError("another")

    monkeypatch.setattr("revector.config.load_project", interrupted)
    assert cli.run(["status"]) == 130
    assert capsys.readouterr().err == ""


def test_what_else_fails_in_a_destructor_is_still_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
    lost = type("Lost", (), {"exc_type": ValueError})()
    cli._interrupt_again(lost)
    assert shown == [lost]


@pytest.mark.parametrize("name", ["watch", "worker", "ingest", "upgrade"])
def test_a_command_that_is_interrupted_at_some_instant_ends(name: str, served: World) -> None:
    (served.root / "more.jsonl").write_text('{"_id": "m1", "text": "apple one"}\n')
    served.revision(NEW, "b200", 'model = ModelSpec(name="hashing:seed3", dim=64)')
    site = Site(served.root, None)
    with Forks(0) as forks:
        forks.open(site)
        for after_s in (0.05, 0.4, 1.1):
            found = interrupt(forks, site, name, after_s, whole=True)
            assert found.wrong in ("", "ended before"), found
            assert found.took_s < LIMIT_S
