"""The DAGs: they follow the table of steps, check their form, and load whatever state the project is in."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
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

from revector import errors, upkeep, verification  # noqa: E402
from revector.airflow import (  # noqa: E402
    RETIRE_NOW,
    ROLL_BACK,
    canary_dag,
    dead_letters_dag,
    migration_dag,
    retire_dag,
    stale_dag,
    steps,
    upkeep_dags,
    verify_dag,
    window_question,
)
from revector.airflow.progress import LogProgress  # noqa: E402
from revector.airflow.provider_info import get_provider_info  # noqa: E402
from revector.airflow.steps import LibraryRetries, figures, open_project  # noqa: E402
from revector.lifecycle import FORWARD  # noqa: E402
from worlds import World, document  # noqa: E402

DAGS = Path(__file__).resolve().parent.parent / "dags"
UPKEEP = {
    "revector_canary",
    "revector_dead_letters",
    "revector_retire",
    "revector_stale",
    "revector_verify",
    "revector_verify_full",
}
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
    assert set(bag.dags) == UPKEEP | {"revector_migrate"}


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
    for other in upkeep_dags(config=config):
        first, mapped = line_of(other)
        assert (first, other.get_task(mapped).is_mapped) == ("collections", True)


def test_the_first_task_says_what_is_wrong_with_the_project(config: Path) -> None:
    config.write_text("[collections.docs")
    with pytest.raises(errors.ConfigError, match="cannot be read") as caught:
        open_project(str(config))
    assert LibraryRetries().evaluate(caught.value, try_number=1, max_tries=3).action is RetryAction.FAIL


def test_the_environment_wins_over_the_file_beside_the_dag(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVECTOR_CONFIG", str(config))
    assert "enum" in migration_dag(config=config.parent / "other.toml").params.get_param("collection").schema


@pytest.mark.parametrize("make", [canary_dag, dead_letters_dag, migration_dag, retire_dag, stale_dag, verify_dag])
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
for name in ("retire", "canary", "verify", "dead_letters", "stale"):
    file = {str(DAGS)!r} + f"/revector_{{name}}.py"
    exec(open(file).read(), {{"__file__": file}})
import revector.airflow.plugin, revector.airflow.provider_info
print(f"parsed in {{time.perf_counter() - began:.2f}} s after airflow.sdk")
print("HEAVY", sorted(name for name in {HEAVY!r} if name in sys.modules and name not in before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


# Upkeep ---------------------------------------------------------------------------------------------------------------


def test_a_dag_file_of_one_call_has_all_of_the_upkeep(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "upkeep.py").write_text(
        f"from revector.airflow import upkeep_dags  # airflow dag\n\nupkeep_dags(config={str(config)!r})\n"
    )
    bag = DagBag(str(folder))
    assert bag.import_errors == {}
    assert set(bag.dags) == UPKEEP


def test_the_upkeep_runs_one_at_a_time_on_its_schedule_and_says_what_it_does(config: Path) -> None:
    dags = {dag.dag_id: dag for dag in upkeep_dags(config=config, schedules={"revector_stale": None}, retries=5)}
    assert {name: dag.schedule for name, dag in dags.items()} == {
        "revector_canary": "@daily",
        "revector_dead_letters": "@daily",
        "revector_retire": "@hourly",
        "revector_stale": None,
        "revector_verify": "@hourly",
        "revector_verify_full": "@weekly",
    }
    for dag in dags.values():
        assert dag.max_active_runs == 1
        assert not dag.catchup
        assert dag.tags == {"revector"}
        assert dag.doc_md
        assert all(task.retries == 5 and isinstance(task.retry_policy, LibraryRetries) for task in dag.tasks)
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description, name
            assert param.schema["type"], name
    with pytest.raises(errors.ConfigError, match="nightly"):
        upkeep_dags(config=config, schedules={"nightly": "@daily"})


def test_options_reach_every_task_of_the_upkeep(config: Path) -> None:
    def told(context: Any) -> None: ...

    for dag in upkeep_dags(config=config, notifiers=[told], default_args={"queue": "slow"}, tags=["night"]):
        assert dag.tags == {"night"}
        assert [task.queue for task in dag.tasks] == ["slow", "slow"]
        assert all(task.on_failure_callback == [told] for task in dag.tasks)


def test_the_hourly_verification_is_a_sample_and_the_weekly_one_is_whole(config: Path) -> None:
    dags = {dag.dag_id: dag for dag in upkeep_dags(config=config)}
    assert dags["revector_verify"].params.dump() == {"sample": 0.01, "reembed": 50, "repair": False}
    assert dags["revector_verify_full"].params.dump() == {"sample": None, "reembed": 500, "repair": False}


def test_the_forms_begin_with_what_the_library_has() -> None:
    # They are written out there, because parsing a DAG imports nothing of the library.
    assert stale_dag().params.dump() == {"max_age_days": None, "limit": upkeep.MOST_ENTRIES, "reread": []}
    assert dead_letters_dag().params.dump() == {"limit": upkeep.MOST_RETRIES, "tries": upkeep.TRIES}
    whole = next(dag for dag in upkeep_dags() if dag.dag_id == "revector_verify_full")
    assert whole.params["reembed"] == verification.REEMBEDDED


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (verify_dag, "sample", 0),
        (verify_dag, "reembed", -1),
        (verify_dag, "repair", "yes"),
        (dead_letters_dag, "limit", 0),
        (dead_letters_dag, "tries", -1),
        (stale_dag, "max_age_days", 0),
        (stale_dag, "limit", 1.5),
        (stale_dag, "reread", ["nothing"]),
        (stale_dag, "reread", "docs"),
    ],
)
def test_the_forms_of_the_upkeep_refuse_what_cannot_run(config: Path, make: Any, name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        make(config=config).params.get_param(name).resolve(value)


@pytest.fixture
def as_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the steps the context of a run of a DAG by its defaults, but for what is named."""

    def give(dag: DAG, **params: Any) -> None:
        context = {
            "params": dag.params.dump() | params,
            "dag": dag,
            "dag_run": SimpleNamespace(triggering_user_name=""),
        }
        monkeypatch.setattr(steps, "get_current_context", lambda: context)

    return give


def test_the_verification_fails_without_a_retry_when_an_index_is_wrong(served: World, as_run: Any) -> None:
    config = str(served.root / "revector.toml")
    as_run(verify_dag(), sample=None, reembed=0)
    steps.verify(config, "docs")
    served.sql(f"DELETE FROM {served.generation().physical_name} WHERE doc_id = 'd00003'")
    with pytest.raises(errors.VerificationFailed, match="d00003") as caught:
        steps.verify(config, "docs")
    assert LibraryRetries().evaluate(caught.value).action is RetryAction.FAIL
    assert "nothing was repaired" in str(caught.value)
    as_run(verify_dag(), sample=None, reembed=0, repair=True)
    with pytest.raises(errors.VerificationFailed, match="1 documents are due again"):
        steps.verify(config, "docs")
    served.settle()
    steps.verify(config, "docs")
    assert served.differences(served.generation()) == []


def test_stale_documents_and_a_changed_source_reach_the_index(
    served: World, as_run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "revector.airflow")
    one = document(5)
    served.settings(source="docs.jsonl")
    (served.root / "docs.jsonl").write_text(f'{{"_id": "{one.id}", "text": "melons instead"}}\n')
    served.sql("UPDATE ledger SET applied_at = now() - interval '40 days' WHERE doc_id = 'd00007'")
    config = str(served.root / "revector.toml")
    as_run(stale_dag(config=config), max_age_days=30)
    steps.stale(config, "docs")
    assert {row.doc_id for row in served.sql("SELECT doc_id FROM pending")} == {"d00007"}
    as_run(stale_dag(config=config), reread=["docs"])
    steps.stale(config, "docs")
    assert {row.doc_id for row in served.sql("SELECT doc_id FROM pending")} == {"d00005", "d00007"}
    assert "absent=119" in caplog.text
    assert {event["actor"] for event in served.events("stale")} == {"airflow:revector_stale"}
    served.settle()
    assert served.search("melons instead")[0] == "d00005"
    assert served.differences(served.generation()) == []


def test_a_dead_letter_is_tried_again_within_the_bounds_of_the_form(served: World, as_run: Any) -> None:
    config = str(served.root / "revector.toml")
    served.put(2, start=500)
    served.sql("UPDATE pending SET state = 'dead', attempts = 1")
    as_run(dead_letters_dag(), limit=1)
    steps.dead_letters(config, "docs")
    served.settle()
    assert served.value("SELECT count(*) FROM pending WHERE state = 'dead'") == 1
    as_run(dead_letters_dag(), tries=0)
    steps.dead_letters(config, "docs")
    assert served.value("SELECT count(*) FROM pending WHERE state = 'dead'") == 1
    as_run(dead_letters_dag())
    steps.dead_letters(config, "docs")
    served.settle()
    assert served.value("SELECT count(*) FROM pending") == 0
    assert served.search("apple501 pear501")[0] == "d00501"


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
