"""How far the served index lags while the encoder of a migration sleeps over every batch, beside no migration.

One worker in this process; documents are written one after another, evenly, and each is timed until the served index
shows it. First revision 1 alone; then with revision 2 being built, whose encoder sleeps before each batch, so that its
own queue only grows.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write

if TYPE_CHECKING:
    from revector.config import Project
    from revector.interfaces import Piece, Side

COLLECTION, FIRST, SECOND = "docs", "a000", "b111"
GATE = 'index = IndexSpec(kind="exact")\ngate = Gate(max_drop=1.0, min_overlap=None)'
MOST_TIMES = 2.0
LABELLED, LIMIT_S = 60, 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both; return 1 if a migration more than doubles the lag."""
    options = parser("evaluation.bench.lanes", __doc__)
    options.add_argument("--documents", type=int, default=200, metavar="N", help="documents at the start")
    options.add_argument("--writes", type=int, default=300, metavar="N", help="writes of each phase")
    options.add_argument(
        "--sleep-s", type=float, default=60.0, metavar="S", help="sleep before each batch of revision 2"
    )
    chosen = options.parse_args(argv)
    before = machine()
    with temporary_project(f'drain_s = 0\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
        project, pause = _prepare(root, chosen.documents), threading.Event()
        _sleepy(project, SECOND, chosen.sleep_s, pause)
        with _working(project):
            alone = _lags(project, "alone", chosen.writes)
            project.migrator(COLLECTION, actor="bench").upgrade(SECOND, to="backfill")
            pause.clear()  # from here on its encoder sleeps
            beside = _lags(project, "beside", chosen.writes)
            waiting = project.status(COLLECTION).slots.building.waiting.live
            pause.set()
        project.engine.dispose()
    figures = _figures("no migration", alone) + _figures(f"an encoder that sleeps {chosen.sleep_s:g} s a batch", beside)
    for name, share in (("p50", 50), ("p95", 95)):
        times = _percentile(beside, share) / _percentile(alone, share)
        figures.append(
            Figure(f"lag {name}, times", round(times, 2), "", f"at most {MOST_TIMES:g}", times <= MOST_TIMES)
        )
    figures.append(Figure("writes that wait for the sleeping encoder at the end", waiting, "documents"))
    command = f"python -m evaluation.bench.lanes --writes {chosen.writes} --sleep-s {chosen.sleep_s:g}"
    return write(chosen.output, command, before, figures)


def _prepare(root: Path, documents: int) -> Project:
    from revector.config import load_project
    from revector.interfaces import Document

    revision(root, COLLECTION, FIRST, None, f'model = ModelSpec(name="hashing", dim=64)\n{GATE}')
    revision(root, COLLECTION, SECOND, FIRST, f'model = ModelSpec(name="hashing:seed2", dim=64)\n{GATE}')
    _label(root / "labels", min(documents, LABELLED))
    project = load_project(root)
    project.init()
    project.documents(COLLECTION).put_many(Document(f"d{n}", f"apple{n} pear{n} some words") for n in range(documents))
    project.migrator(COLLECTION, actor="bench").upgrade(FIRST)
    return project


def _label(folder: Path, queries: int) -> None:
    (folder / "qrels").mkdir(parents=True)
    asked = [json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) for n in range(queries)]
    (folder / "queries.jsonl").write_text("\n".join(asked))
    judged = [f"q{n}\td{n}\t1" for n in range(queries)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))


def _sleepy(project: Project, name: str, sleep_s: float, awake: threading.Event) -> None:
    """Let the encoder of a revision sleep before each batch until ``awake`` is set, which it is at first."""
    from revector.revisions import RevisionGraph

    awake.set()
    encoder: Any = project.encoders.fresh(RevisionGraph.from_folder(project.migrations(COLLECTION))[name].model)
    embed = encoder.encode

    def slowly(side: Side, pieces: Sequence[Piece]) -> Any:
        if side == "document":
            awake.wait(sleep_s)
        return embed(side, pieces)

    encoder.encode = slowly


@contextmanager
def _working(project: Project) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=project.worker().run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lags(project: Project, name: str, writes: int) -> list[float]:
    """Return the seconds from the end of each write until the served index shows it."""
    documents, lags = project.documents(COLLECTION), list[float]()
    for n in range(writes):
        written = documents.put(f"{name}{n}", f"apple{n} written by phase {name}", {})
        began = time.monotonic()
        documents.wait_until_served(written, timeout_s=LIMIT_S)
        lags.append(time.monotonic() - began)
        time.sleep(0.05)
    return lags


def _percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100)[share - 1]


def _figures(what: str, lags: Sequence[float]) -> list[Figure]:
    found = {"p50": _percentile(lags, 50), "p95": _percentile(lags, 95), "most": max(lags)}
    return [Figure(f"lag {name}, {what}", round(lag, 3), "s") for name, lag in found.items()]


if __name__ == "__main__":
    raise SystemExit(main())
