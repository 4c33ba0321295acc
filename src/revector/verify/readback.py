"""What an index holds, read back against its documents: a page of ids per statement, hence one snapshot each.

A write and its work item are one transaction, and so are rows, ledger and the end of an item: within one snapshot a
document either waits or is exactly what its text gives. So nothing that a statement here finds is a false alarm,
whatever is written meanwhile, and nothing is locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.interfaces import Content, Vectors
from revector.registry.collections import Generation
from revector.registry.contents import HELD, IMAGE, contents_of
from revector.registry.lane import SqlRelation
from revector.registry.lanes import lane_of

WRONG = ("missing", "stale", "extra", "damaged")

INVARIANTS = {
    "i1_lost": "documents are lost: neither shown nor waiting",
    "i2_ahead": "documents or work items are ahead of what was written",
    "i9_intent": "the ledger names points that were not published for it, or were given up",
    "i5_slots": "slots name generations that are not complete and live",
    "i13_unwaived": "dead letters of the served generation were never waived",
}
"""The views that are empty at every instant, and what a row in each means."""


@dataclass(frozen=True, slots=True)
class IdState:
    """One id as a snapshot showed it.

    ``state``: ``sound``, ``deleted`` (and gone from the index), ``in flight``, ``dead`` (a dead letter), or what is
    wrong: ``missing``, ``stale``, ``extra`` or ``damaged``, with its reason.
    """

    doc_id: str
    state: str
    reason: str
    chunks: int


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """What a document holds and its rows, while no work item waited for it.

    ``locators``: int32 ``(chunks, 2)``; ``vectors``: float32 ``(chunks, dim)``.
    """

    doc_id: str
    contents: tuple[Content, ...]
    locators: npt.NDArray[np.int32]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class BrokenInvariant:
    """Rows of an invariant's view: how many, and the first ids with their generation."""

    count: int
    first: tuple[str, ...]


_NEXT = """
  ids AS (
    (SELECT doc_id FROM document WHERE cid = :cid AND doc_id > :after ORDER BY doc_id LIMIT :rows)
    UNION (SELECT doc_id FROM ledger WHERE gen = :gen AND doc_id > :after ORDER BY doc_id LIMIT :rows)
    UNION (SELECT doc_id FROM pending WHERE gen = :gen AND doc_id > :after ORDER BY doc_id LIMIT :rows)
    {strays}),
  page AS MATERIALIZED (SELECT doc_id FROM ids ORDER BY doc_id LIMIT :rows)"""

_NAMED = """
  page AS MATERIALIZED (SELECT id COLLATE "C" AS doc_id FROM unnest(CAST(:ids AS text[])) id)"""

_LOOK = """
WITH {page}
SELECT p.doc_id, c.n AS chunks, CASE
  WHEN d.doc_id IS NULL THEN ARRAY['extra', format('no such document, but %s chunks%s%s', c.n,
    CASE WHEN l.doc_id IS NOT NULL THEN ', a line in the ledger' END,
    CASE WHEN w.doc_id IS NOT NULL THEN ', a work item' END)]
  WHEN w.version > d.version THEN ARRAY['stale', format(
    'its work item waits for version %s, the document is at %s', w.version, d.version)]
  WHEN l.version > d.version THEN ARRAY['stale', format(
    'the ledger shows version %s, the document is at %s', l.version, d.version)]
  WHEN w.version = d.version THEN ARRAY[CASE w.state WHEN 'dead' THEN 'dead' ELSE 'in flight' END, '']
  WHEN c.attempt IS DISTINCT FROM l.attempt THEN ARRAY['in flight', '']
  WHEN d.deleted AND c.n > 0 THEN ARRAY['extra', format('deleted, but %s chunks are left', c.n)]
  WHEN d.deleted AND NOT l.deleted THEN ARRAY['stale', 'deleted, but the ledger shows it']
  WHEN d.deleted THEN ARRAY['deleted', '']
  WHEN l.doc_id IS NULL OR l.deleted THEN ARRAY['missing', 'neither in the ledger nor waiting']
  WHEN l.version < d.version THEN ARRAY['stale', format(
    'shown at version %s, the document is at %s and does not wait', l.version, d.version)]
  WHEN l.content_hash <> d.content_hash THEN ARRAY['stale', 'the ledger names another text']
  WHEN (c.n, c.kinds, c.lowest, c.highest) IS DISTINCT FROM (l.n_chunks, l.n_chunks, 0, l.n_chunks - 1) THEN ARRAY[
    CASE WHEN c.kinds < l.n_chunks THEN 'missing' ELSE 'extra' END, format(
    'chunks unlike ledger: %s in the index%s, %s in the ledger', c.n, ' (' || c.lowest || ' to ' || c.highest || ')',
    l.n_chunks)]
  WHEN c.oldest <> c.newest OR c.newest > l.version OR c.oldest <= d.tombstone_version THEN ARRAY['stale', format(
    'chunks of versions %s to %s; the ledger shows %s, the latest delete was %s', c.oldest, c.newest, l.version,
    d.tombstone_version)]
  WHEN c.unlike > 0 THEN ARRAY['damaged', format('bad vectors: %s of %s are not {dim} wide', c.unlike, c.n)]
  WHEN c.bad > 0 THEN ARRAY['damaged', format('bad vectors: %s of %s are not {length}', c.bad, c.n)]
  WHEN c.outside > 0 OR c.stop > length(d.content) + (d.image IS NOT NULL)::int
    THEN ARRAY['damaged', 'offsets outside the text']
END AS found
FROM page p
LEFT JOIN document d ON d.cid = :cid AND d.doc_id = p.doc_id
LEFT JOIN ledger l ON l.gen = :gen AND l.doc_id = p.doc_id
LEFT JOIN pending w ON w.gen = :gen AND w.doc_id = p.doc_id
{facts}
WHERE EXISTS (SELECT 1 FROM slot s WHERE s.gen = :gen)
ORDER BY p.doc_id
"""


def look_at_next(connection: sa.Connection, generation: Generation, after: str, rows: int) -> list[IdState]:
    """Look at the next ``rows`` ids above ``after`` that document, ledger, work set or index know, in key order.

    Empty at the end, and for a generation that has left its slot: nobody writes to it any more.
    """
    return _look(connection, generation, _NEXT, {"after": after, "rows": rows})


def look_at(connection: sa.Connection, generation: Generation, doc_ids: Sequence[str]) -> list[IdState]:
    """Look at these ids; as ``look_at_next``."""
    return _look(connection, generation, _NAMED, {"ids": list(doc_ids)})


def _look(connection: sa.Connection, generation: Generation, page: str, values: Mapping[str, object]) -> list[IdState]:
    lane, model = lane_of(generation), generation.spec.model
    named = page.format(strays=lane.strays())
    facts = lane.facts(connection, SqlRelation(named, values))
    length = "of length 1" if model.normalize else "finite and above 0"
    sql = _LOOK.format(page=named, facts=facts.sql, dim=model.dim, length=length)
    given = {"cid": generation.cid, "gen": generation.gen, **values, **facts.values}
    rows = connection.execute(sa.text(sql), given)
    found = ((row.doc_id, row.found or ("sound", ""), row.chunks) for row in rows)
    return [IdState(doc_id, state, reason, chunks) for doc_id, (state, reason), chunks in found]


_LIVE = f"""
SELECT d.doc_id, d.version, {HELD} FROM document d {IMAGE}
WHERE d.cid = :cid AND d.doc_id = ANY(CAST(:ids AS text[])) AND NOT d.deleted
  AND EXISTS (SELECT 1 FROM slot s WHERE s.gen = :gen)
  AND NOT EXISTS (SELECT 1 FROM pending w WHERE w.gen = :gen AND w.doc_id = d.doc_id AND w.version >= d.version)
ORDER BY d.doc_id
"""


def read_shown(connection: sa.Connection, generation: Generation, doc_ids: Sequence[str]) -> list[ShownDocument]:
    """Return text and rows of those documents that are live and do not wait, in key order.

    Asked before and after the vectors are read: a document that is the same both times was that throughout.
    """
    values = {"cid": generation.cid, "gen": generation.gen, "ids": list(doc_ids)}
    before = {row.doc_id: row for row in connection.execute(sa.text(_LIVE), values)}
    read = {one.doc_id: one for one in lane_of(generation).read(connection, list(before))}
    after = {row.doc_id: row.version for row in connection.execute(sa.text(_LIVE), values)}
    return [
        ShownDocument(
            doc_id,
            contents_of(connection.engine, row.content, row.image, row.image_bytes),
            read[doc_id].locators,
            read[doc_id].vectors,
        )
        for doc_id, row in before.items()
        if doc_id in read and after.get(doc_id) == row.version
    ]


def broken_invariants(
    connection: sa.Connection, cid: int, gens: Sequence[int], *, first: int
) -> dict[str, BrokenInvariant]:
    """Return the views of ``INVARIANTS`` that are not empty for these live generations, each from one snapshot."""
    found = {}
    for view in INVARIANTS:
        columns, mine = ("role", "cid = :cid") if view == "i5_slots" else ("doc_id", "gen = ANY(CAST(:gens AS int[]))")
        row = connection.execute(
            sa.text(
                f"""
                SELECT count(*) AS n, array_agg(id ORDER BY rank) FILTER (WHERE rank <= :first) AS first
                FROM (SELECT gen || ': ' || {columns} AS id, row_number() OVER (ORDER BY gen, {columns}) AS rank
                      FROM {view} WHERE {mine}) v
                """
            ),
            {"cid": cid, "gens": list(gens), "first": first},
        ).one()
        if row.n:
            found[view] = BrokenInvariant(int(row.n), tuple(row.first))
    return found


def suspects(connection: sa.Connection, gen: int, most: int) -> list[str]:
    """Return up to ``most`` ids that the invariants name for a generation: a sample looks at them first."""
    return list(
        connection.scalars(
            sa.text(
                "SELECT doc_id FROM i1_lost WHERE gen = :gen UNION SELECT doc_id FROM i2_ahead WHERE gen = :gen ORDER "
                "BY doc_id LIMIT :most"
            ),
            {"gen": gen, "most": most},
        )
    )


def sample_ends(connection: sa.Connection, cid: int) -> Mapping[str, str]:
    """Return the last id of the newest sample in the history, by generation (its number as text)."""
    ends = connection.scalar(
        sa.text(
            "SELECT detail->'cursor' FROM event WHERE cid = :cid AND kind = 'verify_live' AND detail->'cursor' IS NOT "
            "NULL ORDER BY seq DESC LIMIT 1"
        ),
        {"cid": cid},
    )
    return ends or {}


def is_live(connection: sa.Connection, gen: int) -> bool:
    """Whether the generation is in a slot."""
    return bool(connection.scalar(sa.text("SELECT EXISTS (SELECT 1 FROM slot WHERE gen = :gen)"), {"gen": gen}))


def count_documents(connection: sa.Connection, cid: int) -> int:
    """Number of documents that were ever written and not purged, tombstones with them."""
    return int(connection.scalar(sa.text("SELECT count(*) FROM document WHERE cid = :cid"), {"cid": cid}) or 0)
