"""What an adoption costs beside the least that PostgreSQL can do, and what its triggers cost a write.

    python -m evaluation.bench.adoption [--rows 50000] [--writes 1000] [--build-memory-mib 1024] [--output PATH]

The peer of an adoption copies texts and vectors by INSERT … SELECT and builds the same HNSW graph: no versions, no
ledger, no proof. CPU time is that of this process and of PostgreSQL's, so that other work on the machine counts little.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import sqlalchemy as sa

from evaluation.bench.common import Figure, machine, parser, write
from evaluation.reliability.arena import database, server
from revector.adoption.presets import AdoptionRequest
from revector.config import Project, load_project
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import whole_texts
from revector.spec import ModelSpec

MODULE = "evaluation.bench.adoption"
DIM, ROUNDS = 384, 5
TABLE = "CREATE TABLE {name} (id bigint PRIMARY KEY, title text, body text, lang text, embedding vector(384))"
PEER = (
    "CREATE TABLE public.peer (doc_id text PRIMARY KEY, content text, meta jsonb, embedding vector(384))",
    """INSERT INTO public.peer SELECT CAST(id AS text), concat_ws(chr(10), title, body),
    jsonb_build_object('lang', lang), embedding FROM public.notes""",
    "SET maintenance_work_mem = '{memory}MB'",
    "CREATE INDEX ON public.peer USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 100)",
)


class ServerCpu:
    """CPU seconds of this process and of a server's processes, also of those that ended meanwhile."""

    def __init__(self, folder: str) -> None:
        pid = int((Path(folder) / "postmaster.pid").read_text().split()[0])
        self._postmaster = psutil.Process(pid)

    def read(self) -> float:
        """Return the total until now."""
        ours, server = psutil.Process().cpu_times(), self._postmaster.cpu_times()
        spent = ours.user + ours.system + server.user + server.system + server.children_user + server.children_system
        for process in self._postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent


def fill(engine: sa.Engine, name: str, rows: int) -> None:
    """Create a table of random words, with the vectors of the hashing encoder."""
    encoder, draw = HashingEncoder(ModelSpec("hashing", DIM)), np.random.default_rng(0)
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE.format(name=name))
        for start in range(0, rows, 1_000):
            numbers = range(start, min(rows, start + 1_000))
            bodies = [" ".join(f"w{n}" for n in draw.integers(0, 20_000, 40)) for _ in numbers]
            vectors = encoder.encode(
                "document", whole_texts(f"t{n}\n{body}" for n, body in zip(numbers, bodies, strict=True))
            )
            connection.execute(
                sa.text(f"INSERT INTO {name} VALUES (:n, :title, :body, 'en', CAST(:v AS vector))"),
                [
                    {"n": n, "title": f"t{n}", "body": body, "v": json.dumps(vector.tolist())}
                    for n, body, vector in zip(numbers, bodies, vectors, strict=True)
                ],
            )


def adopt(project: Project) -> None:
    """Take the table over, to the end."""
    adopter = project.adopter("notes")
    request = AdoptionRequest(table="public.notes", model="hashing", text=("title", "body"), meta=("lang",))
    adopter.run(adopter.plan(request))


def writes(engine: sa.Engine, name: str, count: int, first: int) -> dict[str, float]:
    """Return the CPU seconds of so many inserts, and updates of a text, each in a transaction of its own.

    Of this process and of the session's own: what PostgreSQL vacuums meanwhile is left out. Each row has a vector of
    its own: equal ones share a node of the graph, which costs next to nothing.
    """
    drawn, spent = np.random.default_rng(first).normal(size=(count, DIM)).astype(np.float32), dict[str, float]()
    vectors = [json.dumps(one.tolist()) for one in drawn]
    statements = {
        "insert": f"INSERT INTO {name} VALUES (:n, 'title', :body, 'en', CAST(:v AS vector))",
        "update of a text": f"UPDATE {name} SET title = 'other' WHERE id = :n",
    }
    with engine.connect() as connection:
        session = psutil.Process(int(connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0))
        for kind, statement in statements.items():
            began = _cpu_of(session) + time.process_time()
            for n in range(first, first + count):
                given = {"n": n, "body": f"body {n} of some words", "v": vectors[n - first]}
                needed = {word: value for word, value in given.items() if f":{word}" in statement}
                connection.execute(sa.text(statement), needed)
                connection.commit()
            spent[kind] = _cpu_of(session) + time.process_time() - began
    return spent


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(at: sa.URL, rows: int, count: int, memory_mib: int) -> Iterator[Figure]:
    """Yield the figures; no writes are measured where their count is 0."""
    with database(at) as url, TemporaryDirectory() as folder:
        root = Path(folder)
        settings = f"database_url = {json.dumps(url)}\n[index_build]\nmemory_mib = {memory_mib}\n[collections.notes]\n"
        (root / "revector.toml").write_text(settings)
        project, engine = load_project(root), sa.create_engine(url)
        project.init()
        with engine.connect() as connection:
            cpu = ServerCpu(str(connection.scalar(sa.text("SHOW data_directory"))))
        fill(engine, "public.notes", rows)
        yield from _adoption(project, engine, cpu, f"{rows:,} rows × {DIM}", memory_mib)
        if count:
            yield from _writes(engine, rows, count)
        engine.dispose()
        project.engine.dispose()


def _adoption(project: Project, engine: sa.Engine, cpu: ServerCpu, size: str, memory_mib: int) -> Iterator[Figure]:
    began = cpu.read()
    with engine.begin() as connection:
        for statement in PEER:
            connection.exec_driver_sql(statement.format(memory=memory_mib))
        peer_s = cpu.read() - began
    yield Figure(f"{size}: INSERT … SELECT and HNSW by hand", round(peer_s, 1), "CPU s")
    began, memory = cpu.read(), psutil.Process().memory_info().rss
    adopt(project)
    adopted_s = cpu.read() - began
    grown = (psutil.Process().memory_info().rss - memory) / 2**20
    yield Figure(f"{size}: adopted", round(adopted_s, 1), "CPU s")
    ratio = adopted_s / peer_s
    yield Figure("adoption over the same by hand", round(ratio, 2), "times the CPU time", "≤ 1.3", ratio <= 1.3)
    yield Figure("memory that the process gained", round(grown), "MiB")


def _writes(engine: sa.Engine, rows: int, count: int) -> Iterator[Figure]:
    """Yield what a write costs with the triggers of the adoption, and with them disabled: in one table, by turns."""
    with engine.begin() as connection:  # the application keeps its own index, as most do
        connection.exec_driver_sql("SET maintenance_work_mem = '4GB'")
        connection.exec_driver_sql("CREATE INDEX ON public.notes USING hnsw (embedding vector_cosine_ops)")
    spent, first = {"DISABLE": list[dict[str, float]](), "ENABLE": list[dict[str, float]]()}, rows
    for _ in range(ROUNDS):
        for state, found in spent.items():
            with engine.begin() as connection:
                connection.exec_driver_sql(f"ALTER TABLE public.notes {state} TRIGGER USER")
            found.append(writes(engine, "public.notes", count, first))
            first += count
    for kind in spent["ENABLE"][0]:
        plain, followed = (float(np.median([one[kind] for one in found])) for found in spent.values())
        yield Figure(f"an {kind}, with an HNSW index of the application", round(plain / count * 1e3, 3), "CPU ms")
        ratio = followed / plain
        goal = "times the CPU time", "≤ 1.25", ratio <= 1.25
        yield Figure(f"an {kind} that is followed, over it", round(ratio, 2), *goal)


def main() -> int:
    """Run it and keep the figures."""
    words = parser(MODULE, __doc__)
    words.add_argument("--rows", type=int, default=50_000, help="default: %(default)s")
    words.add_argument("--writes", type=int, default=1_000, help="of each of five rounds; default: %(default)s")
    words.add_argument("--build-memory-mib", type=int, default=1_024, help="for both graphs; default: %(default)s")
    given, before = words.parse_args(), machine()
    with server() as at:
        figures = list(measure(at, given.rows, given.writes, given.build_memory_mib))
    command = (
        f"python -m {MODULE} --rows {given.rows} --writes {given.writes} --build-memory-mib {given.build_memory_mib}"
    )
    return write(given.output, command, before, figures)


if __name__ == "__main__":
    sys.exit(main())
