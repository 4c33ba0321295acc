"""What the protocol costs its users, each figure beside its own baseline in the same run (reliability.md 4.7).

Writers, worker and backfill are processes; the encoder is the hashing one, so that the database and the protocol are
what is measured. ``--only`` picks parts: overhead, stall, attempts, lag, visibility, sweep, pause.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from evaluation.bench.common import Figure, machine, parser, temporary_project, write
from evaluation.bench.protocol_site import (
    COLLECTION,
    DIM,
    DOCUMENTS,
    LABELLED,
    PER_S,
    backfill_all,
    make_project,
    running,
    times_of,
    work_until,
    write_rate,
    writers_of,
)

if TYPE_CHECKING:
    from revector.config import Project


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


# The parts ------------------------------------------------------------------------------------------------------------


def overhead(root: Path, chosen: Any) -> list[Figure]:
    """Writes per second with the gate, and without it (fan-out stays), in turns."""
    from evaluation.reliability.bugs import BUGS, changed_database
    from evaluation.reliability.mistakes import replaced
    from revector.documents import writing

    project, figures = make_project(root), []
    for clients in (8, 32):
        found: dict[str, list[float]] = {"gate": [], "none": []}
        for turn in range(10):
            if turn % 2:
                with changed_database(BUGS["no_gate"], project.engine), replaced(writing.hold_shared, _nothing):
                    found["none"].append(write_rate(project, clients, chosen.seconds))
            else:
                found["gate"].append(write_rate(project, clients, chosen.seconds))
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
    project, figures = make_project(root), []
    for clients in (8, 32):
        with tempfile.TemporaryDirectory() as folder:
            hot = list(range(LABELLED, LABELLED + 20))
            load = writers_of(root, folder, clients, ids=hot, shared=True)
            with running(project, (work_until, (root, False)), *load):
                time.sleep(2)
                moves = _move(project, chosen.moves, pause_s=0.2)
            times = times_of(folder)
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
    project, tries = make_project(root), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        hot = list(range(LABELLED, LABELLED + int(0.009 * DOCUMENTS)))
        load = writers_of(root, folder, 4, ids=hot, per_s=PER_S / 4, deletes=0.1)
        with running(project, (work_until, (root, False)), *load):
            time.sleep(2)
            _move(project, chosen.moves, pause_s=0.3, attempts=tries)
        times = times_of(folder)
    rate = len(times) / float(times[:, 1].max() - times[:, 0].min())
    share = round(100 * sum(one <= 5 for one in tries) / len(tries), 1)
    return [
        Figure("steady writes while moves were tried", round(rate), "writes/s", "200", rate >= 0.95 * PER_S),
        Figure(f"of {len(tries)} moves, through within 5 attempts", share, "%", "at least 95", share >= 95),
        Figure("most attempts of one move", max(tries), "attempts"),
    ]


def lag(root: Path, chosen: Any) -> list[Figure]:
    """How far the active index is behind at 200 writes/s, with an encoder of 5 ms, while a backfill runs."""
    project, seen = make_project(root, to="a100"), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        load = writers_of(root, folder, 4, per_s=PER_S / 4, deletes=0.1)
        with running(project, (work_until, (root, True)), (backfill_all, (root,)), *load):
            end = time.monotonic() + 10 * chosen.seconds
            while time.monotonic() < end:
                slots = project.status(COLLECTION).slots
                if slots.building is not None:
                    seen.append(float(slots.active.lag_s))
                time.sleep(0.1)
        times = times_of(folder)
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
    project = make_project(root)
    with tempfile.TemporaryDirectory() as folder:
        load = writers_of(root, folder, 4, per_s=PER_S / 4, deletes=0.1)
        with running(project, *load):
            time.sleep(chosen.pause_s)
            with running(project, (work_until, (root, False))):
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
    return max(slot.lag_s for slot in project.status(COLLECTION).slots.filled.values())


def visibility(root: Path, _chosen: Any) -> list[Figure]:
    """What the visibility check adds to a search for 20 candidates among 100,000 documents, paired."""
    project, rows = make_project(root, to="a100", documents=1_000), 100_000
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
    project = make_project(root, documents=1_000)
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
