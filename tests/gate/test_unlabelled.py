"""What the gate knows of queries that nobody judged: where old and new answer the same, nothing is lost."""

from __future__ import annotations

import json

import pytest

from revector.errors import GateFailed, LabelError
from revector.pages.gate_result import kept_result
from worlds import QUERIES, World

SAME = 'model = ModelSpec(name="hashing", dim=64)'
OTHER = 'model = ModelSpec(name="hashing:seed2", dim=64)'
TIGHT = "gate = Gate(max_drop=0.02, min_overlap=None)"


def asked(world: World, count: int, **settings: object) -> None:
    """Let the project name ``count`` queries without labels, three of them repeated."""
    lines = [json.dumps({"_id": f"u{n}", "text": f"apple{n % 120} words number {n}"}) for n in range(count)]
    lines += [json.dumps({"_id": f"again{n}", "text": f"apple{n} words number {n}"}) for n in range(3)]
    (world.root / "asked.jsonl").write_text("\n".join(lines) + "\n")
    world.settings(queries="asked.jsonl", **settings)


def test_sixty_labels_pass_an_equal_revision_once_enough_queries_are_asked_of_both(served: World) -> None:
    world = served
    world.revision("b200", "a100", SAME, 'index = IndexSpec(kind="exact")', TIGHT)
    with pytest.raises(GateFailed, match="is inconclusive"):
        world.upgrade("b200", to="gate")
    few = kept_result(world.project, "docs")
    asked(world, 400)
    world.upgrade("b200", to="gate")
    found = kept_result(world.project, "docs")
    change = found.compared.metrics["recall"]
    assert (few.others, found.others, found.queries) == (0, 400, QUERIES)
    assert (change.asked, change.differing, change.judged) == (QUERIES + 400, 0, 0)
    assert "of 460 asked 0 are answered differently and 0 judged" in found.findings[0].sentence
    assert f"apple{1} words" not in json.dumps(found.as_data()), "texts are never kept"


def test_a_plan_counts_the_queries_that_nobody_judged(served: World) -> None:
    served.revision("b200", "a100", OTHER, TIGHT)
    asked(served, 100)
    (warning,) = served.migrator.plan("b200").warnings
    assert "60 labelled queries and 100 without labels cannot exclude a drop of 0.02, about 191 can" in warning
    asked(served, 200)
    assert served.migrator.plan("b200").warnings == ()


def test_another_model_is_told_how_many_judgements_of_differing_queries_decide(served: World) -> None:
    asked(served, 200)
    served.revision("b200", "a100", OTHER, "gate = Gate(max_drop=0.05, min_overlap=None)")
    with pytest.raises(GateFailed, match=r"judgements of [0-9,]+ more of the queries that old and new answer differ"):
        served.upgrade("b200", to="gate")
    change = kept_result(served.project, "docs").compared.metrics["recall"]
    assert change.asked == QUERIES + 200
    assert change.judged <= QUERIES < change.differing
    assert change.needed_differing <= change.needed


def test_a_file_of_queries_that_cannot_be_read_is_refused_with_its_line(served: World) -> None:
    asked(served, 5)
    (served.root / "asked.jsonl").write_text('{"_id": "u1"}\n')
    served.revision("b200", "a100", SAME, 'index = IndexSpec(kind="exact")', TIGHT)
    with pytest.raises(LabelError, match=r"asked\.jsonl:1"):
        served.upgrade("b200", to="gate")
