"""What publishing costs beside a bare COPY of the same rows, and a whole migration beside COPY and an HNSW build.

The documents are generated and embedded once by the hashing encoder (384 dimensions); the migration is then aborted, so
that its vectors lie in the archive and no embedding is part of what is measured. Both sides write the same rows, in the
same batches, into tables of the same shape, on the same embedded PostgreSQL.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy as sa
from pgvector.psycopg import register_vector

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from evaluation.bench.memory import generate
from revector.archive import Part, read_part
from revector.config import Project, load_project
from revector.indexing.publish import PreparedBatch
from revector.registry import sharding
from revector.registry.collections import read_generation
from revector.sources import open_source
from revector.stores.pgvector import Build

COLLECTION, REVISION, DIM = "docs", "first", 384
LEAST_SHARE, MOST_RATIO = 0.6, 1.25
SHAPES = {"one chunk a document": (256, 1), "about four": (20, 4)}
"""Most tokens of a chunk, and how many of them a document of about 80 words has."""

MODEL = f'model = ModelSpec(name="hashing", dim={DIM})\nindex = IndexSpec(kind="hnsw")'


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both; return 1 if a goal is missed."""
    options = parser("evaluation.bench.publish", __doc__)
    options.add_argument("--documents", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3, help="of publishing and of COPY, one after the other")
    chosen = options.parse_args(argv)
    before = machine()
    figures: list[Figure] = []
    for shape, (max_tokens, chunks) in SHAPES.items():
        with temporary_project(f"drain_s = 0\n[collections.{COLLECTION}]\n") as root:
            project = _precomputed(root, chosen.documents // chunks, max_tokens)
            figures += _publishing(project, chosen.rounds, shape)
            figures += _migration(project) if chunks == 1 else []
            project.raw_engine.dispose()
    command = f"python -m evaluation.bench.publish --documents {chosen.documents} --rounds {chosen.rounds}"
    return write(chosen.output, command, before, figures)


def _precomputed(root: Path, documents: int, max_tokens: int) -> Project:
    """Return a project whose documents are embedded in the archive and in no index."""
    chunking = f"chunking = Chunking(max_tokens={max_tokens}, overlap_tokens=0)"
    revision(root, COLLECTION, REVISION, None, f"{MODEL}\n{chunking}")
    project = load_project(root)
    project.init()
    generate(root / "docs.jsonl", documents)
    source = open_source(str(root / "docs.jsonl"))
    project.documents(COLLECTION).ingest(source, actor="bench")
    project.migrator(COLLECTION).upgrade(REVISION, to="backfill")
    project.migrator(COLLECTION).abort("precomputed")
    return project


@dataclass(frozen=True, slots=True, eq=False)
class _Bare:
    """A table like an index's, filled by COPY alone."""

    connection: psycopg.Connection[tuple[object, ...]]

    def make(self) -> None:
        """Begin empty."""
        self.connection.execute("DROP TABLE IF EXISTS bare")
        self.connection.execute(
            'CREATE TABLE bare (doc_id text COLLATE "C" NOT NULL, chunk int NOT NULL, version bigint NOT NULL, '
            f"start int NOT NULL, stop int NOT NULL, embedding vector({DIM}) NOT NULL, PRIMARY KEY (doc_id, chunk)) "
            "WITH (fillfactor = 90)"
        )
        self.connection.execute("ALTER TABLE bare ALTER COLUMN embedding SET STORAGE PLAIN")

    def copy(self, part: Part) -> None:
        """Add the rows of a part in a transaction of their own."""
        with (
            self.connection.transaction(),
            self.connection.cursor().copy("COPY bare FROM STDIN WITH (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["text", "int4", "int8", "int4", "int4", "vector"])
            for n, doc_id in enumerate(part.doc_ids):
                for at in range(part.starts[n], part.starts[n] + part.counts[n]):
                    start, end = int(part.chunk_starts[at]), int(part.chunk_ends[at])
                    version, chunk = int(part.versions[n]), int(at - part.starts[n])
                    copy.write_row((doc_id, chunk, version, start, end, part.embeddings[at]))

    def build(self) -> None:
        """Build the index with the settings that revector uses."""
        self.connection.execute(f"SET maintenance_work_mem = '{Build().memory_mib}MB'")
        self.connection.execute("SET max_parallel_maintenance_workers = 7")
        self.connection.execute(
            "CREATE INDEX ON bare USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 100)"
        )


def _bare(project: Project) -> _Bare:
    url = sa.make_url(project.database_url).set(drivername="postgresql")
    connection = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
    register_vector(connection)
    return _Bare(connection)


def _parts(project: Project) -> Iterator[Part]:
    with project.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT path, sha256 FROM archived ORDER BY first_id")).all()
    for path, sha256 in rows:
        yield read_part(Path(path), sha256)


def _publishing(project: Project, rounds: int, shape: str) -> Iterator[Figure]:
    ours, copied, rows = [], [], 0
    bare = _bare(project)
    for _ in range(rounds):
        migrator = project.migrator(COLLECTION)
        migrator.upgrade(REVISION, to="provision", shards=1)
        with project.engine.connect() as connection:
            gen = int(connection.scalar(sa.text("SELECT building_gen FROM collection")) or 0)
            generation = read_generation(connection, gen)
            (shard,) = sharding.read_shards(connection, gen)
        while not sharding.seed_page(project.engine, generation.cid, shard):
            pass
        applier = project.worker().applier(generation)
        bare.make()
        rows, ours_s, copied_s = 0, 0.0, 0.0
        for part in _parts(project):
            rows += len(part.embeddings)
            started = time.perf_counter()
            bare.copy(part)
            copied_s += time.perf_counter() - started
            started = time.perf_counter()
            if applier.publish(PreparedBatch(part, (), (), ())) != len(part.doc_ids):
                raise RuntimeError("not every document was published")
            ours_s += time.perf_counter() - started
        ours.append(rows / ours_s)
        copied.append(rows / copied_s)
        migrator.abort("measured")
    share = statistics.median(mine / theirs for mine, theirs in zip(ours, copied, strict=True))
    yield Figure(f"{shape}: rows of each round", rows, "rows")
    yield Figure(
        f"{shape}: bare COPY, binary, a transaction a part, median", round(statistics.median(copied)), "rows/s"
    )
    yield Figure(f"{shape}: publish with work set, ledger and checks", round(statistics.median(ours)), "rows/s")
    yield Figure(
        f"{shape}: publish against COPY, median of the rounds",
        round(share, 3),
        "ratio",
        f"at least {LEAST_SHARE}",
        share >= LEAST_SHARE,
    )


def _migration(project: Project) -> Iterator[Figure]:
    bare = _bare(project)
    bare.make()
    started = time.perf_counter()
    for part in _parts(project):
        bare.copy(part)
    copied_s = time.perf_counter() - started
    bare.build()
    bare_s = time.perf_counter() - started
    bare.make()
    took: dict[str, float] = {}
    last = started = time.perf_counter()

    def note(outcome: object) -> None:
        nonlocal last
        now = time.perf_counter()
        took[getattr(outcome, "step", "")] = now - last
        last = now

    outcomes = project.migrator(COLLECTION).upgrade(REVISION, on_step=note)
    whole_s = time.perf_counter() - started
    embedded = sum(one.facts.get("embedded", 0) for one in outcomes)
    yield Figure("COPY of all rows", round(copied_s, 1), "s")
    yield Figure("COPY and HNSW build", round(bare_s, 1), "s")
    yield Figure("the whole migration, vectors precomputed", round(whole_s, 1), "s")
    for step, seconds in took.items():
        yield Figure(f"of which {step}", round(seconds, 1), "s")
    yield Figure("documents embedded in it", embedded, "documents", "0", embedded == 0)
    ratio = whole_s / bare_s
    name = "the whole migration against COPY and HNSW build"
    yield Figure(name, round(ratio, 3), "ratio", f"at most {MOST_RATIO}", ratio <= MOST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
