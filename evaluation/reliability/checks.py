"""What must be true beside documents and indexes: at every instant, of moves, and of what processes leave behind."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa
from evaluation.reliability.checker import Finding
from evaluation.reliability.observer import rows

from revector.archive import read_part

SESSIONS_S = 10.0
"""PostgreSQL notices that a client is gone when it next reads from or writes to it."""

FORGOTTEN_S = 3_600.0
"""Files of a task that has been dead for so long may be removed by any backfill; younger ones may be in use."""

MOVES = ("provision", "swap", "rollback", "retire", "abort")
"""Events that move slots: each is one epoch."""

VIEWS = {
    "i1_lost": "lost",
    "i2_ahead": "phantom",
    "i5_slots": "swap history",
    "i9_intent": "lost",
    "i13_unwaived": "swap history",
}
"""The library's own views of broken invariants, always empty, and the promise that each keeps."""

_CHAIN = """
SELECT count(*) FROM (SELECT e, lag(hash, 1, '') OVER w AS before, row_number() OVER w AS place FROM event e
                      WHERE e.cid = :cid WINDOW w AS (PARTITION BY cid ORDER BY seq)) c
WHERE (c.e).hash <> revector.event_hash(before, c.e) OR (c.e).seq <> place
"""
_EPOCHS = """
SELECT c.epoch, coalesce(array_agg(e.epoch ORDER BY e.seq) FILTER (WHERE e.epoch IS NOT NULL), '{}')
FROM collection c LEFT JOIN event e ON e.cid = c.cid AND e.kind = ANY(:kinds) WHERE c.cid = :cid GROUP BY c.epoch
"""


def instant(engine: sa.Engine, cid: int) -> list[Finding]:
    """Check what is true at every instant, also just after a kill: invariants, the chain of events, and epochs."""
    found = []
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        for view, promise in VIEWS.items():
            rows = connection.execute(
                sa.text(f"SELECT * FROM {view} WHERE gen IN (SELECT gen FROM generation WHERE cid = :cid) LIMIT 3"),
                {"cid": cid},
            ).all()
            found += [Finding(promise, f"invariant {view}: {row}") for row in rows]
        if broken := connection.scalar(sa.text(_CHAIN), {"cid": cid}):
            found.append(Finding("history", f"{broken} events do not follow from those before them"))
        for now, epochs in connection.execute(sa.text(_EPOCHS), {"kinds": list(MOVES), "cid": cid}):
            if list(epochs) != list(range(2, len(epochs) + 2)) or now != 1 + len(epochs):
                found.append(Finding("swap history", f"epochs: moves were in {epochs}, the collection is in {now}"))
    return found


def events(engine: sa.Engine, cid: int) -> Counter[str]:
    """Return how many events of each kind the history of a collection has."""
    found = rows(engine, "SELECT kind, count(*) AS n FROM event WHERE cid = :cid GROUP BY kind", cid=cid)
    return Counter({row.kind: row.n for row in found})


def effects(engine: sa.Engine, cid: int, intended: Counter[str]) -> list[Finding]:
    """Check that each intended move had exactly one effect, by the events."""
    done = events(engine, cid)
    return [
        Finding("effects", f"{kind} was meant {wanted} times and done {done[kind]} times")
        for kind, wanted in intended.items()
        if done[kind] != wanted
    ]


def parts(engine: sa.Engine, archive: Path, since: int, *, overlapped: bool) -> tuple[int, list[Finding]]:
    """Check the sealed parts of generations after ``since``: whole, published, each version in one; no stray files.

    With ``overlapped`` (two tasks were at one shard) a version may have been embedded twice, and one task may have
    ended the shard while the other's part was not published, nor had to be. Returns the newest generation, too.
    """
    found = []
    sealed = rows(engine, "SELECT gen, shard, part, path, sha256, published_at FROM part")
    live = {row.gen for row in rows(engine, "SELECT gen FROM slot")}
    seen: Counter[tuple[int, str, int]] = Counter()
    for row in [row for row in sealed if row.gen > since]:
        path, name = Path(row.path), f"part {row.part} of shard {row.shard} of generation {row.gen}"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
            found.append(Finding("parts", f"{name} is not the file that was sealed"))
            continue
        if row.published_at is None and row.gen in live and not overlapped:
            found.append(Finding("parts", f"{name} was never published"))
        part = read_part(path, row.sha256)
        seen.update((row.gen, doc_id, int(one)) for doc_id, one in zip(part.doc_ids, part.versions, strict=True))
    twice = [key for key, count in seen.items() if count > 1]
    if twice and not overlapped:
        found.append(Finding("parts", f"{len(twice)} documents were sealed twice in one version, such as {twice[0]}"))
    found += _stray_files(archive, [Path(row.path) for row in sealed])
    return max((row.gen for row in sealed), default=since), found


def _stray_files(archive: Path, recorded: Sequence[Path]) -> list[Finding]:
    """Find files of killed tasks that a backfill left though they were old; the others are old from now on."""
    strays = {path.resolve() for path in archive.rglob("*") if path.is_file()} - {path.resolve() for path in recorded}
    old = sorted(path for path in strays if path.stat().st_mtime < time.time() - FORGOTTEN_S)
    for path in strays:
        os.utime(path, (0.0, time.time() - 2 * FORGOTTEN_S))
    for path in old:
        path.unlink()  # found once
    return [Finding("leftover", f"files in the archive: {old[0].name} and {len(old) - 1} more")] if old else []


_STRAYS = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'revector'::regnamespace AND relname LIKE 'idx%'
  AND relname NOT IN (SELECT physical_name FROM generation WHERE NOT dropped)
UNION ALL SELECT indexrelid::regclass::text || ' (invalid)' FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT 'rows of dropped generation ' || gen FROM generation g WHERE dropped
  AND (EXISTS (SELECT 1 FROM pending p WHERE p.gen = g.gen) OR EXISTS (SELECT 1 FROM ledger l WHERE l.gen = g.gen)
    OR EXISTS (SELECT 1 FROM shard s WHERE s.gen = g.gen) OR EXISTS (SELECT 1 FROM part a WHERE a.gen = g.gen))
UNION ALL SELECT physical_name || ' of an ended generation' FROM generation WHERE NOT live AND NOT dropped
"""
_SESSIONS = """
SELECT a.pid, a.state, left(a.query, 60) AS query, count(l.pid) AS locks
FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
GROUP BY 1, 2, 3
"""
_BUSY = """
SELECT pid, state, wait_event, left(query, 80) AS query FROM pg_stat_activity WHERE datname = current_database()
AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'
"""


def leftovers(engine: sa.Engine) -> list[Finding]:
    """Check that no table, index or row of an ended generation is left."""
    return [Finding("leftover", f"table: {row.relname}") for row in rows(engine, _STRAYS)]


def sessions(engine: sa.Engine) -> list[Finding]:
    """Wait until PostgreSQL has noticed that all victims are dead; a session, hence its locks, that stays is found.

    Before that, a commit that a victim sent may still happen.
    """
    engine.dispose()
    left = _left_after(engine, _SESSIONS, SESSIONS_S)
    return [Finding("leftover", f"session: {row}") for row in left]


def transactions(engine: sa.Engine, limit_s: float) -> list[Finding]:
    """Wait until no other session is in a transaction: of clients that are lost, and of those that stall."""
    left = _left_after(engine, _BUSY, limit_s)
    return [Finding("no session is left in a transaction", str(left))] if left else []


def _left_after(engine: sa.Engine, statement: str, limit_s: float) -> Sequence[object]:
    deadline = time.monotonic() + limit_s
    while found := rows(engine, statement):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.02)
    return []


def wait_until(met: Callable[[], bool], limit_s: float, what: str, *, poll_s: float = 0.1) -> float:
    """Wait until ``met``; return the seconds that took. Raises ``TimeoutError`` naming ``what``."""
    started = time.monotonic()
    while not met():
        if time.monotonic() - started > limit_s:
            raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(poll_s)
    return time.monotonic() - started
