"""What Airflow has of revector, for the page: our DAGs, which of them are paused, and the runs that are under way.

Read from Airflow's own tables, and only what its auth manager lets the user see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.dag import DagModel, DagTag
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy.orm import Session

from revector.airflow.factory import TAG

UNDER_WAY = ("running", "queued")
MOST_RUNS = 50


def airflow_state(user: BaseUser) -> dict[str, list[dict[str, object]]]:
    """Return ``dags`` and ``runs`` of revector that the user may read.

    A DAG: ``dag``, ``paused``, ``scheduled``, ``does`` (its description). A run, oldest first: ``dag``, ``run``,
    ``state``, ``since`` (ISO), ``by``, ``tasks`` (those that run or wait for a person), and of its form
    ``collection``, ``revision`` and ``action``, each None where the DAG does not ask for it.
    """
    with create_session(scoped=False) as session:
        dags = {name: one for name, one in _dags(session) if _may(user, name)}
        seen = [dag for dag in dags if _may(user, dag, DagAccessEntity.RUN)]
        return {"dags": list(dags.values()), "runs": _runs(session, seen)}


def _may(user: BaseUser, dag: str, entity: DagAccessEntity | None = None) -> bool:
    details = DagDetails(id=dag, team_name=DagModel.get_team_name(dag))
    return get_auth_manager().is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)


def _dags(session: Session) -> Iterable[tuple[str, dict[str, object]]]:
    rows = session.execute(
        sa.select(DagModel.dag_id, DagModel.is_paused, DagModel.timetable_summary, DagModel.description)
        .join(DagTag, DagTag.dag_id == DagModel.dag_id)
        .where(DagTag.name == TAG, DagModel.is_stale.is_(False))
        .order_by(DagModel.dag_id)
    )
    for dag, paused, timetable, does in rows:
        yield (
            dag,
            {"dag": dag, "paused": bool(paused), "scheduled": timetable not in (None, "None"), "does": does or ""},
        )


def _runs(session: Session, dags: list[str]) -> list[dict[str, object]]:
    runs = session.execute(
        sa.select(
            DagRun.dag_id,
            DagRun.run_id,
            DagRun.state,
            DagRun.start_date,
            DagRun.queued_at,
            DagRun.triggering_user_name,
            DagRun.conf,
        )
        .where(DagRun.dag_id.in_(dags), DagRun.state.in_(UNDER_WAY))
        .order_by(DagRun.id)
        .limit(MOST_RUNS)
    ).all()
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    rows = session.execute(
        sa.select(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id).where(
            sa.tuple_(TaskInstance.dag_id, TaskInstance.run_id).in_([(run.dag_id, run.run_id) for run in runs]),
            TaskInstance.state.in_(("running", "queued", "deferred", "awaiting_input", "up_for_retry")),
        )
    )
    for dag, run, task in rows:
        tasks.setdefault((dag, run), {})[task] = None
    return [
        {
            "dag": run.dag_id,
            "run": run.run_id,
            "state": str(run.state),
            "since": (since := run.start_date or run.queued_at) and since.isoformat(),
            "by": run.triggering_user_name,
            "tasks": list(tasks.get((run.dag_id, run.run_id), ())),
            **_asked(session, run.dag_id, run.conf),
        }
        for run in runs
    ]


def _asked(session: Session, dag: str, conf: Mapping[str, object] | None) -> dict[str, object]:
    """Return what the run's form said; what a trigger left out has the form's own value."""
    given = dict(conf or {})
    if "collection" not in given or not {"revision", "action"} & given.keys():
        made = SerializedDagModel.get_dag(dag, session=session)
        given = (dict(made.params.dump()) if made else {}) | given
    return {name: given.get(name) for name in ("collection", "revision", "action")}
