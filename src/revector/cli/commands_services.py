"""Commands that run services: the worker, the HTTP service, everything embedded at once, and the demo."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import ProjectPath, open_project, optional
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.config import Project

_PANEL = "Services"
REPORT_EVERY_S = 10.0

log = logging.getLogger("revector.worker")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (worker, serve, up, demo):
        app.command(rich_help_panel=_PANEL)(command)


def worker(
    *,
    threads: Annotated[int, typer.Option(min=1, max=64, help="How many batches of each index at once.")] = 1,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is due; exit code 11 if some is left.")
    ] = False,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", metavar="NAME", help="May be repeated; default: all.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="PORT", help="Serve Prometheus metrics there.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(metavar="HOST", help="Address to serve them on.")] = "127.0.0.1",
    project: ProjectPath = None,
) -> None:
    """Keep every live index up to date with the documents, until SIGTERM or Ctrl-C.

    For example:
      revector worker --threads 2 --metrics-port 9464
      revector worker --once
    """
    opened = open_project(project)
    names = collection or sorted(opened.settings.collections)
    for name in names:
        opened.collection(name)
    _log_to_stderr()
    tally = _PublishedCount()
    if once:
        opened.worker().run(threading.Event(), collections=names, on_applied=tally.add, threads=threads, once=True)
        tally.report()
        _refuse_left_over(opened, names)
        return
    end = opened.metrics().listen(metrics_host, metrics_port) if metrics_port else None
    try:
        _run_until_stopped(opened, names, threads, tally)
    finally:
        if end is not None:
            end()


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8700,
    is_open: Annotated[
        bool, typer.Option("--open", help="Ask for no key; only on this machine's own addresses. For trying it out.")
    ] = False,
    project: ProjectPath = None,
) -> None:
    """Serve search and documents over HTTP, to those who send a key of `revector keys create`.

    For example:
      revector serve --port 8700
      revector serve --open
    """
    service = optional("revector.service", "serve")
    raise typer.Exit(service.run(open_project(project), host, port, is_open=is_open) or 0)


def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Airflow and the page.")] = 8080,
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Whether Airflow and the page are started too.")] = True,
    gpu_workers: Annotated[
        int, typer.Option(min=0, max=64, help="Celery workers that embed, one per GPU, beside Redis; 0: no Celery.")
    ] = 0,
    project: ProjectPath = None,
) -> None:
    """Start everything on this machine: PostgreSQL, worker, and Airflow with the DAGs and the page, until Ctrl-C.

    For example:
      revector up --port 8080
      revector up --gpu-workers 2
    """
    module = optional("revector.local.up", "demo")
    raise typer.Exit(module.run(open_project(project), port=port, ui=ui, gpu_workers=gpu_workers))


def demo(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Airflow and the page.")] = 8080,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go.")] = None,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Stay up afterwards; default: in a terminal.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The whole corpus; default: what this machine embeds in about three minutes.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="The second act: a LangChain table is adopted, migrated and given back.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="The third act: emoji, searched by name; both towers are replaced.")
    ] = False,
    store: Annotated[str | None, typer.Option(metavar="KIND", help="Vectors in redis, chroma or milvus.")] = None,
    store_url: Annotated[str | None, typer.Option(metavar="URL", help="Where it is; default: started here.")] = None,
    project: ProjectPath = None,
) -> None:
    """Migrate the quickstart corpus from a weak to a real model while an application writes, deletes and queries.

    With --store, its vectors are in a server that is started here out of installed packages, or in one of yours.
    With --adopt, an application's own LangChain table is adopted, migrated, rolled back and given back meanwhile.
    With --images, pictures of emoji are searched by their names while both towers of their model are replaced.

    For example:
      revector demo --json result.json
      revector demo --store redis
      revector demo --adopt
      revector demo --images
    """
    if store is None and store_url is not None:
        raise ConfigError("--store-url says where the store of --store is. Nothing was started; name its kind.")
    if adopt + images + bool(full or store) > 1:
        raise ConfigError(
            "--adopt and --images are acts of their own, --full and --store are for the first. Nothing was started; "
            "leave all but one out."
        )
    if adopt or images:
        act = optional(f"revector.local.{'adoption' if adopt else 'image'}_demo", "demo")
        raise typer.Exit(act.run(open_project(project), port=port, json_path=json_path, wait=stay))
    module, first = optional("revector.local.demo", "demo"), {"full": full, "store": store, "store_url": store_url}
    raise typer.Exit(module.run(open_project(project), port=port, json_path=json_path, wait=stay, **first))


# The worker -----------------------------------------------------------------------------------------------------------


class _PublishedCount:
    """Counts what was published and says so; used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._since = 0, time.monotonic()

    def add(self, _generation: int, published: int) -> None:
        with self._lock:
            self._count += published

    def report(self) -> None:
        """Log the throughput since the last report, if there was any."""
        with self._lock:
            now = time.monotonic()
            count, past_s = self._count, max(now - self._since, 1e-9)
            self._count, self._since = 0, now
        if count:
            log.info("published %s documents in %.1f s (%.1f/s)", f"{count:,}", past_s, count / past_s)


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("revector").setLevel(logging.INFO)


def _run_until_stopped(project: Project, names: Sequence[str], threads: int, tally: _PublishedCount) -> None:
    stop, awake = threading.Event(), threading.Event()

    def ask_to_stop(number: int, _frame: object) -> None:
        # A second signal ends at once: published work is safe, the rest stays due.
        signal.signal(number, signal.SIG_DFL)
        stop.set()
        awake.set()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    log.info("working for %s, %d batches of each index at a time; SIGTERM or Ctrl-C stops", ", ".join(names), threads)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
            running = pool.submit(project.worker().run, stop, collections=names, on_applied=tally.add, threads=threads)
            running.add_done_callback(lambda _: awake.set())
            try:
                while not awake.wait(REPORT_EVERY_S):
                    tally.report()
                if stop.is_set():
                    log.info("stopping once the batches in hand are finished; a second Ctrl-C ends at once")
            finally:
                stop.set()
        tally.report()
        running.result()
        log.info("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_left_over(project: Project, names: Sequence[str]) -> None:
    left = {
        f"{name}/{slot.generation}": slot.waiting.live
        for name in names
        for slot in project.status(name).slots.filled.values()
        if slot.waiting.live
    }
    if left:
        shown = ", ".join(f"{count:,} in {where}" for where, count in left.items())
        log.warning("documents still wait (they are tried again later, or another worker has them): %s", shown)
        raise typer.Exit(CHECK_FAILED)
