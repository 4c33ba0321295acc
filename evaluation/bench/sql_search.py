"""What the function `revector.search` adds to its own SQL: both by one psycopg session on the same index, in turns.

By hand means the statement that the function runs inside, with the names, the settings and the check of the encoder
left to the application: nearest chunks by HNSW, joined with the documents that may be seen, the best chunk of each. Its
settings are made once for the session. The function plans that statement at every call, for it does not know before
which index serves; by hand it is measured planned at every call, and prepared once. Vectors are of the hashing encoder,
so that no model's speed is in the figures; each query goes every way before the next.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write

if TYPE_CHECKING:
    from revector.config import Project

COLLECTION, K = "docs", 10
GOAL = 1.2
WIDTH = 384
WORDS = 400

BY_HAND = """
WITH hits AS MATERIALIZED (
  SELECT i.doc_id, i.chunk, i.start, i.stop, (i.embedding <=> {query}) AS distance
  FROM revector.{index} i JOIN revector.document d ON d.cid = {cid} AND d.doc_id = i.doc_id
  WHERE NOT d.deleted AND i.version > d.tombstone_version
  ORDER BY (i.embedding <=> {query}) LIMIT {candidates}),
top AS (
  SELECT * FROM (SELECT DISTINCT ON (doc_id) * FROM hits ORDER BY doc_id, distance, chunk) best
  ORDER BY distance, doc_id, chunk LIMIT {k})
SELECT (SELECT count(*) FROM hits) AS candidates, (SELECT count(*) FROM top) AS found, t.*
FROM (SELECT) s LEFT JOIN top t ON true ORDER BY t.distance, t.doc_id, t.chunk"""
FUNCTION = "SELECT * FROM revector.search(%(collection)s, %(query)s, %(encoder_fp)s, %(k)s)"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 if the function takes more than a fifth longer than its SQL by hand."""
    options = parser("evaluation.bench.sql_search", __doc__)
    options.add_argument("--documents", type=int, default=20_000, metavar="N", help="documents that are indexed")
    options.add_argument("--queries", type=int, default=2_000, metavar="N", help="queries, each asked every way")
    chosen = options.parse_args(argv)
    before = machine()
    with temporary_project(f"[collections.{COLLECTION}]\n") as root:
        revision(root, COLLECTION, "a000", None, f'model = ModelSpec(name="hashing", dim={WIDTH})')
        from revector.config import load_project

        project = load_project(root)
        try:
            _prepare(project, chosen.documents)
            figures = _figures(*_measure(project, chosen.queries), chosen)
        finally:
            project.engine.dispose()
    command = f"python -m evaluation.bench.sql_search --documents {chosen.documents} --queries {chosen.queries}"
    return write(chosen.output, command, before, figures)


def _text(n: int) -> str:
    import random

    draw = random.Random(n)
    return f"apple{n} " + " ".join(f"word{int(WORDS * draw.random() ** 2)}" for _ in range(20))


def _prepare(project: Project, count: int) -> None:
    from revector.interfaces import Document

    project.init()
    store = project.documents(COLLECTION)
    for first in range(0, count, 1_000):
        store.put_many([Document(f"d{n:06d}", _text(n), {}) for n in range(first, min(count, first + 1_000))])
    project.migrator(COLLECTION, actor="bench").upgrade("a000")


Way = Callable[[str], list[str]]


def _measure(project: Project, count: int) -> tuple[dict[str, list[float]], int]:
    """Return milliseconds by way, and in how many queries the hits of function and SQL differed."""
    from pgvector import Vector

    searcher = project.searcher(COLLECTION)
    generation = searcher.resolve()
    queries = [_text(1_000_000 + n) for n in range(count)]
    vectors = [
        Vector(v).to_text() for _, v in searcher.encode_all(generation, dict(zip(queries, queries, strict=True)))
    ]
    ways = _ways(project, generation)
    for vector, way in itertools.product(vectors[:50], ways.values()):
        way(vector)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    differing = 0
    for number, vector in enumerate(vectors):
        found = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            started = time.perf_counter()
            found[name] = ways[name](vector)
            spent[name].append((time.perf_counter() - started) * 1_000)
        differing += len({tuple(ids) for ids in found.values()}) > 1
    return spent, differing


def _ways(project: Project, generation: Any) -> dict[str, Way]:
    import psycopg

    url = project.raw_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = "-chnsw.ef_search=100 -chnsw.iterative_scan=strict_order -chnsw.max_scan_tuples=40000"
    connection: Any = psycopg.connect(url, autocommit=True, options=settings)
    given = {"collection": COLLECTION, "encoder_fp": generation.encoder_fp, "k": K}
    vector = f"CAST(l2_normalize(CAST(%(query)s AS vector)) AS vector({WIDTH}))"
    sql = BY_HAND.format(query=vector, index=generation.physical_name, cid=generation.cid, candidates=4 * K, k=K)

    def ids(statement: str, *, at: int, prepare: bool | None) -> Way:
        return lambda vector: [
            row[at] for row in connection.execute(statement, {"query": vector, **given}, prepare=prepare).fetchall()
        ]

    return {
        "function": ids(FUNCTION, at=0, prepare=True),
        "by hand, prepared": ids(sql, at=2, prepare=True),
        "by hand": ids(sql, at=2, prepare=False),
    }


def _figures(spent: dict[str, list[float]], differing: int, chosen: Any) -> list[Figure]:
    p50 = {name: statistics.median(times) for name, times in spent.items()}
    p95 = {name: statistics.quantiles(times, n=20)[18] for name, times in spent.items()}
    ratio = round(p50["function"] / p50["by hand"], 2)
    prepared = round(p50["function"] / p50["by hand, prepared"], 2)
    return [
        Figure("revector.search, p50, against the same SQL by hand", ratio, "×", f"≤ {GOAL}", ratio <= GOAL),
        Figure("revector.search, p50, against the same SQL by hand, prepared", prepared, "×"),
        *(Figure(f"{name}, p50", round(p50[name], 3), "ms") for name in spent),
        *(Figure(f"{name}, p95", round(p95[name], 3), "ms") for name in spent),
        Figure("queries whose hits differ", differing, f"of {chosen.queries}", "0", differing == 0),
        Figure("documents", chosen.documents, "documents"),
    ]


if __name__ == "__main__":
    sys.exit(main())
