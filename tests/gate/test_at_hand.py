"""A gate that the labels at hand cannot pass is refused with the numbers, before anything is written or measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import LabelError
from revector.gate.at_hand import LabelsAtHand, unequal
from revector.gate.gate import refuse_unpassable
from revector.measure.power import equal_needed, excluded_by_equal
from revector.measure.statistics import paired_interval, score_interval
from revector.spec import Gate
from worlds import QUERIES, World


def at_hand(labelled: int, beside: int = 0) -> LabelsAtHand:
    return LabelsAtHand("set/test", {f"q{n}": {"d": 1} for n in range(labelled)}, labelled + beside)


@pytest.mark.parametrize(("queries", "confidence"), [(20, 0.95), (60, 0.95), (60, 0.9), (183, 0.95), (700, 0.99)])
def test_what_equal_answers_exclude_is_the_end_of_the_interval_that_judges(queries: int, confidence: float) -> None:
    same = [1.0] * queries
    drawn = paired_interval(same, same, confidence=confidence, draws=100_000).low
    assert -excluded_by_equal(queries, confidence=confidence) == pytest.approx(drawn, rel=0.03)
    least = excluded_by_equal(queries, confidence=confidence)
    assert equal_needed(least + 1e-9, confidence=confidence) == queries
    assert equal_needed(least - 1e-9, confidence=confidence) == queries + 1


@pytest.mark.parametrize(
    ("labels", "gate", "passes"),
    [
        (at_hand(182), Gate(), False),
        (at_hand(183), Gate(), True),
        (at_hand(60), Gate(max_drop=0.05), False),
        (at_hand(60), Gate(max_drop=0.06), True),
        (at_hand(60), Gate(max_drop=0.05, method="fixed"), True),  # one look, by a narrower interval
        (at_hand(60, beside=123), Gate(), True),
        (at_hand(60), Gate(max_drop=0.0), True),  # only a gain is to pass
        (at_hand(1), Gate(max_drop=1.0), True),
    ],
)
def test_a_drop_that_equal_answers_do_not_exclude_is_noted(labels: LabelsAtHand, gate: Gate, passes: bool) -> None:
    said = unequal(gate, labels)
    assert (said is None) == passes
    assert passes or re.search(
        "even if old and new answer all alike.*as good as the old one will be inconclusive", said
    )


def test_such_a_drop_names_what_there_is_what_is_needed_and_every_way_out() -> None:
    said = unequal(Gate(), at_hand(60, beside=40))
    assert said is not None
    for part in (
        "takes 183 queries",
        "has 60, with 40 beside",
        "a fall of 0.0362",
        "at least 83 more",
        "--max-drop 0.037)",
    ):
        assert part in said, part


def test_a_recall_that_not_even_perfect_answers_show_is_refused() -> None:
    least = score_interval([1.0] * 60).low
    refuse_unpassable(Gate(min_recall=round(least - 0.001, 4)), at_hand(60))
    with pytest.raises(
        LabelError, match=r"if all 60 queries .* as any ranking can, they show a recall@10 of at least 0\.94"
    ):
        refuse_unpassable(Gate(min_recall=round(least + 0.001, 4)), at_hand(60))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--min-queries", "61"), "at least 61 labelled queries, labels/test has 60"),
        (("--min-recall", "0.97"), "gate.min_recall is 0.9700"),
    ],
)
def test_a_revision_whose_gate_cannot_pass_is_refused_and_not_written(
    served: World, options: tuple[str, ...], said: str
) -> None:
    files = written(served)
    ended = revision(served, *options)
    assert (ended.exit_code, written(served)) == (LabelError.exit_code, files)
    assert said in " ".join(ended.output.split())


def test_a_drop_that_only_a_gain_passes_is_noted_until_there_are_queries_without_labels_enough(served: World) -> None:
    lines = [json.dumps({"_id": f"u{n}", "text": f"apple{n} words"}) + "\n" for n in range(183 - QUERIES)]
    (served.root / "asked.jsonl").write_text("".join(lines[1:]))
    served.settings(queries="asked.jsonl")
    assert "takes 183 queries" in notes(served)
    (served.root / "asked.jsonl").write_text("".join(lines))
    assert "takes 183 queries" not in notes(served)


def test_labels_that_cannot_be_read_refuse_no_revision_but_are_named(served: World) -> None:
    (served.root / "labels" / "queries.jsonl").write_text("nothing\n")
    ended = revision(served, "--max-drop", "0.02", "--json")
    assert ended.exit_code == 0
    note = json.loads(ended.stdout)["notes"][-1]
    assert "the gate was not compared with the labels" in note
    assert "queries.jsonl:1" in note


def notes(world: World) -> str:
    ended = revision(world, "--max-drop", "0.02", "--json")
    assert ended.exit_code == 0
    return " ".join(json.loads(ended.stdout)["notes"])


def revision(world: World, *options: str) -> Any:
    return CliRunner().invoke(app, ["revision", "-m", "x", "--project", str(world.root), *options])


def written(world: World) -> set[Path]:
    return set((world.root / "migrations").rglob("*.py"))
