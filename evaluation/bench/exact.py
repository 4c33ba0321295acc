"""Exact search for many queries at once, beside faiss's flat index and numpy-vector-store: time, memory, equal answers.

Random float32 vectors of length 1, the hardest case for anything that skips work, searched for the ten nearest. Every
way is a process of its own with the same number of threads; ways take turns, and the median of the rounds counts.
Times are CPU seconds, because the machine may be shared; wall seconds are reported beside them. Peers hold everything
in memory and are timed without loading or building. Ours is timed whole: from memory, and streamed from an archive,
where reading and checking the rows is part of it. Both are measured with the products in float32 by numpy, and in
bfloat16 by torch, which is taken in processes that have loaded it for a model and processors that can; the answers are
the same. Peak memory is that of the whole process.

  python -m venv peers && peers/bin/pip install faiss-cpu numpy-vector-store
  python -m evaluation.bench.exact --peers-python peers/bin/python
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.common import ROOT, Figure, environment, machine, parser, write
from evaluation.bench.exact_peers import PEERS, WARM_ROWS, peak_mib
from revector.archive import Archive, Part
from revector.measure.exact import Block, MemoryBlock, search_exact

K, SHARD, BATCH = 10, 65_536, 4_096
OURS = ("memory, float32", "memory, bfloat16", "archive, float32", "archive, bfloat16")
SLOW = "numpy-vector-store"  # asks one query at a time: once is enough
TIE = 1e-6
MOST_MEMORY_RATIO = 1.15


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every way; return 1 if a goal is missed."""
    options = parser("evaluation.bench.exact", __doc__)
    options.add_argument("--rows", type=int, default=200_000, metavar="N")
    options.add_argument("--dim", type=int, default=384, metavar="N")
    options.add_argument("--queries", type=int, default=1_000, metavar="N")
    options.add_argument("--threads", type=int, default=1, metavar="N")
    options.add_argument("--rounds", type=int, default=5, metavar="N")
    options.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="interpreter with the peers")
    options.add_argument("--task", help="internal: one task as JSON, in this process")
    chosen = options.parse_args(argv)
    if chosen.task:
        task = json.loads(chosen.task)
        print(json.dumps(TASKS[task.pop("do")](**task) | {"peak_mib": peak_mib()}))
        return 0
    before = machine()
    shape = {"rows": chosen.rows, "dim": chosen.dim, "queries": chosen.queries}
    with tempfile.TemporaryDirectory(prefix="revector-bench-") as folder:
        _run("data", Path(folder), chosen.threads, **shape)
        measured = _rounds(Path(folder), chosen.threads, chosen.rounds, chosen.peers_python)
        figures = _figures(measured) + _answers(Path(folder), measured)
        figures += _memory(chosen.threads, shape, measured)
    command = " ".join(f"--{name} {getattr(chosen, name)}" for name in (*shape, "threads", "rounds"))
    return write(chosen.output, f"python -m evaluation.bench.exact {command} --peers-python PATH", before, figures)


def _rounds(folder: Path, threads: int, rounds: int, python: str) -> dict[str, dict[str, float] | None]:
    """Return the median of each way's rounds; None for a peer that is not installed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for name in OURS:
            found.setdefault(name, []).append(_run("search", folder, threads, way=name))
        for name in PEERS:
            if not (turn and name == SLOW):
                script = [python, str(Path(__file__).with_name("exact_peers.py"))]
                found.setdefault(name, []).append(_call([*script, name, str(folder), str(K), str(threads)], threads))
    return {
        name: None
        if "absent" in runs[0]
        else {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "version"}
        for name, runs in found.items()
    }


def _figures(measured: Mapping[str, Mapping[str, float] | None]) -> list[Figure]:
    figures = []
    for name, one in measured.items():
        if one is None:
            figures.append(Figure(name, "not installed", ""))
            continue
        figures += [
            Figure(f"{name}: search", round(one["cpu_s"], 3), "CPU s"),
            Figure(f"{name}: search", round(one["wall_s"], 3), "s"),
            Figure(f"{name}: peak memory", round(one["peak_mib"]), "MiB"),
        ]
        if "build_cpu_s" in one:
            figures.append(Figure(f"{name}: index built before", round(one["build_cpu_s"], 3), "CPU s"))
    if there := {name: one["cpu_s"] for name in PEERS if (one := measured[name]) is not None}:
        fastest = min(there, key=lambda name: there[name])
        for name in OURS:
            ours = measured[name]
            assert ours is not None
            ratio = ours["cpu_s"] / there[fastest]
            # What a process without torch can do is reported; the goal is for revector at its best.
            goal, holds = ("at most 1", ratio <= 1) if name == "memory, bfloat16" else (None, None)
            figures.append(Figure(f"{name}: against {fastest}, CPU", round(ratio, 3), "ratio", goal, holds))
    return figures


def _answers(folder: Path, measured: Mapping[str, Mapping[str, float] | None]) -> list[Figure]:
    ours = {name: (np.load(folder / f"{name}-ids.npy"), np.load(folder / f"{name}-scores.npy")) for name in OURS}
    ids, scores = ours[OURS[0]]
    same = all(np.array_equal(ids, one) and np.array_equal(scores, score) for one, score in ours.values())
    figures = [Figure("all four of ours give the same ids and scores, bit by bit", str(same), "", "True", same)]
    for name in PEERS:
        if measured[name] is None:
            continue
        theirs, their_scores = np.load(folder / f"{name}-ids.npy"), np.load(folder / f"{name}-scores.npy")
        apart = float(np.abs(scores - their_scores).max())
        # An id may stand elsewhere, or be missing, only where its score ties with the one in its place.
        equal = int(np.all((ids == theirs) | (np.abs(scores - their_scores) <= TIE), axis=1).sum())
        figures += [
            Figure(f"largest difference of a score, {name}", float(f"{apart:.1e}"), "", f"at most {TIE}", apart <= TIE),
            Figure(f"queries whose ids are those of {name}", int(np.all(ids == theirs, axis=1).sum()), "queries"),
            Figure(
                f"the same, but for ties within {TIE}", equal, "queries", f"all {len(ids)}", bool(equal == len(ids))
            ),
        ]
    return figures


def _memory(threads: int, shape: Mapping[str, int], measured: Mapping[str, Mapping[str, float] | None]) -> list[Figure]:
    name = "archive, float32"
    with tempfile.TemporaryDirectory(prefix="revector-bench-") as folder:
        _run("data", Path(folder), threads, **{**shape, "rows": shape["rows"] // 4})
        quarter = _run("search", Path(folder), threads, way=name)
    whole = measured[name]
    assert whole is not None
    ratio = whole["peak_mib"] / quarter["peak_mib"]
    return [
        Figure(f"{name}: peak memory, {shape['rows'] // 4:,} rows", round(quarter["peak_mib"]), "MiB"),
        Figure(
            f"{name}: peak memory, {shape['rows']:,} rows against that",
            round(ratio, 3),
            "ratio",
            f"at most {MOST_MEMORY_RATIO}",
            ratio <= MOST_MEMORY_RATIO,
        ),
    ]


def _run(task: str, folder: Path, threads: int, **options: Any) -> dict[str, Any]:
    given = json.dumps({"do": task, "folder": str(folder), **options})
    return _call([sys.executable, "-m", "evaluation.bench.exact", "--task", given], threads)


def _call(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Return what a process of its own measured. Raises ``RuntimeError`` if it fails."""
    started = time.monotonic()
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**environment(ROOT), **dict.fromkeys(names, str(threads))}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    print(f"  {time.monotonic() - started:6.1f} s  {' '.join(command[1:])}\n           {done.stdout}", file=sys.stderr)
    return dict(json.loads(done.stdout))


# Tasks ----------------------------------------------------------------------------------------------------------------


def _do_data(folder: str, rows: int, dim: int, queries: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    for name, count in (("queries", queries), ("vectors", rows)):
        numbers = rng.standard_normal((count, dim), dtype=np.float32)
        numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
        np.save(Path(folder, f"{name}.npy"), numbers)
    archive = Archive.create(Path(folder, "archive"))
    for first in range(0, rows, SHARD):
        some = numbers[first : first + SHARD]
        n = len(some)
        places, ones = np.arange(n), np.ones(n, np.int32)
        archive.append(Part(_ids(first, n), places, ["0" * 64] * n, places, ones, ones * 0, ones * 500, some))
    return {}


def _ids(first: int, count: int) -> list[str]:
    return [f"doc-{n:09d}" for n in range(first, first + count)]


def _do_search(folder: str, way: str) -> dict[str, float]:
    place, precision = way.split(", ")
    queries = np.load(Path(folder, "queries.npy"))
    if precision == "bfloat16":
        importlib.import_module("torch")
    vectors = np.load(Path(folder, "vectors.npy"), mmap_mode=None if place == "memory" else "r")
    search_exact(queries[:10], _in_memory(vectors[:WARM_ROWS]), K)
    archive = Archive(Path(folder, "archive"), verify=False)
    importlib.import_module("h5py")
    blocks = list(_in_memory(vectors)) if place == "memory" else archive.batches(BATCH)
    wall, cpu = time.perf_counter(), time.process_time()
    found = search_exact(queries, blocks, K)
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    np.save(Path(folder, f"{way}-ids.npy"), [[int(one[4:]) for one in ids] for ids in found.doc_ids])
    np.save(Path(folder, f"{way}-scores.npy"), found.scores)
    return spent


def _in_memory(vectors: np.ndarray[Any, Any]) -> Iterator[Block]:
    for first in range(0, len(vectors), BATCH):
        some = vectors[first : first + BATCH]
        yield MemoryBlock(_ids(first, len(some)), np.ones(len(some), np.int32), some)


TASKS = {"data": _do_data, "search": _do_search}

if __name__ == "__main__":
    sys.exit(main())
