"""The DAGs: they follow the table of steps, check their form, and load whatever state the project is in."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

import revector.airflow
from airflow_names import VERSION, DagBag, DagSerialization, ParamValidationError
from revector import errors
from revector.airflow import (
    CollectionsOperator,
    DeadLettersOperator,
    StaleOperator,
    VerifyOperator,
    canary_dag,
    dead_letters_dag,
    metadata_dag,
    migration_dag,
    retire_dag,
    rollback_dag,
    stale_dag,
    upkeep_dags,
    verify_dag,
)
from revector.airflow.operators import RevectorOperator, final_errors
from revector.airflow.progress import LogProgress
from revector.airflow.questions import MigrationApprovalOperator, figures
from revector.airflow.versions import AirflowFailException
from revector.airflow.wording import RETIRE_NOW, ROLL_BACK, window_question
from revector.gate.figures import GateResult
from revector.lifecycle import FORWARD
from revector.upkeep import upkeep
from revector.verify import verification
from worlds import World, document, working

DAGS = Path(__file__).resolve().parents[2] / "dags"
UPKEEP = {
    "revector_adopt",
    "revector_canary",
    "revector_dead_letters",
    "revector_metadata_backfill",
    "revector_retire",
    "revector_stale",
    "revector_verify",
    "revector_verify_full",
}
FACTORIES = [
    canary_dag,
    dead_letters_dag,
    metadata_dag,
    migration_dag,
    retire_dag,
    rollback_dag,
    stale_dag,
    verify_dag,
]
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
    assert set(bag.dags) == UPKEEP | {"revector_migrate", "revector_rollback", "revector_finetune"}


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
        assert task.retry_exponential_backoff == (2 if VERSION >= (3, 2) else True)


def test_the_window_offers_two_ways_neither_as_the_usual_one_and_retires_when_nobody_answers(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window: Any = migration_dag(config=config).get_task("rollback_window")
    assert window.options == [ROLL_BACK, RETIRE_NOW]
    assert window.options_mapping == {ROLL_BACK: "rollback", RETIRE_NOW: "retire"}
    assert window.defaults is None, "Airflow makes the default the main button"
    assert window.execution_timeout is None
    taken: list[Any] = []
    kept: dict[str, Any] = {}
    monkeypatch.setattr(type(window), "do_branch", lambda _self, **found: taken.append(found["branches_to_execute"]))
    ti = SimpleNamespace(xcom_push=lambda key, value: kept.update({key: value}))
    # What Airflow 3.3's scheduler sends when the time is over and there is no default.
    window.execute_complete({"ti": ti}, {"error": "the response timeout has passed", "error_type": "timeout"})
    assert (taken, kept) == ([["retire"]], {"answer": {"who": None, "why": None}})


def test_an_answer_takes_a_reason_and_nothing_of_the_runs_form(config: Path) -> None:
    dag = migration_dag(config=config)
    for name in ("approval", "rollback_window"):
        question: Any = dag.get_task(name)
        assert set(question.params) == {"reason"}
        assert question.params["reason"] is None, "no other question's answer"
        question.validate_params_input({"reason": "odd answers"})


def test_the_form_offers_the_collections_of_the_project(config: Path) -> None:
    form = migration_dag(config=config).params
    assert form.get_param("collection").schema["enum"] == ["api", "docs"]
    assert list(form) == ["collection", "revision", "approval", "shards", "rollback_hours"]
    assert form.dump() == {
        "collection": "api",
        "revision": "head",
        "approval": True,
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


def test_a_dag_for_one_collection_offers_no_other(config: Path) -> None:
    dag = migration_dag("docs", dag_id="docs", config=config)
    assert dag.params.get_param("collection").schema["enum"] == ["docs"]
    gate: Any = dag.get_task("gate")
    assert (gate.config, gate.collection, gate.step) == (str(config), "docs", "gate")


@pytest.mark.parametrize(
    "text", ["[collections.docs", "collections = 3", "", None], ids=["broken", "no tables", "empty", "absent"]
)
def test_a_project_that_cannot_be_read_does_not_take_the_dags_down(config: Path, text: str | None) -> None:
    config.unlink() if text is None else config.write_text(text)
    dag = migration_dag(config=config)
    assert "enum" not in dag.params.get_param("collection").schema
    assert (str(config) in str(dag.doc_md)) == (text != "")
    assert line_of(retire_dag(config=config)) == ["collections", "retire"]
    assert line_of(rollback_dag(config=config)) == ["move"]
    for other in upkeep_dags(config=config):
        first, *mapped = line_of(other)
        assert [other.get_task(name).is_mapped for name in mapped] == ([] if first in ("adopt", "fill") else [True])


def test_a_broken_migration_file_is_named_and_takes_no_dag_down(config: Path) -> None:
    folder = config.parent / "migrations" / "docs"
    folder.mkdir(parents=True)
    (folder / "0001.py").write_text("import os\nrevision = 3\n")
    assert "0001.py" in str(migration_dag(config=config).doc_md)
    assert "no migration files in" in str(migration_dag(config=config).doc_md), "of the other collection"
    assert "0001.py" not in str(migration_dag("api", config=config).doc_md)


def test_the_form_offers_the_revisions_that_there_are_in_words(world: World) -> None:
    dag = migration_dag("docs", config=world.root / "revector.toml")
    param = dag.params.get_param("revision")
    assert param.schema["enum"] == ["head", "b200", "a100"]
    assert param.schema["values_display"]["b200"] == "b200, b200 (hashing:seed2)"
    assert param.resolve("a100") == "a100"
    with pytest.raises(ParamValidationError):
        param.resolve("c300")
    assert "fixed" not in str(dag.doc_md)


def test_dags_that_only_people_start_are_not_paused_and_each_has_our_tag(config: Path) -> None:
    dags = [migration_dag(config=config), rollback_dag(config=config, tags=["search"]), *upkeep_dags(config=config)]
    arrive = {dag.dag_id for dag in dags if dag.is_paused_upon_creation is False}
    assert arrive == {"revector_migrate", "revector_rollback", "revector_adopt", "revector_metadata_backfill"}
    assert migration_dag(config=config, is_paused_upon_creation=True).is_paused_upon_creation is True
    assert all("revector" in dag.tags for dag in dags)
    assert dags[1].tags == {"revector", "search"}


def test_the_first_task_says_what_is_wrong_with_the_project(config: Path) -> None:
    config.write_text("[collections.docs")
    first = [
        CollectionsOperator(task_id="first", config=str(config)),
        VerifyOperator(task_id="first", config=str(config), collection="docs"),
        MigrationApprovalOperator(task_id="first", config=str(config), collection="docs", revision="b200"),
    ]
    run = SimpleNamespace(dag_id="docs", run_id="r1")
    for task in first:
        with pytest.raises(AirflowFailException, match="cannot be read") as caught:
            task.execute({"dag": run, "dag_run": run, "task": task})
        assert isinstance(caught.value.__cause__, errors.ConfigError)


def test_the_environment_wins_over_the_file_beside_the_dag(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVECTOR_CONFIG", str(config))
    assert "enum" in migration_dag(config=config.parent / "other.toml").params.get_param("collection").schema


@pytest.mark.parametrize("make", FACTORIES)
def test_the_dags_survive_serialisation_and_are_the_same_at_every_parse(config: Path, make: Any) -> None:
    dag = make(config=config)
    once, again = DagSerialization.serialize_dag(dag), DagSerialization.serialize_dag(make(config=config))
    assert json.dumps(once, default=str) == json.dumps(again, default=str)
    copy = DagSerialization.deserialize_dag(once)
    assert set(copy.task_dict) == set(line_of(dag))


def test_every_operator_takes_templates_and_leads_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = [getattr(revector.airflow, name) for name in revector.airflow.__all__ if name.endswith("Operator")]
    assert len(operators) == 16
    for operator in operators:
        known = {name for one in operator.__mro__ for name in inspect.signature(one.__init__).parameters}
        assert set(operator.template_fields) <= known, operator
        assert {"config", "conn_id", "collection"} <= set(operator.template_fields), operator
        assert [link.name for link in operator.operator_extra_links] == ["Revector"]
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    button = VerifyOperator(task_id="verify").operator_extra_links[0]
    assert button.get_link(None, ti_key=None) == "/team/plugin/revector"


def test_library_errors_fail_at_once_unless_they_say_retryable() -> None:
    tree = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.RevectorError)]
    assert {kind.__name__ for kind in tree if kind.retryable} >= {"DatabaseUnavailable", "NotCaughtUp", "GateBusy"}
    for kind in tree:
        with pytest.raises(kind if kind.retryable else AirflowFailException) as caught, final_errors():
            raise kind("what went wrong")
        assert str(caught.value) == "what went wrong"


@pytest.mark.parametrize("error", [ConnectionError("lost"), MemoryError(), OSError(28, "disk full")])
def test_other_errors_are_retried(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, final_errors():
        raise error
    assert caught.value is error


@pytest.mark.slow
def test_parsing_imports_nothing_heavy() -> None:
    code = f"""
import sys, time
import airflow.sdk
began, before = time.perf_counter(), set(sys.modules)
exec(open({str(DAGS / "revector_migrate.py")!r}).read(), {{"__file__": {str(DAGS / "revector_migrate.py")!r}}})
for name in ("rollback", "retire", "canary", "verify", "dead_letters", "stale", "metadata_backfill", "finetune"):
    file = {str(DAGS)!r} + f"/revector_{{name}}.py"
    exec(open(file).read(), {{"__file__": file}})
import revector.airflow.plugin, revector.airflow.provider_info
print(f"parsed in {{time.perf_counter() - began:.2f}} s after airflow.sdk")
print("HEAVY", sorted(name for name in {HEAVY!r} if name in sys.modules and name not in before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
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
        "revector_adopt": None,
        "revector_metadata_backfill": None,
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
        assert all(task.retries == 5 for task in dag.tasks)
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description, name
            assert param.schema["type"], name
    with pytest.raises(errors.ConfigError, match="nightly"):
        upkeep_dags(config=config, schedules={"nightly": "@daily"})


def test_options_reach_every_task_of_the_upkeep(config: Path) -> None:
    def told(context: Any) -> None: ...

    for dag in upkeep_dags(config=config, notifiers=[told], default_args={"queue": "slow"}, tags=["night"]):
        assert dag.tags == {"revector", "night"}
        assert {task.queue for task in dag.tasks} == {"slow"}
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


def run(operator: type[RevectorOperator], world: World, **arguments: Any) -> None:
    """Run a task of a DAG that is called like the operator, started by its schedule."""
    task = operator(task_id="one", config=str(world.root / "revector.toml"), collection="docs", **arguments)
    names = {"dag": SimpleNamespace(dag_id=operator.__name__), "task": task}
    task.execute({**names, "dag_run": SimpleNamespace(triggering_user_name="", run_id="r1")})


def test_the_verification_fails_without_a_retry_when_an_index_is_wrong(served: World) -> None:
    run(VerifyOperator, served, reembed=0)
    served.sql(f"DELETE FROM {served.generation().physical_name} WHERE doc_id = 'd00003'")
    with pytest.raises(AirflowFailException, match="d00003") as caught:
        run(VerifyOperator, served, reembed=0)
    assert isinstance(caught.value.__cause__, errors.VerificationFailed)
    assert "nothing was repaired" in str(caught.value)
    with pytest.raises(AirflowFailException, match="1 documents are due again"):
        run(VerifyOperator, served, reembed=0, repair=True)
    served.settle()
    run(VerifyOperator, served, reembed=0)
    assert served.differences(served.generation()) == []


def test_stale_documents_and_a_changed_source_reach_the_index(served: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "revector.airflow")
    one = document(5)
    served.settings(source="docs.jsonl")
    (served.root / "docs.jsonl").write_text(f'{{"_id": "{one.id}", "text": "melons instead"}}\n')
    served.sql("UPDATE ledger SET applied_at = now() - interval '40 days' WHERE doc_id = 'd00007'")
    before = served.loader.embedded
    with working(served):
        run(StaleOperator, served, max_age_days=30)
        assert served.loader.embedded - before == 1
        run(StaleOperator, served, reread=["docs"])
    assert "absent=119" in caplog.text
    assert {event["actor"] for event in served.events("stale")} == {"airflow:StaleOperator"}
    assert served.search("melons instead")[0] == "d00005"
    assert served.differences(served.generation()) == []


def test_a_night_without_a_worker_is_no_green_task(served: World) -> None:
    served.sql("UPDATE ledger SET applied_at = now() - interval '40 days' WHERE doc_id = 'd00007'")
    with pytest.raises(AirflowFailException, match="no worker was ever seen"):
        run(StaleOperator, served, max_age_days=30, patience_s=0.1)
    served.sql("UPDATE pending SET state = 'dead', attempts = 8")
    with pytest.raises(AirflowFailException, match="no worker was ever seen"):
        run(DeadLettersOperator, served, patience_s=0.1)


def test_a_dead_letter_is_tried_again_within_the_bounds_of_the_form(served: World) -> None:
    served.put(2, start=500)
    served.sql("UPDATE pending SET state = 'dead', attempts = 1")
    with working(served):
        run(DeadLettersOperator, served, limit=1)
        assert served.value("SELECT count(*) FROM pending WHERE state = 'dead'") == 1
        run(DeadLettersOperator, served, tries=0)
        assert served.value("SELECT count(*) FROM pending WHERE state = 'dead'") == 1
        run(DeadLettersOperator, served)
    assert served.value("SELECT count(*) FROM pending") == 0
    assert served.search("apple501 pear501")[0] == "d00501"


def test_the_gate_is_shown_to_those_who_must_decide() -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    kept = {"id": 1, "generation": 2, "passed": True, "verdict": "pass", "overridden": None, "at": "2026-11-20"}
    side = {"generation": 2, "revision": "0002", "recall": value, "means": {"recall": 0.5}}
    gate = kept | {"k": 10, "queries": 300, "labels": "test", "reasons": [], "new": side, "difference": value}
    text = figures(GateResult.model_validate(gate))
    assert "| revision 0002 | 0.5000 | 0.4000 to 0.6000 |" in text
    assert "300 labelled queries (test). Passed." in text
    failed = gate | {"passed": False, "verdict": "fail", "reasons": ["too low"]}
    assert "Failed: too low." in figures(GateResult.model_validate(failed))
    assert "measured nothing" in figures(None)
    assert "measured nothing" in figures(GateResult.model_validate(kept | {"not_measured": "first"}))


def test_the_question_names_collection_and_revision() -> None:
    assert window_question("docs", "0002") == "docs is on revision 0002: go back, or drop the old index?"


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
