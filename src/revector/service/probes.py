"""Routes that say how things stand: alive, ready, the status of a collection, its shadow reads."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from revector.service.problems import example, problem, responses
from revector.service.routes import BEARER, Name, routes
from revector.service.state import Shared

open_to_all = APIRouter()
any_key = APIRouter(dependencies=[Depends(BEARER)], responses=responses(401, 403, 429, 503))
admin = routes("admin", lane="searches")


@open_to_all.get("/health", responses=example({"status": "alive"}))
async def health() -> dict[str, str]:
    """Tell that the process is alive; looks at nothing else and needs no key."""
    return {"status": "alive"}


@any_key.get("/ready", responses=example({"status": "ready", "database": "primary", "writes": True}))
def ready(request: Request, service: Shared) -> JSONResponse:
    """Answer 200 when database, schema and the encoders of everything that is served are there, else 503 and why.

    `database` is `primary`, `standby` or `read-only`; the latter two answer searches, and writes with 503. A key for
    some collections hears of those.
    """
    role, reasons = service.standing(request.state.caller.collections)
    if reasons:
        return problem(503, "NotReady", " ".join(reasons), retryable=True, reasons=reasons)
    return JSONResponse({"status": "ready", "database": role, "writes": role == "primary"})


@admin.get("/collections/{collection}", responses=example({"collection": "docs", "slots": {"active": None}}))
def status(collection: Name, service: Shared) -> dict[str, object]:
    """Return where a collection stands: slots, lag, the open migration, the rollback window, dead letters."""
    service.documents(collection)
    return service.project.status(collection).as_data()


@admin.get("/collections/{collection}/shadow", responses=example({"queries": 0}))
def shadow(collection: Name, service: Shared) -> dict[str, object]:
    """Return what the shadow reads of this process found since it began; the status has those of all processes."""
    return service.shadow(collection)
