"""Owns the faults of disks: the archive's disk is full, PostgreSQL's disk is full, and its log has no room to go on.

Each disk is a small tmpfs of its own, which takes the right to mount; without it ``NoMountError`` says so.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from evaluation.reliability.arena import settings
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import QUESTION, Place, Scenario, ends
from evaluation.reliability.faults_wire import Operation, Walk, effects
from evaluation.reliability.observer import apply_all
from evaluation.reliability.site import COLLECTION, NEW
from evaluation.reliability.traffic import do

from revector import crash, embedded
from revector.config import Project
from revector.documents.documents import WriteResult
from revector.errors import ArchiveError, DatabaseUnavailable, NoRoom, RevectorError
from revector.lifecycle import FORWARD

ARCHIVE_MIB, SERVER_MIB = 64, 256
FULL = "a full disk is an error"
LARGE = 800
"""Documents of a write that no free page can take."""

SMALL_SERVER = {
    "shared_buffers": "16MB",
    "max_connections": "40",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    "wal_compression": "off",
}
"""A server that fits; autovacuum would use up the log at moments of its own."""


class NoMountError(Exception):
    """This process may not mount a file system."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A small disk of its own."""

    path: Path

    def fill(self, leave: int = 0) -> None:
        """Use up all but ``leave`` bytes."""
        with (self.path / "filler").open("wb") as file:
            while True:
                found = os.statvfs(self.path)
                try:
                    if (size := found.f_bavail * found.f_frsize - leave) > 0:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                    return
                except OSError as error:  # a server that writes beside this took some of it first
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give it back."""
        (self.path / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(mib: int) -> Iterator[Disk]:
    """Mount a tmpfs of so many MiB; it is gone at the end. Raises ``NoMountError``."""
    path = Path(tempfile.mkdtemp(prefix="revector-disk-", dir="/tmp"))  # every account can reach it
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "tmpfs", path], check=False, capture_output=True
        )
        if mounted.returncode:
            raise NoMountError(mounted.stderr.decode().strip() or "mount failed")
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", "-l", path], check=True)
    finally:
        shutil.rmtree(path)


def full_archive(place: Place, *, warned: bool) -> list[Finding]:
    """Fill the archive's disk, before a part is begun (``warned``) or while it is written: only the backfill stops.

    Raises ``NoMountError``.
    """
    with small_disk(ARCHIVE_MIB) as disk:
        project = _archiving(place, disk.path / "archive")
        migrator = project.migrator(COLLECTION, actor="struck")
        migrator.run("provision", NEW)
        migrator.embed_shard(NEW, 0)
        if warned:
            disk.fill(leave=ARCHIVE_MIB << 17)  # an eighth of it
        with nullcontext() if warned else _at("shard.after_count", lambda: disk.fill(leave=20_000)):
            found = ends(lambda: migrator.embed_shard(NEW, 1), ArchiveError, must_fail=FULL)
        found += _lives(place) + place.invariants()
        left = [path.name for path in disk.path.rglob("*.tmp")]
        found += [Finding("a failed part leaves nothing behind", str(left))] if left else []
        disk.free()
        migrator.upgrade(NEW, to="backfill")
        place.settle()
        found += place.compare()
        migrator.abort("the trial is over")
        project.raw_engine.dispose()
    return found


@contextmanager
def _at(point: str, act: Callable[[], None]) -> Iterator[None]:
    """Act whenever the library passes a point."""

    def watch(name: str) -> None:
        if name == point:
            act()

    crash.watcher = watch
    try:
        yield
    finally:
        crash.watcher = None


def full_server(root: Path) -> list[Finding]:
    """Fill PostgreSQL's disk before each step of a migration, then for a write, then until its log ends the server.

    What runs ends with the reason or is done; nothing is done by half, and the same call succeeds once there is room.
    Raises ``NoMountError``.
    """
    with small_disk(SERVER_MIB) as disk, _server_on(disk) as start:
        place = Place(root, start())
        try:
            walk = Walk(place, random.Random())
            steps = [walk.step(name) for name in FORWARD]
            for one in (*steps, walk.rollback(), walk.retire()):
                if found := _full_during(place, disk, start, one):
                    return [replace(finding, where=one.name) for finding in found]
            return _full_tables(place, disk) + _full_log(place, disk, start)
        finally:
            place.close()


def _full_tables(place: Place, disk: Disk) -> list[Finding]:
    large = place.some(LARGE)
    calls, documents = place.begin(large), place.wired.documents(COLLECTION)
    disk.fill()
    write = partial(do, documents, large, place.site.text)
    found = ends(write, DatabaseUnavailable, must_fail=FULL, saying="disk is full")
    if stored := place.shown(large, place.texts(list(large))):
        found.append(Finding("a write is done or not done, never half", f"{sorted(stored)} are stored"))
    found += _answers(place) + place.invariants()
    disk.free()
    write()
    place.acknowledge(calls, large)
    place.settle()
    return found + place.compare()


def _full_log(place: Place, disk: Disk, start: Callable[[], str]) -> list[Finding]:
    found = _lives(place)
    disk.fill()
    with suppress(DatabaseUnavailable):
        while True:  # only the log grows by these
            place.rows("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
    # The server may find just enough room to come back.
    found += ends(lambda: place.wired.documents(COLLECTION).count(), DatabaseUnavailable)
    found += ends(start, DatabaseUnavailable)
    disk.free()
    start()
    found += _answers(place) + _lives(place) + place.invariants()
    place.settle()
    return found + place.compare()


def _full_during(place: Place, disk: Disk, start: Callable[[], str], operation: Operation) -> list[Finding]:
    name = operation.name
    events = place.events()
    place.put(3, place.wired)
    disk.fill()
    found = ends(operation.run, (DatabaseUnavailable, NoRoom), must_fail=FULL * (name in WRITING))
    found += ends(place.wired.worker().drain, DatabaseUnavailable, must_fail=FULL)
    disk.free()
    start()
    found += place.invariants() + _answers(place)
    place.let_time_pass()
    try:
        operation.run()
    except RevectorError as error:
        return [*found, Finding("with room again the same call succeeds", repr(error))]
    return found if name == "plan" else found + effects(place, operation, events)


WRITING = ("plan", "provision", "backfill", "index")
"""Steps that cannot be done without room, or refuse to begin; what others write may find a free line in a page."""


@contextmanager
def _server_on(disk: Disk) -> Iterator[Callable[[], str]]:
    with settings(**SMALL_SERVER):
        try:
            yield lambda: embedded.ensure_running(disk.path / "state")
        finally:
            disk.free()
            embedded.remove(disk.path / "state")


def _archiving(place: Place, folder: Path) -> Project:
    project = place.connected(str(place.wired.settings.database_url))
    project.settings = project.settings.model_copy(update={"archive_folder": folder})
    return project


def _lives(place: Place) -> list[Finding]:
    """Write, apply and search: the live lane goes on."""
    doc_ids = place.put(4, place.wired)
    apply_all(place.wired)
    written = WriteResult({doc_id: version for doc_id, (_, version) in place.texts(doc_ids).items()})
    place.wired.documents(COLLECTION).wait_until_served(written, timeout_s=0)
    return _answers(place)


def _answers(place: Place) -> list[Finding]:
    try:
        hits = place.wired.searcher(COLLECTION).search(QUESTION).hits
    except (RevectorError, sa.exc.SQLAlchemyError) as error:
        return [Finding("search still answers", repr(error))]
    return [] if hits else [Finding("search still answers", "no hits")]


def scenarios(place: Place, _draw: random.Random) -> Iterator[Scenario]:
    """Yield every full disk once. They raise ``NoMountError``."""
    with tempfile.TemporaryDirectory() as folder:
        yield "archive full before a part", "all", partial(full_archive, place, warned=True)
        yield "archive full within a part", "all", partial(full_archive, place, warned=False)
        yield "server full at each step", "all", partial(full_server, Path(folder))
