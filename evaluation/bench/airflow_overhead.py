"""What Airflow adds to a migration: the same steps by one command and by the DAG, wall time and CPU of all processes.

A real Airflow of its own runs for it (about 2 GiB). The encoder is the hashing one, so that nearly nothing but the
steps themselves is left; PostgreSQL's own CPU is in neither figure.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from evaluation.bench.common import ROOT, Figure, machine, parser, revector, revision, temporary_project, write

DAG, DOCUMENTS, SHARDS, IDLE_S, LIMIT_S = "revector_migrate", 2_000, 2, 20.0, 600.0
COLLECTIONS = ("by_command", "by_dag")


def main() -> int:
    """Measure once each way and keep the figures."""
    options = parser("evaluation.bench.airflow_overhead", __doc__).parse_args()
    before = machine()
    tables = "".join(f'[collections.{name}]\nsource = "docs.jsonl"\nshards = {SHARDS}\n' for name in COLLECTIONS)
    with temporary_project(f"drain_s = 0\n{tables}") as root:
        lines = (json.dumps({"_id": str(n), "text": f"apple{n} pear{n} number {n}"}) for n in range(DOCUMENTS))
        (root / "docs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        revector(root, "init")
        for name in COLLECTIONS:
            revision(root, name, "a100", None, 'model = ModelSpec(name="hashing", dim=64)')
            revector(root, "ingest", "-c", name)
        figures = list(_measure(root))
    return write(options.output, "python -m evaluation.bench.airflow_overhead", before, figures)


def _measure(root: Path) -> Iterator[Figure]:
    spent = _reaped_cpu_s()
    alone = revector(root, "upgrade", "-c", "by_command")
    alone_cpu_s = _reaped_cpu_s() - spent
    from revector.local.airflow import AirflowHome

    os.environ["REVECTOR_CONFIG"] = str(root / "revector.toml")
    home = AirflowHome(state=root / ".revector", config=root / "revector.toml", dags=ROOT / "dags", port=8093)
    with home, home.client("operator") as client:
        started, spent = time.monotonic(), _living_cpu_s()
        time.sleep(IDLE_S)
        idle = (_living_cpu_s() - spent) / (time.monotonic() - started)
        started, spent = time.monotonic(), _living_cpu_s()
        conf = {"collection": "by_dag", "revision": "a100", "approval": False, "shards": SHARDS}
        run_id = client.trigger(DAG, conf, note="evaluation.bench.airflow_overhead")
        state = client.wait(DAG, run_id, timeout_s=LIMIT_S)
        wall_s, cpu_s = time.monotonic() - started, _living_cpu_s() - spent
        tasks = sum(task["state"] == "success" for task in client.tasks(DAG, run_id))
    yield Figure("run of the DAG", state, "state", "success", state == "success")
    yield Figure("tasks that ran", tasks, "tasks")
    yield Figure("wall time by one command", round(alone.wall_s, 1), "s")
    yield Figure("wall time by the DAG", round(wall_s, 1), "s")
    yield Figure("CPU time by one command", round(alone_cpu_s, 1), "s")
    yield Figure("CPU time by the DAG, all of Airflow", round(cpu_s, 1), "s")
    yield Figure("CPU time that Airflow adds, a task", round((cpu_s - alone_cpu_s) / max(1, tasks), 2), "s")
    yield Figure("CPU of an Airflow that waits", round(idle, 3), "cores")


def _reaped_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _living_cpu_s() -> float:
    """CPU seconds of every process below this one, and of those that they have waited for."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    sys.exit(main())
