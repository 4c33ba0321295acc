"""The DAGs: they follow the table of steps, check their form, and load whatever state the project is in."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="the extra `airflow` is not installed")

# Airflow reads its settings at the first import, so they must be there before it.
_HOME = tempfile.mkdtemp(prefix="revector-airflow-")
os.environ |= {
    "AIRFLOW_HOME": _HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
}

from airflow.dag_processing.dagbag import DagBag  # noqa: E402
from airflow.sdk import DAG, RetryAction  # noqa: E402
from airflow.sdk.exceptions import ParamValidationError  # noqa: E402
from airflow.serialization.serialized_objects import DagSerialization  # noqa: E402

from revector import errors  # noqa: E402
from revector.airflow import RETIRE_NOW, ROLL_BACK, canary_dag, migration_dag, retire_dag, window_question  # noqa: E402
from revector.airflow.progress import LogProgress  # noqa: E402
from revector.airflow.provider_info import get_provider_info  # noqa: E402
from revector.airflow.steps import LibraryRetries, figures, open_project  # noqa: E402
from revector.lifecycle import FORWARD  # noqa: E402

DAGS = Path(__file__).resolve().parent.parent / "dags"
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "pandas",
    "h5py",
    "sklearn",
    "pyarrow",
    "scipy",
    "revector.config",
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("REVECTOR_CONFIG", raising=False)
    file = tmp_path / "revector.toml"
    file.write_text('[collections.docs]\nsource = "docs.jsonl"\n[collections.api]\nsource = "api.jsonl"\n')
    return file


def line_of(dag: DAG) -> list[str]:
    return [task.task_id for task in dag.topological_sort()]  # type: ignore[no-untyped-call]


def test_the_files_in_dags_load_without_an_error() -> None:
    began = time.perf_counter()
    bag = DagBag(str(DAGS))
    print(f"DAG folder parsed in {time.perf_counter() - began:.2f} s")  # noqa: T201 - told, not asserted
    assert bag.import_errors == {}
    assert set(bag.dags) == {"revector_canary", "revector_migrate", "revector_retire"}


def test_the_steps_stand_in_the_order_of_the_table(config: Path) -> None:
    dag = migration_dag(config=config)
    tasks = line_of(dag)
    assert [task for task in tasks if task in FORWARD] == list(FORWARD)
    extra = ["shards", "embed", "approval", "rollback_window", "rollback", "retire"]
    assert sorted(tasks) == sorted([*FORWARD, *extra])
    assert dag.get_task("embed").upstream_task_ids == {"shards"}
    assert dag.get_task("backfill").upstream_task_ids == {"embed"}
    assert dag.get_task("approve").upstream_task_ids == {"approval"}
    assert dag.get_task("rollback_window").upstream_task_ids == {"swap"}
    assert dag.get_task("rollback_window").downstream_task_ids == {"rollback", "retire"}


def test_shards_run_in_the_gpu_queue_and_the_pool_that_is_asked_for(config: Path) -> None:
    embed = migration_dag(config=config, pool="two_gpus", queue="h200", retries=7).get_task("embed")
    assert embed.is_mapped
    assert (embed.queue, embed.pool, embed.retries) == ("h200", "two_gpus", 7)
    assert migration_dag(config=config).get_task("embed").queue == "gpu"
    assert migration_dag(config=config).get_task("gate").queue == "default"


def test_a_run_without_shards_left_still_seeds_and_drains(config: Path) -> None:
    assert migration_dag(config=config).get_task("backfill").trigger_rule == "none_failed"


def test_a_mapped_shard_is_resumed_by_retries_with_back_off(config: Path) -> None:
    for task in migration_dag(config=config).tasks:
        assert task.retries == 3
        assert task.retry_exponential_backoff == 2
        assert isinstance(task.retry_policy, LibraryRetries)


def test_the_window_offers_two_ways_and_retires_by_default(config: Path) -> None:
    window: Any = migration_dag(config=config).get_task("rollback_window")
    assert window.options == [ROLL_BACK, RETIRE_NOW]
    assert window.options_mapping == {ROLL_BACK: "rollback", RETIRE_NOW: "retire"}
    assert window.defaults == [RETIRE_NOW]
    assert window.execution_timeout is None


def test_the_form_offers_the_collections_of_the_project(config: Path) -> None:
    form = migration_dag(config=config).params
    assert form.get_param("collection").schema["enum"] == ["api", "docs"]
    assert list(form) == ["collection", "revision", "approval", "shards", "rollback_hours"]
    assert form.dump() == {
        "collection": "api",
        "revision": "head",
        "approval": False,
        "shards": None,
        "rollback_hours": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("collection", "nothing"),
        ("revision", ""),
        ("approval", "yes"),
        ("shards", 0),
        ("shards", 1.5),
        ("shards", 5_000),
        ("rollback_hours", 0),
        ("rollback_hours", -1),
        ("rollback_hours", "two days"),
    ],
)
def test_the_form_refuses_what_cannot_run(config: Path, name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        migration_dag(config=config).params.get_param(name).resolve(value)


def test_a_dag_for_one_collection_does_not_ask_for_it(config: Path) -> None:
    dag = migration_dag("docs", dag_id="docs", config=config)
    assert "collection" not in dag.params
    gate: Any = dag.get_task("gate")
    assert gate.op_args == (str(config), "docs", "gate")


@pytest.mark.parametrize("text", ["[collections.docs", "", None], ids=["broken", "empty", "absent"])
def test_a_project_that_cannot_be_read_does_not_take_the_dags_down(config: Path, text: str | None) -> None:
    config.unlink() if text is None else config.write_text(text)
    dag = migration_dag(config=config)
    assert "enum" not in dag.params.get_param("collection").schema
    assert (str(config) in str(dag.doc_md)) == (text != "")
    assert line_of(retire_dag(config=config)) == ["collections", "retire"]
    assert line_of(canary_dag(config=config)) == ["collections", "canary"]


def test_the_first_task_says_what_is_wrong_with_the_project(config: Path) -> None:
    config.write_text("[collections.docs")
    with pytest.raises(errors.ConfigError, match="cannot be read") as caught:
        open_project(str(config))
    assert LibraryRetries().evaluate(caught.value, try_number=1, max_tries=3).action is RetryAction.FAIL


def test_the_environment_wins_over_the_file_beside_the_dag(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVECTOR_CONFIG", str(config))
    assert "enum" in migration_dag(config=config.parent / "other.toml").params.get_param("collection").schema


@pytest.mark.parametrize("make", [canary_dag, migration_dag, retire_dag])
def test_the_dags_survive_serialisation(config: Path, make: Any) -> None:
    dag = make(config=config)
    copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert set(copy.task_dict) == set(line_of(dag))
    assert copy.get_task(line_of(dag)[-1]).has_retry_policy


def test_library_errors_fail_at_once_unless_they_say_retryable() -> None:
    policy = LibraryRetries()
    tree = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.RevectorError)]
    assert {kind.__name__ for kind in tree if kind.retryable} >= {"DatabaseUnavailable", "NotCaughtUp", "GateBusy"}
    for kind in tree:
        decision = policy.evaluate(kind("what went wrong"), try_number=1, max_tries=3)
        assert decision.action is (RetryAction.DEFAULT if kind.retryable else RetryAction.FAIL), kind
        assert decision.reason == (None if kind.retryable else "what went wrong")


@pytest.mark.parametrize("error", [ConnectionError("lost"), MemoryError(), OSError(28, "disk full")])
def test_other_errors_are_retried(error: BaseException) -> None:
    assert LibraryRetries().evaluate(error, try_number=1, max_tries=3).action is RetryAction.DEFAULT


def test_parsing_imports_nothing_heavy() -> None:
    code = f"""
import sys, time
import airflow.sdk
began, before = time.perf_counter(), set(sys.modules)
exec(open({str(DAGS / "revector_migrate.py")!r}).read(), {{"__file__": {str(DAGS / "revector_migrate.py")!r}}})
exec(open({str(DAGS / "revector_retire.py")!r}).read(), {{"__file__": {str(DAGS / "revector_retire.py")!r}}})
import revector.airflow.plugin, revector.airflow.provider_info
print(f"parsed in {{time.perf_counter() - began:.2f}} s after airflow.sdk")
print("HEAVY", sorted(name for name in {HEAVY!r} if name in sys.modules and name not in before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_the_gate_is_shown_to_whoever_must_decide() -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    gate: dict[str, Any] = {"k": 10, "queries": 300, "labels": "test", "passed": True, "reasons": []}
    gate |= {"new": {"revision": "0002", "recall": value}, "difference": value}
    text = figures({"migration": {"gate": gate}})
    assert "| revision 0002 | 0.5000 | 0.4000 to 0.6000 |" in text
    assert "300 labelled queries (test). Passed." in text
    failed = figures({"migration": {"gate": gate | {"passed": False, "reasons": ["too low"]}}})
    assert "Failed: too low." in failed
    assert "measured nothing" in figures({"migration": None})
    assert "measured nothing" in figures({"migration": {"gate": {"passed": True, "not_measured": "first"}}})


def test_the_question_names_collection_and_revision() -> None:
    assert window_question("docs", "0002") == "docs is on revision 0002: go back, or drop the old index?"


def test_the_provider_is_described_as_airflow_wants_it() -> None:
    import json

    import airflow
    import jsonschema  # type: ignore[import-untyped]

    schema = json.loads((Path(inspect.getfile(airflow)).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


class Ticks:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


def test_progress_is_one_line_in_five_seconds_with_rate_and_time_left(
    clock: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "revector.progress")
    progress = LogProgress(clock=clock)
    progress.start("embedding", 1_000)
    for second in range(1, 11):
        clock.now = float(second)
        progress.advance(50)
    progress.done("2 parts")
    assert [record.getMessage() for record in caplog.records] == [
        "embedding: 1,000 documents",
        "embedding: 250 of 1,000 documents (25%), 50.0 documents/s, 0:15 left",
        "embedding: 500 of 1,000 documents (50%), 50.0 documents/s, 0:10 left",
        "embedding: finished, 500 documents in 10.0 s (50.0 documents/s); 2 parts",
    ]
