"""Owns the lane of indexes in a store outside of PostgreSQL: points named by attempts, and SQL that shows some of them.

The store is asked for points by id and for what is near, nothing else. Which attempt of a document is shown is a line
in the ledger. So showing a document, deleting it and a swap are single transactions of PostgreSQL, whatever the store
does with its requests: delays, repeats or loses them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from uuid import UUID

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.archive import Part
from revector.crash import crash_at
from revector.database.driver import analyze
from revector.database.sessions import plans
from revector.errors import IndexGone, StoreRefused, StoreUnavailable
from revector.guards import guard
from revector.interfaces import Progress, Vectors
from revector.registry import intents, ledgers
from revector.registry.collections import Generation
from revector.registry.comparing import compare
from revector.registry.contents import hit_columns
from revector.registry.in_sql import visible
from revector.registry.lane import IndexedDocument, SearchRequest, SqlRelation, Staged, VisibleHits
from revector.registry.points import columns_of, counts_of, points_of
from revector.registry.watching import running_s
from revector.stores.metrics import comparable
from revector.stores.pgvector import Build
from revector.stores.seam import Index, NearPoint, Points, StoreTraits

PUT_POINTS = 1_000
"""Points of one request."""

READ_BACK_TRIES, READ_BACK_S = 50, 0.1
"""How often, and how far apart, points are asked for again that a store has acknowledged and does not show yet."""

_FACTS = """
LEFT JOIN unnest(CAST(:f_ids AS text[]), CAST(:f_attempts AS uuid[]), CAST(:f_n AS int[]), CAST(:f_lowest AS int[]),
  CAST(:f_highest AS int[]), CAST(:f_versions AS bigint[]), CAST(:f_stop AS int[]), CAST(:f_bad AS int[]),
  CAST(:f_outside AS int[])) f(doc_id, attempt, n, lowest, highest, version, stop, bad, outside) ON f.doc_id = p.doc_id
CROSS JOIN LATERAL (SELECT f.attempt, coalesce(f.n, 0) AS n, coalesce(f.n, 0) AS kinds, f.lowest, f.highest,
  f.version AS oldest, f.version AS newest, f.stop, 0 AS unlike, f.bad, f.outside) c"""


class AttemptsLane:
    """The index of a generation as points that intents name."""

    def __init__(self, generation: Generation) -> None:
        self._generation, self._cid, self._gen = generation, generation.cid, generation.gen

    @cached_property
    def index(self) -> Index:
        """The index in its store. Raises ``StoreRefused`` for a store that this process does not know."""
        generation, index = self._generation, self._generation.spec.index
        return generation.stores.open_index(index.store, generation.physical_name, generation.spec.model.dim, index)

    @property
    def traits(self) -> StoreTraits:
        """What its store can do."""
        return self.index.traits

    def register(self, connection: sa.Connection, encoder_fp: str) -> None:
        """Make the table of intents; the index itself waits for ``ensure``, as the gate waits for no store."""
        del encoder_fp
        intents.create(connection, self._gen)

    def ensure(self, engine: sa.Engine) -> None:
        """Create the index in its store, and put a new canary there: a point of no document that shows a loss.

        A canary of before that arrives late says nothing of what is there now, so each has an attempt of its own.
        """
        self.index.create(self._generation.encoder_fp)
        if not self._put_canary(engine, None):
            raise StoreUnavailable(
                f"the store {self._generation.spec.index.store!r} took so long to make {self.index.name} that it was "
                "given up. Nothing was published; it is tried again."
            )

    def renew(self, engine: sa.Engine) -> None:
        """Put a newer canary beside an old one, which publishers that are under way may carry for an hour more."""
        with engine.connect() as connection:
            aged = intents.aged_canary(connection, self._gen)
        if aged is not None:
            self._put_canary(engine, aged)

    def _put_canary(self, engine: sa.Engine, beside: UUID | None) -> bool:
        canary = intents.open_canary(engine, self._gen)
        vector = np.eye(1, self._generation.spec.model.dim, dtype=np.float32)
        none, ids = np.zeros(1, np.int32), intents.point_ids([(canary, 1)])
        self.index.put(Points(ids, [canary], none, none, none + 1, vector))
        if not self.traits.searchable_at_once:
            self._await(ids)
        return intents.publish_canary(engine, self._gen, canary, beside=beside)

    def build(self, engine: sa.Engine, progress: Progress, given: Build) -> bool:
        """Have the store index what was put."""
        del engine, given
        return self.index.finish(progress)

    def analyze(self, engine: sa.Engine) -> None:
        """Analyze documents, ledger and intents."""
        analyze(engine, ("document", ledgers.table(self._gen), intents.table(self._gen)))

    def faults(self, connection: sa.Connection, *, built: bool) -> list[str]:
        """Look for the tables of ledger and intents."""
        del built
        return ledgers.absent(connection, (ledgers.table(self._gen), intents.table(self._gen)))

    def demand(self, engine: sa.Engine) -> None:
        """Look at the index in its store, and for the canary."""
        there, name, store = self.index.describe(), self.index.name, self._generation.spec.index.store
        if there is None:
            raise IndexGone(
                f"the index {name} is not in the store {store!r}. Nothing was changed; a worker that reaches the store "
                "makes it again and re-embeds its documents."
            )
        if there.encoder_fp != self._generation.encoder_fp:
            raise IndexGone(
                f"the index {name} in the store {store!r} says that it is of encoder {there.encoder_fp}; generation "
                f"{self._gen} is of {self._generation.encoder_fp}. Nothing was changed; someone changed it by hand."
            )
        with engine.connect() as connection:
            whole = self.is_whole(connection)
        if not whole:
            raise IndexGone(
                f"the store {store!r} has lost points of the index {name}. Nothing was changed; a worker embeds its "
                "documents again, then run this again."
            )

    def is_whole(self, connection: sa.Connection) -> bool:
        """Look for every canary that counts: a put repeated after a loss may bring the newest back, and not all."""
        counting = intents.canaries(connection, self._gen)
        if not counting or self.index.describe() is None:
            return False
        missing = counting - set(self.index.read(intents.point_ids([(one, 1) for one in counting])).attempts)
        # Asked once more: an old one may have been given up, and removed, since.
        return not missing or missing.isdisjoint(intents.canaries(connection, self._gen))

    def drop(self, connection: sa.Connection) -> None:
        """Drop the index in its store; the intents go with the ledger."""
        del connection
        self.index.drop()

    # Writing ----------------------------------------------------------------------------------------------------------

    def stage(self, engine: sa.Engine, part: Part) -> Staged:
        """Commit intents, then put the points: SQL knows every point that can exist.

        Raises ``StoreUnavailable`` after half of the time for which it is sure to know them.
        """
        if not part.doc_ids:
            return Staged()
        with engine.connect() as connection:
            canary = intents.canary(connection, self._gen)
        attempts, began_s = intents.new_attempts(part), running_s()
        intents.open_all(engine, self._gen, part, attempts)
        crash_at("stage.after_intent")
        points = points_of(part, attempts)
        for first in range(0, len(points.ids), PUT_POINTS):
            intents.refuse_old(running_s() - began_s, self.index.name)
            self.index.put(points.rows(slice(first, first + PUT_POINTS)))
            crash_at("stage.after_put")
        if not self.traits.searchable_at_once:
            self._await(points.ids)
        return Staged(attempts, canary)

    def _await(self, ids: Sequence[UUID]) -> None:
        """Wait until the store shows what it has acknowledged. Raises ``StoreUnavailable`` where it does not."""
        left = set(ids)
        for _ in range(READ_BACK_TRIES):
            left -= set(self.index.read(sorted(left)).ids)
            if not left:
                return
            time.sleep(READ_BACK_S)
        raise StoreUnavailable(
            f"the store {self._generation.spec.index.store!r} acknowledged {len(ids):,} points of {self.index.name}, "
            f"and {len(left):,} of them cannot be read. Nothing was published, all work stays due; it is tried again."
        )

    def reveal(self, connection: sa.Connection, part: Part, staged: Staged, held: set[str]) -> set[str]:
        """Publish the attempts that are still open, and note what they supersede.

        Not where the store has lost points since they were put: theirs may be among them, and all are due again.
        """
        embedded = [doc_id for doc_id in part.doc_ids if doc_id in held]
        whole = not embedded or intents.is_canary(connection, self._gen, staged.canary)
        attempts = [staged.attempts[doc_id] for doc_id in embedded] if whole else []
        shown = intents.publish(connection, self._gen, attempts)
        shown |= held - set(embedded)
        crash_at("reveal.after_cas")
        intents.supersede(connection, self._gen, sorted(shown))
        return shown

    def remove(self, attempts: Sequence[tuple[UUID, int]]) -> None:
        """Remove points by the ids that attempts give them."""
        self.index.remove(intents.point_ids(attempts))

    # Reading ----------------------------------------------------------------------------------------------------------

    def search(self, connection: sa.Connection, query: npt.NDArray[np.float32], wanted: SearchRequest) -> VisibleHits:
        """Ask the store what is near, then SQL in one statement what of it is shown.

        An attempt that was superseded while the store searched still counts: its points were what the alias showed when
        the search began. What was superseded before had its successor in the store by then, which was found instead. Of
        two attempts of one document the newer one counts.
        """
        began = intents.newest_shown(connection, also=plans(connection, kept=True))
        try:
            near = self._near(connection, query, wanted)
        except (IndexGone, StoreRefused, StoreUnavailable):
            connection.execute(sa.text(f"SELECT {plans(connection, kept=False)}"))
            raise
        shown = guard("search.attempt", "(l.attempt = i.attempt OR i.superseded_seq > :began)")
        also = f" AND {wanted.filter_sql}" if wanted.filter_sql else ""
        documents = "SELECT DISTINCT ON (doc_id) * FROM shown ORDER BY doc_id, distance, chunk"
        best = documents if wanted.by_document else "SELECT * FROM shown"
        # To plan it takes longer than to run it, so its plan is kept: what is looked up is few rows by their keys.
        sql = f"""
            WITH hits AS MATERIALIZED (
              SELECT n.*, i.doc_id, i.content_hash AS shown_hash, first_value(i.attempt) OVER (
                PARTITION BY i.doc_id ORDER BY i.version DESC, i.created_at DESC) AS newest,
                d.version, d.meta, d.content, d.content_hash
              FROM unnest(CAST(:attempts AS uuid[]), CAST(:chunks AS int[]), CAST(:starts AS int[]),
                CAST(:stops AS int[]), CAST(:distances AS float8[])) n(attempt, chunk, start, stop, distance)
              JOIN {intents.table(self._gen)} i ON i.gen = :gen AND i.attempt = n.attempt
              JOIN document d ON d.cid = :cid AND d.doc_id = i.doc_id
              JOIN {ledgers.table(self._gen)} l ON l.gen = :gen AND l.doc_id = i.doc_id
              WHERE i.state = 'published' AND {shown} AND {visible()}{also}),
            shown AS (SELECT * FROM hits WHERE attempt = newest),
            top AS (SELECT * FROM ({best}) best ORDER BY distance, doc_id, chunk LIMIT {int(wanted.k)})
            SELECT c.active_gen, t.doc_id, t.chunk, t.start, t.stop, t.distance, t.version, t.meta,
                   {hit_columns("t.shown_hash", document="t")}, (SELECT {plans(connection, kept=False)})
            FROM collection c LEFT JOIN top t ON true
            WHERE c.cid = :cid ORDER BY t.distance, t.doc_id, t.chunk"""
        columns = columns_of(near, self._generation.spec.index.metric)
        values = {"cid": self._cid, "gen": self._gen, "began": began, **columns, **wanted.filter_params}
        found = connection.execute(sa.text(sql), values).mappings().all()
        rows = [dict(row) for row in found if row["doc_id"] is not None]
        needed = sum(one <= found[-1]["distance"] for one in columns["distances"]) if rows else 0
        return VisibleHits(found[0]["active_gen"], len(near), [*rows], needed)

    def _near(
        self, connection: sa.Connection, query: npt.NDArray[np.float32], wanted: SearchRequest
    ) -> list[NearPoint]:
        """Return what is near, or, compared here or there, the nearest of all that match."""
        most, kind = self.traits.most_near, self._generation.spec.index.kind
        too_many = most is not None and wanted.candidates > most
        if wanted.exact and (wanted.few or too_many or kind not in self.traits.exact_with):
            return compare(connection, self._generation, self.index, query, wanted)
        n, effort = (min(one, most or one) for one in (wanted.candidates, wanted.effort))
        return self.index.near(query, n, exact=wanted.exact, effort=effort)

    def direction(self, connection: sa.Connection, doc_id: str) -> npt.NDArray[np.float32] | None:
        """Read the attempt that is shown, and average it here."""
        found = connection.execute(
            sa.text(
                "SELECT i.attempt, i.n_chunks FROM ledger l JOIN intent i ON i.gen = l.gen AND i.attempt = l.attempt "
                "JOIN document d ON d.cid = :cid AND d.doc_id = l.doc_id WHERE l.gen = :gen AND l.doc_id = :doc_id "
                f"AND {visible()}"
            ),
            {"cid": self._cid, "gen": self._gen, "doc_id": doc_id},
        ).one_or_none()
        if found is None:
            return None
        vectors = self.index.read(intents.point_ids([(found.attempt, found.n_chunks)])).vectors
        if not len(vectors):
            return None
        mean: npt.NDArray[np.float32] = comparable(vectors, self._generation.spec.index.metric).mean(axis=0)
        return mean

    def read(self, connection: sa.Connection, doc_ids: Sequence[str]) -> Iterator[IndexedDocument]:
        """Read the points of the attempts that the ledger names. They are written once, so no snapshot is needed."""
        rows = connection.execute(
            sa.text(
                "SELECT doc_id, attempt, n_chunks FROM ledger WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[])) "
                "AND attempt IS NOT NULL ORDER BY doc_id"
            ),
            {"gen": self._gen, "ids": list(doc_ids)},
        ).all()
        found = self._by_attempt([(row.attempt, row.n_chunks) for row in rows])
        for row in rows:
            if (points := found.get(row.attempt)) is not None:
                locators = np.column_stack((points.starts, points.stops)).astype(np.int32)
                yield IndexedDocument(row.doc_id, locators, points.vectors)

    def _by_attempt(self, attempts: Sequence[tuple[UUID, int]]) -> dict[UUID, Points]:
        """Return the points of attempts that are there, each in the order of its chunks."""
        points = self.index.read(intents.point_ids(attempts))
        at: dict[UUID, list[int]] = defaultdict(list)
        for n in np.argsort(points.chunks, kind="stable").tolist():
            at[points.attempts[n]].append(n)
        return {
            attempt: Points(
                [points.ids[n] for n in places],
                [attempt] * len(places),
                points.chunks[places],
                points.starts[places],
                points.stops[places],
                points.vectors[places],
            )
            for attempt, places in at.items()
        }

    def sample(self, connection: sa.Connection, rows: int) -> Iterator[Vectors]:
        """Read the points of random documents."""
        there = connection.execute(
            sa.text(
                f"SELECT attempt, n_chunks FROM {ledgers.table(self._gen)} WHERE attempt IS NOT NULL "
                "ORDER BY hashtextextended(doc_id, 0) LIMIT :rows"
            ),
            {"rows": rows},
        ).all()
        taken, wanted = 0, list[tuple[UUID, int]]()
        for attempt, n_chunks in there:
            if taken >= rows:
                break
            wanted.append((attempt, n_chunks))
            taken += n_chunks
        for first in range(0, len(wanted), PUT_POINTS):
            yield self.index.read(intents.point_ids(wanted[first : first + PUT_POINTS])).vectors

    def facts(self, connection: sa.Connection, page: SqlRelation) -> SqlRelation:
        """Read the points that the ledger names by now and count them here.

        Where the statement then finds another attempt in the ledger, they say nothing of it.
        """
        rows = connection.execute(
            sa.text(
                f"WITH {page.sql} SELECT p.doc_id, l.attempt, l.n_chunks, i.version FROM page p JOIN ledger l ON "
                "l.gen = :gen AND l.doc_id = p.doc_id JOIN intent i ON i.gen = :gen AND i.attempt = l.attempt"
            ),
            {"cid": self._cid, "gen": self._gen, **page.values},
        ).all()
        found, attempts = self._by_attempt([(row.attempt, row.n_chunks) for row in rows]), [row.attempt for row in rows]
        return SqlRelation(
            _FACTS,
            {
                "f_ids": [row.doc_id for row in rows],
                "f_attempts": attempts,
                "f_versions": [row.version for row in rows],
                **counts_of(map(found.get, attempts), normalize=self._generation.spec.model.normalize),
            },
        )

    def strays(self) -> str:
        """Return nothing: what no attempt names is never shown, and the collector removes it."""
        return ""

    def signs(self, connection: sa.Connection, dims: int) -> SqlRelation:
        """Read all vectors and return those chunks whose signs another one has."""
        rows = connection.execute(
            sa.text(
                f"SELECT doc_id, attempt, n_chunks FROM {ledgers.table(self._gen)} WHERE attempt IS NOT NULL "
                "ORDER BY doc_id"
            )
        ).all()
        seen: dict[bytes, list[tuple[str, int, int, int]]] = defaultdict(list)
        for first in range(0, len(rows), PUT_POINTS):
            some = rows[first : first + PUT_POINTS]
            found = self._by_attempt([(row.attempt, row.n_chunks) for row in some])
            for row in some:
                if (points := found.get(row.attempt)) is None:
                    continue
                keys = np.packbits(points.vectors[:, :dims] > 0, axis=1)
                for n, key in enumerate(keys):
                    place = (row.doc_id, int(points.chunks[n]), int(points.starts[n]), int(points.stops[n]))
                    seen[key.tobytes()].append(place)
        twins = [(*place, key) for key, places in seen.items() if len(places) > 1 for place in places]
        columns = [list(column) for column in zip(*twins, strict=True)] or [[]] * 5
        names = ("s_ids", "s_chunks", "s_starts", "s_stops", "s_keys")
        return SqlRelation(
            "SELECT * FROM unnest(CAST(:s_ids AS text[]), CAST(:s_chunks AS int[]), CAST(:s_starts AS int[]), "
            "CAST(:s_stops AS int[]), CAST(:s_keys AS bytea[])) s(doc_id, chunk, start, stop, key)",
            dict(zip(names, columns, strict=True)),
        )

    def size_bytes(self, connection: sa.Connection) -> int:
        """Return what the store says; 0 where it does not answer, as a status must not fail for that."""
        del connection
        with suppress(StoreUnavailable):
            there = self.index.describe()
            return 0 if there is None else there.bytes
        return 0

    def rows(self, connection: sa.Connection) -> int:
        """Return the planner's estimate of its attempts, which costs the store nothing."""
        rows = connection.scalar(
            sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": intents.table(self._gen)}
        )
        return max(0, int(rows or 0))
