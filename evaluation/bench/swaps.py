"""Swaps and rollbacks while four writers and four searchers work, and what either of them noticed.

Four revisions in turn are migrated to, each swapped in, rolled back and swapped in again until 20 swaps are through.
Two neighbours have equal dimensions, so that a query meeting the wrong index would raise nothing. Every answer is
checked by means of its own: the score of the best hit that no writer touches against the vector that is stored, by the
encoder that the migration file of the answering revision names. In the end every live index is compared with what the
writers were told.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bench.common import Figure, environment, machine, parser, revision, temporary_project, write
from evaluation.bench.load import SEARCHERS, WRITERS, encoders_of, first_text, read, search, write_load

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from revector.config import Project
    from revector.migration.migrator import Migrator
    from revector.registry.collections import Generation

COLLECTION = "docs"
REVISIONS = {
    "a000": ("hashing", 64),
    "b111": ("hashing:seed1", 96),
    "c222": ("hashing:seed2", 96),
    "d333": ("hashing:seed3", 128),
    "e444": ("hashing:seed4", 128),
}
LABELLED = 60
SWAPS = 20
MOST_CALLS = 20
HEAL_S = 180.0
MIN_COSINE = 0.9999


@dataclass(slots=True)
class Move:
    """One swap or rollback: seconds since 1970 when it was called, had the gate asked for, and returned."""

    kind: str
    called: float
    asked: float
    returned: float
    pause_ms: float
    calls: int
    attempts: int


@dataclass(slots=True)
class Seen:
    """What a run gave."""

    moves: list[Move] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the swaps; return 1 if a count is not as promised."""
    options = parser("evaluation.bench.swaps", __doc__)
    options.add_argument("--documents", type=int, default=5_000, metavar="N", help="documents at the start")
    options.add_argument("--swaps", type=int, default=SWAPS, metavar="N", help="swaps in all, rollbacks between")
    options.add_argument("--writes-per-s", type=float, default=200.0, metavar="N", help="of all four writers")
    options.add_argument("--queries-per-s", type=float, default=40.0, metavar="N", help="of all four searchers")
    chosen = options.parse_args(argv)
    before, started, seen = machine(), time.monotonic(), Seen()
    with temporary_project(f'drain_s = 2\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
        project = _prepare(root, chosen.documents)
        try:
            with _load(project, chosen.writes_per_s, chosen.queries_per_s):
                _move_about(project, chosen.swaps, seen)
            _heal(project)
            seen.differences = _compare(project, chosen.documents)
            writes, searches = (read(root / f"{name}.jsonl") for name in ("writes", "searches"))
            mixed = _visible_mix_ups(project)
        finally:
            project.engine.dispose()
    figures = _figures(seen, writes, searches, mixed, chosen.swaps)
    figures.append(Figure("wall time of it all", round(time.monotonic() - started), "s"))
    command = (
        f"python -m evaluation.bench.swaps --documents {chosen.documents} --swaps {chosen.swaps} "
        f"--writes-per-s {chosen.writes_per_s:g} --queries-per-s {chosen.queries_per_s:g}"
    )
    return write(chosen.output, command, before, figures)


def _prepare(root: Path, documents: int) -> Project:
    """Make the project with revision 1 live; the labelled documents are never changed."""
    from revector.config import load_project
    from revector.interfaces import Document

    parent = None
    for name, (model, dim) in REVISIONS.items():
        body = f'model = ModelSpec(name="{model}", dim={dim})\nindex = IndexSpec(kind="hnsw")\n'
        revision(root, COLLECTION, name, parent, f"{body}gate = Gate(max_drop=1.0, min_overlap=None)")
        parent = name
    labels = root / "labels"
    (labels / "qrels").mkdir(parents=True)
    (labels / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) + "\n" for n in range(LABELLED))
    )
    judged = "".join(f"q{n}\td{n:06d}\t1\n" for n in range(LABELLED))
    (labels / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    project = load_project(root)
    project.init()
    store = project.documents(COLLECTION)
    for start in range(0, documents, 1_000):
        store.put_many([Document(f"d{n:06d}", first_text(n)) for n in range(start, min(start + 1_000, documents))])
    project.migrator(COLLECTION, actor="bench").upgrade(next(iter(REVISIONS)))
    return project


@contextmanager
def _load(project: Project, writes_per_s: float, queries_per_s: float) -> Iterator[None]:
    """Run the worker, the writers and the searchers, each in a process of its own; all end with the block."""
    context = multiprocessing.get_context("spawn")
    ending: Event = context.Event()
    ready = [context.Event(), context.Event()]
    with ExitStack() as stack:
        log = stack.enter_context((project.root / "worker.log").open("wb"))
        worker = subprocess.Popen(
            [sys.executable, "-m", "revector", "worker"], cwd=project.root, env=environment(project.root), stderr=log
        )
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
        common = (project.root, COLLECTION, LABELLED)
        processes = [
            context.Process(target=write_load, args=(*common, writes_per_s, ready[0], ending)),
            context.Process(target=search, args=(*common, queries_per_s, ready[1], ending)),
        ]
        for process in processes:
            process.start()
            stack.callback(process.join)
        stack.callback(ending.set)
        for one in ready:
            if not one.wait(120):
                raise RuntimeError("writers or searchers did not start within two minutes")
        yield
        for process in processes:
            if not process.is_alive():
                raise RuntimeError(f"{process.name} ended early with {process.exitcode}")
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended early with {worker.returncode}")


def _move_about(project: Project, swaps: int, seen: Seen) -> None:
    """Migrate to each revision in turn, with rollbacks and swaps forward again, ``swaps`` swaps in all."""
    migrator = project.migrator(COLLECTION, actor="bench")
    targets = list(REVISIONS)[1:]
    for place, name in enumerate(targets):
        share = swaps // len(targets) + (place < swaps % len(targets))
        migrator.upgrade(name, to="approve")
        for turn in range(share):
            if turn:
                _timed(project, migrator, "rollback", name, seen)
            _timed(project, migrator, "swap", name, seen)
        if name != targets[-1]:  # the last two stay live, so that both are compared
            migrator.retire("bench: on to the next revision", now=True)


def _timed(project: Project, migrator: Migrator, kind: str, name: str, seen: Seen) -> None:
    """Make a move, called again while it is refused for the load, and note when writers may have felt it."""
    from revector.errors import RevectorError

    attempts = 0
    finish = migrator._catch_up.finish_under_gate

    def counted(generation: Generation) -> None:
        nonlocal attempts
        attempts += 1
        finish(generation)

    migrator._catch_up.finish_under_gate = counted  # type: ignore[method-assign]
    called, calls, outcome = time.time(), 0, None
    while outcome is None:
        calls += 1
        try:
            options = {"reason": "bench"} if kind == "rollback" else {}
            outcome = migrator.run(kind, None if options else name, **options)
        except RevectorError as error:
            seen.refused.append(f"{kind} {name}: {type(error).__name__}: {error}")
            print(f"  refused: {seen.refused[-1]}", file=sys.stderr)
            if calls == MOST_CALLS:
                raise
    returned = time.time()
    migrator._catch_up.finish_under_gate = finish  # type: ignore[method-assign]
    event = next(one for one in project.events(COLLECTION, 20) if one["kind"] == kind)
    # An event is dated by the start of its transaction, before it waits for the gate.
    asked = _epoch(event["at"])
    seen.moves.append(Move(kind, called, asked, returned, float(outcome.facts["pause_ms"]), calls, attempts))
    move = seen.moves[-1]
    print(
        f"  {kind:8} {name}: {returned - called:6.2f} s, gate held {move.pause_ms:6.1f} ms, {calls} calls, "
        f"{attempts} attempts",
        file=sys.stderr,
    )


def _epoch(at: Any) -> float:
    from datetime import datetime

    return (at if isinstance(at, datetime) else datetime.fromisoformat(str(at))).timestamp()


def _heal(project: Project) -> None:
    """Apply what is due until nothing waits; the load has ended."""
    worker, end = project.worker(), time.monotonic() + HEAL_S
    while time.monotonic() < end:
        slots = project.status(COLLECTION).slots.filled.values()
        if not any(slot.waiting.live + slot.waiting.bulk for slot in slots):
            return
        if not worker.drain():
            time.sleep(0.2)
    raise RuntimeError(f"items were still waiting {HEAL_S:g} s after the load had ended")


def _compare(project: Project, documents: int) -> list[dict[str, Any]]:
    """Compare every live index with the texts that the writers were told are stored, each embedded again."""
    import sqlalchemy as sa

    from revector.indexing.chunking import make_chunker
    from revector.interfaces import Content
    from revector.revisions import RevisionGraph

    texts, unknown = {f"d{n:06d}": first_text(n) for n in range(documents)}, set()
    for line in read(project.root / "writes.jsonl"):
        if not line["ok"]:
            unknown.add(line["id"])
        elif line["op"] == "put":
            texts[line["id"]] = line["text"]
        else:
            texts.pop(line["id"], None)
    encoders, graph = encoders_of(project, COLLECTION), RevisionGraph.from_folder(project.migrations(COLLECTION))
    found = []
    with project.engine.connect() as connection:
        live = connection.execute(
            sa.text("SELECT g.physical_name, g.revision FROM slot s JOIN generation g USING (gen) ORDER BY g.gen")
        ).all()
        for index in live:
            chunker = make_chunker(graph[index.revision].chunking, encoders[index.revision].tokenizer)
            rows = connection.execute(
                sa.text(f"SELECT doc_id, embedding::text AS vector FROM {index.physical_name} ORDER BY doc_id, chunk")
            )
            have: dict[str, list[str]] = {}
            for row in rows:
                have.setdefault(row.doc_id, []).append(row.vector)
            both = sorted((texts.keys() & have.keys()) - unknown)
            stale = [
                doc_id
                for doc_id in both
                if not _equal(
                    encoders[index.revision].encode("document", chunker.pieces([Content("text", texts[doc_id])])),
                    have[doc_id],
                )
            ]
            found.append(
                {
                    "revision": index.revision,
                    "compared": len(both),
                    "lost": sorted(texts.keys() - have.keys() - unknown),
                    "resurrected": sorted(have.keys() - texts.keys() - unknown),
                    "stale": stale,
                }
            )
    return found


def _equal(fresh: Any, stored: Sequence[str]) -> bool:
    vectors = np.array([json.loads(one) for one in stored], dtype=np.float32)
    return vectors.shape == fresh.shape and bool(((vectors * fresh).sum(axis=1) > MIN_COSINE).all())


def _visible_mix_ups(project: Project) -> float:
    """Return how many in a hundred queries the check would catch if the neighbour of equal width had encoded them."""
    from evaluation.bench.load import SCORE_TOLERANCE
    from revector.interfaces import whole_texts

    encoders = encoders_of(project, COLLECTION)
    index, other = encoders["c222"], encoders["b111"]
    caught = 0
    for n in range(LABELLED):
        stored = index.encode("document", whole_texts([first_text(n)]))[0]
        right, wrong = (one.encode("query", whole_texts([f"apple{n} pear{n}"]))[0] for one in (index, other))
        caught += abs(float(stored @ right) - float(stored @ wrong)) > SCORE_TOLERANCE
    return 100 * caught / LABELLED


# Figures --------------------------------------------------------------------------------------------------------------


def _figures(
    seen: Seen, writes: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]], mixed: float, swaps: int
) -> list[Figure]:
    made = {kind: [move for move in seen.moves if move.kind == kind] for kind in ("swap", "rollback")}
    failed = [line for line in searches if not line["ok"]]
    answered = [line for line in searches if line["ok"]]
    wrong = [line for line in answered if line["right"] is False]
    checked = sum(line["right"] is not None for line in answered)
    errors = [line for line in writes if not line["ok"]]
    during = [line["ms"] for line in writes if any(_overlaps(line, move) for move in seen.moves)]
    apart = [line["ms"] for line in writes if not any(_overlaps(line, move) for move in seen.moves)]
    span = max(line["at"] for line in writes) - min(line["at"] for line in writes)
    figures = [
        Figure("swaps under load", len(made["swap"]), "swaps", f"{swaps}", len(made["swap"]) == swaps),
        Figure("rollbacks under load", len(made["rollback"]), "rollbacks"),
        Figure("searches through the alias", len(searches), "searches"),
        Figure("searches that failed", len(failed), "searches", "0", not failed),
        Figure("searches answered by a wrong model", len(wrong), "searches", "0", not wrong),
        Figure("answers whose score was computed again", round(100 * checked / max(1, len(answered)), 1), "%"),
        Figure("mix-ups of equal width that this check would see", round(mixed, 1), "%", "at least 95", mixed >= 95),
        Figure("revisions that answered", len({line["revision"] for line in answered}), "revisions"),
        Figure("search threads", SEARCHERS, "threads"),
        Figure("writes and deletes", len(writes), "writes"),
        Figure("writes that failed", len(errors), "writes", "0", not errors),
        Figure("write rate", round(len(writes) / max(1e-9, span), 1), "writes/s"),
        Figure("writer threads", WRITERS, "threads"),
        *_spread("latency of a write while no alias moved", apart),
        *_spread("latency of a write that met a moving alias", during),
        Figure("writes that met a moving alias", len(during), "writes"),
        *_spread("latency of a search", [line["ms"] for line in answered]),
    ]
    for kind, moves in made.items():
        figures += _spread(f"gate held by a {kind}", [move.pause_ms for move in moves])
        figures += _spread(f"wall time of a {kind}", [(move.returned - move.called) * 1_000 for move in moves])
        figures.append(Figure(f"attempts of all {kind}s", sum(move.attempts for move in moves), "attempts"))
        figures.append(Figure(f"most attempts of one {kind}", max((m.attempts for m in moves), default=0), "attempts"))
    figures.append(
        Figure("moves refused, so that the command was run again", len(seen.refused), "calls", "0", not seen.refused)
    )
    for reason in sorted({one.partition(". ")[0] for one in seen.refused})[:5]:
        figures.append(Figure("a refusal", reason, "text"))
    for difference in seen.differences:
        of = f"live index of revision {difference['revision']} after healing"
        figures.append(Figure(f"{of}: documents embedded again", difference["compared"], "documents"))
        for what in ("lost", "stale", "resurrected"):
            count = len(difference[what])
            figures.append(Figure(f"{of}: {what}", count, "documents", "0", count == 0))
    return figures


def _overlaps(line: Mapping[str, Any], move: Move) -> bool:
    return bool(line["at"] <= move.returned and line["at"] + line["ms"] / 1_000 >= move.asked)


def _spread(name: str, milliseconds: Sequence[float]) -> list[Figure]:
    if not milliseconds:
        return []
    return [
        Figure(f"{name}, p50", round(float(np.percentile(milliseconds, 50)), 1), "ms"),
        Figure(f"{name}, p95", round(float(np.percentile(milliseconds, 95)), 1), "ms"),
        Figure(f"{name}, max", round(max(milliseconds), 1), "ms"),
    ]


if __name__ == "__main__":
    sys.exit(main())
