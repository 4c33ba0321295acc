"""What the embedding archive costs: writing, reading whole and by id, and memory, beside a `.npy` memory map.

Every layout is written as an archive of shards of 65,536 documents, each sealed (fsync, SHA-256, rename), read whole in
batches, and asked for 1,000 random ids at a time. The same float32 vectors lie in one `.npy`, their sorted ids in
another; there an id is found by binary search, in the same process, in turns with the archive. Vectors are random and
of length 1. Each task is a process of its own; times are CPU seconds, kernel included, because the machine may be
shared, and medians: of shards when writing, of requests when reading by id. Files are in the page cache, as they are
just written. Checking SHA-256 when an archive is opened is reported apart. Compressed layouts are measured on a quarter
of the rows.

Peak memory is that of the whole process, at all of the rows and at a quarter of them; reading by id maps the files, so
there the process's own memory is compared, without the page cache that it shares.
"""

from __future__ import annotations

import importlib
import json
import resource
import shutil
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
from revector.archive import Archive, Dtype, Layout, Part

ASKED, REPEATS = 1_000, 15
SHARD, BATCH = 65_536, 4_096
LAYOUTS: tuple[tuple[Dtype, Layout], ...] = (
    ("float32", "contiguous"),
    ("float16", "contiguous"),
    ("float32", "gzip"),
    ("float32", "zstd"),
)
MOST_RATIO, MOST_MEMORY_RATIO = 2.0, 1.15
EMBEDDED_PER_S, MOST_SHARE = 50_000, 0.1
"""Documents per second that one H200 is to embed, and the share of that time that writing may take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything; return 1 if a goal is missed."""
    options = parser("evaluation.bench.archive", __doc__)
    options.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    options.add_argument("--dim", type=int, default=384, metavar="N")
    options.add_argument("--folder", type=Path, help="where the files go for the time being; default: a temporary one")
    options.add_argument("--task", help="internal: one task as JSON, in this process")
    chosen = options.parse_args(argv)
    if chosen.task:
        task = json.loads(chosen.task)
        print(json.dumps(TASKS[task.pop("do")](**task) | {"peak_mib": _peak_mib()}))
        return 0
    before = machine()
    with tempfile.TemporaryDirectory(prefix="revector-bench-", dir=chosen.folder) as folder:
        figures, drawn = _measure(Path(folder), chosen.rows, chosen.dim)
    command = f"python -m evaluation.bench.archive --rows {chosen.rows} --dim {chosen.dim}"
    missed = write(chosen.output, command, before, figures)
    _draw(chosen.output.with_suffix(".svg"), drawn, f"{chosen.rows:,} × {chosen.dim}")
    return missed


def _measure(folder: Path, rows: int, dim: int) -> tuple[list[Figure], dict[str, tuple[float, float, float]]]:
    plain = _run("npy", folder, rows=rows, dim=dim)
    figures = [Figure(".npy float32: written", round(plain["us"], 2), "CPU µs/vector")]
    drawn: dict[str, tuple[float, float, float]] = {}
    for dtype, layout in LAYOUTS:
        name, judged = f"{dtype} {layout}", layout == "contiguous"
        some_rows = rows if judged else rows // 4
        written = _run("write", folder, rows=some_rows, dim=dim, dtype=dtype, layout=layout)
        whole, some = _run("whole", folder), _run("some", folder, repeats=REPEATS if judged else 3)
        figures += _written(name, written, judged=judged) + _read(name, whole, some, judged=judged)
        drawn.setdefault(".npy float32", (plain["us"], some["npy"], dim * 4.0))
        drawn[name] = (written["us"], some["archive"], written["bytes"])
        if (dtype, layout) == LAYOUTS[0]:
            full = (written, _run("whole", folder, peer=False), _run("some", folder, peer=False))
            figures += _memory(folder, rows, dim, full)
        shutil.rmtree(folder / "archive")
    return figures, drawn


def _written(name: str, found: Mapping[str, float], *, judged: bool) -> list[Figure]:
    rate, goal = 1e6 / found["us"], EMBEDDED_PER_S / MOST_SHARE
    return [
        Figure(f"{name}: written", round(found["us"], 2), "CPU µs/vector"),
        Figure(f"{name}: written", round(found["mb_per_s"]), "MB/CPU-s"),
        Figure(
            f"{name}: written",
            round(rate),
            "vectors/CPU-s",
            f"at least {goal:,.0f}" if judged else None,
            rate >= goal if judged else None,
        ),
        Figure(
            f"{name}: of the time to embed {EMBEDDED_PER_S:,} documents/s", round(EMBEDDED_PER_S / rate, 4), "share"
        ),
        Figure(f"{name}: on disk, with ids, hashes and offsets", round(found["bytes"], 1), "bytes/vector"),
    ]


def _read(name: str, whole: Mapping[str, float], some: Mapping[str, float], *, judged: bool) -> list[Figure]:
    figures = [
        Figure(f"{name}: read whole", round(whole["archive_us"], 2), "CPU µs/vector"),
        Figure(f"{name}: .npy float32 beside it, read whole", round(whole["npy_us"], 2), "CPU µs/vector"),
        Figure(f"{name}: SHA-256 of every shard checked", round(whole["verify_s"], 2), "CPU s"),
    ]
    for order, suffix in (("unsorted", ""), ("sorted", "_sorted")):
        what, ours, theirs = f"{name}: {ASKED:,} random ids, {order}", some[f"archive{suffix}"], some[f"npy{suffix}"]
        goal, holds = (f"at most {MOST_RATIO:g}", ours <= MOST_RATIO * theirs) if judged else (None, None)
        figures += [
            Figure(what, round(ours, 3), "CPU ms"),
            Figure(f"{what}: .npy float32 beside it", round(theirs, 3), "CPU ms"),
            Figure(f"{what}: .npy float32 beside it, row numbers known", round(some[f"rows{suffix}"], 3), "CPU ms"),
            Figure(f"{what}: against .npy", round(ours / theirs, 2), "ratio", goal, holds),
        ]
    return figures


def _memory(folder: Path, rows: int, dim: int, full: Sequence[Mapping[str, float]]) -> list[Figure]:
    shutil.rmtree(folder / "archive")
    dtype, layout = LAYOUTS[0]
    quarter = (
        _run("write", folder, rows=rows // 4, dim=dim, dtype=dtype, layout=layout),
        _run("whole", folder, peer=False),
        _run("some", folder, peer=False),
    )
    figures = []
    tasks = (("written", "peak_mib"), ("read whole", "peak_mib"), ("read by id, own", "own_mib"))
    for (what, kind), small, large in zip(tasks, quarter, full, strict=True):
        name, ratio = f"{dtype} {layout}: peak memory, {what}", large[kind] / small[kind]
        figures += [
            Figure(f"{name}, {rows // 4:,} vectors", round(small[kind], 1), "MiB"),
            Figure(f"{name}, {rows:,} vectors", round(large[kind], 1), "MiB"),
            Figure(
                f"{name}, growth", round(ratio, 3), "ratio", f"at most {MOST_MEMORY_RATIO}", ratio <= MOST_MEMORY_RATIO
            ),
        ]
    mapped = f"{dtype} {layout}: peak memory, read by id, with the page cache that is mapped"
    return [*figures, Figure(f"{mapped}, {rows:,} vectors", round(full[2]["peak_mib"], 1), "MiB")]


def _run(task: str, folder: Path, **options: Any) -> dict[str, float]:
    """Do one task in a process of its own and return what it measured. Raises ``RuntimeError`` if it fails."""
    given = json.dumps({"do": task, "folder": str(folder), **options})
    command = [sys.executable, "-m", "evaluation.bench.archive", "--task", given]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{task} {options} ended with {done.returncode}:\n{done.stderr}")
    print(f"  {time.monotonic() - started:6.1f} s  {task} {options}", file=sys.stderr)
    return dict(json.loads(done.stdout))


# Tasks ----------------------------------------------------------------------------------------------------------------


def _blocks(rows: int, dim: int) -> Iterator[tuple[list[str], Any]]:
    """Yield ids and vectors of each shard; every shard holds the same vectors, in another order."""
    numbers = np.random.default_rng(0).standard_normal((min(SHARD, rows), dim), dtype=np.float32)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    for first in range(0, rows, SHARD):
        count = min(SHARD, rows - first)
        yield [f"doc-{n:09d}" for n in range(first, first + count)], np.roll(numbers, first // SHARD * 7, 0)[:count]


def _do_npy(folder: str, rows: int, dim: int) -> dict[str, float]:
    spent: list[float] = []
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    with Path(folder, "vectors.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for ids, vectors in _blocks(rows, dim):
            started = time.process_time()
            file.write(vectors.data)
            spent.append((time.process_time() - started) / len(ids) * 1e6)
    np.save(Path(folder, "ids.npy"), np.array([f"doc-{n:09d}" for n in range(rows)], dtype="S13"))
    return {"us": statistics.median(spent)}


def _do_write(folder: str, rows: int, dim: int, dtype: Dtype, layout: Layout) -> dict[str, float]:
    archive = Archive.create(Path(folder, "archive"), attributes={"dim": dim}, dtype=dtype, layout=layout)
    importlib.import_module("h5py")  # once per process, however much it writes
    spent: list[float] = []
    for ids, vectors in _blocks(rows, dim):
        n = len(ids)
        hashes = [f"{number:064x}" for number in range(n)]
        columns = (np.arange(n), np.ones(n, np.int32), np.zeros(n, np.int32), np.full(n, 500, np.int32))
        started = time.process_time()
        archive.append(Part(ids, columns[0], hashes, columns[0], *columns[1:], vectors))
        spent.append((time.process_time() - started) / n * 1e6)
    us, size = statistics.median(spent), sum(sealed.size_bytes for sealed in archive.shards()) / rows
    return {"us": us, "bytes": size, "mb_per_s": size / us}


def _do_whole(folder: str, *, peer: bool = True) -> dict[str, float]:
    started = time.process_time()
    Archive(Path(folder, "archive")).verify()
    verified = time.process_time() - started
    started, rows = time.process_time(), 0
    for part in Archive(Path(folder, "archive"), verify=False).batches(BATCH):
        rows += len(part.embeddings)
    found = {"archive_us": (time.process_time() - started) / rows * 1e6, "verify_s": verified}
    if peer:
        started = time.process_time()
        mapped = np.load(Path(folder, "vectors.npy"), mmap_mode="r")
        for first in range(0, len(mapped), BATCH):
            np.array(mapped[first : first + BATCH])
        found["npy_us"] = (time.process_time() - started) / len(mapped) * 1e6
    return found


def _do_some(folder: str, *, repeats: int = REPEATS, peer: bool = True) -> dict[str, float]:
    archive = Archive(Path(folder, "archive"), verify=False)
    count = sum(sealed.documents for sealed in archive.shards())
    draw = np.random.default_rng(1)
    spent: dict[str, list[float]] = {}
    own = 0.0
    vectors = np.load(Path(folder, "vectors.npy"), mmap_mode="r")
    every = np.load(Path(folder, "ids.npy"), mmap_mode="r")
    for _ in range(repeats + 1):  # the first, which opens every shard, is left out
        for suffix in ("", "_sorted"):
            for name in ("archive", "npy", "rows") if peer else ("archive",):
                rows = draw.choice(count, ASKED, replace=False)  # of each its own: none finds what another has warmed
                rows = np.sort(rows) if suffix else rows
                ids = [f"doc-{n:09d}" for n in rows]
                started = time.process_time()
                if name == "archive":
                    found = archive.read_many(ids).embeddings
                elif name == "npy":
                    found = vectors[np.searchsorted(every, np.array(ids, dtype=every.dtype))]
                else:
                    found = vectors[rows]
                spent.setdefault(name + suffix, []).append((time.process_time() - started) * 1e3)
                if peer and not np.array_equal(vectors[rows].astype(found.dtype), found):
                    raise RuntimeError(f"{name} returned other vectors than those asked for")
        own = max(own, _own_mib())
    return {name: statistics.median(times[1:]) for name, times in spent.items()} | {"own_mib": own}


TASKS = {"npy": _do_npy, "write": _do_write, "whole": _do_whole, "some": _do_some}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _own_mib() -> float:
    """Return the memory that only this process has; files that are mapped are the system's to take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def _draw(path: Path, drawn: Mapping[str, tuple[float, float, float]], of: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "revector"
    from matplotlib import pyplot as plt

    titles = ("written, CPU µs/vector", f"{ASKED:,} random ids, CPU ms", "on disk, bytes/vector")
    chart, axes = plt.subplots(1, len(titles), figsize=(11, 2.8), sharey=True, layout="constrained")
    for n, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        bars = axis.barh(list(drawn), [values[n] for values in drawn.values()], color="#3b6ea5")
        axis.bar_label(bars, fmt="{:,.1f}", padding=3)
        axis.set(title=title)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    chart.suptitle(f"The embedding archive, {of}")
    chart.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
