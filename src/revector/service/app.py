"""The HTTP application of one project: its routes, when it is ready, and where it may listen."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

import sqlalchemy as sa
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from revector.config import Project
from revector.errors import ConfigError, RevectorError
from revector.registry.collections import Collection, read_collection, read_generation
from revector.registry.documents import Documents, Stored, Written
from revector.registry.engine import check_schema
from revector.searcher import Answer, Searcher
from revector.service.guard import Guard
from revector.service.problems import HANDLERS, RESPONSES, first_line, problem
from revector.shadow import ShadowReads
from revector.text import check_id

log = logging.getLogger("revector.service")

ACCESS = "REVECTOR_SERVE_TOKEN"
"""Environment variable: when it is set, every route but ``/health`` wants it as ``Authorization: Bearer``."""

WARM_POLL_S, BACK_OFF_S = 1.0, 5.0
"""How often new generations are looked for: their encoders are loaded while they are built, long before a swap."""

BODY_FACTOR, BODY_SPARE_BYTES = 3, 1 << 20
"""A body may take three times the largest text, as JSON may write a two-byte letter as six, and 1 MiB for metadata."""

BIGGEST_VERSION = 2**63 - 1


class DocumentIn(BaseModel):
    """What ``PUT`` takes: the text, its metadata, and optionally the caller's own version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"text": "Rivers carve valleys.", "meta": {"lang": "en", "year": 2024}, "version": 7}
        },
    )

    text: str
    meta: dict[str, Any] = {}
    version: int | None = Field(default=None, ge=0, le=BIGGEST_VERSION)
    """The caller's own version: the write is kept only if it is newer than what is stored."""


class SearchIn(BaseModel):
    """What a search takes. ``where`` as in the README: equality, one of a list, or a range."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"query": "how do valleys form", "k": 10, "where": {"lang": ["en", "de"], "year": {"gte": 2020}}}
        },
    )

    query: str = Field(max_length=100_000)
    k: int = Field(default=10, ge=1, le=1_000)
    where: dict[str, Any] | None = Field(default=None, max_length=64)
    by: Literal["document", "chunk"] = "document"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a write did. ``changed`` is false when the same was stored before, or something newer."""

    id: str
    version: int | None
    changed: bool


class Service:
    """What the routes share: documents and searchers by collection, and which encoders are loaded."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._opened: dict[str, tuple[Documents, Searcher]] = {}
        self._shadows: dict[str, ShadowReads] = {}
        self.shadowing = False
        """Whether what is opened from now on gets shadow reads: only who calls ``close`` may switch them on."""
        self._opening = threading.Lock()
        self._warm: dict[int, str | None] = {}
        """Generation to what is wrong with its encoder; None: it is loaded and proved. 0 stands for the database."""

    def documents(self, collection: str) -> Documents:
        """Return the write path of a collection; 404 if there is none of that name."""
        return self._open(collection)[0]

    def searcher(self, collection: str) -> Searcher:
        """Return the query path of a collection; 404 if there is none of that name."""
        return self._open(collection)[1]

    def _open(self, collection: str) -> tuple[Documents, Searcher]:
        try:
            self.project.collection(collection)
        except ConfigError as error:
            raise HTTPException(404, str(error)) from error
        if collection not in self._opened:
            with self._opening:
                if collection not in self._opened:
                    self._opened[collection] = self._make(collection)
        return self._opened[collection]

    def _make(self, collection: str) -> tuple[Documents, Searcher]:
        documents = self.project.documents(collection)
        reads = self.project.shadow_reads(collection) if self.shadowing else None
        if reads is not None:
            reads.start()
            self._shadows[collection] = reads
        return documents, self.project.searcher(collection, offer=None if reads is None else reads.offer)

    def shadow(self, collection: str) -> dict[str, Any]:
        """Return what this process's shadow reads found; 404 if there is no such collection, or they are off."""
        self._open(collection)
        if collection not in self._shadows:
            raise HTTPException(404, f"shadow reads of collection {collection!r} are switched off.")
        return self._shadows[collection].report().as_data()

    def close(self) -> None:
        """End the shadow reads."""
        for reads in self._shadows.values():
            reads.stop()

    def unready(self) -> list[str]:
        """Return why queries cannot be answered yet; empty when they can. Loads nothing."""
        try:
            check_schema(self.project.raw_engine)
            active = {
                c.name: c.active_gen for c in self._collections(self.project.raw_engine) if c.active_gen is not None
            }
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            return [first_line(error)]
        return [
            f"collection {name!r}: {self._warm.get(gen) or f'the encoder of generation {gen} is still being loaded.'}"
            for name, gen in active.items()
            if self._warm.get(gen, "") is not None
        ]

    def warm_until(self, stop: threading.Event) -> None:
        """Load the encoder of every live generation as soon as there is one, until ``stop`` is set."""
        while not stop.is_set():
            try:
                live = [gen for collection in self._collections(self.project.engine) for gen in collection.live]
                wrong = None
            except (RevectorError, sa.exc.SQLAlchemyError) as error:
                live, wrong = [], first_line(error)
            self._note(0, wrong)
            for gen in live:
                if not stop.is_set() and self._warm.get(gen, "") is not None:
                    self._note(gen, self._load(gen))
            stop.wait(BACK_OFF_S if any(self._warm.values()) else WARM_POLL_S)

    def _note(self, gen: int, wrong: str | None) -> None:
        if wrong and wrong != self._warm.get(gen):
            log.warning("%s", wrong)
        self._warm[gen] = wrong

    def _collections(self, engine: sa.Engine) -> list[Collection]:
        with engine.connect() as connection:
            made = set(connection.scalars(sa.text("SELECT name FROM collection")))
            return [read_collection(connection, name) for name in self.project.settings.collections if name in made]

    def _load(self, gen: int) -> str | None:
        try:
            with self.project.engine.connect() as connection:
                generation = read_generation(connection, gen)
            self.project.encoders.of(generation)
        except (RevectorError, sa.exc.SQLAlchemyError, OSError, RuntimeError, ImportError) as error:
            return f"the encoder of generation {gen} cannot be used: {first_line(error)}"
        return None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(_service)]
DocId = Annotated[str, Depends(check_id)]
Wait = Annotated[
    Literal["active"] | None,
    Query(description="`active`: answer once the active generation shows the write (read-your-write)."),
]
TimeoutS = Annotated[float, Query(gt=0, le=60, description="How many seconds `wait` may take; 409 afterwards.")]

probes = APIRouter()
routes = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])


@probes.get("/health")
def health() -> dict[str, str]:
    """Tell that the process is alive; looks at nothing else and needs no token."""
    return {"status": "alive"}


@routes.get("/ready")
def ready(service: Shared) -> JSONResponse:
    """Answer 200 when database, schema and the encoders of everything that is served are there, else 503 and why."""
    reasons = service.unready()
    if reasons:
        return problem(503, "NotReady", " ".join(reasons), retryable=True, reasons=reasons)
    return JSONResponse({"status": "ready"})


@routes.get("/collections/{collection}")
def status(collection: str, service: Shared) -> dict[str, Any]:
    """Return where a collection stands: slots, lag, the open migration, the rollback window, dead letters."""
    service.documents(collection)
    return service.project.status(collection)


@routes.get("/collections/{collection}/shadow")
def shadow(collection: str, service: Shared) -> dict[str, Any]:
    """Return what the shadow reads of this process found since it began; the status has those of all processes."""
    return service.shadow(collection)


@routes.get("/collections/{collection}/documents/{doc_id:path}")
def get_document(collection: str, doc_id: DocId, service: Shared) -> Stored:
    """Return a document as it stands: the source of truth, not what the index shows."""
    stored = service.documents(collection).get(doc_id)
    if stored is None:
        raise HTTPException(404, f"collection {collection!r} has no document {doc_id!r}.")
    return stored


@routes.put("/collections/{collection}/documents/{doc_id:path}")
def put_document(
    collection: str, doc_id: DocId, document: DocumentIn, service: Shared, wait: Wait = None, timeout_s: TimeoutS = 30
) -> Receipt:
    """Create or replace a document. It is committed when this answers; live generations follow within the lag."""
    documents = service.documents(collection)
    written = documents.put(doc_id, document.text, document.meta, document.version)
    found = written.versions.get(doc_id)
    if found is None and (stored := documents.get(doc_id)):
        # A repeated call changes nothing, and must wait for what the first one wrote all the same.
        found = stored.version
    if wait and found is not None:
        documents.wait_until_served(Written({doc_id: found}), timeout_s=timeout_s)
    return Receipt(doc_id, found, bool(written.changed))


@routes.delete("/collections/{collection}/documents/{doc_id:path}")
def delete_document(
    collection: str,
    doc_id: DocId,
    service: Shared,
    version: Annotated[int | None, Query(ge=0, le=BIGGEST_VERSION)] = None,
    wait: Wait = None,
    timeout_s: TimeoutS = 30,
) -> Receipt:
    """Delete a document: no search shows it from now on. One that does not exist is no error."""
    documents = service.documents(collection)
    written = documents.delete(doc_id, version)
    if wait:
        documents.wait_until_served(written, timeout_s=timeout_s)
    return Receipt(doc_id, written.versions.get(doc_id), bool(written.changed))


@routes.post("/collections/{collection}/search")
def search(collection: str, asked: SearchIn, service: Shared) -> Answer:
    """Search through the alias. The answer names the generation and the encoder that gave it."""
    return service.searcher(collection).search(asked.query, asked.k, where=asked.where, by=asked.by)


def create_app(project: Project) -> FastAPI:
    """Return the application. It connects when it is asked, so it starts, and is not ready, while the database is down.

    The token is read from ``$REVECTOR_SERVE_TOKEN`` once. A thread of the application's lifespan loads the encoders.
    """
    service = Service(project)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=service.warm_until, args=(stop,), name="warm", daemon=True)
        thread.start()
        service.shadowing = True
        yield
        stop.set()
        service.close()

    app = FastAPI(
        title="revector",
        version=version("revector"),
        description="Documents in, answers out: always by the index and the encoder that belong together.",
        lifespan=lifespan,
        docs_url=None,  # the page would load its scripts from the Internet, and a browser sends no token
        redoc_url=None,
        exception_handlers=HANDLERS,
        responses=RESPONSES,
    )
    app.state.service = service
    app.include_router(probes)
    app.include_router(routes)
    limit = BODY_FACTOR * (project.settings.max_text_mib << 20) + BODY_SPARE_BYTES
    app.add_middleware(Guard, token=os.environ.get(ACCESS) or None, limit=limit)
    return app


def run(project: Project, host: str = "127.0.0.1", port: int = 8700) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished.

    Raises ``ConfigError`` if ``host`` is not this machine and there is no token, or if the address cannot be had.
    """
    if not _is_loopback(host) and not os.environ.get(ACCESS):
        raise ConfigError(
            f"serving on {host!r} was asked for, which other machines can reach, and {ACCESS} is not set. "
            f"Nothing was started; set {ACCESS} to a long random value, or serve on 127.0.0.1."
        )
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error}. Nothing was started; name another --host or --port."
        ) from error
    with listener:
        config = uvicorn.Config(create_app(project), server_header=False, timeout_graceful_shutdown=30)
        uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
