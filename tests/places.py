"""Projects in folders of their own, with an embedded database, for tests that start real services."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
from evaluation.temporary import owned

from revector import embedded
from revector.config import Project, load_project

DAGS = ("revector_migrate", "revector_rollback")
"""Those of our DAGs that are there: each costs Airflow a process to read it."""

OLD, NEW = "a100", "b200"
MODELS = {OLD: ("hashing", 64), NEW: ("hashing:seed2", 64)}
LABELLED = 60

PARSED_ONCE = {
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
}
"""Of an Airflow whose DAG files never change."""

ASK_AIRFLOW_S = 0.5
"""Between two questions to its server, which answers each with some of the processor that the tasks need."""


def text_of(number: int) -> str:
    """Two words of the document's own among words that many share."""
    draw = random.Random(number)
    return f"apple{number} pear{number} " + " ".join(f"word{int(400 * draw.random() ** 2)}" for _ in range(20))


@contextmanager
def temporary_project(*collections: str, documents: int = 300) -> Iterator[Project]:
    """A project with ``docs.jsonl``, our DAGs and two revisions each; nothing is started, everything is removed.

    It lies where the account of PostgreSQL can reach it, which pytest's own folders are not.
    """
    root = owned(Path(tempfile.mkdtemp(prefix="revector-place-", dir="/tmp")))
    root.chmod(0o755)
    lines = (json.dumps({"_id": f"d{n:05d}", "text": text_of(n)}) + "\n" for n in range(documents))
    (root / "docs.jsonl").write_text("".join(lines))
    (root / "dags").mkdir()
    for name in DAGS:
        shutil.copy(Path(__file__).parent.parent / "dags" / f"{name}.py", root / "dags")
    _write_labels(root / "labels")
    settings = ["drain_s = 0.1", "[encoder]", "threads = 1"]
    for name in collections:
        source = json.dumps(str(root / "docs.jsonl"))
        settings += [f"[collections.{name}]", f"source = {source}", 'qrels = "labels"', "shards = 2"]
        _write_migrations(root / "migrations" / name)
    (root / "revector.toml").write_text("\n".join(settings) + "\n")
    project = load_project(root)
    try:
        yield project
    finally:
        if "raw_engine" in project.__dict__:
            project.raw_engine.dispose()
        embedded.remove(project.state)
        shutil.rmtree(root)


def residents(root: Path) -> list[str]:
    """Every process, but this one, that has something to do with a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            signs = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if process.pid != psutil.Process().pid and any(str(root) in sign for sign in signs):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def until(met: Callable[[], object], what: str, deadline_s: float = 120.0, *, every_s: float = 0.1) -> None:
    """Wait until it is so; ``every_s`` is longer where each look costs another process something."""
    end = time.monotonic() + deadline_s
    while not met():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(every_s)


def _write_migrations(folder: Path) -> None:
    folder.mkdir(parents=True)
    for revision, parent in ((OLD, None), (NEW, OLD)):
        name, dim = MODELS[revision]
        (folder / f"{revision}.py").write_text(
            f'"""{name}"""\n\nfrom revector import Gate, ModelSpec\n\nrevision = {revision!r}\n'
            f"down_revision = {parent!r}\nmodel = ModelSpec(name={name!r}, dim={dim})\n"
            "gate = Gate(max_drop=1.0, min_queries=20)\n"
        )


def _write_labels(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    queries = (json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) + "\n" for n in range(LABELLED))
    (folder / "queries.jsonl").write_text("".join(queries))
    judged = (f"q{n}\td{n:05d}\t1\n" for n in range(LABELLED))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))


@contextmanager
def loopback(answer: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Iterator[str]:
    """The address of a server on this machine that answers each GET, POST and PATCH by ``answer(handler, body)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_GET(self) -> None:
            self.do_POST()

        def do_PATCH(self) -> None:
            self.do_POST()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
