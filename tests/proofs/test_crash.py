"""Crash points: each is named once, passed somewhere, and kills when it is armed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from revector import crash

SOURCE = Path(crash.__file__).parent


def test_every_point_is_passed_by_the_code_and_every_passed_point_is_known() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.name != "crash.py")
    assert set(re.findall(r'crash_at\("([^"]+)"\)', code)) == set(crash.ALL_POINTS)


@pytest.mark.parametrize(("armed", "passings"), [("write.after_row", 1), ("write.after_row:3", 3)])
def test_an_armed_point_kills_its_process_at_the_passing_that_was_asked_for(armed: str, passings: int) -> None:
    script = "import sys; from revector.crash import crash_at\nfor n in range(5): crash_at('write.after_row'); print(n)"
    done = subprocess.run(
        [sys.executable, "-u", "-c", script], env={"REVECTOR_CRASH_AT": armed}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.splitlines()) == passings - 1


def test_a_point_that_does_not_exist_cannot_be_armed() -> None:
    with pytest.raises(ValueError, match="there are write"):
        crash.arm("write.never")
