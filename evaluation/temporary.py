"""Temporary folders that say whose they are, and the removal of what killed runs left in them, PostgreSQL first.

``python -m evaluation.temporary`` removes; so does each run of the tests at its start, and ``make clean``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from revector import embedded
from revector.errors import RevectorError

OWNER = ".owner"
"""Its lock is held for as long as the process that made the folder lives; the kernel frees that of a killed one."""

ROOTS = tuple(dict.fromkeys(Path(one) for one in (tempfile.gettempdir(), "/tmp", "/dev/shm")))  # noqa: S108 - looked at

_held: list[int] = []


def owned(folder: Path) -> Path:
    """Mark a new folder as this process's, and return it."""
    fresh = folder / f"{OWNER}.{os.getpid()}"
    lock = os.open(fresh, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    fresh.rename(folder / OWNER)  # nobody ever sees it without its lock
    _held.append(lock)
    return folder


def sweep(roots: Iterable[Path] = ROOTS) -> list[Path]:
    """Remove what dead runs left below ``roots``, servers, processes and folders; return the folders.

    Never what belongs to a living process, nor a folder that does not say whose it is.
    """
    found = []
    for root in roots:
        for folder in sorted(root.glob("revector-*")):
            with _dead(folder) as dead:
                if dead:
                    _remove(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    found.append(folder)
        for folder in sorted(root.glob("pytest-of-*/pytest-[0-9]*")):
            if _pytest_ended(folder) and any(True for _ in _states(folder)):
                _remove(folder)  # the folder itself is pytest's: it keeps the last three
                found.append(folder)
    return found


class _dead:  # noqa: N801 - reads as a sentence
    """Whether a folder's owner is dead; then nobody else removes it meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / OWNER, -1

    def __enter__(self) -> bool:
        try:
            self._lock = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or not one of ours
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)


def _pytest_ended(folder: Path) -> bool:
    """Whether the run that made pytest's folder is over: it holds a file with its process id until then."""
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
        return False
    try:
        return not psutil.pid_exists(int((folder / ".lock").read_text()))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def _states(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        if "postgres.json" in files:
            yield Path(place)


def _remove(folder: Path) -> None:
    for state in list(_states(folder)):
        with suppress(RevectorError, OSError):
            embedded.remove(state)
    processes = [one for one in psutil.process_iter() if _works_in(one, folder)]
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether a process, but a person's shell, was started for a folder below it or runs there."""
    inside = f"{folder}{os.sep}"
    with suppress(psutil.Error):
        words = process.cmdline()
        if process.pid == os.getpid() or len(words) < 2:
            return False
        return f"{process.cwd()}{os.sep}".startswith(inside) or any(inside in f"{word}{os.sep}" for word in words)
    return False


if __name__ == "__main__":
    for swept in sweep():
        print(f"Removed {swept}, which a killed run had left")
