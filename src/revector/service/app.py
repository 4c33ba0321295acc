"""The HTTP application of one project: what it is put together from, and where it may listen."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI

from revector.config import Project
from revector.errors import ConfigError
from revector.service import connections, documents, measured, openai_routes, probes, search, uploads
from revector.service.access import Access, Buckets, is_loopback
from revector.service.guard import Guard
from revector.service.openai_errors import OpenAiErrors, of_unknown
from revector.service.problems import HANDLERS
from revector.service.state import Service

ACCESS = "REVECTOR_SERVE_TOKEN"
"""Environment variable with a key of the scope admin, beside those of the database."""

LEAVE_S = 5.0
"""How long a service that ends waits for each of its threads."""

log = logging.getLogger("revector.service")

ROUTERS = (
    probes.open_to_all,
    probes.any_key,
    probes.admin,
    search.reading,
    search.seeing,
    documents.reading,
    documents.writing,
    uploads.writing,
    measured.reading,
    openai_routes.embedding,
    openai_routes.searching,
    openai_routes.reading,
)


def create_app(project: Project, *, is_open: bool = False) -> FastAPI:
    """Return the application. It connects when it is asked, so it starts, and is not ready, while the database is down.

    ``$REVECTOR_SERVE_TOKEN`` is read once. ``is_open``: a request without a key may do everything; only for a server
    that no other machine can reach. Threads of the application's lifespan load the encoders, and tell the database
    which are loaded.
    """
    service = Service(project)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=work, args=(stop,), name=work.__name__, daemon=True)
            for work in (service.warm_until, service.beat_until)
        ]
        for thread in threads:
            thread.start()
        service.shadowing = True
        yield
        stop.set()
        service.close()
        for thread in threads:  # one that loads a model cannot be told to stop
            thread.join(timeout=LEAVE_S)

    app = FastAPI(
        title="revector",
        version=version("revector"),
        description="Documents in, answers out: always by the index and the encoder that belong together.",
        lifespan=lifespan,
        docs_url=None,  # the page would load its scripts from the Internet, and a browser sends no key
        redoc_url=None,
        exception_handlers={**HANDLERS, Exception: of_unknown},
    )
    app.state.service = service
    app.state.metrics = project.metrics()
    for router in ROUTERS:
        app.include_router(router)
    rate = project.settings.serve.requests_per_s
    app.add_middleware(
        Guard,
        access=Access(lambda: project.engine, token=os.environ.get(ACCESS) or None, is_open=is_open),
        buckets=None if rate is None else Buckets(rate),
    )
    app.add_middleware(OpenAiErrors)
    app.add_middleware(measured.RequestMetrics, seconds=app.state.metrics.requests)  # around the door
    return app


def run(project: Project, host: str = "127.0.0.1", port: int = 8700, *, is_open: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished.

    Nobody is let in without a key, unless ``is_open``: then anybody on this machine may do everything. Raises
    ``ConfigError`` if the address cannot be had, or is not this machine's own while ``is_open``.
    """
    if is_open and not is_loopback(f"[{host}]" if ":" in host else host):
        raise ConfigError(
            f"--open lets anybody in who reaches {host}, and is for this machine's own addresses only (127.0.0.1, ::1, "
            "localhost). Nothing was started; leave out --host, or make a key with `revector keys create` and leave "
            "out --open."
        )
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error}. Nothing was started; name another --host or --port."
        ) from error
    with listener:
        if is_open:
            log.warning("open: anybody on this machine may read, write and delete without a key.")
        config = uvicorn.Config(
            create_app(project, is_open=is_open),
            server_header=False,
            timeout_graceful_shutdown=30,
            http=connections.TimedProtocol,
            limit_concurrency=connections.MOST,
        )
        uvicorn.Server(config).run(sockets=[listener])
