"""Locks that the kernel frees: one process at a time in a state folder, and whether a server still lives."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from revector.errors import ConfigError, DatabaseUnavailable

START_LIMIT_S = 300.0  # a long crash recovery is no failure
STOP_LIMIT_S = 60.0
POLL_S = 0.05


@contextmanager
def locked(state: Path) -> Iterator[None]:
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


def hold(home: Path) -> int | None:
    """Take the server's lock, as an open file; None while a postgres process of this home has it."""
    lock = _open_lock(home / "server.lock", 0o600)
    give(lock, home)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def lives(home: Path) -> bool:
    """Whether a postgres process of this home is there."""
    lock = hold(home)
    if lock is None:
        return True
    _release(lock)
    return False


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


def give(file: int, home: Path) -> None:
    """Let what root makes in another user's home be that user's."""
    if os.geteuid() == 0:
        owner = home.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait for a condition, at most that many seconds; return whether it came."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
