"""The page's server inside Airflow's API server: static files, one read, two actions; every route asks who it is.

Whoever may see the DAG ``revector_migrate`` sees the page; whoever may edit that DAG may act on it. The page acts by
answering the question of the waiting run through Airflow's own API; the action here serves when no run waits.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from revector.airflow import RETIRE_NOW, ROLL_BACK, window_question
from revector.config import Project, load_project
from revector.errors import ConfigError, DatabaseError, RevectorError, StateError

GUARD_DAG = "revector_migrate"
"""The DAG whose permissions guard the page."""

STATIC = Path(__file__).parent / "static"
EVENTS = 100
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

app = FastAPI(
    title="revector",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_dag("GET", param_dag_id=GUARD_DAG))],
)


class Action(BaseModel):
    """What a person asks for on the page, and what the page showed when they did."""

    collection: str = Field(min_length=1)
    revision: str
    phase: str
    action: Literal["rollback", "swap", "retire"]
    reason: str = Field(default="asked for on the Airflow page", min_length=1, max_length=500)


@functools.cache
def _project() -> Project:
    return load_project()


@app.exception_handler(RevectorError)
def refused(_request: Request, error: RevectorError) -> JSONResponse:
    """Answer a library error in its own words: 503 where the database is the cause, else 409."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, (DatabaseError, ConfigError)) else 409)


@app.get("/ui/")
def page() -> FileResponse:
    """Return the page."""
    return _static("index.html")


@app.get("/ui/{name}")
def static_file(name: Literal["page.css", "page.js", "icon.svg", "icon-dark.svg"]) -> FileResponse:
    """Return what the page loads: nothing comes from elsewhere."""
    return _static(name)


@app.get("/ui/data/status")
def status(user: GetUserDep) -> dict[str, Any]:
    """Return everything that the page shows, read afresh from the database."""
    project = _project()
    may_act = get_auth_manager().is_authorized_dag(method="PUT", details=DagDetails(id=GUARD_DAG), user=user)
    return {
        "user": user.get_name(),
        "may_act": may_act,
        "options": {"rollback": ROLL_BACK, "retire": RETIRE_NOW},
        "collections": [_collection(project, name) for name in sorted(project.settings.collections)],
    }


@app.post("/ui/data/act", dependencies=[Depends(requires_access_dag("PUT", param_dag_id=GUARD_DAG))])
def act(asked: Action, user: GetUserDep) -> dict[str, Any]:
    """Roll back, go forward again or retire at once, under the name of the signed-in user.

    Takes JSON only, which a form cannot send. Raises ``StateError`` if the migration is not any more as it was shown:
    a second click must not undo the first.
    """
    project = _project()
    migration = project.status(asked.collection)["migration"] or {}
    found = (migration.get("revision"), migration.get("phase"))
    if found != (asked.revision, asked.phase):
        there = "revision {} in phase {}".format(*found) if migration else "no open migration"
        raise StateError(
            f"{asked.action} was asked for revision {asked.revision} in phase {asked.phase}; now there is {there}. "
            "Nothing was changed; look again."
        )
    options: dict[str, Any] = {
        "rollback": {"reason": asked.reason},
        "swap": {},
        "retire": {"reason": asked.reason, "now": True},
    }
    migrator = project.migrator(asked.collection, actor=user.get_name())
    outcome = migrator.run(asked.action, asked.revision, **options[asked.action])
    return {"revision": outcome.revision, "phase": outcome.phase, "changed": outcome.changed}


def _static(name: str) -> FileResponse:
    return FileResponse(STATIC / name, headers=HEADERS)


def _collection(project: Project, name: str) -> dict[str, Any]:
    try:
        found = project.status(name)
        events = project.events(name, EVENTS)
    except RevectorError as error:
        return {"name": name, "problem": str(error)}
    migration = found["migration"]
    question = window_question(name, migration["revision"]) if migration else None
    return {"name": name, "question": question, "events": events} | found
