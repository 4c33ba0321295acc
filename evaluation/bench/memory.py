"""Whether the memory of a backfill depends on the number of documents.

Generated documents are written to a file, streamed in by `revector ingest`, and embedded by `revector upgrade` with the
hashing encoder (64 dimensions), each a process of its own whose resident memory is looked at every 20 ms. The server's
memory is not counted: its buffers are of a fixed size.

A backfill holds one part, at most 4,096 documents. In four shards of 2,500 the smallest size never fills one, so it is
measured in one shard too: that is what to compare with.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.bench.common import Figure, Ran, machine, parser, revector, revision, temporary_project, write

WORDS_OF_TEXT = 80
MOST_RATIO = 1.15
SHARDS = 4
VOCABULARY = 30_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each size and the HNSW run; return 1 if memory grows with the corpus."""
    options = parser("evaluation.bench.memory", __doc__)
    options.add_argument("--documents", type=int, nargs="+", default=[10_000, 50_000, 200_000], metavar="N")
    options.add_argument("--hnsw-documents", type=int, default=50_000, metavar="N", help="size of the HNSW run")
    chosen = options.parse_args(argv)
    before = machine()
    sizes = sorted(chosen.documents)
    runs = [(f"n{count}", count, "exact", SHARDS) for count in sizes]
    runs += [(f"one{sizes[0]}", sizes[0], "exact", 1), ("hnsw", chosen.hnsw_documents, "hnsw", SHARDS)]
    settings = "drain_s = 0\n" + "".join(f"[collections.{name}]\n" for name, *_ in runs)
    figures: list[Figure] = []
    with temporary_project(settings) as root:
        revector(root, "init")
        measured = {name: _measure(root, name, count, kind, shards) for name, count, kind, shards in runs}
    for name, count, kind, shards in runs:
        figures += _figures(f"{count:,} documents, {kind}, {shards} shard(s)", count, *measured[name])
    small, full, large = (measured[name] for name in (f"n{sizes[0]}", f"one{sizes[0]}", f"n{sizes[-1]}"))
    against = f"{sizes[-1]:,} against {sizes[0]:,} documents"
    figures += _ratio(f"ingest, {against}", small[0], large[0], sizes)
    figures += _ratio(f"backfill, {against}, full parts in both", full[1], large[1], sizes)
    figures += _ratio(f"backfill, {against}, {SHARDS} shards in both", small[1], large[1], sizes)[:1]
    command = (
        f"python -m evaluation.bench.memory --documents {' '.join(map(str, sizes))} "
        f"--hnsw-documents {chosen.hnsw_documents}"
    )
    return write(chosen.output, command, before, figures)


def _measure(root: Path, name: str, count: int, kind: str, shards: int) -> tuple[Ran, Ran]:
    source = root / f"{name}.jsonl"
    generate(source, count)
    revision(
        root, name, f"{name}r1", None, f'model = ModelSpec(name="hashing", dim=64)\nindex = IndexSpec(kind="{kind}")'
    )
    ingested = revector(root, "ingest", str(source), "-c", name)
    source.unlink()
    if ingested.answer["written"] != count:
        raise RuntimeError(f"{count} documents were generated, ingest says {ingested.answer}")
    return ingested, revector(root, "upgrade", "--shards", str(shards), "-c", name)


def generate(path: Path, count: int) -> None:
    """Write ``count`` documents of 40 to 120 words, about 500 characters, one JSON line each."""
    numbers = random.Random(0)
    words = [f"{numbers.choice('bcdfgklmnprstvw')}{numbers.randrange(16**6):05x}"[:7] for _ in range(VOCABULARY)]
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            length = numbers.randint(WORDS_OF_TEXT // 2, WORDS_OF_TEXT * 3 // 2)
            file.write(json.dumps({"_id": f"d{n:07d}", "text": " ".join(numbers.choices(words, k=length))}) + "\n")


def _figures(of: str, count: int, ingested: Ran, upgraded: Ran) -> list[Figure]:
    backfill = next(step for step in upgraded.answer["steps"] if step["step"] == "backfill")
    index = next(step for step in upgraded.answer["steps"] if step["step"] == "index")
    return [
        Figure(f"peak resident memory of ingest, {of}", round(ingested.peak_mib, 1), "MiB"),
        Figure(f"wall time of ingest, {of}", round(ingested.wall_s, 1), "s"),
        Figure(f"peak resident memory of upgrade, {of}", round(upgraded.peak_mib, 1), "MiB"),
        Figure(f"wall time of upgrade, {of}", round(upgraded.wall_s, 1), "s"),
        Figure(f"wall time of its index step, {of}", round(index["wall_s"], 1), "s"),
        Figure(f"backfill rate, {of}", round(count / backfill["wall_s"]), "documents/s"),
    ]


def _ratio(what: str, small: Ran, large: Ran, sizes: Sequence[int]) -> list[Figure]:
    ratio = large.peak_mib / small.peak_mib
    name = f"peak memory of {what}"
    grown = (large.peak_mib - small.peak_mib) * 2**20 / max(1, sizes[-1] - sizes[0])
    return [
        Figure(name, round(ratio, 3), "ratio", f"at most {MOST_RATIO}", ratio <= MOST_RATIO),
        Figure(f"{name}: growth", round(grown, 1), "bytes/document"),
    ]


if __name__ == "__main__":
    sys.exit(main())
