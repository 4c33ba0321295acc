"""Every DAG runs for real, on an Airflow database, and what it does is looked up in ours; connection and notifier."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import airflow
import jsonschema  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.asset import AssetEvent, AssetModel
from airflow.sdk import Connection
from airflow.utils import db
from airflow.utils.session import create_session

from airflow_names import VERSION, DagBag, ParamValidationError, Providers
from revector.airflow import MoveOperator, RevectorHook, RevectorNotifier, active_index, migration_dag, provider_info
from revector.airflow.factory import make_dag, place_of
from revector.airflow.versions import AirflowFailException, AirflowSkipException
from revector.config import load_project
from revector.errors import ConfigError
from worlds import World

Run = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Airflow's tables, once."""
    db.initdb()


@pytest.fixture
def run(airflow_database: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a DAG of the packaged bundle in this process; give the state of each task, and of the run under ''."""
    bundle = {"name": "revector", "classpath": "revector.airflow.bundle.RevectorDagBundle", "kwargs": {}}
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))

    def one(world: World, dag_id: str, *, not_run: str | None = None, **conf: Any) -> dict[str, str]:
        monkeypatch.setenv("REVECTOR_CONFIG", str(world.root / "revector.toml"))
        (bundle,) = DagBundlesManager().get_all_dag_bundles()
        bag = DagBag(str(bundle.path))
        assert bag.import_errors == {}
        dag = bag.dags[dag_id]
        dag.deadline = None  # Airflow's test() looks for it in the database under an id that only a scheduler gives
        done = dag.test(run_conf=conf, mark_success_pattern=not_run)
        return {"": str(done.state)} | {ti.task_id: str(ti.state) for ti in done.get_task_instances()}

    return one


def origin(event: Any) -> tuple[str, str]:
    """The DAG and the task that an event names."""
    return event["detail"]["airflow"]["dag_id"], event["detail"]["airflow"]["task_id"]


def moves_of(collection: str) -> list[dict[str, Any]]:
    """What Airflow's asset of the collection was told."""
    with create_session() as session:
        found = session.scalars(
            sa.select(AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetModel.uri == active_index(collection).uri)
            .order_by(AssetEvent.id)
        )
        return [dict(extra) for extra in found]


# The DAGs -------------------------------------------------------------------------------------------------------------


def test_a_run_that_asks_for_approval_goes_on_where_one_without_stopped(served: World, run: Run) -> None:
    served.upgrade("b200", to="provision")
    done = run(served, "revector_migrate", collection="docs", not_run="approval|rollback.*|retire")
    assert set(done.values()) == {"success"}
    assert served.generation().revision == "b200"


def test_a_migration_runs_to_the_swap_and_tells_assets_and_history(served: World, run: Run) -> None:
    form = {"collection": "docs", "approval": False, "shards": 2, "rollback_hours": 3}
    done = run(served, "revector_migrate", **form, not_run="approval|rollback.*|retire")
    assert set(done.values()) == {"success"}
    assert served.generation().revision == "b200"
    (swap,) = [event for event in served.events("swap") if event["detail"]["revision"] == "b200"]
    assert (swap["actor"], origin(swap)) == ("dag_test", ("revector_migrate", "swap"))
    assert swap["detail"]["airflow"]["run_id"].startswith("manual__")
    told = moves_of("docs")[-1]
    assert told == {
        "collection": "docs",
        "revision": "b200",
        "generation": served.generation().gen,
        "move": "swap",
        "recall": 1.0,
    }
    assert served.value("SELECT window_hours FROM generation WHERE gen = :gen", gen=served.generation().gen) == 3


def test_a_move_from_the_form_is_made_once_and_under_the_users_name(swapped: World, run: Run) -> None:
    asked = {"collection": "docs", "action": "rollback", "revision": "b200", "phase": "live", "reason": "odd answers"}
    assert run(swapped, "revector_rollback", **asked)["move"] == "success"
    assert swapped.generation().revision == "a100"
    (event,) = swapped.events("rollback")
    assert (event["actor"], event["detail"]["reason"]) == ("dag_test", "odd answers")
    assert origin(event) == ("revector_rollback", "move")
    assert moves_of("docs")[-1]["move"] == "rollback"
    before = swapped.state()
    assert run(swapped, "revector_rollback", **asked)["move"] == "failed", "it is not live any more"
    with pytest.raises((ParamValidationError, ValueError), match="reason"):  # the second in Airflow 3.2
        run(swapped, "revector_rollback", **asked | {"reason": ""})
    assert swapped.state() == before
    forward = {"action": "swap", "phase": "rolled_back", "reason": "they were right"}
    assert run(swapped, "revector_rollback", **asked | forward)["move"] == "success"
    assert swapped.generation().revision == "b200"
    assert swapped.events("swap")[0]["detail"]["reason"] == "they were right"


@pytest.mark.parametrize(
    "asked",
    [
        {"action": "rollback", "revision": "a100"},
        {"action": "rollback", "phase": "gated"},
        {"action": "abort"},
        {"action": "override"},
        {"action": "drop"},
    ],
)
def test_a_move_that_does_not_fit_changes_nothing(swapped: World, asked: Any) -> None:
    before = swapped.state()
    with pytest.raises(AirflowFailException):
        move(swapped, **{"revision": "b200", "reason": "a mistake"} | asked)
    assert swapped.state() == before
    with pytest.raises(AirflowSkipException):
        move(swapped, action="retire", revision="b200", phase="rolled_back", skip_if_moved=True)


def test_the_way_back_is_given_up_at_once_only_on_a_persons_word(swapped: World) -> None:
    with pytest.raises(AirflowSkipException, match="window"):
        move(swapped, action="retire", revision="b200", phase="live", skip_if_moved=True)
    said = {"who": "olga", "why": None}
    move(swapped, said, action="retire", revision="b200", phase="live", skip_if_moved=True, question="window")
    assert swapped.collection.standby_gen is None
    (event,) = swapped.events("retire")
    assert (event["actor"], event["detail"]["reason"]) == ("olga", "no reason was given")


def move(world: World, said: Any = None, **arguments: Any) -> None:
    """Make a move outside a DAG; ``said`` is what a person answered."""
    task = MoveOperator(task_id="move", config=str(world.root / "revector.toml"), collection="docs", **arguments)
    context = {
        "dag": SimpleNamespace(dag_id="moves"),
        "dag_run": SimpleNamespace(triggering_user_name=None, run_id="r1"),
        "task": task,
        "ti": SimpleNamespace(xcom_pull=lambda **_: said, try_number=1),
    }
    task.execute(context)


def test_the_hourly_dag_retires_what_is_past_its_window(swapped: World, run: Run) -> None:
    swapped.sql("UPDATE collection SET rollback_deadline = clock_timestamp() - interval '1 minute'")
    old = swapped.generation("standby")
    assert run(swapped, "revector_retire")["retire"] == "success"
    assert swapped.collection.standby_gen is None
    assert swapped.value("SELECT to_regclass(:name)", name=old.physical_name) is None


@contextmanager
def working(world: World) -> Iterator[None]:
    """Have a worker at work beside a task that waits for one."""
    stop = threading.Event()
    worker = threading.Thread(target=world.project.worker().run, args=(stop,), daemon=True)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def test_the_upkeep_cures_what_is_stale_and_dead_and_fills_a_new_field(served: World, run: Run) -> None:
    served.sql("UPDATE ledger SET applied_at = now() - interval '40 days' WHERE doc_id = 'd00007'")
    before = served.loader.embedded
    with working(served):
        assert run(served, "revector_stale", max_age_days=30)["stale"] == "success"
    assert served.loader.embedded == before + 1
    served.put(1, start=500)
    served.sql("UPDATE pending SET state = 'dead', attempts = 8")
    with working(served):
        assert run(served, "revector_dead_letters")["dead_letters"] == "success"
    assert served.search("apple500 pear500")[0] == "d00500"
    asked = {"collection": "docs", "field": "number", "path": "$.meta.n", "value": "none"}
    assert run(served, "revector_metadata_backfill", **asked)["fill"] == "success"
    served.settle()
    assert served.value("SELECT count(*) FROM document WHERE meta->'number' = meta->'n'") == 121
    assert {origin(served.events(kind)[0])[0] for kind in ("stale", "dlq_upkeep", "field")} == {
        "revector_stale",
        "revector_dead_letters",
        "revector_metadata_backfill",
    }
    assert served.differences(served.generation()) == []


def test_a_table_that_the_settings_name_is_adopted_and_served(served: World, run: Run) -> None:
    served.sql("CREATE TABLE public.posts (id int PRIMARY KEY, words text)")
    served.sql("INSERT INTO public.posts VALUES (1, 'quince melon'), (2, 'fig olive')")
    with (served.root / "revector.toml").open("a") as file:
        file.write('\n[collections.posts]\n[collections.posts.adopt]\ntable = "public.posts"\nmodel = "hashing"\n')
        file.write('text = ["words"]\n')
    assert run(served, "revector_adopt", collection="posts")["adopt"] == "success"
    project = load_project(served.root)
    assert project.searcher("posts").search("fig olive", 1).hits[0].id == "2"
    assert [event["kind"] for event in project.events("posts")][-1] == "adopt"
    project.engine.dispose()
    assert run(served, "revector_adopt", collection="docs")["adopt"] == "failed"


def test_a_wrong_vector_and_a_bad_index_are_found(served: World, run: Run) -> None:
    assert run(served, "revector_canary")["canary"] == "success"
    index = served.generation().physical_name
    served.sql(f"UPDATE {index} SET embedding = (SELECT embedding FROM {index} WHERE doc_id = 'd00100')")
    assert run(served, "revector_canary")["canary"] == "failed"
    (alert,) = served.events("canary_alert")
    assert alert["detail"]["recall"] < 0.5
    done = run(served, "revector_verify_full", reembed=120)
    assert (done[""], done["verify"]) == ("failed", "failed")
    assert not served.events("verify_live")[0]["detail"]["passed"]


# Connection, notifier, provider ---------------------------------------------------------------------------------------


@pytest.fixture
def connection(served: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The connection ``team``: the database by host and name, the project by its file."""
    url = sa.make_url(served.database_url)
    fields = {
        "conn_type": "revector",
        "host": url.host or url.query.get("host"),
        "login": url.username,
        "password": url.password,
        "port": url.port or int(str(url.query.get("port", 5432))),
        "schema": url.database,
        "extra": {"config": str(served.root / "revector.toml"), "collection": "docs"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", json.dumps(fields))
    return fields


def test_a_connection_gives_database_project_and_collection(served: World, connection: Any) -> None:
    file = served.root / "revector.toml"
    file.write_text(file.read_text().replace(served.database_url, "postgresql+psycopg://nobody@127.0.0.1:1/none"))
    hook = RevectorHook("team")
    assert (hook.collection(None), hook.collection("other")) == ("docs", "other")
    assert hook.get_conn().documents("docs").count() == 120
    with pytest.raises(ConfigError, match="no collection was named"):
        RevectorHook(None, config=str(file)).collection(None)


def test_the_test_button_says_what_it_found(
    served: World, connection: dict[str, Any], empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, said = RevectorHook("team").test_connection()
    assert passed, said
    assert "collections: docs" in said
    empty = connection | {"schema": sa.make_url(empty_database_url).database}
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", json.dumps(empty))
    assert RevectorHook("team").test_connection() == (
        False,
        "the database has no revector tables yet. Nothing was changed; run `revector init`.",
    )
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", json.dumps(empty | {"host": "127.0.0.1", "port": 1, "password": "s3cret"}))
    passed, said = RevectorHook("team").test_connection()
    assert not passed
    assert "s3cret" not in said


def test_airflow_makes_the_hook_of_the_connection_and_knows_its_form(connection: Any) -> None:
    from airflow.providers_manager import ProvidersManager

    there = Connection(conn_id="team", **connection | {"extra": json.dumps(connection["extra"])})
    assert isinstance(there.get_hook(), RevectorHook)
    manager = ProvidersManager()
    found = Providers().hooks["revector"]
    assert found is not None
    assert found.hook_name == "Revector"
    if VERSION < (3, 2):
        return  # its form has no fields of ours
    assert {name for name in manager.connection_form_widgets if "revector" in name} == {
        "extra__revector__config",
        "extra__revector__collection",
        "extra__revector__sslmode",
    }
    assert manager.field_behaviours["revector"]["relabeling"]["schema"] == "Database"


def test_the_provider_is_described_as_airflow_wants_it_and_names_what_exists() -> None:
    schema = json.loads((Path(inspect.getfile(airflow)).parent / "provider_info.schema.json").read_text())
    info = provider_info.get_provider_info()
    jsonschema.validate(info, schema)
    import importlib

    modules = [name for part in ("hooks", "operators", "bundles") for name in info[part][0]["python-modules"]]
    classes = [*info["extra-links"], *info["notifications"], info["connection-types"][0]["hook-class-name"]]
    for name in [*modules, *(path.rpartition(".")[0] for path in classes)]:
        importlib.import_module(name)
    for path in classes:
        module, _, name = path.rpartition(".")
        assert inspect.isclass(getattr(importlib.import_module(module), name))


def test_a_notifier_and_a_missed_deadline_speak_to_the_webhook(served: World, webhook: Any) -> None:
    import asyncio

    url, heard = webhook
    file = served.root / "revector.toml"
    file.write_text(f'{file.read_text()}\n[alerts]\nwebhook = "{url}"\n')
    context = {"ti": {"task_id": "gate", "state": "failed"}, "dag_run": {"run_id": "r1"}}
    RevectorNotifier("{{ ti.task_id }} ended as {{ ti.state }}", config=str(file))(context)
    dag = migration_dag("docs", config=file)
    (alert,) = dag.deadline

    async def missed() -> None:
        await RevectorNotifier(**alert.callback.kwargs, context={"dag_run": {"run_id": "r1"}})

    asyncio.run(missed())
    assert [one["text"] for one in heard] == [
        "gate ended as failed",
        "A run of revector_migrate has taken longer than 14 days, 0:00:00; look at it in Airflow.",
    ]


def test_a_dag_names_owner_deadline_and_place_or_airflows_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REVECTOR_CONFIG", raising=False)
    monkeypatch.setenv("AIRFLOW__REVECTOR__CONFIG", "/srv/revector.toml")
    monkeypatch.setenv("AIRFLOW__REVECTOR__CONN_ID", "team")
    assert place_of(None, None) == {"config": "/srv/revector.toml", "conn_id": "team"}
    assert place_of("here.toml", "mine") == {"config": "here.toml", "conn_id": "mine"}
    dag = migration_dag("docs", owner="search-team", deadline=None)
    assert {task.owner for task in dag.tasks} == {"search-team"}
    assert {task.conn_id for task in dag.tasks if not task.is_mapped} == {"team"}
    assert dag.deadline is None
    assert make_dag("one", schedule=None, place={}).deadline
