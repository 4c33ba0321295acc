"""The work set: claiming items, reading them, failures, and how much is waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.database.engine import repeated
from revector.guards import guard
from revector.interfaces import Content
from revector.registry.contents import HELD, IMAGE, IMAGE_CHARACTERS, contents_of

LEASE_S = 60
"""A claimed item may be claimed by others after this long: leases save work, they protect nothing."""

LONGEST_PAUSE_S = 600
"""What lies further ahead was written before the database's clock was set back: it counts as due."""

MAX_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Item:
    """A document to bring up to date, as it stood when it was read: what it holds, nothing for a tombstone."""

    doc_id: str
    version: int
    contents: tuple[Content, ...]
    content_hash: str | None
    """SHA-256 (hex) of all that it holds; None for a tombstone."""
    tombstone_version: int

    @property
    def characters(self) -> int:
        """How much text it holds, by which batches are sized; an image counts for ``IMAGE_CHARACTERS``."""
        return sum(one.length if one.kind == "text" else IMAGE_CHARACTERS for one in self.contents)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one generation. ``blocking`` counts items that keep the alias from moving there."""

    due: int
    bulk: int
    dead: int
    waived: int
    oldest_s: float
    """Seconds since the oldest live-lane item became due: the indexing lag."""

    @property
    def blocking(self) -> int:
        """Items due or dead and not waived."""
        return self.due + self.bulk + self.dead - self.waived


@dataclass(frozen=True, slots=True)
class WorkLeft:
    """What a live generation still has to do: documents, how many of them a worker has in hand, an error of a try."""

    gen: int
    role: str
    documents: int
    leased: int
    error: str | None


@repeated
def claim(engine: sa.Engine, gen: int, *, rows: int, lanes: Sequence[str] = ("live",)) -> list[str]:
    """Lease up to ``rows`` due items, the live lane first and the oldest first; return their document ids.

    Items that were in hand when processes died without a word are suspects: they are taken one at a time, after all
    others, so that the one whose document kills processes becomes a dead letter and its neighbours do not.
    """
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET state = 'dead', last_error = coalesce(last_error, 'the process that embedded it "
                "died ' || attempts || ' times') WHERE gen = :gen AND state = 'due' AND attempts >= :most AND "
                "lease_until < clock_timestamp()"
            ),
            {"gen": gen, "most": 2 * MAX_ATTEMPTS},
        )
        return _lease(connection, gen, rows, lanes, "attempts < :most") or _lease(
            connection, gen, 1, lanes, "attempts >= :most"
        )


def _lease(connection: sa.Connection, gen: int, rows: int, lanes: Sequence[str], which: str) -> list[str]:
    found = connection.scalars(
        sa.text(
            f"""
            UPDATE pending p SET lease_token = nextval('lease_seq'), attempts = attempts + 1,
              lease_until = clock_timestamp() + interval '{LEASE_S} s'
            FROM (SELECT gen, doc_id FROM pending
                  WHERE gen = :gen AND state = 'due' AND lane = ANY(CAST(:lanes AS text[])) AND {which}
                    AND (due_at <= clock_timestamp()
                      OR isfinite(due_at) AND due_at > clock_timestamp() + interval '{LONGEST_PAUSE_S} s')
                    AND (lease_until IS NULL OR lease_until < clock_timestamp()
                      OR lease_until > clock_timestamp() + interval '{LEASE_S} s')
                  ORDER BY lane DESC, due_at LIMIT :rows FOR UPDATE SKIP LOCKED) c
            WHERE p.gen = c.gen AND p.doc_id = c.doc_id RETURNING p.doc_id
            """
        ),
        {"gen": gen, "lanes": list(lanes), "rows": rows, "most": MAX_ATTEMPTS},
    )
    return list(found)


@repeated
def count_attempt(engine: sa.Engine, gen: int, doc_ids: Sequence[str]) -> None:
    """Note, before a part is embedded, that its items are in hand: what kills the process leaves a trace."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET attempts = attempts + 1 WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[])) "
                "AND state = 'due'"
            ),
            {"gen": gen, "ids": list(doc_ids)},
        )


def read_items(engine: sa.Engine, cid: int, doc_ids: Sequence[str], *, characters: int | None = None) -> list[Item]:
    """Return the documents as they stand now, in id order; with ``characters``, at least one and about so much text."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                f"""
                WITH d AS (SELECT *, sum(size) OVER (ORDER BY doc_id) - size AS before FROM (
                  SELECT *, length(content) + CASE WHEN image IS NULL THEN 0 ELSE {IMAGE_CHARACTERS} END AS size
                  FROM document WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[]))) sized)
                SELECT d.doc_id, d.version, d.content_hash, d.tombstone_version, {HELD} FROM d {IMAGE}
                WHERE CAST(:characters AS bigint) IS NULL OR coalesce(before, 0) < :characters ORDER BY d.doc_id
                """
            ),
            {"cid": cid, "ids": list(doc_ids), "characters": characters},
        )
        return [
            Item(doc_id, version, contents_of(engine, *held), content_hash, tombstone)
            for doc_id, version, content_hash, tombstone, *held in rows
        ]


def applied_unchanged(engine: sa.Engine, gen: int, items: Sequence[Item]) -> set[str]:
    """Return the ids whose content the generation shows already: they need a new version in the ledger, no embedding.

    Chunks from before the latest delete do not count: they are hidden for good. The items were read first, so the
    ledger cannot go back behind what is seen here.
    """
    with engine.connect() as connection:
        return shown_unchanged(connection, gen, items)


def shown_unchanged(connection: sa.Connection, gen: int, items: Sequence[Item]) -> set[str]:
    """``applied_unchanged`` in a transaction of the caller's."""
    return set(
        connection.scalars(
            sa.text(
                "SELECT l.doc_id FROM unnest(CAST(:ids AS text[]), CAST(:hashes AS text[]), CAST(:tombstones AS "
                "bigint[])) i(doc_id, hash, tombstone) JOIN ledger l ON l.gen = :gen AND l.doc_id = i.doc_id "
                "WHERE l.content_hash = i.hash AND l.version > i.tombstone"
            ),
            {
                "gen": gen,
                "ids": [item.doc_id for item in items],
                "hashes": [item.content_hash for item in items],
                "tombstones": [item.tombstone_version for item in items],
            },
        )
    )


def hold(connection: sa.Connection, gen: int, current: Mapping[str, int]) -> set[str]:
    """Lock the items of documents, by id with the version that was embedded: only one publisher can have each."""
    return set(
        connection.scalars(
            sa.text(
                # In id order, so that two publishers of the same items wait for each other instead of deadlocking.
                "SELECT p.doc_id FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[])) AS s(doc_id, version) "
                "JOIN pending p ON p.gen = :gen AND p.doc_id = s.doc_id WHERE "
                f"{guard('publish.item_version', 'p.version <= s.version')} ORDER BY p.doc_id FOR UPDATE OF p"
            ),
            {"gen": gen, "ids": list(current), "versions": list(current.values())},
        )
    )


def consume(connection: sa.Connection, gen: int, doc_ids: Sequence[str]) -> None:
    """End items that the transaction holds."""
    connection.execute(
        sa.text("DELETE FROM pending WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[]))"),
        {"gen": gen, "ids": list(doc_ids)},
    )


@repeated
def release(engine: sa.Engine, gen: int, doc_ids: Sequence[str]) -> None:
    """Give leases back as if they had not been taken: nothing was wrong with these documents."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET lease_until = NULL, attempts = greatest(attempts - 1, 0) WHERE gen = :gen AND "
                "doc_id = ANY(CAST(:ids AS text[])) AND state = 'due'"
            ),
            {"gen": gen, "ids": list(doc_ids)},
        )


@repeated
def fail(engine: sa.Engine, gen: int, doc_id: str, version: int, reason: str, *, final: bool) -> bool:
    """Record a failed attempt at ``version``: due again after 1 s to 10 min; dead when final or tried 8 times.

    Returns whether the item is dead now. An item that a newer version has re-armed is left alone.
    """
    with engine.begin() as connection:
        state = connection.scalar(
            sa.text(
                f"""
                UPDATE pending SET last_error = :reason, lease_until = NULL, lane = 'live',
                  attempts = greatest(attempts, 1),
                  state = CASE WHEN :final OR attempts >= :most THEN 'dead' ELSE 'due' END,
                  due_at = clock_timestamp()
                    + least(power(2, greatest(attempts, 1) - 1), {LONGEST_PAUSE_S}) * interval '1 s'
                WHERE gen = :gen AND doc_id = :doc_id AND version <= :version RETURNING state
                """
            ),
            {
                "gen": gen,
                "doc_id": doc_id,
                "version": version,
                "reason": reason[:2_000],
                "final": final,
                "most": MAX_ATTEMPTS,
            },
        )
    return str(state) == "dead"


# What waits -----------------------------------------------------------------------------------------------------------


def backlog(connection: sa.Connection, gen: int) -> Backlog:
    """Count what waits for one generation, in one snapshot."""
    row = connection.execute(
        sa.text(
            """
            SELECT count(*) FILTER (WHERE state = 'due' AND lane = 'live') AS due,
                   count(*) FILTER (WHERE state = 'due' AND lane = 'bulk') AS bulk,
                   count(*) FILTER (WHERE state = 'dead') AS dead,
                   count(*) FILTER (WHERE state = 'dead' AND EXISTS (SELECT 1 FROM waiver w
                     WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version))) AS waived,
                   coalesce(extract(epoch FROM clock_timestamp()
                     - min(since) FILTER (WHERE state = 'due' AND lane = 'live')), 0)::float8 AS oldest_s
            FROM pending p WHERE gen = :gen
            """
        ),
        {"gen": gen},
    ).one()
    return Backlog(**row._mapping)


def newest_version(connection: sa.Connection) -> int:
    """Return the newest version of any document: what is written from now on has a higher one, whatever a clock says.

    A write that is in flight may have a lower one; under the gate there is none.
    """
    return int(connection.scalar(sa.text("SELECT last_value FROM version_seq")) or 0)


def left_up_to(connection: sa.Connection, cid: int, newest: int) -> list[WorkLeft]:
    """Return what each live generation has in its live lane of versions up to ``newest``, the active one first."""
    rows = connection.execute(
        sa.text(
            """
            SELECT s.gen, s.role, count(*) AS documents, max(last_error) AS error,
                   count(*) FILTER (WHERE lease_until > clock_timestamp()) AS leased
            FROM slot s JOIN pending p USING (gen)
            WHERE s.cid = :cid AND state = 'due' AND lane = 'live' AND version <= :newest
            GROUP BY s.gen, s.role ORDER BY s.role, s.gen
            """
        ),
        {"cid": cid, "newest": newest},
    )
    return [WorkLeft(**row._mapping) for row in rows]


def dead_up_to(connection: sa.Connection, cid: int, newest: int) -> tuple[int, str | None]:
    """Return how many entries of live indexes are dead letters of versions up to ``newest``, and the reason of one."""
    row = connection.execute(
        sa.text(
            "SELECT count(*) AS dead, max(last_error) AS reason FROM slot s JOIN pending p USING (gen) WHERE s.cid = "
            ":cid AND state = 'dead' AND version <= :newest"
        ),
        {"cid": cid, "newest": newest},
    ).one()
    return int(row.dead), row.reason


def characters_due(connection: sa.Connection, gen: int, cid: int) -> int:
    """Return how many characters of text wait to be embedded for one generation."""
    return int(
        connection.scalar(
            sa.text(
                "SELECT coalesce(sum(length(d.content)), 0) FROM pending p JOIN document d ON d.cid = :cid AND "
                "d.doc_id = p.doc_id WHERE p.gen = :gen AND p.state = 'due'"
            ),
            {"gen": gen, "cid": cid},
        )
        or 0
    )


def forget_work(connection: sa.Connection, gen: int) -> None:
    """Drop the work set of a generation that left its slot."""
    connection.execute(sa.text("DELETE FROM pending WHERE gen = :gen"), {"gen": gen})
