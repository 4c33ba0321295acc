"""The chart of the engine benchmark: a bar for each path, with its fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

OURS, PEER = "#d1495b", "#8d99ae"


class Bar(NamedTuple):
    """A path; ``row`` has ``times`` and ``overlap``, and is None where ``missing`` says why."""

    name: str
    ours: bool
    row: Any
    missing: str


def draw(path: Path, bars: Sequence[Bar], of: str) -> None:
    """Write the chart, fastest path first, as SVG or by the suffix of ``path``."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "revector"
    from matplotlib import pyplot as plt

    ordered = sorted(bars, key=lambda bar: -bar.row.times if bar.row else 0.0)
    lengths = [bar.row.times if bar.row else 0.0 for bar in ordered]
    labels = [
        f"{bar.row.times:.2f} ×   overlap@10 {bar.row.overlap:.3f}" if bar.row else bar.missing.partition(":")[0]
        for bar in ordered
    ]
    chart, axis = plt.subplots(figsize=(10.5, 0.36 * len(bars) + 1.3), layout="constrained")
    colors = [OURS if bar.ours else PEER for bar in ordered]
    drawn = axis.barh([bar.name for bar in ordered], lengths, color=colors)
    axis.bar_label(drawn, labels, padding=4, fontsize=9)
    axis.axvline(1.0, color="#333333", linewidth=0.8, linestyle=":")
    chart.suptitle(f"Embedding beside SentenceTransformer.encode at its default, {of}")
    axis.set(xlabel="documents in the same seconds, as a multiple of its default", xlim=(0, 1.35 * max(lengths)))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
