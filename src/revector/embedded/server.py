"""The server's processes: making the data folder, starting, asking, stopping; process ids decide nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

from revector.embedded.accounts import Account, own_folder, run_as
from revector.embedded.locks import POLL_S, START_LIMIT_S, STOP_LIMIT_S, give, hold, lives, until
from revector.embedded.places import drop_sockets
from revector.embedded.record import NAME, PORT, ServerRecord
from revector.errors import ConfigError, DatabaseError, DatabaseUnavailable

LOG_LIMIT_BYTES = 16 << 20
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "cluster_name": NAME,
    "shared_buffers": "256MB",
    "random_page_cost": "1.1",  # solid state: at the default of 4, batches of ids read tables whole
    "maintenance_work_mem": "512MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def initialise(server: ServerRecord, account: Account) -> None:
    """Make the data folder under another name first, so that an interrupted initdb is never taken for a database."""
    home = Path(server.home)
    for left in home.glob("data.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = own_folder(Path(tempfile.mkdtemp(prefix="data.new-", dir=home)), account)
    initdb = [f"{server.binaries}/initdb", "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]
    done = run_as(account, [*initdb, "-D", fresh])
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        raise DatabaseError(
            f"The embedded PostgreSQL could not make its data folder {server.data} as uid {account.uid}; nothing was "
            f"left there. initdb said:\n{done.stderr.strip()[-1500:]}"
        )
    fresh.rename(server.data)
    descriptor = os.open(home, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def bring_up(server: ServerRecord) -> None:
    """Wait for processes that are still there (starting, recovering, leaving); start the server when none is left."""
    deadline = time.monotonic() + START_LIMIT_S
    since = server.log.stat().st_size if server.log.exists() else 0
    spawned = failed = False
    while not failed and not answers(server, "postgres"):
        lock = None if spawned else hold(Path(server.home))
        if lock is not None:
            _spawn(server, lock)
            spawned = True
        time.sleep(POLL_S)
        failed = time.monotonic() > deadline or (spawned and not lives(Path(server.home)))
    if failed and not answers(server, "postgres"):
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL of {server.state} does not start (limit {START_LIMIT_S:.0f} s). Its data in "
            f"{server.data} is as it was. Fix what its log names, then repeat the call. End of {server.log}:\n"
            f"{_tail(server.log, since)}"
        )
    if spawned and not lives(Path(server.home)):
        _interrupt(server.data, signal.SIGINT)
        raise ConfigError(
            f"{server.home} is on a filesystem without lasting locks (a network share?), where a second host could "
            "ruin the data. The server was stopped again. Choose a local `state` folder, or set database_url."
        )


def _spawn(server: ServerRecord, lock: int) -> None:
    """Start postgres in a session of its own; it takes the lock over.

    The shell in between ends at once, so that postgres is not a child of this process, where it would end as a zombie.
    """
    # With the lock in hand these are stale; left there, they stop PostgreSQL while a zombie or another process has the
    # number that they name.
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    drop_sockets(Path(server.sockets))
    if server.log.exists() and server.log.stat().st_size > LOG_LIMIT_BYTES:
        server.log.replace(server.log.with_suffix(".old"))
    settings = SETTINGS | {
        "unix_socket_directories": server.sockets,
        "dynamic_shared_memory_type": _shared_memory(),
        # Builds ask for more than there are cores; with eight on two, an index takes 10 to 40 % longer than with two.
        "max_parallel_workers": str(max(0, (os.cpu_count() or 1) - 1)),
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = os.open(server.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        give(log, Path(server.home))
        postgres = [f"{server.binaries}/postgres", "-D", str(server.data), *options]
        command = ["/bin/sh", "-c", '"$@" &', "sh", *postgres]
        run_as(Account(server.uid, server.gid), command, stdout=log, stderr=log, pass_fds=(lock,))
    finally:
        os.close(log)
        os.close(lock)


def _shared_memory() -> str:
    """``posix``, but ``sysv`` where a container's small /dev/shm could not hold a parallel index build."""
    if sys.platform == "linux":
        with suppress(OSError):
            found = os.statvfs("/dev/shm")  # noqa: S108 - only measured
            return "posix" if found.f_bavail * found.f_frsize > 1 << 30 else "sysv"
        return "sysv"
    return "posix"


def complete(server: ServerRecord) -> None:
    """Make the database, with pgvector in its newest version."""
    with _connect(server, "postgres") as connection:
        if connection.execute("select 1 from pg_database where datname = %s", (NAME,)).fetchone() is None:
            connection.execute(f"create database {NAME}")
    with _connect(server, NAME) as connection:
        connection.execute("create extension if not exists vector")
        connection.execute("alter extension vector update")


def _connect(server: ServerRecord, database: str) -> psycopg.Connection[TupleRow]:
    where = {"host": server.sockets, "port": server.port, "user": NAME, "dbname": database}
    return psycopg.connect(autocommit=True, connect_timeout=5, **where)  # type: ignore[arg-type]


def answers(server: ServerRecord, database: str = NAME) -> bool:
    """Whether this very data folder's server answers; ``revector`` counts once it has pgvector."""
    question = "select current_setting('data_directory'), exists (select from pg_extension where extname = 'vector')"
    try:
        with _connect(server, database) as connection:
            row = connection.execute(question).fetchone()
    except psycopg.OperationalError as error:
        return "too many clients" in str(error)  # an answer, too
    return row is not None and Path(row[0]) == server.data and (database != NAME or bool(row[1]))


def live_sockets(home: Path) -> Path | None:
    """Socket folder of the server that lives here; one that moved or lost its socket is of no use and is stopped."""
    until(lambda: written(home / "data")[4] != "" or not lives(home), STOP_LIMIT_S)
    _, data, _, _, sockets = written(home / "data")
    if not lives(home):
        return None
    if data == str(home / "data") and until(Path(sockets, f".s.PGSQL.{PORT}").exists, 2.0):
        return Path(sockets)
    halt(home)
    if sockets:
        with suppress(OSError):
            Path(sockets).rmdir()
    return None


def halt(home: Path) -> bool:
    """End the server: clients are disconnected and all is written; after a minute without that, like a crash."""
    if not lives(home):
        return False
    for number in (signal.SIGINT, signal.SIGQUIT):
        _interrupt(home / "data", number)
        if until(lambda: not lives(home), STOP_LIMIT_S):
            return True
    raise DatabaseUnavailable(
        f"The embedded PostgreSQL in {home} does not stop. Its data is safe. End the processes that hold "
        f"{home / 'server.lock'} yourself (fuser), then repeat the call."
    )


def _interrupt(data: Path, number: signal.Signals) -> None:
    pid = written(data)[0]
    with suppress(FileNotFoundError, ProcessLookupError):
        # Linux tells what the process is: a server's folder is its data. Elsewhere the held lock must do.
        if pid and (sys.platform != "linux" or Path(f"/proc/{pid}/cwd").readlink() == data.resolve()):
            os.kill(int(pid), number)


def written(data: Path) -> list[str]:
    """First lines of ``postmaster.pid``: process id, data folder, start time, port, socket folder; "" if not there."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        lines = []
    return [*lines, "", "", "", "", ""][:5]


def _tail(log: Path, since: int) -> str:
    text = log.read_bytes() if log.exists() else b""
    return text[since:][-2000:].decode("utf-8", "replace").strip()
