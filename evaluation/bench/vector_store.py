"""`revector.VectorStore` beside numpy-vector-store: CPU time of each act at three sizes, and equal answers.

Random float32 vectors, one query at a time, ten hits, one thread. Each round is a process of its own, the two packages
take turns, and the median of the rounds counts: of each round, the fastest of 30 queries, for the machine may be
shared. The largest size has a quarter of the rounds. A ratio is ours by theirs.
A search of directions (`unit`) is one product with all rows on both sides, bound by memory at 100,000 rows: there is
little to win. Files: theirs are compressed and pickled, ours are neither.

  python -m venv peers && peers/bin/pip install numpy-vector-store
  python -m evaluation.bench.vector_store --peers-python peers/bin/python
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.bench.common import ROOT, Figure, environment, machine, parser, write

SIZES = (1_000, 10_000, 100_000)
OURS, THEIRS = "revector", "numpy_vector_store"
PEER = Path(__file__).with_name("vector_store_peer.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both at each size; return 1 if one of our searches takes more, or finds others."""
    options = parser("evaluation.bench.vector_store", __doc__)
    options.add_argument("--dim", type=int, default=384, metavar="N")
    options.add_argument("--rounds", type=int, default=9, metavar="N")
    options.add_argument("--peers-python", required=True, metavar="PATH", help="interpreter with numpy-vector-store")
    chosen = options.parse_args(argv)
    before, figures = machine(), list[Figure]()
    for rows in SIZES:
        runs: dict[str, list[dict[str, Any]]] = {OURS: [], THEIRS: []}
        for _ in range(chosen.rounds if rows < SIZES[-1] else max(1, chosen.rounds // 4)):
            runs[OURS].append(_run(sys.executable, OURS, rows, chosen.dim))
            runs[THEIRS].append(_run(chosen.peers_python, THEIRS, rows, chosen.dim))
        if rows == SIZES[0]:
            versions = runs[OURS][0]["versions"] | {"theirs": runs[THEIRS][0]["versions"]}
            figures.append(Figure("versions", json.dumps(versions), ""))
        figures += _figures(rows, runs)
    command = f"python -m evaluation.bench.vector_store --dim {chosen.dim} --rounds {chosen.rounds} --peers-python PATH"
    return write(chosen.output, command, before, figures)


def _figures(rows: int, runs: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    median = {
        side: {act: statistics.median(run["cpu_ms"][act] for run in found) for act in found[0]["cpu_ms"]}
        for side, found in runs.items()
    }
    figures = []
    for act, ours in median[OURS].items():
        if act not in median[THEIRS]:  # many at once: they ask one after the other
            theirs = median[THEIRS][act.partition(",")[0].replace("l2", "euclidean")]
        else:
            theirs = median[THEIRS][act]
        search = act in runs[OURS][0]["found"]
        figures += [
            Figure(f"{rows:,} rows, {act}: ours", round(ours, 4), "CPU ms"),
            Figure(f"{rows:,} rows, {act}: theirs", round(theirs, 4), "CPU ms"),
            Figure(
                f"{rows:,} rows, {act}: ratio",
                round(ours / theirs, 3),
                "ours / theirs",
                "below 1" if search else None,
                ours < theirs if search else None,
            ),
        ]
    same = runs[OURS][0]["found"] == runs[THEIRS][0]["found"]
    figures.append(Figure(f"{rows:,} rows: the same rows in the same order", str(same), "", "True", same))
    return figures


def _run(python: str, module: str, rows: int, dim: int) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**environment(ROOT), **dict.fromkeys(names, "1")}
    command = [python, str(PEER), module, str(rows), str(dim)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
