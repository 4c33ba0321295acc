"""The tables that end the acts of the demo are drawn of what the acts write down."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from revector.gate.cross_modal import WORDS, CrossModal
from revector.local import image_demo
from revector.local.record import ApplicationCounts
from revector.local.screen import adoption_table, images_table, result_table

SIDE = {"mean": 0.9, "low": 0.8, "high": 1.0}
SEEN: dict[str, Any] = {
    "application": asdict(ApplicationCounts(queries=3, by_revision={"a100": 3})),
    "recall": {"k": 10, "old": SIDE, "new": SIDE},
    "steps": [{"step": "swap", "seconds": 1.0}],
    **dict.fromkeys(("documents", "lost", "stale", "resurrected", "swap_pause_ms", "wall_s"), 0),
    "rollback_until": "later",
    "as_promised": True,
}


def test_the_table_that_ends_the_demo_counts_answers_by_revision() -> None:
    assert any("3 by revision a100" in str(cell) for column in result_table(SEEN).columns for cell in column.cells)


def test_the_table_of_the_act_with_images_has_both_directions_and_the_refusal() -> None:
    measured = image_demo._recalls(CrossModal(10, 2, 2, 9, *(dict.fromkeys(WORDS, (0.0, 1.0)) for _ in "on")))
    figures = SEEN | {"refused": "it changes one tower alone", "cross_modal": json.loads(json.dumps(measured))}
    said = [str(cell) for column in images_table(figures).columns for cell in column.cells]
    assert {"pictures by their names found, recall@10", "names by their pictures found, recall@10"} <= set(said)
    assert "refused before anything was embedded" in said
    assert sum(cell.count("0.500 (95 % ") for cell in said) == 4


def test_the_table_that_ends_the_second_act_counts_what_was_seen() -> None:
    counts = ApplicationCounts(writes=9, deletes=3, queries=8, by_revision={"its own column": 5, "a100": 3})
    look = {"when": "after the swap", "rows": 200, "lost": [], "stale": ["a"], "resurrected": []}
    figures = {
        "application": asdict(counts),
        "answers": {"judged": 8, "wrong_model": 0, "resurrected": 0},
        "looks": [look],
        "catalogue": ["trigger x was not there before"],
        "steps": [{"step": "adopt", "seconds": 3.0}],
        **dict.fromkeys(("rolled_back", "asked_again", "failed_writes", "wall_s"), 0),
        "as_promised": False,
    }
    cells = [str(cell) for column in adoption_table(figures).columns for cell in column.cells]
    for seen in ("9, 3, 0", "8 (5 by its own column, 3 by a100)", "0 / 1 / 0 of 200 rows", "[red]1 differences[/]"):
        assert seen in cells
    assert cells[-1] == "[red]NO[/]"
