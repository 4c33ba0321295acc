"""The charts of the gate's figures: each answers one question over all real pairs of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

COLORS = ("#d1495b", "#e8a0a8", "#8d99ae", "#2b2d42", "#b8bfcc")


class Cell(NamedTuple):
    """What was counted: the ``question``, the ``rule`` that judged, and with how many labels."""

    question: str
    rule: str
    labels: int


Rates = Mapping[Cell, Sequence[float]]
"""Percentages, one for each pair."""


def draw(beside: Path, rates: Rates) -> None:
    """Write ``<stem>_labels.svg`` and ``<stem>_luck.svg`` beside a file of results."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "revector"
    from matplotlib import pyplot as plt

    questions = {
        "labels": ("How often does a near variant of equal quality pass?", {"near, equal: PASS": "one look"}, 80.0),
        "luck": (
            "How often does a model pass that lost 2.1 points, where 2 are allowed?",
            {"2.1 lost: PASS": "one look", "2.1 lost: ever PASS": "looks until it passes"},
            5.0,
        ),
    }
    for name, (title, asked, line) in questions.items():
        chart, axes = plt.subplots(1, len(asked), figsize=(7.2 * len(asked), 4.8), layout="constrained", squeeze=False)
        for axis, (question, when) in zip(axes[0], asked.items(), strict=True):
            _boxes(axis, {cell: found for cell, found in rates.items() if cell.question == question})
            axis.axhline(line, color="#333333", linewidth=0.8, linestyle=":")
            axis.set(title=when, xlabel="judged queries", ylabel="% of gates")
            axis.spines[["top", "right"]].set_visible(False)
        chart.suptitle(f"{title}\nEach box: the real pairs, whiskers to the extremes; dotted: {line:g} %")
        chart.savefig(beside.with_name(f"{beside.stem}_{name}.svg"), metadata={"Date": None})
        plt.close(chart)


def _boxes(axis: Any, rates: Rates) -> None:
    """Draw a box for each rule beside the others, by number of labels, over the pairs; whiskers reach the extremes."""
    rules, sizes = list(dict.fromkeys(cell.rule for cell in rates)), sorted({cell.labels for cell in rates})
    width = 0.8 / max(1, len(rules))
    for number, rule in enumerate(rules):
        at = [place + width * (number - (len(rules) - 1) / 2) for place in range(len(sizes))]
        found = [next(values for cell, values in rates.items() if cell[1:] == (rule, size)) for size in sizes]
        color = COLORS[number % len(COLORS)]
        drawn = axis.boxplot(found, positions=at, widths=0.8 * width, whis=(0, 100), patch_artist=True, label=rule)
        for box in drawn["boxes"]:
            box.set(facecolor=color, edgecolor=color)
        for line in drawn["medians"]:
            line.set(color="black", linewidth=1.5)
    axis.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
