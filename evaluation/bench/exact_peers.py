"""One peer of `evaluation.bench.exact`, in an interpreter of its own that needs numpy and that peer alone.

python exact_peers.py NAME FOLDER K THREADS  →  one line of JSON; NAME-ids.npy and NAME-scores.npy in FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

WARM_ROWS = 2_048
Answer = tuple[Any, Any]


def main() -> None:
    """Build one peer's index of the folder's vectors, search it with the queries, and say what it took."""
    name, folder, k, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    queries, vectors = np.load(folder / "queries.npy"), np.load(folder / "vectors.npy")
    try:
        make = PEERS[name](threads)
    except ImportError:
        print(json.dumps({"absent": True}))
        return
    make(vectors[:WARM_ROWS])(queries[:10], k)
    began = (time.perf_counter(), time.process_time())
    search = make(vectors)
    built = (time.perf_counter(), time.process_time())
    ids, scores = search(queries, k)
    ended = (time.perf_counter(), time.process_time())
    np.save(folder / f"{name}-ids.npy", ids)
    np.save(folder / f"{name}-scores.npy", scores)
    print(
        json.dumps(
            {
                "version": version("faiss-cpu" if name == "faiss" else name),
                "wall_s": ended[0] - built[0],
                "cpu_s": ended[1] - built[1],
                "build_cpu_s": built[1] - began[1],
                "peak_mib": peak_mib(),
            }
        )
    )


def _faiss(threads: int) -> Callable[[Any], Callable[[Any, int], Answer]]:
    import faiss

    faiss.omp_set_num_threads(threads)

    def make(vectors: Any) -> Callable[[Any, int], Answer]:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)

        def search(queries: Any, k: int) -> Answer:
            scores, ids = index.search(queries, k)
            return ids, scores

        return search

    return make


def _numpy_vector_store(_: int) -> Callable[[Any], Callable[[Any, int], Answer]]:
    from numpy_vector_store import VectorStore

    def make(vectors: Any) -> Callable[[Any, int], Answer]:
        store: Any = VectorStore(vectors.shape[1])
        store.add(vectors, list(range(len(vectors))))

        def search(queries: Any, k: int) -> Answer:
            found = [store.cosine_search(query, top_k=k) for query in queries]
            return (
                np.array([[hit.index for hit in hits] for hits in found]),
                np.array([[hit.value for hit in hits] for hits in found]),
            )

        return search

    return make


PEERS = {"faiss": _faiss, "numpy-vector-store": _numpy_vector_store}


def peak_mib() -> float:
    """Return the largest resident memory of this process since its program began, in MiB; 0 where it is not told."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
