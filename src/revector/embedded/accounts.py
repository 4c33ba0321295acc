"""The account that runs the server: PostgreSQL refuses root; what it can reach is tried, never guessed from modes."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from revector.errors import ConfigError

ACCOUNTS = ("postgres", "_postgres", "nobody")
# Little is handed down: PGPORT and the like would change the server, and it would keep the caller's secrets for ever.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/"}


class Account(NamedTuple):
    """A user and its group, by number."""

    uid: int
    gid: int


def account_for(owned: Path) -> Account:
    """Who runs the server: this user, or for root the owner of ``owned``, or else a service account."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    found = owned.stat()
    with suppress(KeyError):
        if found.st_uid != 0 and pwd.getpwuid(found.st_uid):
            return Account(found.st_uid, found.st_gid)
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        f"PostgreSQL refuses to run as root, and no account {', '.join(ACCOUNTS)} exists. Nothing was started."
        " Run revector as an ordinary user, or set database_url."
    )


def run_as(account: Account, command: Sequence[str | Path], **streams: object) -> subprocess.CompletedProcess[str]:
    """Run as the account, in a session of its own, without the caller's folder, environment and input."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
    if os.geteuid() == 0:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return subprocess.run(
        command, check=False, cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, start_new_session=True, **options
    )


def can(account: Account, script: str, *arguments: Path) -> bool:
    """Whether the account really succeeds with a shell line; nothing is guessed from modes."""
    try:
        return run_as(account, ["/bin/sh", "-c", script, "sh", *arguments]).returncode == 0
    except PermissionError as error:
        raise ConfigError(
            f"PostgreSQL refuses to run as root, and this root may not become uid {account.uid} (in a container?). "
            "Nothing was started. Run revector as an ordinary user, or set database_url."
        ) from error


def own_folder(folder: Path, account: Account, mode: int = 0o700) -> Path:
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
