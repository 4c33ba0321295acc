"""A physical index in PostgreSQL: one table per generation, HNSW built after the load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pgvector import HalfVector, Vector
from pydantic import BaseModel, ConfigDict, Field

from revector.crash import crash_at
from revector.database.driver import BinaryArray, bind_vectors, run_script
from revector.database.sessions import holder, is_pooled, try_hold
from revector.errors import DatabaseUnavailable, IndexGone
from revector.interfaces import NoProgress, Progress, Vectors
from revector.spec import MAX_DIM, IndexSpec
from revector.stores.metrics import CLASSES, OPERATORS
from revector.stores.seam import ALL_METRICS, StoreTraits

INSERT_ROWS = 1_000
MAX_HALF = float(np.finfo(np.float16).max)
"""Largest number that ``halfvec`` stores."""

TRAITS = StoreTraits(
    in_sql=True,
    kinds=frozenset({"hnsw", "exact"}),
    storages=frozenset({"vector", "halfvec"}),
    quantizes=frozenset({"none", "bit"}),
    metrics=ALL_METRICS,
    max_dim=MAX_DIM,
)

MAX_EF_SEARCH = 1_000
"""Largest ``hnsw.ef_search`` (pgvector README)."""

BUILD_LOCK = 1919252071
BUILD_POLL_S = 0.2
_SCHEMAS = """
SELECT CAST(CAST(relnamespace AS regnamespace) AS text), CAST(CAST(extnamespace AS regnamespace) AS text)
FROM pg_class, pg_extension WHERE pg_class.oid = to_regclass(:name) AND extname = 'vector'"""

MAX_SCAN_TUPLES = 40_000
"""Where an iterative scan gives up; the caller then searches exactly, so that a filter never starves the result."""


class Build(BaseModel):
    """What the build of an HNSW graph may take of the database server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_mib: int = Field(default=1_024, ge=1, le=2**21)
    """``maintenance_work_mem``: a graph that does not fit is built in twice the time; `revector plan` says so."""
    workers: int = Field(default=7, ge=0, le=1_024)
    """Processes beside the first, within PostgreSQL's ``max_worker_processes`` and ``max_parallel_workers``."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Chunks to store, column by column: ``n`` ids and integers, ``embeddings`` ``(n, dim)``."""

    doc_ids: Sequence[str]
    chunks: npt.NDArray[np.integer]
    versions: npt.NDArray[np.integer]
    starts: npt.NDArray[np.integer]
    stops: npt.NDArray[np.integer]
    embeddings: npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class PgVectorIndex:
    """The physical index ``name``; the name is made by the registry and never reused."""

    name: str
    dim: int
    spec: IndexSpec

    @property
    def _type(self) -> str:
        return f"{self.spec.storage}({self.dim})"

    @property
    def _ann(self) -> str:
        return f"{self.name}_hnsw"

    def _bits(self, vector: str) -> str:
        return f"CAST(binary_quantize({vector}) AS bit({self.dim}))"

    def create(self, connection: sa.Connection, encoder_fp: str) -> None:
        """Create the empty table; the encoder's fingerprint is kept inside it, as its comment."""
        run = connection.exec_driver_sql
        run(
            f'CREATE TABLE {self.name} (doc_id text COLLATE "C" NOT NULL, chunk int NOT NULL, version bigint NOT NULL, '
            f"start int NOT NULL, stop int NOT NULL, embedding {self._type} NOT NULL, PRIMARY KEY (doc_id, chunk)) "
            "WITH (fillfactor = 90)"
        )
        # In the row rather than in TOAST: an exact search reads every vector.
        run(
            f"ALTER TABLE {self.name} ALTER COLUMN embedding SET STORAGE "
            f"{'PLAIN' if self._fits_in_page else 'EXTERNAL'}"
        )
        run(f"COMMENT ON TABLE {self.name} IS 'revector encoder {encoder_fp}'")
        run(
            f"CREATE TRIGGER not_by_hand BEFORE DELETE OR TRUNCATE ON {self.name} FOR EACH STATEMENT EXECUTE FUNCTION "
            "not_by_hand()"
        )
        # The functions for SQL read it as the owner of the documents, who may be another.
        owner = connection.scalar(
            sa.text(
                "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass('document') AND "
                "pg_get_userbyid(relowner) <> current_user"
            )
        )
        if owner is not None:
            run(f"GRANT SELECT ON {self.name} TO {owner}")

    @property
    def _fits_in_page(self) -> bool:
        return self.dim * (2 if self.spec.storage == "halfvec" else 4) < 7_000

    def encoder_fp(self, connection: sa.Connection) -> str | None:
        """Return the fingerprint kept inside the index, or None if the table does not exist."""
        comment = connection.scalar(
            sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')"), {"name": self.name}
        )
        return None if comment is None else str(comment).removeprefix("revector encoder ")

    def drop(self, connection: sa.Connection) -> None:
        """Drop the index; one that is gone already counts as dropped."""
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self.name}")

    def replace(self, connection: sa.Connection, doc_ids: Sequence[str], rows: Rows) -> None:
        """Make the chunks of ``doc_ids`` exactly those in ``rows``; documents without rows end up with none."""
        connection.execute(
            sa.text(f"DELETE FROM {self.name} WHERE doc_id = ANY(CAST(:ids AS text[]))"), {"ids": list(doc_ids)}
        )
        if not len(rows.doc_ids):
            return
        # Not by COPY: a client that stalls in one holds its locks for ever, no time-out of the server applies to it.
        insert = sa.text(
            f"INSERT INTO {self.name} (doc_id, chunk, version, start, stop, embedding) SELECT * FROM unnest(CAST(:ids "
            "AS text[]), CAST(:chunks AS int[]), CAST(:versions AS bigint[]), CAST(:starts AS int[]), "
            f"CAST(:stops AS int[]), CAST(:embeddings AS {self.spec.storage}[]))"
        )
        wrap = HalfVector if self.spec.storage == "halfvec" else Vector
        bind_vectors(connection)
        for first in range(0, len(rows.doc_ids), INSERT_ROWS):
            some = slice(first, first + INSERT_ROWS)
            connection.execute(
                insert,
                {
                    "ids": list(rows.doc_ids[some]),
                    "chunks": rows.chunks[some].tolist(),
                    "versions": rows.versions[some].tolist(),
                    "starts": rows.starts[some].tolist(),
                    "stops": rows.stops[some].tolist(),
                    "embeddings": BinaryArray(wrap(row) for row in rows.embeddings[some]),
                },
            )

    def read(
        self, connection: sa.Connection, doc_ids: Sequence[str]
    ) -> Iterator[tuple[str, npt.NDArray[np.int32], Vectors]]:
        """Yield id, locators int32 ``(c, 2)`` and vectors float32 ``(c, dim)`` of each document that is there."""
        found = connection.execute(
            sa.text(
                f"SELECT doc_id, array_agg(start ORDER BY chunk), array_agg(stop ORDER BY chunk), "
                f"string_agg(substr({self.spec.storage}_send(embedding), 5), ''::bytea ORDER BY chunk) "
                f"FROM {self.name} WHERE doc_id = ANY(CAST(:ids AS text[])) GROUP BY doc_id"
            ),
            {"ids": list(doc_ids)},
        )
        for doc_id, starts, stops, sent in found:
            yield doc_id, np.array((starts, stops), dtype=np.int32).T, self._numbers(sent)

    def sample(self, connection: sa.Connection, rows: int) -> Iterator[Vectors]:
        """Yield the vectors of random pages of the table, about ``rows`` in all, in blocks ``(n, dim)`` float32."""
        there = connection.scalar(
            sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": self.name}
        )
        found = connection.execution_options(stream_results=True).execute(
            sa.text(
                f"SELECT substr({self.spec.storage}_send(embedding), 5) FROM {self.name} TABLESAMPLE SYSTEM "
                "(CAST(:percent AS real)) REPEATABLE (0)"
            ),
            {"percent": min(100.0, 100 * rows / max(1.0, there or 0.0))},
        )
        for block in found.scalars().partitions(INSERT_ROWS):
            yield self._numbers(b"".join(block))

    def _numbers(self, sent: bytes) -> Vectors:
        number = ">f2" if self.spec.storage == "halfvec" else ">f4"
        return np.frombuffer(sent, dtype=number).reshape(-1, self.dim).astype(np.float32)

    def is_built(self, connection: sa.Connection) -> bool:
        """Whether the index is ready for production searches: a valid HNSW index, or none wanted."""
        if self.spec.kind == "exact":
            return True
        return bool(
            connection.scalar(
                sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": self._ann}
            )
        )

    def build(self, engine: sa.Engine, progress: Progress | None = None, given: Build | None = None) -> bool:
        """Build the HNSW index over the loaded rows without blocking writes; return whether there was anything to do.

        A build that was killed leaves an invalid index: it is dropped and built again. Two builders meet on a lock.
        Behind a pooler, which keeps no setting for a statement outside a transaction, it takes the memory, processes
        and time-out that the role has, not those of ``given``.
        """
        progress, given = progress or NoProgress(), given or Build()
        with holder(engine) as held:
            # Asked for again and again rather than waited for: a waiting statement holds a snapshot, for which a
            # concurrent build waits in turn.
            while not try_hold(held, BUILD_LOCK, self.name) or self._is_being_built(engine):
                time.sleep(BUILD_POLL_S)
            with engine.connect() as connection:
                if self.is_built(connection):
                    return False
                schemas = connection.execute(sa.text(_SCHEMAS), {"name": self.name}).one_or_none()
            if schemas is None:
                raise IndexGone(f"the table {self.name} is not there. Nothing was built; see `revector doctor`.")
            here, there = schemas
            nodes = f"embedding {there}.{self.spec.storage}_{CLASSES[self.spec.metric]}"
            if self.spec.graph == "bit":
                nodes = f"(CAST({there}.binary_quantize(embedding) AS bit({self.dim}))) {there}.bit_hamming_ops"
            with _session(engine, held) as run, _WatchBuild(engine, self.name, progress):
                run(f"DROP INDEX IF EXISTS {here}.{self._ann}")
                crash_at("index.after_drop")
                if not is_pooled(held):
                    run("SET statement_timeout = 0")
                    run(f"SET maintenance_work_mem = '{given.memory_mib}MB'")
                    run(f"SET max_parallel_maintenance_workers = {given.workers}")
                run(
                    f"CREATE INDEX CONCURRENTLY {self._ann} ON {here}.{self.name} USING hnsw ({nodes}) WITH (m = "
                    f"{self.spec.m}, ef_construction = {self.spec.ef_construction})"
                )
            return True

    def build_key(self, connection: sa.Connection, key: str) -> None:
        """Index ids as expressions of SQL, so that rows of another table find their vectors; done already counts."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        run_script(connection, f"CREATE INDEX IF NOT EXISTS {self.name}_key ON {self.name} ({key})")

    def _is_being_built(self, engine: sa.Engine) -> bool:
        """Whether a builder that died behind a pooler, which holds its lock no longer, has left a build running."""
        running = "SELECT 1 FROM pg_stat_progress_create_index WHERE relid = to_regclass(:name)"
        with engine.connect() as connection:
            return is_pooled(connection) and connection.scalar(sa.text(running), {"name": self.name}) is not None

    def nearest(self, shown: str, candidates: int, *, exact: bool) -> tuple[str, str]:
        """Return as SQL the distance to the vector ``:query``, and the rows ``i`` to be ordered by it.

        ``shown``: joins and conditions that follow the table, called ``i``, and say which rows a reader may see.
        ``exact`` reads them all. Sizes are literals, so that the planner sees them.
        """
        query = f"CAST(:query AS {self._type})"
        # "+ 0" cannot use the ANN index; planner switches would leak into cached plans.
        distance = f"(i.embedding {OPERATORS[self.spec.metric]} {query})" + (" + 0" if exact else "")
        rows = f"{self.name} i {shown}"
        if self.spec.graph == "bit" and not exact:
            rows = f"""(SELECT i.doc_id, i.chunk, i.start, i.stop, i.embedding FROM {rows}
              ORDER BY {self._bits("i.embedding")} <~> {self._bits(query)} LIMIT {self._near(candidates)}) i"""
        return distance, rows

    def _near(self, candidates: int) -> int:
        """Return how many rows the graph must find: bits find more than are wanted, to be ranked again by vectors."""
        return int(candidates) * (self.spec.rerank if self.spec.graph == "bit" else 1)

    def prepare(self, connection: sa.Connection, candidates: int) -> None:
        """Have the transaction's HNSW scans go on until they have found enough rows that a search may see."""
        near = self._near(candidates)
        connection.execute(
            sa.text(
                "SELECT set_config('hnsw.ef_search', :ef, true), set_config('hnsw.iterative_scan', :order, true), "
                "set_config('hnsw.max_scan_tuples', :scan, true)"
            ),
            {
                "ef": str(min(MAX_EF_SEARCH, max(self.spec.ef_search, near))),
                # In strict order the scan drops what it finds late; what is ranked again may come in any order.
                "order": "relaxed_order" if self.spec.graph == "bit" else "strict_order",
                "scan": str(MAX_SCAN_TUPLES),
            },
        )


@contextmanager
def _session(engine: sa.Engine, held: sa.Connection) -> Iterator[Callable[[str], object]]:
    """Give what runs a statement outside any transaction: ``held`` itself, or another where that is a transaction."""
    if not is_pooled(held):
        yield held.exec_driver_sql
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        yield other.exec_driver_sql


class _WatchBuild:
    """Reports a running index build from a second connection, as PostgreSQL's progress view tells it."""

    def __init__(self, engine: sa.Engine, name: str, progress: Progress) -> None:
        self._engine, self._name, self._progress = engine, name, progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        with self._engine.connect() as connection:
            rows = connection.scalar(sa.text(f"SELECT count(*) FROM {self._name}"))
        self._progress.start("build HNSW", int(rows or 0), unit="vectors")
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.done()

    def _watch(self) -> None:
        with suppress(DatabaseUnavailable):  # the builder says it
            self._follow()

    def _follow(self) -> None:
        seen = 0
        while not self._stop.wait(0.5):
            with self._engine.connect() as connection:
                done = connection.scalar(
                    sa.text(
                        "SELECT max(tuples_done) FROM pg_stat_progress_create_index WHERE relid = to_regclass(:name)"
                    ),
                    {"name": self._name},
                )
            if done and done > seen:
                self._progress.advance(int(done) - seen)
                seen = int(done)
