"""The metric that decides on a drop is chosen in the migration file: recall, or nDCG, which counts the order too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_draws import query_set
from typer.testing import CliRunner

from revector.airflow.questions import figures as asked
from revector.cli.app import app
from revector.errors import SpecError
from revector.formats.kept import plain
from revector.gate.draws import Draws, choose
from revector.gate.evidence import EARLIER
from revector.gate.figures import GateFigures, GateResult, Value
from revector.gate.judgement import judge
from revector.measure.comparison import Comparison, ScoredRun, compare
from revector.measure.metrics import evaluate
from revector.pages import gate as pages
from revector.pages.gate_result import kept_result
from revector.pages.gate_view import GatePage
from revector.spec import Gate
from worlds import World

QUERIES = [f"q{n}" for n in range(300)]
QRELS = {query: {"good": 1} for query in QUERIES}


def reordered(share: float) -> Comparison:
    """The new revision finds the same documents, and ranks the good one last on a share of the queries."""
    old = {query: ["good", "b", "c"] for query in QUERIES}
    new = {query: ["c", "b", "good"] if n < share * len(QUERIES) else old[query] for n, query in enumerate(QUERIES)}
    runs = (ScoredRun(name, "same", evaluate(QRELS, run, 3), run) for name, run in (("b200", new), ("a100", old)))
    return compare(*runs, k=3, documents=1_000, max_drop=0.05)


@pytest.mark.parametrize(("metric", "value"), [("recall", Value.PASS), ("ndcg", Value.FAIL)])
def test_a_worse_order_fails_only_where_the_order_was_chosen_to_count(metric: Any, value: Value) -> None:
    gate = Gate(max_drop=0.05, min_overlap=None, metric=metric)
    found = judge(gate, GateFigures.model_validate({"comparison": reordered(0.5)}))
    assert found.value is value
    name = {"recall": "recall@3 does not change", "ndcg": "nDCG@3 falls by 0.2500"}[metric]
    assert name in found.findings[0].sentence


def test_a_metric_that_decides_nothing_is_refused_in_the_file() -> None:
    with pytest.raises(SpecError, match=r"gate\.metric must be recall or ndcg, found 'mrr'"):
        Gate(metric="mrr")  # type: ignore[arg-type]


def test_what_an_earlier_version_judged_is_as_good_as_if_it_had_named_recall() -> None:
    judged = plain(Gate())
    assert isinstance(judged, dict)
    del judged["metric"]
    assert {**EARLIER, **judged} == plain(Gate())
    assert {**EARLIER, **judged} != plain(Gate(metric="ndcg"))


@given(st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_queries_to_judge_are_drawn_from_those_that_the_metric_can_tell_apart(sets: set[int], orders: set[int]) -> None:
    queries = query_set(5, 40, {})
    old = {query: ["a", "b"] for query in queries.others}
    new = old | {f"u{n}": ["b", "a"] for n in orders} | {f"u{n}": ["c", "b"] for n in sets}
    by_set = choose(queries, old, new, Draws(), 40)
    by_order = choose(queries, old, new, Draws(), 40, ordered=True)
    assert set(by_set.drawn) == {f"u{n}" for n in sets}
    assert set(by_order.drawn) == {f"u{n}" for n in sets | orders}


def test_queries_drawn_by_their_sets_say_nothing_of_the_order_of_the_others() -> None:
    """Drawn ones lost nothing in order here; as a sample of all that differ they would hide what the rest lost."""
    base, other = QUERIES[:50], [f"u{n}" for n in range(200)]
    old = {query: ["good", "b"] for query in [*base, *other]}
    new = {query: ["b", "good"] for query in [*base, *other]}
    drawn = {query: {"good": 1} for query in other[:40]}

    def scored(name: str, run: dict[str, list[str]], *, by_order: bool) -> ScoredRun:
        labelled, others = ({query: run[query] for query in part} for part in (base, other))
        metrics = evaluate({query: QRELS[query] for query in base}, labelled, 2)
        return ScoredRun(name, "same", metrics, labelled, others, evaluate(drawn, run, 2), by_order=by_order)

    judged = {
        by_order: compare(
            scored("b200", new, by_order=by_order), scored("a100", old, by_order=False), k=2, documents=1_000
        )
        for by_order in (False, True)
    }
    assert judged[False].metrics["ndcg"].judged == 50
    assert judged[True].metrics["ndcg"].judged == 90


def test_the_verdict_by_ndcg_is_told_everywhere_and_begins_a_test_of_its_own(served: World) -> None:
    body = 'model = ModelSpec(name="hashing:seed2", dim=64)'
    served.upgrade("b200", to="gate")
    terms = "detail #- '{test,terms,metric}'"
    served.sql(f"UPDATE gate_result SET detail = {terms} WHERE kind = 'recall'")  # as a version that knew recall alone
    served.migrator.upgrade("b200", to="gate")
    served.revision("b200", "a100", body, 'gate = Gate(max_drop=0.1, metric="ndcg")')
    served.upgrade("b200", to="gate")
    found = kept_result(served.project, "docs")
    assert found.test.begins == "metric is ndcg, and was recall"
    assert "nDCG@10" in found.findings[0].sentence
    change = found.compared.metrics["ndcg"]
    assert found.judged_by.startswith(f"nDCG@10 {change.new.mean:.4f}, before {change.old.mean:.4f}: ")
    assert found.judged_by in asked(GateResult.model_validate(found.as_data()))
    shown = CliRunner().invoke(app, ["status", "--project", str(served.root)], env={"TERMINAL_WIDTH": "300"}).output
    assert f"judged by {found.judged_by}" in " ".join(shown.split())
    page = pages.render(GatePage.model_validate(found.as_data()))
    assert "the largest drop of nDCG that is allowed" in page


def test_the_command_writes_the_metric_into_the_file(served: World) -> None:
    ended = CliRunner().invoke(
        app, ["revision", "-m", "x", "--gate-metric", "ndcg", "--json", "--project", str(served.root)]
    )
    written = json.loads(ended.stdout)
    assert written["gate"]["metric"] == "ndcg"
    assert written["labels_needed"]["metric"] == "nDCG"
