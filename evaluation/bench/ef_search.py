"""What a larger ``ef_search`` costs and gains: CPU time of PostgreSQL for a bare HNSW scan, and recall@10 beside exact.

Vectors of length 1 around centres (easy data: recall says little here, cost does), M 16 and ef_construction 100, one
session, ten neighbours, graph in memory. CPU time is that of the session's process, the median of the rounds, in which
the values take turns. ``per candidate`` is the slope of a line through them: what ``planning.constants`` reckons with.

  python -m evaluation.bench.ef_search
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector import Vector

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from revector.measure.exact import MemoryBlock, search_exact

VALUES, K, CENTRES = (20, 40, 100, 200, 400, 800), 10, 1_000
FITTED = 400
"""The line is of values up to here: beyond, a scan of so few rows meets the same nodes again and costs less."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 where a value of ``ef_search`` finds less than a smaller one does."""
    options = parser("evaluation.bench.ef_search", __doc__)
    options.add_argument("--rows", type=int, default=20_000, metavar="N")
    options.add_argument("--dim", type=int, default=384, metavar="N")
    options.add_argument("--queries", type=int, default=200, metavar="N")
    options.add_argument("--rounds", type=int, default=5, metavar="N")
    chosen = options.parse_args(argv)
    before = machine()
    with temporary_project("[collections.docs]\n") as root:
        revision(root, "docs", "a000", None, f'model = ModelSpec(name="hashing", dim={chosen.dim})')
        from revector.config import load_project

        project = load_project(root)
        try:
            project.init()
            url = project.raw_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(url, autocommit=True) as connection:
                figures = _figures(connection, chosen.rows, chosen.dim, chosen.queries, chosen.rounds)
        finally:
            project.engine.dispose()
    words = " ".join(f"--{name} {getattr(chosen, name)}" for name in ("rows", "dim", "queries", "rounds"))
    return write(chosen.output, f"python -m evaluation.bench.ef_search {words}", before, figures)


def _figures(connection: Any, rows: int, dim: int, queries: int, rounds: int) -> list[Figure]:
    vectors, asked = np.split(_drawn(rows + queries, dim), [rows])
    _build(connection, vectors)
    truth = search_exact(asked, [MemoryBlock([""], np.array([rows]), vectors)], K, by="chunk").chunks
    spent: dict[int, list[float]] = {value: [] for value in VALUES}
    recalls = {}
    for _ in range(rounds):
        for value in VALUES:
            connection.execute(f"SET hnsw.ef_search = {value}")
            used = _cpu_s(connection)
            found = [_search(connection, one) for one in asked]
            spent[value].append((_cpu_s(connection) - used) / queries)
            recalls[value] = float(np.mean([len({*a} & {*b.tolist()}) / K for a, b in zip(found, truth, strict=True)]))
    cpu_s = {value: statistics.median(found) for value, found in spent.items()}
    figures = [Figure("per candidate of ef_search", _slope_us(cpu_s), "CPU µs")]
    for value in VALUES:
        figures.append(Figure(f"ef_search {value}: a scan", round(1_000 * cpu_s[value], 3), "CPU ms"))
        better = all(recalls[value] >= recalls[one] - 0.002 for one in VALUES if one < value)
        figures.append(Figure(f"ef_search {value}: recall@10", round(recalls[value], 4), "", "no less", better))
    return figures


def _slope_us(cpu_s: Mapping[int, float]) -> float:
    fitted = {value: used for value, used in cpu_s.items() if value <= FITTED}
    return float(f"{1e6 * float(np.polyfit(list(fitted), list(fitted.values()), 1)[0]):.3g}")


def _drawn(count: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, dim))
    drawn = centres[rng.integers(0, CENTRES, count)] + rng.standard_normal((count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _build(connection: Any, vectors: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    connection.execute("SET maintenance_work_mem = '1GB'")
    connection.execute(f"CREATE TABLE scanned (id int, embedding vector({vectors.shape[1]}))")
    with connection.cursor().copy("COPY scanned FROM STDIN") as copy:
        for n, one in enumerate(vectors):
            copy.write_row((n, Vector(one).to_text()))
    connection.execute(
        "CREATE INDEX ON scanned USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 100)"
    )
    connection.execute("SET enable_seqscan = off")


def _search(connection: Any, query: np.ndarray[Any, np.dtype[np.float32]]) -> list[int]:
    found = connection.execute(
        f"SELECT id FROM scanned ORDER BY embedding <=> %s::vector LIMIT {K}", [Vector(query).to_text()]
    )
    return [row[0] for row in found.fetchall()]


def _cpu_s(connection: Any) -> float:
    """Return the CPU time so far of the session's process, which is on this machine."""
    fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
