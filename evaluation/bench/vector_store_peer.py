"""One side of `evaluation.bench.vector_store`, in an interpreter with that package: CPU ms of each act.

python vector_store_peer.py MODULE ROWS DIM  →  one line of JSON; MODULE is revector or numpy_vector_store
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

QUERIES, TOP_K = 30, 10


def main() -> None:
    """Measure one package: adding, the three searches, and the file."""
    name, rows, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    queries = rng.standard_normal((QUERIES, dim), dtype=np.float32)
    made: Any = import_module(name).VectorStore
    spent, found = {}, {}
    for kind, normalize in (("unit", True), ("raw", False)):
        store = made(dim, normalize=normalize)
        spent[f"{kind}: add"] = _cpu_ms(lambda store=store: store.add(vectors, range(rows)))
        for search in ("cosine_search", "dot_search", "euclidean_search"):
            act = getattr(store, search)
            asked = f"{kind}: {search.partition('_')[0]}"
            found[asked] = [
                [one.index for one in act(query, top_k=TOP_K)] for query in queries[:5]
            ]  # the first are warm
            spent[asked] = min(_cpu_ms(lambda act=act, one=one: act(one, top_k=TOP_K)) for one in queries)
        if hasattr(store, "search_many"):
            for metric in ("cosine", "l2"):
                store.search_many(queries, metric=metric)
                spent[f"{kind}: {metric}, {QUERIES} at once"] = (
                    _cpu_ms(lambda store=store, metric=metric: store.search_many(queries, metric=metric)) / QUERIES
                )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        spent["save"] = _cpu_ms(lambda: store.save(path))
        spent["open"] = _cpu_ms(lambda: made.open(path))
    versions = {"numpy": np.__version__, name: version(name.replace("_", "-"))}
    print(json.dumps({"cpu_ms": spent, "found": found, "versions": versions}))


def _cpu_ms(act: Callable[[], object]) -> float:
    before = time.process_time()
    act()
    return 1_000 * (time.process_time() - before)


if __name__ == "__main__":
    main()
