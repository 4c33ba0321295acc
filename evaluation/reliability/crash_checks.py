"""What must be true after a kill: the acknowledged truth in every live index, the invariants, and nothing left over."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from evaluation.reliability.checker import check
from evaluation.reliability.crash_site import Site, content_of
from evaluation.reliability.crash_truth import Truth, Write
from evaluation.reliability.history import Hit
from evaluation.reliability.truth import Truth as Own

from revector.archive import read_part

TOLERANCE = 1e-4
"""Of a vector's component, for float32 sums in another order."""

SESSIONS_S = 10.0
"""PostgreSQL notices that a client is gone when it next reads from or writes to it."""

FORGOTTEN_S = 3_600.0
"""Files of a task that has been dead for so long may be removed by any backfill; younger ones may be in use."""

MOVES_OF_SLOTS = ("provision", "swap", "rollback", "retire", "abort")


# The whole comparison -------------------------------------------------------------------------------------------------


def compare(site: Site, truth: Truth) -> list[str]:
    """Compare the document table with the truth, and every live index with the table; nothing may wait any more.

    The checker of histories judges the same, by rules of its own.
    """
    with site.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        rows = connection.execute(sa.text("SELECT doc_id, version, deleted, content FROM document")).all()
        live = connection.execute(
            sa.text("SELECT gen, physical_name, revision FROM slot JOIN generation USING (gen) ORDER BY gen")
        ).all()
        table = {row.doc_id: row for row in rows}
        texts = {row.doc_id: row for row in rows if not row.deleted}
        found = _compare_table(table, truth)
        truth.saw(
            "documents", None, [Hit(row.doc_id, str(content_of(row.content)), row.version) for row in texts.values()]
        )
        for one in live:
            index, hits = _compare_index(site, connection, one, texts)
            truth.saw("index", one.gen, hits)
            found += index + _compare_ledger(connection, one.gen, table)
    judged = check(sorted(truth.records, key=lambda record: record.at))
    return found + [f"{one.promise}: {one.detail} (says the checker)" for one in judged]


def _compare_table(table: Mapping[str, Any], truth: Truth) -> list[str]:
    found = []
    shown: dict[str, Write] = {}
    for doc_id, possible in truth.possible().items():
        row = table.get(doc_id)
        content = None if row is None else content_of(row.content)
        match = [write for write in possible if write.content == content]
        if match:
            shown[doc_id] = match[0]
            if match[0].acknowledged and row is not None and row.version != match[0].version:
                found.append(f"went back: document {doc_id} has version {row.version}, answered was {match[0].version}")
        elif row is not None or any(write.acknowledged for write in possible):
            kind = "lost" if content is None else _kind_of(content, doc_id, possible, truth)
            wanted = [f"{write.content} (version {write.version}, {write.process})" for write in possible]
            found.append(f"{kind}: document {doc_id} is {content}; possible are {wanted or ['nothing']}")
    found += [f"phantom: nobody wrote document {doc_id}" for doc_id in table.keys() - truth.possible().keys()]
    return found + _torn(truth, shown)


def _kind_of(content: str, doc_id: str, possible: Sequence[Write], truth: Truth) -> str:
    if content not in {write.content for write in truth.writes.values() if write.doc_id == doc_id}:
        return "phantom"
    return "resurrected" if all(write.content is None for write in possible) else "stale"


def _torn(truth: Truth, shown: Mapping[str, Write]) -> list[str]:
    """Find writes of several documents without an answer of which a part is there and a part is not."""
    batches: dict[int, list[Write]] = {}
    for write in truth.writes.values():
        # A delete leaves out what is deleted already, so that it may be there in part.
        if write.batch is not None and write.content is not None and not write.acknowledged:
            batches.setdefault(write.batch, []).append(write)
    found = []
    for batch, writes in batches.items():
        now = [shown.get(write.doc_id) for write in writes]
        there = [one is write for one, write in zip(now, writes, strict=True)]
        absent = [
            one is None or (one.acknowledged and one.ended < write.invoked)
            for one, write in zip(now, writes, strict=True)
        ]
        if any(there) and any(absent):
            found.append(f"torn: write {batch} of {writes[0].process} is there for a part of its documents only")
    return found


def _compare_index(
    site: Site, connection: sa.Connection, live: Any, texts: Mapping[str, Any]
) -> tuple[list[str], list[Hit]]:
    """Return what is wrong with one index, and its rows as a history wants them."""
    rows: dict[str, list[Any]] = {}
    statement = f"SELECT doc_id, chunk, version, start, stop, embedding::text AS v FROM {live.physical_name}"
    for row in connection.execute(sa.text(f"{statement} ORDER BY doc_id, chunk")):
        rows.setdefault(row.doc_id, []).append(row)
    place = f"index {live.physical_name} of {live.revision}"
    found = [f"resurrected: {place} shows {doc_id}, which is deleted" for doc_id in rows.keys() - texts.keys()]
    found += [f"lost: {place} lacks {doc_id}" for doc_id in texts.keys() - rows.keys()]
    hits = []
    for doc_id, have in rows.items():
        wrong = _wrong_rows(have, texts[doc_id], site.own(live.revision)) if doc_id in texts else "is deleted"
        if wrong and doc_id in texts:
            found.append(f"{wrong} ({place}, {doc_id})")
        content = "something else" if wrong else str(content_of(texts[doc_id].content))
        hits += [Hit(doc_id, content, row.version, row.chunk, None if wrong else len(have)) for row in have]
    return found, hits


def _wrong_rows(have: Sequence[Any], document: Any, own: Own) -> str | None:
    """Say what is wrong with the rows of one document, or return None."""
    versions = sorted({row.version for row in have})
    if versions != [document.version]:
        return f"stale: rows have versions {versions}, the document has {document.version}"
    chunks, fresh = own.embedded(document.content)
    cut = [(number, chunk.start, chunk.end) for number, chunk in enumerate(chunks)]
    if [(row.chunk, row.start, row.stop) for row in have] != cut:
        return f"mixed chunks: {len(have)} rows are not the document's {len(cut)} chunks"
    vectors = np.array([json.loads(row.v) for row in have], dtype=np.float32)
    if not np.allclose(fresh, vectors, atol=TOLERANCE):
        return "wrong model: vectors are not those of the document's text by the index's own model"
    return None


def _compare_ledger(connection: sa.Connection, gen: int, table: Mapping[str, Any]) -> list[str]:
    rows = connection.execute(sa.text("SELECT doc_id, version, deleted FROM ledger WHERE gen = :gen"), {"gen": gen})
    ledger = {row.doc_id: row for row in rows}
    found = []
    for doc_id, row in table.items():
        have = ledger.get(doc_id)
        # A tombstone of a document that was never there needs no entry.
        if not row.deleted if have is None else (have.version, have.deleted) != (row.version, row.deleted):
            found.append(f"lost: the ledger of generation {gen} does not say version {row.version} of {doc_id}")
    return found


# At every instant -----------------------------------------------------------------------------------------------------

_CHAIN = """
SELECT count(*) FROM (SELECT e, lag(hash, 1, '') OVER w AS before, row_number() OVER w AS place FROM event e
                      WINDOW w AS (PARTITION BY cid ORDER BY seq)) c
WHERE (c.e).hash <> revector.event_hash(before, c.e) OR (c.e).seq <> place
"""
_EPOCHS = """
SELECT c.epoch, array_agg(e.epoch ORDER BY e.seq) FROM collection c JOIN event e USING (cid)
WHERE e.kind = ANY(:kinds) GROUP BY c.cid, c.epoch
"""


def check_instant(site: Site) -> list[str]:
    """Check what is true at every instant, also just after a kill: invariants, the chain of events, and epochs."""
    found = []
    with site.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        for view in ("i1_lost", "i2_ahead", "i5_slots", "i13_unwaived"):
            rows = connection.execute(sa.text(f"SELECT * FROM {view} LIMIT 3")).all()
            found += [f"invariant {view}: {row}" for row in rows]
        if broken := connection.scalar(sa.text(_CHAIN)):
            found.append(f"history: {broken} events do not follow from those before them")
        for now, epochs in connection.execute(sa.text(_EPOCHS), {"kinds": list(MOVES_OF_SLOTS)}):
            if epochs != list(range(2, len(epochs) + 2)) or now != epochs[-1]:
                found.append(f"epochs: moves were in epochs {epochs}, the collection is in {now}")
    return found


# After a migration ----------------------------------------------------------------------------------------------------


def check_effects(site: Site, intended: Counter[str]) -> list[str]:
    """Check that each intended move had exactly one effect, by the events."""
    with site.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT kind, count(*) AS n FROM event GROUP BY kind"))
        done = {row.kind: row.n for row in rows}
    return [
        f"effects: {kind} was meant {wanted} times and done {done.get(kind, 0)} times"
        for kind, wanted in intended.items()
        if done.get(kind, 0) != wanted
    ]


def check_parts(site: Site, since: int, *, overlapped: bool) -> tuple[int, list[str]]:
    """Check the sealed parts of generations after ``since``: whole, published, each version in one; no stray files.

    With ``overlapped`` (two tasks were at one shard) a version may have been embedded twice, and one task may have
    ended the shard while the other's part was not published, nor had to be. Returns the newest generation, too.
    """
    found, archive = [], Path(site.project.state / "archive")
    with site.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT gen, shard, part, path, sha256, published_at FROM part")).all()
        live = set(connection.scalars(sa.text("SELECT gen FROM slot")))
    seen: Counter[tuple[int, str, int]] = Counter()
    for row in [row for row in rows if row.gen > since]:
        path, name = Path(row.path), f"part {row.part} of shard {row.shard} of generation {row.gen}"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
            found.append(f"parts: {name} is not the file that was sealed")
            continue
        if row.published_at is None and row.gen in live and not overlapped:
            found.append(f"parts: {name} was never published")
        part = read_part(path, row.sha256)
        seen.update(
            (row.gen, doc_id, int(version)) for doc_id, version in zip(part.doc_ids, part.versions, strict=True)
        )
    twice = [key for key, count in seen.items() if count > 1]
    if twice and not overlapped:
        found.append(f"parts: {len(twice)} documents were sealed twice in one version, such as {twice[0]}")
    found += _check_files(archive, [Path(row.path) for row in rows])
    return max((row.gen for row in rows), default=since), found


def _check_files(archive: Path, recorded: Sequence[Path]) -> list[str]:
    """Find files of killed tasks that a backfill left though they were old; the others are old from now on."""
    strays = {path.resolve() for path in archive.rglob("*") if path.is_file()} - {path.resolve() for path in recorded}
    old = sorted(path for path in strays if path.stat().st_mtime < time.time() - FORGOTTEN_S)
    for path in strays:
        os.utime(path, (0.0, time.time() - 2 * FORGOTTEN_S))
    for path in old:
        path.unlink()  # found once
    return [f"leftover files in the archive: {old[0].name} and {len(old) - 1} more"] if old else []


_STRAY_TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'revector'::regnamespace AND relname LIKE 'idx%'
  AND relname NOT IN (SELECT physical_name FROM generation WHERE NOT dropped)
UNION ALL SELECT indexrelid::regclass::text || ' (invalid)' FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT 'pending or ledger of dropped generation ' || gen FROM generation g WHERE dropped
  AND (EXISTS (SELECT 1 FROM pending p WHERE p.gen = g.gen) OR EXISTS (SELECT 1 FROM ledger l WHERE l.gen = g.gen))
UNION ALL SELECT physical_name || ' of an ended generation' FROM generation WHERE NOT live AND NOT dropped
"""
_SESSIONS = """
SELECT a.pid, a.state, left(a.query, 60) AS query, count(l.pid) AS locks
FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
GROUP BY 1, 2, 3
"""


def check_leftovers(site: Site) -> list[str]:
    """Check that no table, index or row of an ended generation is left."""
    with site.engine.connect() as connection:
        return [f"leftover table: {name}" for name in connection.scalars(sa.text(_STRAY_TABLES))]


def check_sessions(site: Site) -> list[str]:
    """Wait until PostgreSQL has noticed that all victims are dead; a session, hence its locks, that stays is found.

    Before that, a commit that a victim sent may still happen.
    """
    deadline = time.monotonic() + SESSIONS_S
    site.close()
    with site.engine.connect() as connection:
        while sessions := connection.execute(sa.text(_SESSIONS)).all():
            connection.rollback()
            if time.monotonic() > deadline:
                return [f"leftover session: {row}" for row in sessions]
            time.sleep(0.02)
    return []
