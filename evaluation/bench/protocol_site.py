"""What the benchmark of the protocol loads: a project, and writers, workers and a backfill as processes beside it."""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bench.common import revision

if TYPE_CHECKING:
    from revector.config import Project
    from revector.interfaces import Piece, Side

COLLECTION = "docs"
DOCUMENTS, LABELLED, DIM = 20_000, 60, 32
FORK = multiprocessing.get_context("fork")
PER_S = 200.0


def make_project(root: Path, *, to: str = "b200", documents: int = DOCUMENTS) -> Project:
    """Make a collection with two live generations (one with ``to="a100"``)."""
    from revector.config import load_project
    from revector.interfaces import Document

    for name, parent, model in (("a100", None, "hashing"), ("b200", "a100", "hashing:seed1")):
        body = f'model = ModelSpec(name="{model}", dim={DIM})\nindex = IndexSpec(kind="hnsw")\n'
        revision(root, COLLECTION, name, parent, body + "gate = Gate(max_drop=1.0, min_overlap=None)")
    (root / "labels" / "qrels").mkdir(parents=True)
    queries = (json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) for n in range(LABELLED))
    (root / "labels" / "queries.jsonl").write_text("\n".join(queries) + "\n")
    judged = "".join(f"q{n}\td{n:06d}\t1\n" for n in range(LABELLED))
    (root / "labels" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    project = load_project(root)
    project.init()
    store = project.documents(COLLECTION)
    for start in range(0, documents, 1_000):
        store.put_many([Document(f"d{n:06d}", _text(n, 0)) for n in range(start, start + 1_000)])
    project.migrator(COLLECTION, actor="bench").upgrade("a100")
    if to == "b200":
        project.migrator(COLLECTION, actor="bench").upgrade("b200")
    return project


def _text(n: int, turn: int) -> str:
    return f"apple{n} pear{n} some words here number {n} at turn {turn}"


def write_until(root: Path, spec: dict[str, Any], number: int, ending: Any) -> None:
    """Write until ``ending`` and keep (begin, end) of each write, seconds of the machine's monotonic clock."""
    from revector.config import load_project

    documents, draw = load_project(root).documents(COLLECTION), random.Random(number)
    own, times, turn, due = spec["ids"], [], 0, time.monotonic()
    deleted: set[int] = set()
    while not ending.is_set():
        turn, n = turn + 1, draw.choice(own)
        began = time.monotonic()
        if draw.random() < spec.get("deletes", 0.0) and n not in deleted:
            documents.delete(f"d{n:06d}")
            deleted.add(n)
        else:
            documents.put(f"d{n:06d}", _text(n, number * 1_000_000 + turn))
            deleted.discard(n)
        times.append((began, time.monotonic()))
        if spec.get("per_s"):
            due = max(due + 1 / spec["per_s"], time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
    np.save(Path(spec["folder"]) / f"{number}.npy", np.array(times).reshape(-1, 2))


class SlowEncoder:
    """An encoder that takes 5 ms a call, as a small model on an accelerator does."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """Be the other encoder in all else."""
        return getattr(self._inner, name)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Any:
        """Embed, documents 5 ms later."""
        if side == "document":
            time.sleep(0.005)
        return self._inner.encode(side, pieces)


def slowed(root: Path) -> Project:
    """Open the project with an encoder that takes its time."""
    from revector.config import load_project
    from revector.indexing.encoding import Encoders

    project = load_project(root)
    project.__dict__["encoders"] = Encoders(lambda model: SlowEncoder(project.load_encoder(model)))
    return project


def work_until(root: Path, slow: bool, ending: Any) -> None:
    """Work as `revector worker` does until ``ending`` is set."""
    from revector.config import load_project

    stop = threading.Event()
    threading.Thread(target=lambda: (ending.wait(), stop.set()), daemon=True).start()
    (slowed(root) if slow else load_project(root)).worker().run(stop)


def backfill_all(root: Path, _ending: Any) -> None:
    """Run the backfill of the open migration."""
    slowed(root).migrator(COLLECTION, actor="bench").upgrade("b200", to="backfill")


@contextmanager
def running(project: Project, *targets: tuple[Callable[..., None], tuple[Any, ...]]) -> Iterator[None]:
    """Run functions as forked processes, each with an event that ends it; the engine is not carried over."""
    project.engine.dispose()
    ending = FORK.Event()
    processes = [FORK.Process(target=target, args=(*args, ending)) for target, args in targets]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        ending.set()
        for process in processes:
            process.join(60)
            if process.is_alive():
                process.kill()


def writers_of(root: Path, folder: str, clients: int, **spec: Any) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
    """Return writers to be run beside the measurement; ``spec`` says what they write."""
    ids = spec.pop("ids", None) or list(range(LABELLED, DOCUMENTS))
    shares = [ids] * clients if spec.pop("shared", False) else [ids[n::clients] for n in range(clients)]
    return [(write_until, (root, {"folder": folder, "ids": shares[n], **spec}, n)) for n in range(clients)]


def times_of(folder: str) -> Any:
    """Return all (begin, end) that writers kept: (n, 2), in seconds."""
    return np.concatenate([np.load(path) for path in sorted(Path(folder).glob("*.npy"))])


def write_rate(project: Project, clients: int, seconds: float) -> float:
    """Return writes per second of so many clients, measured for ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        with running(project, *writers_of(project.root, folder, clients)):
            time.sleep(seconds)
        times = times_of(folder)
    return len(times) / float(times[:, 1].max() - times[:, 0].min())
