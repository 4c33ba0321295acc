"""The page's server: who may see and read what, a long history in pages, its exports, and any path prefix."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

pytest.importorskip("airflow", reason="the extra `airflow` is not installed")

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse, ReactAppResponse
from airflow.models.dag import DagModel, DagTag
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import DAG
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils import db
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunType
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from revector.adoption.presets import AdoptionRequest
from revector.airflow import migration_dag, retire_dag, rollback_dag, web
from revector.airflow.plugin import RevectorPlugin
from revector.config import load_project
from revector.history import audit
from stages import Stages
from worlds import World

ROLES = ("viewer", "user", "op", "admin")
MANY = 10_000
HISTORY = "/revector/ui/data/history/docs"
ROUTES = [
    "/revector"
    + route.path.format(name="page.js", collection="docs", result_id=1)
    + {"charts": "?hours=24", "export": "?form=csv"}.get(route.name, "")
    for route in web.app.routes
    if isinstance(route, APIRoute)
]


class NoAuditLog(SimpleAuthManager):
    """Roles as Airflow's, but only an admin reads audit logs."""

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, **asked: Any) -> bool:
        hidden = access_entity is DagAccessEntity.AUDIT_LOG and user.role != "admin"
        return not hidden and super().is_authorized_dag(user=user, access_entity=access_entity, **asked)


@pytest.fixture(scope="module", autouse=True)
def _airflow_database() -> None:
    db.initdb()


Client = Callable[..., TestClient]


@pytest.fixture
def shown(swapped: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The project that the page shows: revision b200 in its rollback window."""
    monkeypatch.setenv("REVECTOR_CONFIG", str(swapped.root))
    return swapped


@pytest.fixture(scope="module")
def _long(tmp_path_factory: pytest.TempPathFactory, databases: Any, stages: Stages) -> Iterator[World]:
    """Revision b200 in its window, and 10,000 events more, of five people and seven kinds; tests only read it."""
    name = databases.create(stages["swap"])
    made = World(tmp_path_factory.mktemp("long"), databases.url(name))
    made.sql(
        "INSERT INTO event (cid, seq, at, epoch, actor, kind, gen, detail, hash) SELECT 1, 0, now(), 1, 'person' || n "
        "% 5, 'kind' || n % 7, CASE WHEN n % 3 = 0 THEN 1 END, jsonb_build_object('n', n, 'reason', 'because of ' "
        "|| n, 'airflow', jsonb_build_object('dag_id', 'revector_rollback', 'run_id', 'run ' || n / 10, 'task_id', "
        "'move')), '' FROM generate_series(1, :many) n ORDER BY n",
        many=MANY,
    )
    yield made
    made.engine.dispose()
    databases.drop(name)


@pytest.fixture
def long(_long: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("REVECTOR_CONFIG", str(_long.root))
    return _long


# Who ------------------------------------------------------------------------------------------------------------------


def test_no_route_is_open(client: Client) -> None:
    assert len(ROUTES) > 5
    assert {path: client(None).get(path).status_code for path in ROUTES} == dict.fromkeys(ROUTES, 401)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_sees_everything_and_is_told_what_it_may_do(role: str, long: World, client: Client) -> None:
    asked = client(role)
    for path in ROUTES:
        if "gate" not in path:
            assert asked.get(path).status_code == 200, path
    status = asked.get("/revector/ui/data/status").json()
    acts = role != "viewer"
    may = dict.fromkeys(("start", "unpause", "move", "answer"), acts) | {"history": True}
    assert (status["user"], status["may"]) == (f"{role}-person", may)


def test_the_history_is_for_those_who_may_read_the_audit_log(
    long: World, client: Client, manager: Callable[[type[SimpleAuthManager]], None]
) -> None:
    manager(NoAuditLog)
    asked = client("op")
    for path in ROUTES:
        assert asked.get(path).status_code == (403 if path.startswith(HISTORY) else 200) or "gate" in path
    assert not asked.get("/revector/ui/data/status").json()["may"]["history"]
    assert client("admin").get(HISTORY).status_code == 200


def test_the_server_changes_nothing() -> None:
    methods = {method for route in web.app.routes if isinstance(route, APIRoute) for method in route.methods}
    assert methods == {"GET"}


# The state ------------------------------------------------------------------------------------------------------------


def test_the_status_names_what_the_page_asks_and_answers(long: World, client: Client) -> None:
    [found] = client().get("/revector/ui/data/status").json()["collections"]
    assert (found["name"], found["slots"]["active"]["revision"], found["migration"]["phase"]) == (
        "docs",
        "b200",
        "live",
    )
    assert found["questions"] == {
        "window": "docs is on revision b200: go back, or drop the old index?",
        "approval": "Swap docs to revision b200?",
    }
    assert found["newest_event"] == long.project.events("docs", 1)[0]["seq"]


def test_the_revision_that_waits_in_the_files_is_shown_until_a_slot_holds_it(shown: World, client: Client) -> None:
    def following() -> Any:
        return client().get("/revector/ui/data/status").json()["collections"][0]["next"]

    assert following() is None, "the head is served"
    shown.revision("c300", "b200", 'model = ModelSpec(name="hashing:seed3", dim=96)')
    assert following() == {"revision": "c300", "message": "c300", "model": "hashing:seed3", "dim": 96}
    shown.revision("c300", "nothing", 'model = ModelSpec(name="hashing:seed3", dim=96)')
    assert "nothing" in following()["problem"]


def test_a_slot_says_what_it_is_for_and_not_how_far_its_migration_came(shown: World, client: Client) -> None:
    def states() -> dict[str, str]:
        slots = client().get("/revector/ui/data/status").json()["collections"][0]["slots"]
        return {slot["revision"]: slot["state"] for slot in slots.values() if slot}

    assert states() == {"b200": "serving", "a100": "way back"}
    shown.migrator.rollback("a test wants it")
    assert states() == {"a100": "serving", "b200": "rolled back"}
    shown.migrator.retire("a test wants it", now=True)
    assert states() == {"a100": "serving"}


def test_an_adopted_table_is_shown_with_what_is_wrong_and_what_to_do(shown: World, client: Client) -> None:
    with (shown.root / "revector.toml").open("a") as file:
        file.write("\n[collections.articles]\n")
    shown.sql("CREATE TABLE public.articles (id int PRIMARY KEY, body text, embedding vector(8))")
    shown.sql("INSERT INTO public.articles SELECT n, 'pear' || n FROM generate_series(1, 5) n")
    project = load_project(shown.root)
    project.init()
    request = AdoptionRequest(table="public.articles", model="hashing", text=("body",), where="id < 4", vectors=False)
    project.adopter("articles").run(project.adopter("articles").plan(request))

    def adoption() -> dict[str, Any]:
        seen = client().get("/revector/ui/data/status").json()
        found = {one["name"]: one["adoption"] for one in seen["collections"]}
        assert (found["docs"], seen["adopting_dag"]) == (None, "revector_adopt")
        return found["articles"]

    found = adoption()
    assert (found["table"], found["where"], found["vector"]) == ("public.articles", "id < 4", None)
    assert (found["copied"], found["faults"], found["compared"], found["advice"]) == (True, [], None, None)
    shown.sql("ALTER TABLE public.articles DISABLE TRIGGER USER")
    shown.sql("UPDATE public.articles SET body = 'quince' WHERE id = 3")
    project.verify("articles", reembed=0)
    found = adoption()
    triggers = [f"revector_2_{event}" for event in ("change", "truncate", "write")]
    assert sorted(found["faults"]) == [f"the trigger {one} on public.articles is switched off" for one in triggers]
    assert "1 rows of public.articles are not documents as they stand, such as '3'" in found["compared"]["differing"]
    assert found["advice"] == "`revector adopt -c articles` makes triggers again, and writes what was missed"
    project.engine.dispose()


# Airflow's side -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(shown: World) -> Iterator[Session]:
    """Airflow's tables with our DAGs, as its DAG processor leaves them, and one of someone else."""
    made = [migration_dag(), rollback_dag(), retire_dag(), DAG("foreign", schedule=None)]
    lazy = [LazyDeserializedDAG.from_dag(dag) for dag in made]
    with create_session(scoped=False) as session:
        session.add(DagBundleModel(name="tests"))
        session.flush()
        SerializedDAG.bulk_write_to_db("tests", None, lazy, session=session)
        for dag in lazy:
            SerializedDagModel.write_dag(dag, bundle_name="tests", session=session)
        session.commit()
        yield session
        session.rollback()
        for table in (TaskInstance, DagRun, SerializedDagModel, DagVersion, DagTag, DagModel, DagBundleModel):
            session.execute(sa.delete(table))
        session.commit()


def begin(session: Session, dag: str, run: str, state: str, *tasks: str, **conf: Any) -> None:
    """A run of a DAG, begun by maria, of which some tasks run."""
    made = DagRun(dag_id=dag, run_id=run, run_type=DagRunType.MANUAL, conf=conf, state=DagRunState(state))
    made.run_after, made.start_date, made.triggering_user_name = datetime.now(UTC), datetime.now(UTC), "maria"
    session.add(made)
    session.flush()
    version = session.scalars(sa.select(DagVersion).where(DagVersion.dag_id == dag)).one()
    for task in SerializedDagModel.get_dag(dag, session=session).tasks:
        if task.task_id in tasks:
            one = TaskInstance(task, run_id=run, state=TaskInstanceState.RUNNING, dag_version_id=version.id)
            session.add(one)
    session.commit()


def airflow_of(asked: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = asked.get("/revector/ui/data/status").json()["airflow"]
    return found


def test_paused_dags_are_named_and_those_that_people_start_arrive_unpaused(tables: Session, client: Client) -> None:
    tables.execute(sa.update(DagModel).where(DagModel.dag_id == "revector_retire").values(is_paused=True))
    tables.commit()
    dags = {one["dag"]: (one["paused"], one["scheduled"]) for one in airflow_of(client())["dags"]}
    assert (
        dags.items()
        >= {
            "revector_migrate": (False, False),
            "revector_rollback": (False, False),
            "revector_retire": (True, True),
        }.items()
    )


def test_a_run_shows_before_its_migration_is_open_with_what_its_form_said(tables: Session, client: Client) -> None:
    begin(tables, "revector_migrate", "first", "running", "plan")
    begin(tables, "revector_rollback", "second", "queued", collection="docs", action="retire", revision="b200")
    begin(tables, "revector_migrate", "ended", "success", collection="docs", revision="b200")
    begin(tables, "foreign", "foreign", "running")
    first, second = airflow_of(client())["runs"]
    since = first.pop("since")
    assert datetime.now(UTC) - datetime.fromisoformat(since) < timedelta(minutes=5)
    about = {"collection": "docs", "revision": "head", "action": None}
    assert (
        first
        == {"dag": "revector_migrate", "run": "first", "state": "running", "by": "maria", "tasks": ["plan"]} | about
    )
    assert (second["run"], second["state"], second["action"], second["tasks"]) == ("second", "queued", "retire", [])


def test_dags_and_runs_are_shown_to_those_who_may_read_them(
    tables: Session, client: Client, manager: Callable[[type[SimpleAuthManager]], None]
) -> None:
    class OneDag(SimpleAuthManager):
        def is_authorized_dag(self, *, user: Any, access_entity: Any = None, details: Any = None, **asked: Any) -> bool:
            hidden = details is not None and details.id != "revector_migrate"
            return not (hidden or access_entity is DagAccessEntity.RUN) or user.role == "admin"

    begin(tables, "revector_migrate", "first", "running", "plan")
    manager(OneDag)
    seen = airflow_of(client("viewer"))
    assert ([one["dag"] for one in seen["dags"]], seen["runs"]) == (["revector_migrate"], [])
    assert len(airflow_of(client("admin"))["runs"]) == 1


def test_the_page_shows_the_project_that_airflow_is_set_to(
    long: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REVECTOR_CONFIG")
    monkeypatch.setenv("AIRFLOW__REVECTOR__CONFIG", str(long.root / "revector.toml"))
    [found] = client().get("/revector/ui/data/status").json()["collections"]
    assert found["name"] == "docs"


def test_a_collection_without_tables_is_told_and_hides_no_other(shown: World, client: Client) -> None:
    with (shown.root / "revector.toml").open("a") as file:
        file.write("\n[collections.later]\n")
    first, second = client().get("/revector/ui/data/status").json()["collections"]
    assert (first["name"], "problem" in first) == ("docs", False)
    assert "revector init" in second["problem"]


def test_a_gate_event_leads_to_its_report(long: World, client: Client) -> None:
    asked = client()
    [event] = [one for one in asked.get(f"{HISTORY}?kind=gate").json()["events"] if one["revision"] == "b200"]
    answer = asked.get(f"/revector/ui/gate/docs/{event['gate_result']}")
    assert answer.status_code == 200
    assert "Gate of revision b200 against a100" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "no gate result number 999" in asked.get("/revector/ui/gate/docs/999").json()["detail"]


def test_charts_show_what_was_measured_and_nothing_else(shown: World, client: Client) -> None:
    asked = client()
    path = "/revector/ui/data/charts/docs?hours=168"
    assert asked.get(path).json() == {}
    shown.sql(
        "INSERT INTO canary (cid, at, gen, labels, labels_fp, k, queries, recall, baseline) SELECT 1, "
        "clock_timestamp() - make_interval(days => n), 2, 'l', 'f', 10, 60, 0.9, 0.9 FROM generate_series(1, 3) n"
    )
    shown.sql(
        "INSERT INTO load_sample (cid, minute, queued, lag_s, dead, documents) SELECT 1, date_trunc('minute', "
        "clock_timestamp()) - make_interval(mins => n), 17, 2.5, 1, 120 FROM generate_series(0, 999) n"
    )
    drawn = asked.get(path).json()
    assert list(drawn) == ["recall", "queue", "lag"]
    assert drawn["recall"].count("<circle") == 3
    assert "generation 2 least 0.9, most 0.9, last 0.9" in drawn["recall"]
    assert "dead letters least 1, most 1, last 1; waiting least 17" in drawn["queue"]
    assert max(len(points.split()) for points in re.findall(r'points="([^"]*)"', drawn["lag"])) <= 241


def test_a_line_breaks_where_nothing_was_measured(shown: World, client: Client) -> None:
    shown.sql(
        "INSERT INTO load_sample (cid, minute, queued, lag_s, dead, documents) SELECT 1, date_trunc('minute', "
        "clock_timestamp()) - make_interval(mins => n), 0, 0, 0, 1 FROM generate_series(1, 600) n WHERE n NOT BETWEEN "
        "100 AND 400"
    )
    assert client().get("/revector/ui/data/charts/docs?hours=24").json()["lag"].count("<polyline") == 2


# The history ----------------------------------------------------------------------------------------------------------


def pages(asked: TestClient, **query: Any) -> list[dict[str, Any]]:
    """Every event of a query, page by page."""
    found, before = [], None
    while True:
        more = {} if before is None else {"before": before}
        answer = asked.get(HISTORY, params={"limit": 500, **query, **more})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["events"]) <= query.get("limit", 500)
        found += page["events"]
        if (before := page["older"]) is None:
            assert page["matching"] == len(found)
            return found


def test_a_page_says_its_place_among_the_matching_events_and_not_their_numbers(long: World, client: Client) -> None:
    asked = client()
    page = asked.get(HISTORY, params={"kind": "kind3", "limit": 10}).json()
    assert (page["first"], page["matching"]) == (1, MANY // 7 + 1)
    older = asked.get(HISTORY, params={"kind": "kind3", "limit": 10, "before": page["older"]}).json()
    assert (older["first"], len(older["events"]), older["matching"]) == (11, 10, page["matching"])


def test_every_event_has_a_sentence(long: World, client: Client) -> None:
    said = {one["kind"]: one["sentence"] for one in pages(client(), kind=["swap", "gate", "provision", "kind3"])}
    assert re.fullmatch(
        r"Revision [ab]\d00 answers; writers waited \d+ ms(; the way back is open until [-\d]{10} \d\d:\d\d UTC)?",
        said["swap"],
    )
    assert re.search(r"^(Recall@10 [01]\.\d{4}|Not measured)", said["gate"])
    assert said["provision"].startswith("Dual-write is on for hashing")
    assert re.fullmatch(r"N [\d,]+", said["kind3"]), "of a kind that nobody knows: its plain facts"


def test_a_long_history_is_read_page_by_page_newest_first_each_event_once(long: World, client: Client) -> None:
    whole = long.project.events("docs", 2 * MANY)
    assert len(whole) > MANY
    read = pages(client())
    assert [one["seq"] for one in read] == [one["seq"] for one in whole]
    assert [one["hash"] for one in read] == [one["hash"] for one in whole]
    assert len(client().get(HISTORY).json()["events"]) == 50


Test = Callable[[Mapping[str, Any]], bool]


@pytest.mark.parametrize(
    ("query", "meets"),
    [
        ({"kind": "kind3"}, lambda one: one["kind"] == "kind3"),
        ({"kind": ["kind3", "swap"]}, lambda one: one["kind"] in ("kind3", "swap")),
        ({"actor": "PERSON2"}, lambda one: one["actor"] == "person2"),
        ({"gen": 1}, lambda one: one["gen"] == 1),
        ({"text": "Because OF 99"}, lambda one: "because of 99" in str(one["detail"]).lower()),
        ({"text": "100%_"}, lambda one: False),
        ({"run": "run 7"}, lambda one: one["detail"].get("airflow", {}).get("run_id") == "run 7"),
        ({"kind": "kind1", "actor": "person1", "gen": 1}, lambda one: one["detail"].get("n", 0) % 105 == 36),
    ],
)
def test_filters_leave_exactly_what_they_name(query: dict[str, Any], meets: Test, long: World, client: Client) -> None:
    wanted = [one["seq"] for one in long.project.events("docs", 2 * MANY) if meets(one)]
    assert [one["seq"] for one in pages(client(), **query)] == wanted


def test_a_time_filter_includes_its_beginning_and_not_its_end(shown: World, client: Client) -> None:
    events = shown.project.events("docs", 100)
    since, until = events[5]["at"], events[2]["at"]
    found = pages(client(), since=since, until=until)
    assert [one["seq"] for one in found] == [one["seq"] for one in events[3:6]]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{HISTORY}?nonsense=1", 422),
        (f"{HISTORY}?since=2026-11-20T10:00:00", 422),
        (f"{HISTORY}?text=a%00b", 422),
        (f"{HISTORY}?gen=99999999999", 422),
        (f"{HISTORY}?before=0", 422),
        (f"{HISTORY}?limit=501", 422),
        (f"{HISTORY}/export?form=xlsx", 422),
        ("/revector/ui/data/history/other", 404),
        ("/revector/ui/data/charts/docs?hours=0", 422),
        ("/revector/ui/gate/docs/99999999999999999999", 422),
        ("/revector/ui/..%2fweb.py", 404),
    ],
)
def test_what_makes_no_sense_is_refused(path: str, status: int, long: World, client: Client) -> None:
    assert client().get(path).status_code == status


def test_exports_hold_what_the_filter_leaves(long: World, client: Client) -> None:
    from pyarrow import parquet

    asked = client()
    wanted = [one for one in long.project.events("docs", 2 * MANY) if one["actor"] == "person4"]
    answer = asked.get(f"{HISTORY}/export?form=csv&actor=person4")
    assert answer.headers["content-disposition"] == 'attachment; filename="revector-docs-history.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    table = parquet.read_table(io.BytesIO(asked.get(f"{HISTORY}/export?form=parquet&actor=person4").content))
    assert tuple(rows[0]) == tuple(table.column_names) == audit.COLUMNS
    said = {
        "hash": [one["hash"] for one in wanted],
        "reason": [one["detail"]["reason"] for one in wanted],
        "run_id": [one["detail"]["airflow"]["run_id"] for one in wanted],
    }
    for column, values in said.items():
        assert [row[column] for row in rows] == table.column(column).to_pylist() == values
    assert table.column("at").to_pylist() == [datetime.fromisoformat(one["at"]) for one in wanted]


def test_the_chain_is_checked_when_asked(shown: World, client: Client) -> None:
    asked = client()
    newest = shown.project.events("docs", 1)[0]
    found = asked.get(f"{HISTORY}/check").json()
    assert (found["broken"], found["events"], found["head"]) == ([], newest["seq"], newest["hash"])
    assert datetime.fromisoformat(found["at"]) - datetime.now(UTC) < timedelta(hours=1)
    shown.unguarded("UPDATE revector.event SET actor = 'someone else' WHERE seq = 2")
    assert asked.get(f"{HISTORY}/check").json()["broken"] == [2]


# Around it ------------------------------------------------------------------------------------------------------------

QUOTED = re.compile(r"""(?:src|href|from|import|call\()\s*=?\s*\(?["'`]([^"'`]+)["'`]""")


def test_the_page_works_below_any_path(long: World, client: Client) -> None:
    asked = client("viewer", "/team/airflow")
    html = asked.get("/team/airflow/revector/ui/").text
    named = set(re.findall(r'(?:src|href)="([^"]+)"', html))
    for name in (*named, *web.FILES):
        assert asked.get(f"/team/airflow/revector/ui/{name}").status_code == 200
    absolute = {
        (path.name, address)
        for path in web.STATIC.iterdir()
        for address in QUOTED.findall(path.read_text(encoding="utf-8"))
        if address.startswith(("/", "http"))
    }
    assert absolute == set()


def test_airflow_takes_what_the_plugin_offers() -> None:
    views = [ExternalViewResponse.model_validate(view) for view in RevectorPlugin.external_views]
    [card] = [ReactAppResponse.model_validate(one) for one in RevectorPlugin.react_apps]
    assert [view.destination for view in views] == ["nav", "dag", "dag_run"]
    assert card.destination == "dashboard"
    assert len({one.url_route for one in (*views, card)}) == len(views) + 1
    addresses = [*(view.href for view in views), *(view.icon for view in views), card.bundle_url]
    assert all(str(address).startswith("revector/ui/") for address in addresses)
    served = {Path(str(address)).name.partition("?")[0] for address in addresses}
    assert served <= {"", *web.FILES, "ui"}
