"""Indexes in another PostgreSQL with pgvector: a table each, in a schema of their own (kind ``pgvector``)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pgvector import HalfVector, Vector

from revector.database.driver import BinaryArray, bind_vectors
from revector.database.engine import make_engine
from revector.errors import ConfigError, DatabaseError, IndexGone, StoreRefused, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import HNSW_MAX_DIM, MAX_DIM, IndexSpec
from revector.stores.clients import demand_made
from revector.stores.metrics import ZERO
from revector.stores.pgvector import PgVectorIndex
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

SCHEMA = "revector_store"
OURS = "revector encoder "
"""What the comment of a table of ours begins with; the encoder's fingerprint follows."""

COUNTED = 100_000
"""Points that are counted; of more, the planner's estimate is told."""

READ_ROWS = 5_000

SILENCE_S = 1.0
"""What an answer may take on its way, beyond the time-out after which the server ends a statement itself."""

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"hnsw", "exact"}),
    storages=frozenset({"vector", "halfvec"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=MAX_DIM,
    hnsw_max_dim=HNSW_MAX_DIM,
    among=10_000,
    # 10,000 × 384 of float32, M 16, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=146, graph_number_bytes=4, link_bytes=16, put_cpu_s=0.1e-3, build_cpu_s=0.6e-3),
)


class ElsewhereStore:
    """Another PostgreSQL; any number of threads may use it."""

    traits = TRAITS

    def __init__(self, name: str, settings: StoreSettings) -> None:
        self._name, self._settings = name, settings
        self._lock, self._made = threading.Lock(), dict[bool, sa.Engine]()

    def open(self, name: str, dim: int, index: IndexSpec) -> ElsewhereIndex:
        """Return the index of that name; nothing is asked of the server yet."""
        return ElsewhereIndex(self, name, dim, index)

    def ask(self) -> str:
        """Ask for the versions."""
        with self.connected() as connection:
            version, extension = connection.execute(
                sa.text(
                    "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = "
                    "'vector')"
                )
            ).one()
        if extension is None:
            raise StoreRefused(
                f"the store {self._name!r} has no extension vector. Nothing was changed; run `CREATE EXTENSION vector` "
                "there."
            )
        return f"PostgreSQL {version} with pgvector {extension}"

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for engine in self._made.values():
                engine.dispose()
            self._made.clear()

    def engine(self, *, limited: bool) -> sa.Engine:
        """Return an engine, made when it is first wanted; ``limited``: one whose server answers in time, or is lost."""
        with self._lock:
            if limited not in self._made:
                self._made[limited] = self._engine(self._settings.timeout_s + SILENCE_S if limited else None)
            return self._made[limited]

    def _engine(self, silence_s: float | None) -> sa.Engine:
        said = self._settings
        url = sa.make_url(said.address(self._name, "postgresql", "postgres", "postgresql+psycopg"))
        url = url.set(database=said.database or url.database, password=said.key(self._name))
        wait = {"connect_timeout": f"{max(2, math.ceil(said.timeout_s))}", **url.query}  # libpq knows no less than 2 s
        url = url.set(query=wait)
        path, limit = f"{SCHEMA},public,extensions", f"{said.timeout_s:g}s"
        return make_engine(
            url.render_as_string(hide_password=False),
            search_path=path,
            name="revector store",
            silence_s=silence_s,
            statement_timeout=limit,
        )

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction; what the server refuses is raised as an error of a store."""
        with self.said(), self.engine(limited=True).begin() as connection:
            yield connection

    @contextmanager
    def said(self) -> Iterator[None]:
        """Have the errors of a database be those of a store."""
        try:
            yield
        except IndexGone:
            raise
        except (DatabaseError, ConfigError) as error:
            kind = StoreUnavailable if error.retryable else StoreRefused
            said = f"the store {self._name!r} (another PostgreSQL): {error}"
            raise kind(said.replace("database_url", f"stores.{self._name}.url")) from error
        except sa.exc.DBAPIError as error:
            raise StoreUnavailable(f"the store {self._name!r} (another PostgreSQL): {error.orig}") from error


class ElsewhereIndex:
    """One table."""

    traits = TRAITS

    def __init__(self, store: ElsewhereStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.name, self._store, self._dim, self._spec = name, store, dim, spec
        self._table = PgVectorIndex(name, dim, spec)
        self._type = f"{spec.storage}({dim})"

    def create(self, encoder_fp: str) -> None:
        """Create the table. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        with self._store.connected() as connection:
            run = connection.exec_driver_sql
            run("SELECT pg_advisory_xact_lock(hashtext('revector_store'))")  # of two that create, one waits
            run(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.{self.name}"}) is None:
                run(
                    f"CREATE TABLE {SCHEMA}.{self.name} (id uuid PRIMARY KEY, attempt uuid NOT NULL, chunk int NOT "
                    f"NULL, start int NOT NULL, stop int NOT NULL, embedding {self._type} NOT NULL)"
                )
                plain = self._dim * (2 if self._spec.storage == "halfvec" else 4) < 7_000
                storage = "PLAIN" if plain else "EXTERNAL"
                run(f"ALTER TABLE {SCHEMA}.{self.name} ALTER COLUMN embedding SET STORAGE {storage}")
                run(f"COMMENT ON TABLE {SCHEMA}.{self.name} IS '{OURS}{encoder_fp}'")
        there = self.describe()
        demand_made(self.name, (encoder_fp, self._dim), None if there is None else (there.encoder_fp, there.dim))

    def describe(self) -> IndexDescription | None:
        """Return what is there, counted up to ``COUNTED`` points."""
        with self._store.connected() as connection:
            found = connection.execute(
                sa.text(
                    "SELECT obj_description(c.oid, 'pg_class') AS comment, a.atttypmod AS dim, c.reltuples AS rows, "
                    "pg_total_relation_size(c.oid) AS bytes FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
                    "AND a.attname = 'embedding' WHERE c.oid = to_regclass(:name)"
                ),
                {"name": f"{SCHEMA}.{self.name}"},
            ).one_or_none()
            if found is None:
                return None
            points = int(found.rows)
            if points < COUNTED:
                counted = f"SELECT count(*) FROM (SELECT 1 FROM {self.name} LIMIT {10 * COUNTED}) counted"
                points = int(connection.scalar(sa.text(counted)) or 0)
            fp = str(found.comment or "").removeprefix(OURS)
            return IndexDescription(fp, int(found.dim), points, int(found.bytes), self._table.is_built(connection))

    def drop(self) -> None:
        """Drop the table."""
        with self._store.connected() as connection:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SCHEMA}.{self.name}")

    def put(self, points: Points) -> None:
        """Insert points; those that are there stay as they are."""
        wrap = HalfVector if self._spec.storage == "halfvec" else Vector
        with self._store.connected() as connection:
            bind_vectors(connection)
            connection.execute(
                sa.text(
                    f"INSERT INTO {self.name} SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS uuid[]), "
                    "CAST(:chunks AS int[]), CAST(:starts AS int[]), CAST(:stops AS int[]), "
                    f"CAST(:embeddings AS {self._spec.storage}[])) ON CONFLICT DO NOTHING"
                ),
                {
                    "ids": list(points.ids),
                    "attempts": list(points.attempts),
                    "chunks": points.chunks.tolist(),
                    "starts": points.starts.tolist(),
                    "stops": points.stops.tolist(),
                    "embeddings": BinaryArray(wrap(row) for row in points.vectors),
                },
            )

    def remove(self, ids: Sequence[UUID]) -> None:
        """Delete points by id, also from a table that is not there."""
        try:
            with self._store.connected() as connection:
                connection.execute(
                    sa.text(f"DELETE FROM {self.name} WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(ids)}
                )
        except IndexGone:
            return

    def near(
        self,
        vector: npt.NDArray[np.float32],
        n: int,
        *,
        exact: bool,
        effort: int = 0,
        among: Sequence[UUID] | None = None,
    ) -> list[NearPoint]:
        """Search by the graph, or ``exact`` by comparing all."""
        shown = "" if among is None else "WHERE i.id = ANY(CAST(:among AS uuid[]))"
        distance, rows = self._table.nearest(shown, n, exact=exact or among is not None)
        with self._store.connected() as connection:
            self._table.prepare(connection, max(n, effort))
            found = connection.execute(
                sa.text(
                    f"SELECT i.attempt, i.chunk, i.start, i.stop, {ZERO[self._spec.metric]} - {distance} "
                    f"FROM {rows} ORDER BY {distance} LIMIT {int(n)}"
                ),
                {"query": str(np.asarray(vector, np.float32).tolist())} | ({"among": list(among)} if among else {}),
            )
            return [NearPoint(row[0], row[1], row[2], row[3], float(row[4])) for row in found]

    def read(self, ids: Sequence[UUID]) -> Points:
        """Read points by id."""
        number = ">f2" if self._spec.storage == "halfvec" else ">f4"
        found: list[tuple[Any, ...]] = []
        statement = sa.text(
            f"SELECT id, attempt, chunk, start, stop, substr({self._spec.storage}_send(embedding), 5) FROM {self.name} "
            "WHERE id = ANY(CAST(:ids AS uuid[]))"
        )
        with self._store.connected() as connection:
            for first in range(0, max(1, len(ids)), READ_ROWS):
                rows = connection.execute(statement, {"ids": list(ids[first : first + READ_ROWS])})
                found += [tuple(row) for row in rows]
        vectors = np.frombuffer(b"".join(row[5] for row in found), number).reshape(-1, self._dim)
        return Points.of((row[:5] for row in found), vectors.astype(np.float32))

    def finish(self, progress: Progress) -> bool:
        """Build the graph over what was loaded, without blocking writes."""
        engine = self._store.engine(limited=False)  # a graph takes the hours that it takes
        with self._store.said():
            built = self._table.build(engine, progress)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"ANALYZE {self.name}")
            return built


def open_store(name: str, settings: StoreSettings) -> ElsewhereStore:
    """Return the store that settings describe."""
    return ElsewhereStore(name, settings)
