"""What the routes share: documents and searchers by collection, and which encoders are loaded."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Annotated
from uuid import uuid4

import anyio
import sqlalchemy as sa
from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from revector.config import Project
from revector.database.engine import Role, check_schema, role_of
from revector.documents.documents import Documents
from revector.errors import ConfigError, RevectorError
from revector.registry.collections import Collection, read_collection, read_generation
from revector.service.lanes import RequestLane, Room
from revector.service.problems import first_line
from revector.serving import servers
from revector.serving.searcher import Searcher
from revector.serving.shadow import ShadowReads

log = logging.getLogger("revector.service")

WARM_POLL_S, BACK_OFF_S = 1.0, 5.0
"""How often new generations are looked for: their encoders are loaded while they are built, long before a swap."""

BEAT_S = 2.0
"""How often the database is told which encoders are loaded; loading one does not hold it up."""

MOST_WAITING = 64
"""Writes that may wait for the index at once, in threads of their own: no search ever waits behind them."""

SEARCH_WAIT_S = 2.0
"""How long a search waits for a place before it is sent away."""

ROOM_BYTES = 64 << 20
"""Bodies in memory at once, of which a key may have half; more only where a single document or image may be larger."""

BODY_FACTOR, BODY_SPARE_BYTES = 3, 1 << 20
"""A body may take three times the largest text, as JSON may write a two-byte letter as six, and 1 MiB for metadata."""


class Service:
    """What the routes share. Safe to use from many threads."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.body_limit = BODY_FACTOR * (project.settings.max_text_mib << 20) + BODY_SPARE_BYTES
        self.image_limit = project.settings.max_image_mib << 20
        self.waiting = anyio.CapacityLimiter(MOST_WAITING)
        chosen = project.settings.serve
        self.searching = anyio.CapacityLimiter(chosen.searches)
        # Half of the places of searches: embedding takes much longer, and the processors that searches need.
        most, most_per_key = max(1, chosen.searches // 2), max(1, chosen.searches_per_key // 2)
        self.embedding = anyio.CapacityLimiter(most)
        self.lanes = {
            "searches": RequestLane("searches", chosen.searches, chosen.searches_per_key, wait_s=SEARCH_WAIT_S),
            "embeddings": RequestLane("embeddings", most, most_per_key, wait_s=SEARCH_WAIT_S),
            "uploads": RequestLane("uploads", chosen.uploads, chosen.uploads_per_key),
        }
        largest = max(self.body_limit, self.image_limit)
        self.room = Room(max(ROOM_BYTES, 2 * largest), max(ROOM_BYTES // 2, largest))
        self._opened: dict[str, tuple[Documents, Searcher]] = {}
        self._shadows: dict[str, ShadowReads] = {}
        self.shadowing = False
        """Whether what is opened from now on gets shadow reads: only who calls ``close`` may switch them on."""
        self._opening = threading.Lock()
        self._warm: dict[int, str | None] = {}
        """Generation to what is wrong with its encoder; None: it is loaded and proved. 0 stands for the database."""
        self._server_id = uuid4()

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

    def shadow(self, collection: str) -> dict[str, object]:
        """Return what this process's shadow reads found; 404 if there is no such collection, or they are off."""
        self._open(collection)
        if collection not in self._shadows:
            raise HTTPException(404, f"shadow reads of collection {collection!r} are switched off.")
        return self._shadows[collection].report().as_data()

    def close(self) -> None:
        """End the shadow reads."""
        for reads in self._shadows.values():
            reads.stop()

    def standing(self, names: frozenset[str] | None) -> tuple[Role | None, list[str]]:
        """Return what the database is, and why queries cannot be answered yet; empty when they can. Loads nothing.

        ``names``: the collections that are looked at and named; None: all.
        """
        try:
            check_schema(self.project.raw_engine)
            with self.project.raw_engine.connect() as connection:
                role = role_of(connection)
            active = {
                c.name: c.active_gen
                for c in self._collections(self.project.raw_engine)
                if c.active_gen is not None and (names is None or c.name in names)
            }
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            return None, [first_line(error)]
        return role, [
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

    def beat_until(self, stop: threading.Event) -> None:
        """Tell the database what is loaded, for swaps to wait for, until ``stop`` is set; then take leave.

        A database that takes no writes is told nothing: no swap waits for a process that serves from a standby.
        """
        name = f"revector serve, {socket.gethostname()}, process {os.getpid()}"
        while not stop.is_set():
            known = dict(self._warm)
            try:
                with self.project.engine.begin() as connection:
                    if role_of(connection) == "primary":
                        servers.beat(
                            connection,
                            self._server_id,
                            name,
                            warm=[gen for gen, wrong in known.items() if gen and wrong is None],
                            problem=" ".join(wrong for wrong in known.values() if wrong) or None,
                        )
            except (RevectorError, sa.exc.SQLAlchemyError) as error:
                log.debug("%s", first_line(error))  # the other thread says it
            stop.wait(BEAT_S)
        try:
            with self.project.engine.begin() as connection:
                if role_of(connection) == "primary":
                    servers.leave(connection, self._server_id)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            log.debug("%s", first_line(error))  # its row ages

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
            self.project.live_encoders.of(generation)
        except (RevectorError, sa.exc.SQLAlchemyError, OSError, RuntimeError, ImportError) as error:
            return f"the encoder of generation {gen} cannot be used: {first_line(error)}"
        return None


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(_service)]
