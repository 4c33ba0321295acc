"""What each step of a migration takes at growing numbers of documents, and how it grows.

Each size is a project of its own on an embedded PostgreSQL of its own. Documents of about 20 generated words are
embedded by the hashing encoder (64 dimensions): cheap, so that what is measured is the work set, the publishing, the
index, the verification and the drop. A second revision with an exact index then copies every vector, and is aborted:
its drop is the one that ends a retirement.

On a shared machine wall time says little, so exponents are judged by CPU-seconds (this process and the server), put
right by ``pace``; all sizes go through each step one after the other, so that they meet the same load. An exponent is
the slope of log(cost) over log(documents), by least squares.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from evaluation.scale.pace import Pace, pacing
from revector.config import Project, load_project
from revector.indexing.backfill import Backfill
from revector.indexing.publish import PreparedBatch
from revector.interfaces import Document, NoProgress
from revector.registry import ledgers, sharding
from revector.registry.collections import read_collection, read_generation

COLLECTION, DIM = "docs", 64
WORDS, VOCABULARY = 20, 30_000
LOOKUPS, WARM = 300, 50
FLAT = ("search", "put", "apply")
MOST_EXPONENT = 1.05
MOST_LOOKUP = 0.25
"""Search over HNSW and put are logarithmic at best: from 100,000 to 1,000,000 documents, log n grows by a fifth."""

RESULT = Path(__file__).parent / "results" / "measure.json"


@dataclass(slots=True)
class Cost:
    """What a step took: wall seconds, CPU-seconds of this process and the server, bytes of the server's log (WAL).

    ``fair_s``: the CPU-seconds that it would have taken at the best pace of the whole run.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    pace: float = 0.0
    fair_s: float = 0.0
    wal_bytes: int = 0


@dataclass(slots=True)
class Run:
    """What one size came to: costs by step, bytes by what they hold, and medians in milliseconds."""

    documents: int
    dim: int
    index: str = "hnsw"
    steps: dict[str, Cost] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    p50_ms: dict[str, float] = field(default_factory=dict)


class Generated:
    """``count`` documents of generated words, in id order."""

    name = "generated"

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Document]:
        """Yield them, the same every time."""
        numbers = random.Random(0)
        for n in range(self._count):
            yield Document(f"d{n:09d}", text(numbers))


def text(numbers: random.Random) -> str:
    """Return ``WORDS`` words drawn from ``VOCABULARY``."""
    return " ".join(f"w{numbers.randrange(VOCABULARY):05x}" for _ in range(WORDS))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every size and fit; return 1 if a goal is missed."""
    options = parser("evaluation.scale.measure", __doc__)
    options.set_defaults(output=RESULT)
    options.add_argument("--documents", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000], metavar="N")
    options.add_argument("--index", choices=("hnsw", "exact"), default="hnsw", help="exact: neither built nor searched")
    options.add_argument("--dimensions", type=int, nargs="+", default=[DIM], metavar="N")
    chosen = options.parse_args(argv)
    before, sizes = machine(), sorted(chosen.documents)
    runs = [Run(count, dim, chosen.index) for dim in chosen.dimensions for count in sizes]
    command = (
        f"python -m evaluation.scale.measure --documents {' '.join(map(str, sizes))} --dimensions "
        f"{' '.join(map(str, chosen.dimensions))} --index {chosen.index}"
    )
    code = 0
    with pacing() as pace:
        under_way = [measure(run, pace) for run in runs]
        for step in zip(*under_way, strict=True):
            print(step[0], flush=True)
            best = min(cost.pace for run in runs for cost in run.steps.values())
            for cost in (cost for run in runs for cost in run.steps.values()):
                cost.fair_s = cost.cpu_s * best / cost.pace
            fits = _fits(runs) if len(sizes) == len(runs) > 1 else ()
            code = write(chosen.output, command, before, [*_figures(runs), *fits])  # hours of work: kept step by step
    return code


def measure(run: Run, pace: Pace) -> Iterator[str]:
    """Take one size from ingestion to the drop of a second generation; yields the name of each step that is done."""
    model = f'model = ModelSpec(name="hashing", dim={run.dim})\ngate = Gate(min_queries=1, min_overlap=None)\n'
    with temporary_project(f'drain_s = 0\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
        revision(root, COLLECTION, "first", None, model + f'index = IndexSpec(kind="{run.index}")')
        _labels(root)
        project = load_project(root)
        project.init()
        meter = Meter(project, run, pace)
        with meter.step("ingest"):
            project.documents(COLLECTION).ingest(Generated(run.documents), actor="bench")
        yield "ingest"
        yield from _forward(project, meter, "first")
        _sizes(project, run)
        _lookups(project, run, meter)
        yield "lookups"
        revision(root, COLLECTION, "second", "first", model + 'index = IndexSpec(kind="exact")')
        yield from _build(project, meter, "second", prefix="copy: ")
        with meter.step("drop"):
            project.migrator(COLLECTION, actor="bench").abort("measured")
        yield "drop"
        project.raw_engine.dispose()


class Meter:
    """Adds what happens inside ``step`` to a run."""

    def __init__(self, project: Project, run: Run, pace: Pace) -> None:
        import psutil

        self._engine, self._run, self._pace = project.engine, run, pace
        with self._engine.connect() as connection:
            folder = Path(connection.scalar(sa.text("SHOW data_directory")))
        self._server = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block; a name that was used before is added to."""
        cost = self._run.steps.setdefault(name, Cost())
        wall, cpu, wal, since = time.perf_counter(), self._cpu_s(), self._wal(), time.monotonic()
        yield
        cost.wall_s += time.perf_counter() - wall
        cost.cpu_s += self._cpu_s() - cpu
        cost.wal_bytes += self._wal() - wal
        if not name.endswith("publish"):  # many short ones; they have the pace of their backfill
            cost.pace = self._pace.mean(since)

    def same_pace(self, name: str, other: str) -> None:
        """Say that a step that is part of another had its pace."""
        self._run.steps[name].pace = self._run.steps[other].pace

    def _cpu_s(self) -> float:
        """CPU-seconds of this process, of the server, and of backends that have ended."""
        import psutil

        total = sum(os.times()[:2]) + sum(self._server.cpu_times()[:4])
        for backend in self._server.children():
            try:
                total += sum(backend.cpu_times()[:2])
            except psutil.NoSuchProcess:  # ended meanwhile; the postmaster has its time now, or a moment later
                continue
        return total

    def _wal(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")) or 0)


def _labels(root: Path) -> None:
    folder = root / "labels"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "q0", "text": "' + text(random.Random(0)) + '"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td000000000\t1\n")


def _forward(project: Project, meter: Meter, name: str) -> Iterator[str]:
    """Migrate to ``name`` with every step measured, and the invariants besides."""
    yield from _build(project, meter, name)
    migrator = project.migrator(COLLECTION, actor="bench")
    for step in ("index", "verify"):
        with meter.step(step):
            migrator.run(step, name)
        yield step
    with meter.step("invariants"), project.engine.connect() as connection:
        for view in ("i1_lost", "i2_ahead", "i5_slots", "i13_unwaived"):
            if found := connection.scalar(sa.text(f"SELECT count(*) FROM {view}")):
                raise RuntimeError(f"{view} holds {found} rows")
    for step in ("gate", "approve"):
        migrator.run(step, name)
    with meter.step("swap"):
        migrator.run("swap", name)


def _build(project: Project, meter: Meter, name: str, *, prefix: str = "") -> Iterator[str]:
    """Provision and backfill, with seeding, publishing and the rest of it apart."""
    migrator = project.migrator(COLLECTION, actor="bench")
    with meter.step(f"{prefix}provision"):
        migrator.run("provision", name, shards=4)
    with project.engine.connect() as connection:
        collection = read_collection(connection, COLLECTION)
        generation = read_generation(connection, int(collection.building_gen or 0))
        shards = sharding.read_shards(connection, generation.gen)
    with meter.step(f"{prefix}seed"):
        for shard in shards:
            while not sharding.seed_page(project.engine, generation.cid, shard):
                pass
    yield f"{prefix}seed"
    applier = project.worker().applier(generation)
    publish = applier.publish

    def timed(prepared: PreparedBatch) -> int:
        with meter.step(f"{prefix}publish"):
            return publish(prepared)

    applier.publish = timed  # type: ignore[method-assign]
    backfill = Backfill(project.engine, applier, project.archive, NoProgress(), overlap=False)
    with meter.step(f"{prefix}backfill"):
        for shard in shards:
            backfill.run(shard)
        migrator.run("backfill", name)
    meter.same_pace(f"{prefix}publish", f"{prefix}backfill")
    yield f"{prefix}backfill"


def _sizes(project: Project, run: Run) -> None:
    with project.engine.connect() as connection:
        gen = int(read_collection(connection, COLLECTION).active_gen or 0)
        index = read_generation(connection, gen).physical_name
        for name, relation in {
            "vectors": index,
            "their key": f"{index}_pkey",
            "HNSW": f"{index}_hnsw",
            "ledger": ledgers.table(gen),
            "documents": "document",
        }.items():
            of = "pg_relation_size" if relation.startswith("idx_") else "pg_total_relation_size"
            size = int(connection.scalar(sa.text(f"SELECT {of}(to_regclass('{relation}'))")) or 0)
            run.sizes |= {name: size} if size else {}
        run.sizes["database"] = int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
    run.sizes["archive"] = sum(path.stat().st_size for path in project.archive.rglob("*.h5"))


def _lookups(project: Project, run: Run, meter: Meter) -> None:
    """Searches, puts, and bringing each changed document up to date in the index."""
    numbers = random.Random(1)
    searcher, documents, worker = project.searcher(COLLECTION), project.documents(COLLECTION), project.worker()
    ids = [f"d{numbers.randrange(run.documents):09d}" for _ in range(LOOKUPS)]
    if run.index == "hnsw":
        for _ in range(WARM):
            searcher.search(text(numbers))
        with meter.step("search"):
            run.p50_ms["search"] = _p50([_ms(searcher.search, text(numbers)) for _ in range(LOOKUPS)])
    with meter.step("put"):
        run.p50_ms["put"] = _p50([_ms(documents.put, doc_id, text(numbers)) for doc_id in ids])
    with meter.step("apply"):
        while worker.drain():
            pass


def _ms(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - started) * 1_000


def _p50(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _figures(runs: Sequence[Run]) -> Iterator[Figure]:
    for run in runs:
        of = f"{run.documents:,} documents" + (f" of {run.dim} dimensions" if run.dim != DIM else "")
        for step, cost in run.steps.items():
            yield Figure(f"{of}: {step}", round(cost.wall_s, 2), "s")
            yield Figure(f"{of}: {step}, processor", round(cost.cpu_s, 2), "CPU-s")
            yield Figure(f"{of}: {step}, processor at the best pace", round(cost.fair_s, 3), "CPU-s")
            yield Figure(f"{of}: {step}, WAL", cost.wal_bytes, "bytes")
        for name, size in run.sizes.items():
            yield Figure(f"{of}: size of {name}", size, "bytes")
        for name, value in run.p50_ms.items():
            yield Figure(f"{of}: {name}, median", value, "ms")


def _fits(runs: Sequence[Run]) -> Iterator[Figure]:
    counts = [run.documents for run in runs]
    for step in runs[0].steps:
        slope = exponent(counts, [run.steps[step].fair_s for run in runs])
        most = MOST_LOOKUP if step in FLAT else MOST_EXPONENT
        if step != "swap":  # touches no documents
            yield Figure(f"exponent of {step}", slope, "log/log", f"at most {most}", slope <= most)
    for name in runs[0].sizes:
        slope = exponent(counts, [run.sizes[name] for run in runs])
        yield Figure(
            f"exponent of size of {name}", slope, "log/log", f"at most {MOST_EXPONENT}", slope <= MOST_EXPONENT
        )


def exponent(counts: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of log(cost) over log(count) by least squares: 1 is linear, 0 flat."""
    slope, _ = np.polyfit(np.log(counts), np.log(np.maximum(costs, 1e-9)), 1)
    return round(float(slope), 3)


if __name__ == "__main__":
    sys.exit(main())
