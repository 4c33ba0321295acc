"""Who may do what on the page, asked of Airflow's auth manager, and the project whose state is shown.

Anyone who may see the DAG ``revector_migrate`` sees the page. The history is shown to those who may read that DAG's
audit log. Moves are runs of ``revector_rollback`` and answers to waiting runs, sent to Airflow's own API: it decides.
"""

from __future__ import annotations

import functools
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException

from revector.airflow.factory import place_of
from revector.airflow.hook import RevectorHook
from revector.config import Project

GUARD_DAG = "revector_migrate"
"""The DAG whose permissions guard the page."""

MOVING_DAG = "revector_rollback"
"""The DAG that the page triggers where no run waits for an answer."""

ADOPTING_DAG = "revector_adopt"
"""The DAG that makes the triggers of an adopted table again."""

SEES_PAGE = Depends(requires_access_dag("GET", param_dag_id=GUARD_DAG))
READS_HISTORY = Depends(requires_access_dag("GET", DagAccessEntity.AUDIT_LOG, GUARD_DAG))

_RIGHTS: dict[str, tuple[ResourceMethod, DagAccessEntity | None, str]] = {
    "start": ("POST", DagAccessEntity.RUN, GUARD_DAG),
    "unpause": ("PUT", None, GUARD_DAG),
    "move": ("POST", DagAccessEntity.RUN, MOVING_DAG),
    "answer": ("PUT", DagAccessEntity.HITL_DETAIL, GUARD_DAG),
    "history": ("GET", DagAccessEntity.AUDIT_LOG, GUARD_DAG),
}


def rights(user: BaseUser) -> dict[str, bool]:
    """Return whether the user may ``start`` migrations, ``unpause`` DAGs, ``move`` the alias, and so on."""
    teams = {dag: DagModel.get_team_name(dag) for dag in (GUARD_DAG, MOVING_DAG)}
    return {
        name: get_auth_manager().is_authorized_dag(
            method=method, access_entity=entity, details=DagDetails(id=dag, team_name=teams[dag]), user=user
        )
        for name, (method, entity, dag) in _RIGHTS.items()
    }


@functools.cache
def project() -> Project:
    """Return the project of the DAGs: that of ``$REVECTOR_CONFIG``, or of Airflow's settings ``[revector]``."""
    place = place_of(None, None)
    return RevectorHook(place["conn_id"], config=place["config"]).get_conn()


def known(collection: str) -> str:
    """Return the name of a configured collection; 404 for any other."""
    if collection not in project().settings.collections:
        raise HTTPException(404, f"collection {collection!r} is not in revector.toml")
    return collection


Known = Annotated[str, Depends(known)]
