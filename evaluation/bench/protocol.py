"""What the protocol costs its users, each figure beside its own baseline in the same run (reliability.md 4.7).

Writers, worker and backfill are processes; the encoder is the hashing one, so that the database and the protocol are
what is measured. ``--only`` picks parts: overhead, stall, attempts, lag, visibility, sweep, pause.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write

if TYPE_CHECKING:
    from revector.config import Project

COLLECTION = "docs"
DOCUMENTS, LABELLED, DIM = 20_000, 60, 32
FORK = multiprocessing.get_context("fork")
PER_S = 200.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a bar is missed."""
    options = parser("evaluation.bench.protocol", __doc__)
    options.add_argument("--only", default=",".join(PARTS), help="default: %(default)s")
    options.add_argument("--seconds", type=float, default=4.0, help="of one round of writers (default: %(default)s)")
    options.add_argument("--moves", type=int, default=100, help="swaps and rollbacks per set-up (default: %(default)s)")
    options.add_argument("--pause-s", type=float, default=600.0, help="how long no worker runs (default: %(default)s)")
    options.add_argument("--rows", type=int, default=1_000_000, help="documents of the sweep (default: %(default)s)")
    chosen = options.parse_args(argv)
    before, figures = machine(), list[Figure]()
    for part in chosen.only.split(","):
        print(f"… {part}", flush=True)
        with temporary_project(f'drain_s = 0\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
            figures += PARTS[part](root, chosen)
    command = (
        f"python -m evaluation.bench.protocol --only {chosen.only} --seconds {chosen.seconds:g} --moves "
        f"{chosen.moves} --pause-s {chosen.pause_s:g} --rows {chosen.rows}"
    )
    return write(chosen.output, command, before, figures)


# The project and its processes ----------------------------------------------------------------------------------------


def _project(root: Path, *, to: str = "b200", documents: int = DOCUMENTS) -> Project:
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


def _write(root: Path, spec: dict[str, Any], number: int, ending: Any) -> None:
    """Write until ``ending`` and keep (begin, end) of each write, seconds of the machine's monotonic clock."""
    from revector.config import load_project

    documents, draw = load_project(root).documents(COLLECTION), random.Random(number)  # noqa: S311
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

    def encode_document(self, texts: Sequence[str]) -> Any:
        """Embed, 5 ms later."""
        time.sleep(0.005)
        return self._inner.encode_document(texts)


def _slowed(root: Path) -> Project:
    from revector.config import load_project
    from revector.indexing.encoding import Encoders

    project = load_project(root)
    project.__dict__["encoders"] = Encoders(lambda model: SlowEncoder(project.load_encoder(model)))
    return project


def _work(root: Path, slow: bool, ending: Any) -> None:
    from revector.config import load_project

    stop = threading.Event()
    threading.Thread(target=lambda: (ending.wait(), stop.set()), daemon=True).start()
    (_slowed(root) if slow else load_project(root)).worker().run(stop)


def _backfill(root: Path, _ending: Any) -> None:
    _slowed(root).migrator(COLLECTION, actor="bench").upgrade("b200", to="backfill")


@contextmanager
def _running(project: Project, *targets: tuple[Callable[..., None], tuple[Any, ...]]) -> Iterator[None]:
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


def _writers(root: Path, folder: str, clients: int, **spec: Any) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
    ids = spec.pop("ids", None) or list(range(LABELLED, DOCUMENTS))
    shares = [ids] * clients if spec.pop("shared", False) else [ids[n::clients] for n in range(clients)]
    return [(_write, (root, {"folder": folder, "ids": shares[n], **spec}, n)) for n in range(clients)]


def _times(folder: str) -> Any:
    """Return all (begin, end) that writers kept: (n, 2), in seconds."""
    return np.concatenate([np.load(path) for path in sorted(Path(folder).glob("*.npy"))])


def _rate(project: Project, clients: int, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        with _running(project, *_writers(project.root, folder, clients)):
            time.sleep(seconds)
        times = _times(folder)
    return len(times) / float(times[:, 1].max() - times[:, 0].min())


# The parts ------------------------------------------------------------------------------------------------------------


def overhead(root: Path, chosen: Any) -> list[Figure]:
    """Writes per second with the gate, and without it (fan-out stays), in turns."""
    from evaluation.reliability.bugs import BUGS, changed_database
    from evaluation.reliability.mistakes import replaced
    from revector.documents import writing

    project, figures = _project(root), []
    for clients in (8, 32):
        found: dict[str, list[float]] = {"gate": [], "none": []}
        for turn in range(10):
            if turn % 2:
                with changed_database(BUGS["no_gate"], project.engine), replaced(writing.hold_shared, _nothing):
                    found["none"].append(_rate(project, clients, chosen.seconds))
            else:
                found["gate"].append(_rate(project, clients, chosen.seconds))
        gate, none = (statistics.median(found[kind]) for kind in ("gate", "none"))
        share = round(100 * (1 - gate / none), 1)
        of = f"{clients} writers, one document a transaction, two live generations"
        figures += [
            Figure(f"{of}: with the gate, median of 5", round(gate), "writes/s"),
            Figure(f"{of}: without it, median of 5", round(none), "writes/s"),
            Figure(f"{of}: what the gate costs", share, "%", "at most 15", share <= 15),
        ]
    return figures


def _nothing(*_: Any) -> None:
    """Hold no gate."""


def stall(root: Path, chosen: Any) -> list[Figure]:
    """The longest write of each moment in which the alias moved, under saturating writers on a hot set."""
    project, figures = _project(root), []
    for clients in (8, 32):
        with tempfile.TemporaryDirectory() as folder:
            hot = list(range(LABELLED, LABELLED + 20))
            load = _writers(root, folder, clients, ids=hot, shared=True)
            with _running(project, (_work, (root, False)), *load):
                time.sleep(2)
                moves = _move(project, chosen.moves, pause_s=0.2)
            times = _times(folder)
        took = (times[:, 1] - times[:, 0]) * 1_000
        met = [(times[:, 0] <= end) & (times[:, 1] >= begin) for begin, end, _ in moves]
        longest = [float(took[one].max()) for one in met if one.any()]
        other = took[~np.any(met, axis=0)]
        p95 = round(float(np.percentile(longest, 95)), 1)
        of = f"{clients} saturating writers, {len(moves)} moves"
        figures += [
            Figure(f"{of}: write rate", round(len(took) / float(times[:, 1].max() - times[:, 0].min())), "writes/s"),
            Figure(f"{of}: longest write that met the move, p50", round(statistics.median(longest), 1), "ms"),
            Figure(f"{of}: longest write that met the move, p95", p95, "ms", "at most 100", p95 <= 100),
            Figure(f"{of}: longest of all", round(max(longest), 1), "ms", "at most 2,000", max(longest) <= 2_000),
            Figure(f"{of}: other writes, p95", round(float(np.percentile(other, 95)), 1), "ms"),
            Figure(f"{of}: other writes, longest", round(float(other.max()), 1), "ms"),
            Figure(f"{of}: gate held, p95", round(float(np.percentile([m[2] for m in moves], 95)), 1), "ms"),
        ]
    return figures


def _move(project: Project, count: int, *, pause_s: float, attempts: list[int] | None = None) -> list[Any]:
    """Roll back and swap forward in turns; return (gate had at, released at, held for ms) of each."""
    from revector import crash

    migrator, moves, tries = project.migrator(COLLECTION, actor="bench"), list[Any](), 0

    def passing(point: str) -> None:
        nonlocal tries
        tries += point == "control.after_gate"

    for turn in range(count):
        migrator.run("gate", "b200") if turn % 2 and turn % 20 == 1 else None
        tries, crash.watcher = 0, passing
        try:
            outcome = migrator.run("swap", "b200") if turn % 2 else migrator.rollback("bench")
        finally:
            crash.watcher = None
        end, held_ms = time.monotonic(), float(outcome.facts["pause_ms"])
        moves.append((end - held_ms / 1_000, end, held_ms))
        if attempts is not None:
            attempts.append(tries)
        time.sleep(pause_s)
    return moves


def attempts(root: Path, chosen: Any) -> list[Figure]:
    """How often the gate had to be asked for until the alias moved, at a steady 200 writes/s."""
    project, tries = _project(root), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        hot = list(range(LABELLED, LABELLED + int(0.009 * DOCUMENTS)))
        load = _writers(root, folder, 4, ids=hot, per_s=PER_S / 4, deletes=0.1)
        with _running(project, (_work, (root, False)), *load):
            time.sleep(2)
            _move(project, chosen.moves, pause_s=0.3, attempts=tries)
        times = _times(folder)
    rate = len(times) / float(times[:, 1].max() - times[:, 0].min())
    share = round(100 * sum(one <= 5 for one in tries) / len(tries), 1)
    return [
        Figure("steady writes while moves were tried", round(rate), "writes/s", "200", rate >= 0.95 * PER_S),
        Figure(f"of {len(tries)} moves, through within 5 attempts", share, "%", "at least 95", share >= 95),
        Figure("most attempts of one move", max(tries), "attempts"),
    ]


def lag(root: Path, chosen: Any) -> list[Figure]:
    """How far the active index is behind at 200 writes/s, with an encoder of 5 ms, while a backfill runs."""
    project, seen = _project(root, to="a100"), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        load = _writers(root, folder, 4, per_s=PER_S / 4, deletes=0.1)
        with _running(project, (_work, (root, True)), (_backfill, (root,)), *load):
            end = time.monotonic() + 10 * chosen.seconds
            while time.monotonic() < end:
                slots = project.status(COLLECTION)["slots"]
                if slots["building"] is not None:
                    seen.append(float(slots["active"]["lag_s"]))
                time.sleep(0.1)
        times = _times(folder)
    p95 = round(float(np.percentile(seen, 95)), 2)
    rate = len(times) / float(times[:, 1].max() - times[:, 0].min())
    return [
        Figure("steady writes while a backfill ran", round(rate), "writes/s", "200", rate >= 0.95 * PER_S),
        Figure("lag of the active index meanwhile, p50", round(statistics.median(seen), 2), "s"),
        Figure("lag of the active index meanwhile, p95", p95, "s", "at most 2", p95 <= 2),
        Figure("samples of the lag", len(seen), "samples"),
    ]


def pause(root: Path, chosen: Any) -> list[Figure]:
    """How long one worker needs to catch up after none ran for a while, writes going on at 200/s."""
    project = _project(root)
    with tempfile.TemporaryDirectory() as folder:
        load = _writers(root, folder, 4, per_s=PER_S / 4, deletes=0.1)
        with _running(project, *load):
            time.sleep(chosen.pause_s)
            with _running(project, (_work, (root, False))):
                began = time.monotonic()
                while _lag_s(project) > 2 and time.monotonic() < began + 3 * chosen.pause_s:
                    time.sleep(0.2)
                took = time.monotonic() - began
    return [
        Figure("appliers stood still for", chosen.pause_s, "s"),
        Figure(
            "… and lag was under 2 s again after",
            round(took, 1),
            "s",
            f"at most {2 * chosen.pause_s:g}",
            took <= 2 * chosen.pause_s,
        ),
    ]


def _lag_s(project: Project) -> float:
    return max(float(slot["lag_s"]) for slot in project.status(COLLECTION)["slots"].values() if slot)


def visibility(root: Path, _chosen: Any) -> list[Figure]:
    """What the visibility check adds to a search for 20 candidates among 100,000 documents, paired."""
    project, rows = _project(root, to="a100", documents=1_000), 100_000
    _fill(project, rows, vectors=True)
    pinned, said = project.searcher(COLLECTION).resolve(), list[tuple[str, Any]]()
    sa.event.listen(project.engine, "before_cursor_execute", lambda *args: said.append((args[2], args[3])))
    project.searcher(COLLECTION).search_vector(pinned, np.ones(DIM, np.float32), 5)
    (settings, set_to), (search, values) = said
    bare = f"SELECT doc_id FROM {pinned.physical_name} ORDER BY embedding <=> %(query)s::vector({DIM}) LIMIT 20"
    draw, took = np.random.default_rng(0), dict[str, list[float]](search=[], bare=[])
    with project.engine.connect() as connection:
        connection.exec_driver_sql(settings, set_to)
        for turn in range(1_200):
            if turn % 2 == 0:
                values = values | {"query": json.dumps(draw.standard_normal(DIM).tolist())}
            kind, statement = (("search", search), ("bare", bare))[(turn + turn // 2) % 2]
            began = time.perf_counter()
            connection.exec_driver_sql(statement, values).all()
            took[kind].append((time.perf_counter() - began) * 1_000)
    added = np.array(took["search"][100:]) - np.array(took["bare"][100:])
    p95 = round(float(np.percentile(added, 95)), 2)
    what = "what visibility, alias check and texts of 20 candidates add"
    return [
        Figure(f"documents in the index, {DIM} dimensions, HNSW", rows, "documents"),
        Figure("the bare ANN scan, p50", round(statistics.median(took["bare"]), 2), "ms"),
        Figure(f"{what}, p50", round(float(np.median(added)), 2), "ms"),
        Figure(f"{what}, p95", p95, "ms", "at most 2", p95 <= 2),
    ]


def sweep(root: Path, chosen: Any) -> list[Figure]:
    """How long the invariants of a whole collection take, two generations live."""
    project = _project(root, documents=1_000)
    _fill(project, chosen.rows, vectors=False)
    took: dict[str, float] = {}
    with project.engine.connect() as connection:
        for view in ("i1_lost", "i2_ahead", "i5_slots", "i13_unwaived"):
            began = time.perf_counter()
            found = connection.scalar(sa.text(f"SELECT count(*) FROM {view}"))
            took[view] = time.perf_counter() - began
            if found:
                raise RuntimeError(f"{view} holds {found} rows")
    whole = round(sum(took.values()), 2)
    return [
        Figure("documents swept, two live generations", chosen.rows, "documents"),
        Figure("I1 alone", round(took["i1_lost"], 2), "s"),
        Figure("all four invariants", whole, "s", "at most 15", whole <= 15),
    ]


def _fill(project: Project, rows: int, *, vectors: bool) -> None:
    """Put generated documents and what belongs to them straight into the tables; triggers are switched off for it."""
    with project.engine.begin() as connection:
        run = connection.exec_driver_sql
        run("ALTER TABLE document DISABLE TRIGGER USER")
        run(
            "INSERT INTO document (cid, doc_id, version, content, content_hash) SELECT c.cid, 'x' || n, 1000000 + n, "
            f"'words number ' || n, md5(n::text) FROM collection c, generate_series(1, {rows}) n"
        )
        run("ALTER TABLE document ENABLE TRIGGER USER")
        run(
            "INSERT INTO ledger (gen, doc_id, version, deleted, n_chunks, content_hash) SELECT s.gen, d.doc_id, "
            "d.version, false, 1, d.content_hash FROM slot s JOIN document d USING (cid) WHERE d.version > 1000000"
        )
        if vectors:
            names = connection.scalars(sa.text("SELECT physical_name FROM slot JOIN generation USING (gen)")).all()
            for name in names:
                run(f"DROP INDEX {name}_hnsw")
                run(
                    f"INSERT INTO {name} SELECT 'x' || n, 0, 1000000 + n, 0, 10, v.a::vector FROM generate_series(1, "
                    f"{rows}) n, LATERAL (SELECT array_agg(random() - 0.5) FROM generate_series(1, {DIM}) WHERE n > 0) "
                    "v(a)"
                )
                run(f"CREATE INDEX {name}_hnsw ON {name} USING hnsw (embedding vector_cosine_ops)")
    with project.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


PARTS: dict[str, Callable[[Path, Any], list[Figure]]] = {
    one.__name__: one for one in (overhead, stall, attempts, lag, visibility, sweep, pause)
}

if __name__ == "__main__":
    sys.exit(main())
