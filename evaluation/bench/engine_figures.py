"""The figures of the engine benchmark: speed, arithmetic and fidelity of each way, and the goals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.common import Figure
from evaluation.bench.engine_paths import PEAK_SIZE, PEAK_TIMES
from evaluation.bench.engine_ways import DEFAULT, Seen, Way

GOALS = {"float32": (1.8, None), "bfloat16": (3.0, 0.99), "int8": (4.0, 0.97), "int7": (1.8, 0.96)}
"""Least × sentence-transformers and least overlap@10. A CPU with AVX2 alone misses those of bfloat16 and int8,
for which it has no instructions."""
LEAST_COSINE = 0.99999
CUDA_TIMES, MOST_IDLE = 2.0, 10
CLASSES = (0.999, 0.99, 0.97, 0.0)
"""Bars of overlap@10 by which fidelities count as equal, as they are a few thousandths apart by chance."""


@dataclass(frozen=True, slots=True)
class Row:
    """A path's results; seconds are of processor or wall, as the module's docstring says."""

    times: float
    docs_per_s: float
    tokens_per_s: float
    wall_docs_per_s: float
    seconds: float
    gflops: float
    mfu: float
    peak_mib: float
    cosine_mean: float
    cosine_min: float
    overlap: float


def rows_of(paths: Sequence[Way], seen: Mapping[str, Seen], lengths: Any, device: str, model: Path) -> dict[str, Row]:
    """Return the results of the ways that gave any; ``lengths``: tokens of each text. Ends without a baseline."""
    from revector.gate.fidelity import NEIGHBOURS, overlap

    unit = "cpu_s" if device == "cpu" else "wall_s"
    base, rows = seen[DEFAULT], {}
    if base.missing:
        raise SystemExit(f"sentence-transformers itself could not be measured: {base.missing}")
    wanted = _units(base.vectors)
    work = _flops(model, lengths)
    peak = _peak(seen["peak"], device)
    for path in paths:
        found = seen[path.name]
        if found.missing:
            continue
        seconds, wall = (sum(one[kind] for one in found.rounds) for kind in (unit, "wall_s"))
        vectors = _units(found.vectors)
        cosines = (vectors * wanted).sum(axis=1)
        rows[path.name] = Row(
            times=statistics.median(b[unit] / o[unit] for b, o in zip(base.rounds, found.rounds, strict=True)),
            docs_per_s=len(lengths) / seconds,
            tokens_per_s=float(lengths.sum()) / seconds,
            wall_docs_per_s=len(lengths) / wall,
            seconds=seconds,
            gflops=work / seconds / 1e9,
            mfu=work / seconds / peak,
            peak_mib=max(one["peak_mib"] for one in found.rounds),
            cosine_mean=float(cosines.mean()),
            cosine_min=float(cosines.min()),
            overlap=overlap(wanted, vectors, NEIGHBOURS),
        )
    return rows


def _units(parts: Sequence[Any]) -> Any:
    vectors = np.concatenate(parts).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _peak(peak: Seen, device: str) -> float:
    """Return the most operations per second that the matrix product reached in any round."""
    work = 2.0 * PEAK_SIZE[device] ** 3 * PEAK_TIMES[device]
    return max(work / one["cpu_s" if device == "cpu" else "wall_s"] for one in peak.rounds)


def _flops(model: Path, lengths: Any) -> float:
    """Return the multiplications and additions of a BERT-like encoder: its linear layers and attention, no padding."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    linear = lengths * (8.0 * hidden**2 + 4.0 * hidden * inner)
    return float(layers * (linear + 4.0 * hidden * lengths**2.0).sum())


def figures_of(paths: Sequence[Way], seen: Mapping[str, Seen], rows: Mapping[str, Row], device: str) -> list[Figure]:
    """Return every figure, with a line for each way that could not be measured."""
    per, ratio = ("CPU-s", "× sentence-transformers per CPU-s") if device == "cpu" else ("s", "× sentence-transformers")
    figures = [
        Figure("measured peak", round(_peak(seen["peak"], device) / 1e9, 1), f"GFLOP/{per}"),
    ]
    for path in paths:
        if path.name not in rows:
            goal = ("to be measured", False) if path.ours else (None, None)
            figures.append(Figure(path.name, None, seen[path.name].missing, *goal))
            continue
        row, batch = rows[path.name], seen[path.name].batch
        figures += _judged(path, row, ratio, device)
        figures += [
            Figure(f"{path.name}: documents", round(row.docs_per_s, 2), f"documents/{per}"),
            Figure(f"{path.name}: documents", round(row.wall_docs_per_s, 2), "documents/s of wall time"),
            Figure(f"{path.name}: tokens", round(row.tokens_per_s), f"tokens/{per}"),
            Figure(f"{path.name}: spent", round(row.seconds, 2), per),
            Figure(f"{path.name}: arithmetic", round(row.gflops, 1), f"GFLOP/{per}"),
            Figure(f"{path.name}: MFU", round(100 * row.mfu, 1), "% of the measured peak"),
            Figure(f"{path.name}: peak memory", round(row.peak_mib), "MiB"),
            Figure(f"{path.name}: cosine, mean", round(row.cosine_mean, 6), "cosine"),
        ]
        figures += (
            [Figure(f"{path.name}: batch", batch, "texts")] if path.kind not in ("revector", "onnxruntime") else []
        )
    if device == "cuda":
        return [*figures, *_on_cuda(paths, seen, rows)]
    ceiling = round(_peak(seen["peak"], device) / 1e9 / rows[DEFAULT].gflops, 2)
    most = Figure("float32, were all of it as fast as the peak", ceiling, ratio)
    return [*figures, most, *_against_peers(paths, rows)]


def _judged(path: Way, row: Row, ratio: str, device: str) -> list[Figure]:
    """Return the ratio, the least cosine and the overlap, with goals where revector has any."""
    times, least = GOALS.get(str(path.options.get("dtype")), (None, None)) if path.ours else (None, None)
    times = times if device == "cpu" else None
    exact = path.ours and path.options["dtype"] == "float32"
    return [
        _goal(path.name, round(row.times, 2), ratio, times),
        _goal(f"{path.name}: overlap@10", round(row.overlap, 4), "share", least),
        _goal(f"{path.name}: cosine, least", round(row.cosine_min, 6), "cosine", LEAST_COSINE if exact else None),
    ]


def _goal(name: str, value: float, unit: str, least: float | None) -> Figure:
    if least is None:
        return Figure(name, value, unit)
    return Figure(name, value, unit, f"at least {least:g}", value >= least)


def _against_peers(paths: Sequence[Way], rows: Mapping[str, Row]) -> list[Figure]:
    """Name the peers that are faster than every path of revector whose fidelity is of their class or better."""
    ours = [rows[path.name] for path in paths if path.ours and path.name in rows]
    faster = []
    for path in paths:
        if path.ours or path.name not in rows:
            continue
        row = rows[path.name]
        bar = next(one for one in CLASSES if row.overlap >= one)
        if row.times >= max((one.times for one in ours if one.overlap >= bar), default=0.0):
            faster.append(path.name)
    return [Figure("peers faster at their own fidelity", ", ".join(faster) or "none", "paths", "none", not faster)]


def _on_cuda(paths: Sequence[Way], seen: Mapping[str, Seen], rows: Mapping[str, Row]) -> list[Figure]:
    """Return how much of the time the device idled, and revector beside sentence-transformers at its best."""
    figures = []
    for path in paths:
        if path.name in rows:
            idle, most = round(100 * (1 - seen[path.name].rounds[-1]["busy"]), 1), MOST_IDLE
            goal = (f"below {most}", idle < most) if path.ours else (None, None)
            figures.append(Figure(f"{path.name}: device idle", idle, "%", *goal))
    ours = max((rows[path.name].docs_per_s for path in paths if path.ours and path.name in rows), default=0.0)
    best = max(rows[path.name].docs_per_s for path in paths if not path.ours and path.name in rows)
    return [*figures, _goal("beside the fastest sentence-transformers", round(ours / best, 2), "×", CUDA_TIMES)]
