"""Promises of the gate's verdict: three values from intervals, slices, and refusals of what cannot be compared."""

from __future__ import annotations

import json
import math
from typing import Any

import ir_measures
import numpy as np
import pytest
from evaluation.bench.gate import PLANTED, WORLDS, World, _bootstraps
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from revector.errors import ConfigError, LabelError, SpecError
from revector.gate.ann import AnnReport, Point
from revector.gate.explaining import QueryPlan
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.gate.judgement import Verdict
from revector.gate.judgement import judge as judge_figures
from revector.gate.latency import LatencyReport, QueryTimes
from revector.measure.comparison import Comparison, ScoredRun, compare
from revector.measure.metrics import Interval, attainable_recall, evaluate
from revector.spec import Gate

DOCUMENTS = 1_000


def scored(name: str, recall: list[float] | np.ndarray, **changes: Any) -> ScoredRun:
    scores = {f"q{n:04d}": float(value) for n, value in enumerate(recall)}
    settings = {"fingerprint": "same", "metrics": {"recall": scores}, "run": {}} | changes
    return ScoredRun(name, **settings)


def comparison(old: list[float] | np.ndarray | None, new: list[float] | np.ndarray, **options: Any) -> Comparison:
    before = None if old is None else scored("a100", old)
    return compare(scored("b200", new), before, **{"k": 10, "documents": DOCUMENTS, **options})


def lost(queries: int, share: float) -> list[float]:
    """Recall of 1, but for the first ``share`` of the queries, which lost it."""
    return [0.0 if n < round(share * queries) else 1.0 for n in range(queries)]


def demanding(**demands: Any) -> Gate:
    """A gate that demands this, and nothing else that could be missed."""
    return Gate(**{"max_drop": 1.0, "min_queries": 1, "min_overlap": None, **demands})


def judge(measured: Comparison, gate: Gate, **evidence: Any) -> Verdict:
    return judge_figures(gate, GateFigures.model_validate({"comparison": measured, **evidence}))


def verdict(old: list[float] | None, new: list[float], *, gate: Gate, **evidence: Any) -> Verdict:
    return judge(comparison(old, new, max_drop=gate.max_drop), gate, **evidence)


@pytest.mark.parametrize(
    ("queries", "share", "value"),
    [
        (400, 0.0, Value.PASS),
        (2_000, 0.01, Value.PASS),
        (2_000, 0.03, Value.FAIL),
        (2_000, 0.02, Value.INCONCLUSIVE),
        (200, 0.03, Value.INCONCLUSIVE),
        (50, 0.0, Value.INCONCLUSIVE),  # fifty queries without a difference prove little
        (50, 0.5, Value.FAIL),
    ],
)
def test_a_drop_passes_or_fails_only_where_the_whole_interval_says_so(queries: int, share: float, value: Value) -> None:
    found = verdict([1.0] * queries, lost(queries, share), gate=demanding(max_drop=0.02))
    assert found.value is value
    assert len(found.reasons) == 1
    assert "recall@10" in found.reasons[0]
    assert {"pass": "excluded.", "fail": "is shown.", "inconclusive": "neither shown nor excluded"}[
        value
    ] in found.reasons[0]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60), st.sampled_from([0.0, 0.02, 0.3]))
def test_the_verdict_is_where_the_interval_lies(new: list[float], max_drop: float) -> None:
    measured = comparison([0.5] * len(new), new, max_drop=max_drop)
    low, high = measured.metrics["recall"].difference[1:]
    expected = Value.FAIL if high < -max_drop else Value.PASS if low >= -max_drop else Value.INCONCLUSIVE
    assert judge(measured, demanding(max_drop=max_drop)).value is expected


def test_an_undecided_reader_is_told_how_many_queries_decide() -> None:
    rng = np.random.default_rng(1)
    old, new = (rng.random((2, 100)) < 0.7).astype(float)
    measured = comparison(old, new, max_drop=0.02)
    change = measured.metrics["recall"]
    found = judge(measured, demanding(max_drop=0.02))
    assert found.value is Value.INCONCLUSIVE
    assert change.needed > 100
    assert f"about {change.needed:,} are needed" in found.reasons[0]
    assert f"can tell a drop of {change.detectable:.4f}" in found.reasons[0]
    with_no_drop = judge(comparison(old, new, max_drop=0.0), demanding(max_drop=0.0))
    assert "only a gain" in with_no_drop.reasons[0]


@pytest.mark.parametrize(("demanded", "value"), [(0.5, Value.PASS), (0.9, Value.INCONCLUSIVE), (0.97, Value.FAIL)])
def test_a_first_generation_is_judged_by_the_interval_of_its_recall(demanded: float, value: Value) -> None:
    found = verdict(None, lost(300, 0.1), gate=demanding(min_recall=demanded, max_drop=0.0, max_latency_ratio=1.0))
    assert found.value is value
    assert f"{demanded:.4f}" in found.reasons[0]


def test_nothing_demanded_passes_without_a_finding() -> None:
    assert verdict(None, [0.0], gate=demanding()).as_data() == {"value": "pass", "reasons": [], "findings": []}


def test_fewer_queries_than_demanded_is_no_pass_and_hides_no_fail() -> None:
    gate = demanding(max_drop=0.02, min_queries=500)
    few = verdict([1.0] * 400, [1.0] * 400, gate=gate)
    assert few.value is Value.INCONCLUSIVE
    assert few.reasons == ("400 labelled queries were measured, at least 500 are demanded.",)
    assert verdict([1.0] * 400, lost(400, 0.3), gate=gate).value is Value.FAIL
    assert verdict([1.0] * 500, [1.0] * 500, gate=gate).value is Value.PASS


def test_a_saturated_score_is_no_pass_and_hides_no_fail() -> None:
    gate, queries = demanding(max_drop=0.02), 400
    few = {"max_drop": 0.02, "documents": 10}
    same = judge(comparison([1.0] * queries, [1.0] * queries, **few), gate)
    assert same.value is Value.INCONCLUSIVE
    assert "saturated: a random ranking" in same.reasons[0]
    assert judge(comparison([1.0] * queries, lost(queries, 0.2), **few), gate).value is Value.FAIL
    assert judge(comparison([1.0] * queries, [1.0] * queries, max_drop=0.02), gate).value is Value.PASS


def test_a_corpus_hardly_larger_than_k_is_saturated_by_chance() -> None:
    measured = comparison([1.0] * 400, [1.0] * 400, max_drop=0.02, documents=10)
    assert measured.saturated_by == ("a random ranking",)
    assert judge(measured, demanding(max_drop=0.02)).value is Value.INCONCLUSIVE
    assert comparison([1.0] * 400, [1.0] * 400, max_drop=1.0, documents=20).saturated_by == ()


def test_a_recall_that_no_ranking_can_reach_is_refused_as_a_demand() -> None:
    attainable = attainable_recall({"q0000": {str(n): 1 for n in range(20)}, "q0001": {"a": 1}, "none": {"a": 0}}, k=10)
    assert attainable == {"q0000": 0.5, "q0001": 1.0}
    measured = comparison(None, [0.5, 1.0], attainable=attainable)
    assert measured.ceiling == 0.75
    with pytest.raises(LabelError, match=r"min_recall is 0\.8000, and the best possible recall@10 .* 0\.7500"):
        judge(measured, demanding(min_recall=0.8))


TIMES = {"p50": 1.0, "p95": 2.0, "p99": 3.0}


def overlap_of(value: float) -> dict[str, Any]:
    exact = Point(40, Interval(value, value, value), TIMES, 0, QueryPlan(True, ("Index Scan",), 40))
    return AnnReport(2, "b200", {"kind": "hnsw"}, 10, 1, 100, 100, 0.95, TIMES, exact, (), None, None).as_data()


def latency_of(value: float) -> dict[str, Any]:
    old, new = (QueryTimes(n, name, TIMES, TIMES, TIMES) for n, name in ((1, "a100"), (2, "b200")))
    return LatencyReport(1, old, new, {name: Interval(value, value, value) for name in TIMES}).as_data()


@pytest.mark.parametrize(
    ("evidence", "value"),
    [
        ({"ann": overlap_of(0.95), "latency": latency_of(1.5)}, Value.PASS),
        ({"ann": overlap_of(0.94), "latency": latency_of(1.1)}, Value.FAIL),
        ({"ann": overlap_of(0.96), "latency": latency_of(1.6)}, Value.FAIL),
        ({"ann": overlap_of(0.96)}, Value.INCONCLUSIVE),
        ({"latency": latency_of(1.1)}, Value.INCONCLUSIVE),
        ({"ann": None, "latency": latency_of(1.1)}, Value.PASS),  # every answer is exact
    ],
)
def test_overlap_and_latency_hold_or_are_missed_or_were_not_measured(evidence: dict[str, Any], value: Value) -> None:
    assert verdict([1.0], [1.0], gate=demanding(min_overlap=0.95, max_latency_ratio=1.5), **evidence).value is value


@pytest.mark.parametrize(("name", "of"), [("ann", overlap_of), ("latency", latency_of)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_measurement_that_is_no_number_is_refused(name: str, of: Any, value: float) -> None:
    with pytest.raises(LabelError, match="measure it again"):
        verdict([1.0], [1.0], gate=demanding(min_overlap=0.95, max_latency_ratio=1.5), **{name: of(value)})


def test_an_overlap_above_1_is_refused() -> None:
    with pytest.raises(LabelError, match="measure it again"):
        verdict([1.0], [1.0], gate=demanding(min_overlap=0.95), ann=overlap_of(1.1))


def ranked(*, seed: int = 3, queries: int = 60) -> tuple[dict[str, dict[str, int]], ScoredRun, ScoredRun]:
    rng = np.random.default_rng(seed)
    ids = [f"d{n:02d}" for n in range(40)]
    qrels = {
        f"q{n}": {ids[d]: int(rng.integers(1, 4)) for d in rng.choice(40, 5, replace=False)} for n in range(queries)
    }
    runs = [{query: list(rng.permutation(ids)[:20]) for query in qrels} for _ in range(2)]
    old, new = (
        ScoredRun(name, "same", evaluate(qrels, run, 10), run) for name, run in zip(("a100", "b200"), runs, strict=True)
    )
    return qrels, old, new


def test_every_mean_is_that_of_ir_measures() -> None:
    qrels, old, new = ranked()
    found = compare(new, old, k=10, documents=40)
    measures = {"recall": R @ 10, "ndcg": nDCG @ 10, "mrr": RR @ 10, "hit": Success @ 10}
    assert set(found.metrics) == set(measures)
    for name, measure in measures.items():
        change = found.metrics[name]
        for one, mean in ((old, change.old.mean), (new, change.new.mean)):
            run = {query: {doc: -float(at) for at, doc in enumerate(ranking)} for query, ranking in one.run.items()}
            assert mean == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure], abs=1e-6)
        assert change.difference.mean == pytest.approx(change.new.mean - change.old.mean, abs=1e-9)


def test_the_queries_that_changed_most_come_first_with_both_rankings() -> None:
    _, old, new = ranked()
    found = compare(new, old, k=10, documents=40)
    change = {query: new.metrics["recall"][query] - value for query, value in old.metrics["recall"].items()}
    assert [one.new - one.old for one in found.lost] == sorted(value for value in change.values() if value < 0)[:20]
    assert [one.new - one.old for one in found.won] == sorted((v for v in change.values() if v > 0), reverse=True)[:20]
    first = found.lost[0]
    assert first.old_ranking == tuple(old.run[first.query][:10])
    assert first.new_ranking == tuple(new.run[first.query][:10])


def test_a_comparison_and_its_verdict_are_plain_data_and_a_frame() -> None:
    _, old, new = ranked()
    slices = {"half": {"first": list(old.run)[:55], "rest": list(old.run)[55:]}}
    found = compare(new, old, k=10, documents=40, max_drop=0.02, slices=slices)
    data = json.loads(json.dumps(found.as_data(), allow_nan=False))
    assert data["metrics"]["recall"]["difference"] == found.metrics["recall"].difference._asdict()
    rest = {"field": "half", "name": "rest", "queries": 5, "minimum": 10, "recall": None, "high_of_all": None}
    assert data["slices"][1] == rest | {"gap": None, "pooled": []}
    assert data["lost"][0]["old_ranking"] == list(found.lost[0].old_ranking)
    frame = found.to_frame()
    assert list(frame["metric"]) == ["recall", "ndcg", "mrr", "hit", "recall", "recall"]
    assert list(frame["queries"]) == [60, 60, 60, 60, 55, 5]
    row = frame.iloc[0]
    assert (row["difference"], row["difference_low"], row["difference_high"]) == found.metrics["recall"].difference
    judged = json.loads(json.dumps(judge(found, demanding(max_drop=0.02)).as_data()))
    assert judged["findings"][:1] == [{"value": judged["value"], "sentence": judged["reasons"][0]}]


def test_a_first_generation_has_neither_difference_nor_changed_queries() -> None:
    _, _, new = ranked()
    found = compare(new, None, k=10, documents=40, slices={"all": {"all": list(new.run)}})
    assert found.metrics["recall"].difference is None
    assert (found.old, found.lost, found.won) == (None, (), ())
    assert found.slices[0].recall.new.mean == pytest.approx(found.metrics["recall"].new.mean)
    json.dumps(found.as_data(), allow_nan=False)
    assert len(found.to_frame()) == 5


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("whole", [True, False])
def test_the_simulation_plants_the_drop_that_it_names(world: World, whole: bool) -> None:
    old, new = world.draw(200_000, np.random.default_rng(1), PLANTED, whole=whole)
    assert old.mean() == pytest.approx(world.mean, abs=0.005)
    assert (old - new).mean() == pytest.approx(PLANTED, abs=0.005)


def test_fifty_queries_do_not_pass_a_planted_drop_by_luck() -> None:
    """The planted fault: with a percentile or BCa bootstrap, models nearly alike pass in every fifth sample."""
    rng, gate = np.random.default_rng(2), demanding(max_drop=0.02)
    samples = [WORLDS[2].draw(50, rng, PLANTED) for _ in range(100)]
    rivals = [_bootstraps(old, new, 0) for old, new in samples]
    assert all(sum(one.low >= -0.02 for one in found) > 10 for found in zip(*rivals, strict=True))
    assert not any(judge(comparison(old, new), gate).value is Value.PASS for old, new in samples)


def test_the_worst_finding_decides() -> None:
    findings = [GateFinding(value, value) for value in (Value.PASS, Value.FAIL, Value.INCONCLUSIVE)]
    assert Verdict(tuple(findings)).reasons == ("fail",)
    assert Verdict((findings[0], findings[2])).value is Value.INCONCLUSIVE


@pytest.mark.parametrize("k", [0, -1, DOCUMENTS + 1])
def test_a_k_larger_than_the_corpus_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"recall@{k} was asked for over 1000 documents"):
        comparison([1.0], [1.0], k=k)


def test_a_ranking_with_a_document_twice_is_refused() -> None:
    with pytest.raises(LabelError, match="'q0000' by revision b200 lists document 'x' twice"):
        compare(scored("b200", [1.0], run={"q0000": ["x", "y", "x"]}), None, k=1, documents=5)


def test_query_sets_that_differ_are_refused() -> None:
    with pytest.raises(LabelError, match="changed between the two measurements: fingerprint other"):
        compare(scored("b200", [1.0]), scored("a100", [1.0], fingerprint="other"), k=1, documents=5)
    with pytest.raises(LabelError, match="1 are in one only, such as 'q0001'"):
        compare(scored("b200", [1.0]), scored("a100", [1.0, 1.0]), k=1, documents=5)
    both = {"recall": {"q0000": 1.0}, "ndcg": {"q0000": 1.0}}
    with pytest.raises(LabelError, match="ndcg of revision a100"):
        compare(scored("b200", [1.0], metrics=both), scored("a100", [1.0]), k=1, documents=5)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_scores_that_are_no_scores_are_refused(score: float) -> None:
    for old, new in (([1.0], [score]), ([score], [1.0]), (None, [score])):
        with pytest.raises(LabelError, match="NaN or outside 0 to 1"):
            comparison(old, new)


def test_no_queries_at_all_are_refused() -> None:
    with pytest.raises(LabelError, match="at least one query"):
        comparison(None, [])


@pytest.mark.parametrize(
    "bad",
    [
        {"max_drop": -0.1},
        {"max_drop": math.nan},
        {"min_recall": 1.1},
        {"max_slice_drop": 2.0},
        {"min_overlap": 95.0},
        {"min_queries": 0},
        {"max_latency_ratio": 0.0},
        {"max_latency_ratio": math.nan},
    ],
)
def test_demands_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(bad))):
        demanding(**bad)
