"""The gate measures what users see: the pipeline that revector.toml names, with clear words for one that fails."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from revector.errors import CanaryAlert, ConfigError, GateFailed, PipelineError
from revector.gate.demands import max_latency_ratio
from revector.gate.gate import GateMeasurement
from revector.gate.latency import LatencyReport
from revector.pages.gate_result import kept_result
from stages import AtStep
from worlds import World

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fused_search.py"
PLAIN = "return [hit.id for hit in searcher.search(query, k).hits]"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Every test has modules of its own, of the same name."""
    yield
    sys.modules.pop("shop", None)
    sys.modules.pop("fused_search", None)


def pipeline(world: World, body: str, **settings: object) -> World:
    """Let the world's project answer through a function with this body."""
    sys.modules.pop("shop", None)
    lines = f"import time\n\ndef answer(query, searcher, k):\n    {body}\n"
    (world.root / "shop.py").write_text(lines)
    world.settings(pipeline="shop:answer", **settings)
    return world


def measured(world: World) -> GateMeasurement:
    return world.migrator.evaluate()


def test_without_one_and_with_one_that_only_searches_the_same_is_found(served: World) -> None:
    plain = measured(served)
    through = measured(pipeline(served, PLAIN))
    assert (through.run, through.metrics) == (plain.run, plain.metrics)
    assert through.latency_ms["p50"] > 0
    backwards = measured(pipeline(served, f"{PLAIN}[::-1][:1]"))
    assert backwards.interval().mean == 0, "the best one comes last, and is cut"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 1 / 0", "asked 'apple0 pear0' of revision a100, failed with ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "failed with SystemExit: 3"),
        ("return ['nobody']", "returned document 'nobody' to query q0 of revision a100, and the collection has none"),
        ("return ['d00001', 'd00001']", "returned document 'd00001' twice"),
        ("return [7]", "returned 7, which is no id"),
        ("return None", "failed with TypeError"),
        ("time.sleep(60)", "took longer than 0.2 s"),
    ],
)
def test_one_that_fails_is_slow_or_returns_no_ranking_is_named_with_the_query(
    served: World, body: str, says: str
) -> None:
    pipeline(served, body)
    served.project.settings.search.timeout_s = 0.2 if "sleep" in body else 10.0
    with pytest.raises(PipelineError) as error:
        measured(served)
    assert says in str(error.value)
    assert "pipeline shop:answer" in str(error.value)
    assert "Nothing was judged" in str(error.value)


@pytest.mark.parametrize("name", ["nothing:answer", "shop:nothing"])
def test_one_that_cannot_be_imported_is_refused_before_any_work(served: World, name: str) -> None:
    pipeline(served, PLAIN)
    served.settings(pipeline=name)
    with pytest.raises(PipelineError, match=f"pipeline {name} cannot be imported"):
        served.upgrade("b200")
    assert served.collection.building_gen is None
    served.settings(pipeline="shop answer")
    with pytest.raises(ConfigError, match="pipeline"):
        _ = served.project


def test_labels_that_judge_passages_are_refused(served: World) -> None:
    pipeline(served, PLAIN, qrels="spans.csv")
    rows = (f"q{n},apple{n} pear{n},d{n:05d},1,0,5" for n in range(60))
    (served.root / "spans.csv").write_text("query_id,query,doc_id,score,start,end\n" + "\n".join(rows) + "\n")
    with pytest.raises(ConfigError, match="judges passages"):
        measured(served)


def test_a_query_that_a_search_refuses_finds_nothing_as_it_does_for_users(served: World) -> None:
    served.labels([(f"d{n:05d}", f"apple{n} pear{n}") for n in range(59)] + [("d00059", "\u200b \u200b")])
    plain, through = measured(served), measured(pipeline(served, PLAIN))
    assert through.refused == plain.refused
    assert through.run == plain.run


# The gate -------------------------------------------------------------------------------------------------------------


def test_the_verdict_is_of_the_pipeline_and_says_so_and_another_one_is_measured_again(at_step: AtStep) -> None:
    world = pipeline(at_step("verify"), f"{PLAIN}[:3]")
    world.upgrade("b200", to="gate")
    first = kept_result(world.project, "docs")
    assert first.pipeline is not None
    assert first.pipeline.startswith("shop:answer ")
    assert first.short == {"a100": 60, "b200": 60}
    (said,) = [one.sentence for one in first.findings if "pipeline" in one.sentence]
    assert "60 queries found fewer than 10 documents in revision b200." in said
    world.upgrade("b200", to="gate")
    assert kept_result(world.project, "docs").id == first.id, "nothing changed"
    world = pipeline(world, PLAIN)
    world.upgrade("b200", to="swap")
    second = kept_result(world.project, "docs")
    assert second.id != first.id
    assert second.pipeline != first.pipeline
    assert second.test is not None
    assert "pipeline is" in second.test.begins
    assert world.generation().revision == "b200"


def test_one_that_fails_for_the_new_revision_fails_its_gate(at_step: AtStep) -> None:
    world = pipeline(at_step("verify"), f"if searcher.revision == 'b200': raise KeyError('price')\n    {PLAIN}")
    with pytest.raises(GateFailed, match=r"failed: pipeline shop:answer, .* of revision b200, failed with KeyError"):
        world.upgrade("b200", to="gate")
    kept = kept_result(world.project, "docs")
    assert (kept.verdict, kept.passed) == ("fail", False)
    assert "KeyError" in (kept.not_measured or "")
    assert world.generation().revision == "a100"


def test_latency_is_of_all_that_the_pipeline_does(at_step: AtStep) -> None:
    world = at_step("verify")
    gate = "gate = Gate(max_drop=0.1, max_latency_ratio=1e6)"
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', gate)
    pipeline(world, f"time.sleep(0.01)\n    {PLAIN}")
    world.upgrade("b200", to="gate")
    report = kept_result(world.project, "docs").evidence(max_latency_ratio.EVIDENCE, LatencyReport)
    assert report is not None
    for side in (report.old, report.new):
        assert side.encode_ms["p99"] == 0
        assert side.total_ms["p50"] == side.search_ms["p50"] >= 10
    shown = max_latency_ratio.DEMAND.show
    assert shown is not None
    rows = shown(kept_result(world.project, "docs"))
    assert rows is not None
    assert [row[0] for row in rows.rows] == ["total, old", "total, new"]


def test_a_rehearsal_and_a_canary_go_through_it(served: World) -> None:
    pipeline(served, f"{PLAIN}[:1]")
    found = served.project.rehearsal("docs", actor="tester").run("b200", share=1.0)
    assert found.gate is not None
    assert found.gate.short == {"a100": 60, "b200": 60}
    first = served.project.canary("docs")
    assert [one.name for one in first.checks] == ["rows"]
    pipeline(served, "return []")
    again = served.project.canary("docs")
    assert (again.begins, again.recall) == ("the labels or the pipeline are others", 0)
    pipeline(served, "return 1 / 0")
    with pytest.raises(CanaryAlert, match=r"its pipeline fails: .*ZeroDivisionError"):
        served.project.canary("docs")
    assert served.events("canary_alert")


# The example ----------------------------------------------------------------------------------------------------------


def test_the_example_finds_by_words_what_vectors_do_not_and_is_measured(served: World) -> None:
    shutil.copy(EXAMPLE, served.root / "fused_search.py")
    served.documents.put("rare", "zyzzyva some words here number some words here", {})
    served.documents.put("gone", "zyzzyva", {})
    served.documents.delete("gone")
    served.settle()
    served.settings(pipeline="fused_search:answer")
    loaded = served.project.pipeline("docs")
    assert loaded is not None
    answer = loaded.load()
    searcher = served.project.searcher("docs")
    assert "rare" in answer("zyzzyva or apple7", searcher, 3)
    assert answer("apple7 pear7", searcher, 10)[0] == "d00007"
    assert answer("'", searcher, 10)
    assert measured(served).interval().mean == 1.0
    found = served.project.rehearsal("docs", actor="tester").run("b200", size=80)
    assert found.gate is not None
    assert found.gate.measured, "also on a copy, whose words are in tables of its own"
