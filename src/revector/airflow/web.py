"""The page's server inside Airflow's API server: its files, the state, charts and gate reports. It changes nothing.

Every route asks who it is (``web_access``); what a person does goes to Airflow's own API, in ``static/moves.js``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from revector import service
from revector.airflow import web_history
from revector.airflow.web_access import ADOPTING_DAG, GUARD_DAG, MOVING_DAG, SEES_PAGE, Known, project, rights
from revector.airflow.web_runs import airflow_state
from revector.airflow.wording import RETIRE_NOW, ROLL_BACK, approval_question, window_question
from revector.config import Project
from revector.errors import ConfigError, DatabaseError, RevectorError
from revector.history import audit
from revector.lifecycle import FORWARD, STEPS
from revector.pages import over_time

STATIC = Path(__file__).parent / "static"
DOM = Path(service.__file__).parent / "static" / "dom.js"
FILES = {path.name: path for path in (*STATIC.iterdir(), DOM)}
"""What the page loads; ``dom.js`` is also that of the page on which people judge."""

APPROVE, REJECT = "Approve", "Reject"
"""The two answers to Airflow's ApprovalOperator."""

MOST_HOURS = 24 * 365
_EMBEDDED = "frame-ancestors 'self'"
HEADERS = {
    "Content-Security-Policy": f"default-src 'self'; img-src 'self' data:; {_EMBEDDED}",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; {_EMBEDDED}",
}
"""A report brings its style with it, and loads nothing."""

app = FastAPI(title="revector", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[SEES_PAGE])


@app.exception_handler(RevectorError)
def refused(_request: Request, error: RevectorError) -> JSONResponse:
    """Answer a library error in its own words: 503 where the database is the cause, else 409."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, (DatabaseError, ConfigError)) else 409)


@app.get("/ui/")
def page() -> FileResponse:
    """Return the page."""
    return static_file("index.html")


@app.get("/ui/{name}")
def static_file(name: str) -> FileResponse:
    """Return what the page loads: nothing comes from elsewhere."""
    if name not in FILES:
        raise HTTPException(404, f"there is no file {name!r}")
    return FileResponse(FILES[name], headers=HEADERS)


@app.get("/ui/data/status")
def status(user: GetUserDep) -> dict[str, object]:
    """Return where every collection stands, read afresh from the database."""
    answers = {"rollback": ROLL_BACK, "retire": RETIRE_NOW, "approve": APPROVE, "reject": REJECT}
    return {
        "user": user.get_name(),
        "may": rights(user),
        "answers": answers,
        "steps": [{"name": name, "does": STEPS[name].does} for name in FORWARD],
        "migrating_dag": GUARD_DAG,
        "moving_dag": MOVING_DAG,
        "adopting_dag": ADOPTING_DAG,
        "airflow": airflow_state(user),
        "collections": [_collection(project(), name) for name in sorted(project().settings.collections)],
    }


@app.get("/ui/data/charts/{collection}")
def charts(collection: Known, hours: Annotated[int, Query(ge=1, le=MOST_HOURS)]) -> dict[str, str]:
    """Return the drawings of recall, queue and lag over the last ``hours``."""
    with project().engine.connect() as connection:
        return over_time.charts(connection, collection, hours)


@app.get("/ui/gate/{collection}/{result_id}")
def gate(collection: Known, result_id: Annotated[int, InPath(ge=1, le=2**63 - 1)]) -> HTMLResponse:
    """Return the report on a kept gate result."""
    from revector.pages.gate_result import gate_page

    return HTMLResponse(gate_page(project(), collection, result_id), headers=REPORT_HEADERS)


app.include_router(web_history.router)


def _collection(opened: Project, name: str) -> dict[str, object]:
    try:
        found = opened.status(name)
        with opened.engine.connect() as connection:
            newest = audit.newest(connection, name)
    except RevectorError as error:
        return {"name": name, "problem": str(error)}
    migration = found.migration
    asks = {"window": window_question, "approval": approval_question}
    questions = {key: ask(name, migration.revision) for key, ask in asks.items()} if migration else {}
    return {"name": name, "questions": questions, "newest_event": newest} | found.as_data()
