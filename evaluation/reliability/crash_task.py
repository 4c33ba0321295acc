"""Kills the DAG's process after each step, before Airflow is told: Airflow's own `dag.test()` runs the real tasks.

python -m evaluation.reliability.crash_task r001       (one run of the DAG; started by ``run_tasks``)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evaluation.bench.common import ROOT
from evaluation.reliability import checks
from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_report import Kill, Report
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import at_rest
from evaluation.reliability.observer import apply_all
from evaluation.reliability.site import COLLECTION, NEW, Site

from revector.lifecycle import FORWARD

POINT = "task.after_step"
TASKS = (*FORWARD[:2], "embed 0", "embed 1", *FORWARD[2:])
"""What passes the point, in order."""

PEOPLE = "approval|rollback_window|rollback|retire"
"""Tasks that ask someone, or follow the answer: they count as done."""

LIMIT_S = 180.0


def run_tasks(url: str, folder: Path, *, seed: int, tasks: Sequence[str] = TASKS) -> Report:
    """Run the DAG, killed once after each of ``tasks``, then to its end, on an empty database with our tables."""
    report, recorder, site, started = Report(seed), Recorder(), Site(folder, url), time.monotonic()
    site.begin(recorder)
    engine, cid, embedded = site.engine, site.cid, set[str]()
    try:
        with tempfile.TemporaryDirectory(prefix="revector-airflow-") as home:
            for task in tasks:
                # What a killed run did is passed again, and succeeds at once; only shards that are done are left out.
                before = TASKS[: TASKS.index(task)]
                passing = 1 + len(set(before) - embedded)
                embedded |= {one for one in (*before, task) if one.startswith("embed")}
                status, said = _dag_run(site, Path(home), f"{POINT}:{passing}")
                if status == -signal.SIGKILL:
                    report.kills.append(Kill(POINT, "task", task, passing))
                else:
                    report.find(task, [Finding("not killed", f"the DAG ended with {status}: {said}")])
                report.find(task, checks.instant(engine, cid))
                print(f"{len(report.kills)} kills in {time.monotonic() - started:.0f} s; after {task}", flush=True)
            status, said = _dag_run(site, Path(home), "")
            report.find("the last run", [Finding("not done when run again", said)] if status else [])
        report.find("the end", checks.sessions(engine))
        apply_all(site.project)
        once = Counter(FORWARD[1:])
        found = checks.instant(engine, cid) + at_rest(engine, cid, site.judge(recorder), recorder)
        found += checks.effects(engine, cid, once + once) + checks.leftovers(engine)
        report.find("the end", found + checks.parts(engine, site.project.state / "archive", 0, overlapped=False)[1])
    finally:
        site.close()
    report.migrations = report.comparisons = 1
    report.acknowledged, report.seconds = len(site.ids), time.monotonic() - started
    return report


def _dag_run(site: Site, home: Path, arm: str) -> tuple[int, str]:
    dags = home / "dags"
    dags.mkdir(exist_ok=True)
    (dags / "migrate.py").write_text(
        "from revector.airflow import migration_dag\n\ndag = migration_dag(deadline=None)\n"
    )
    airflow = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "REVECTOR_CONFIG": str(site.folder / "revector.toml"),
        "REVECTOR_CRASH_AT": arm,
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
    }
    command = [sys.executable, "-m", "evaluation.reliability.crash_task", NEW]
    done = subprocess.run(
        command, env=os.environ | airflow, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.returncode, (done.stdout + done.stderr)[-1_500:]


def main() -> int:
    """Run the DAG once in this process, as `airflow dags test` does; return 1 if it did not succeed."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    home = Path(os.environ["AIRFLOW_HOME"])
    if not (home / "airflow.db").exists():
        initdb()
    dag = DagBag(str(home / "dags")).dags["revector_migrate"]
    form = {"collection": COLLECTION, "revision": sys.argv[1], "approval": False, "rollback_hours": 1}
    return 0 if dag.test(run_conf=form, mark_success_pattern=PEOPLE).state == "success" else 1


if __name__ == "__main__":
    raise SystemExit(main())
