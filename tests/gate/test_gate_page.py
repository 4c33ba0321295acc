"""Promises of the gate's page: every figure is on it, nothing of a user becomes markup, nothing is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from revector.documents.own import OwnDocuments
from revector.gate import gate as gates
from revector.gate.ann import AnnReport, Loss, LostBest, Point
from revector.gate.explaining import QueryPlan
from revector.gate.latency import LatencyReport, QueryTimes
from revector.gate.query_set import usable_queries
from revector.labels import Labels, Span, item_of
from revector.measure.comparison import compare
from revector.measure.metrics import Interval, attainable_recall, evaluate
from revector.measure.slices import length_slices
from revector.pages import gate as gate_pages
from revector.pages.charts import ChartRow, Dot, Mark, _ticks, bubbles, curve, intervals
from revector.pages.gate import VERDICTS
from revector.pages.gate_view import GatePage
from revector.pages.markup import printable
from revector.spec import Gate

VOID = {"meta"}
HOSTILE = "</summary><script>alert(1)</script> & \"quoted\" <img src=x onerror='alert(2)'> \x00\x1b\ud800 \u202eabc"
QUERIES = 300
DOCUMENTS = 2_000
TIMES = {"p50": 1.25, "p95": 2.5, "p99": 3.75}


class Page(HTMLParser):
    """The page as a browser reads it; fails where an element is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.text = re.sub(r"\s+", " ", " ".join(self._texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._texts.append(data)


def ranked(keep: float, seed: int) -> dict[str, list[str]]:
    """Rankings that hold each of the two relevant documents of a query with probability ``keep``."""
    rng = np.random.default_rng(seed)
    found = {}
    for n in range(QUERIES):
        relevant = [f"d{2 * n + side}" for side in range(2) if rng.random() < keep]
        others = [f"other{number}" for number in rng.choice(1_000, 10 - len(relevant), replace=False)]
        found[f"q{n}"] = [str(one) for one in rng.permutation(relevant + others)]
    return found


QRELS = {f"q{n}": {f"d{2 * n}": 1, f"d{2 * n + 1}": 1} for n in range(QUERIES)}
TEXTS = {f"q{n}": f"question {n} " + "word " * (n % 7) for n in range(QUERIES)}
LABELS = Labels("set/test", TEXTS, QRELS, fingerprint="f" * 64)


class _Everything:
    """A corpus that holds every document, none of which is a query."""

    known = staticmethod(set)

    def texts(self, _: object) -> dict[str, str]:
        return {}

    def own(self, _: object) -> OwnDocuments:
        return OwnDocuments({}, 0)


ASKED = usable_queries(LABELS, _Everything())


def measured(revision: str, generation: int, keep: float, seed: int) -> gates.GateMeasurement:
    run = ranked(keep, seed)
    return gates.GateMeasurement(generation, revision, evaluate(QRELS, run, 10), run, TIMES, ASKED.fingerprint)


OLD = measured("a100", 1, 0.75, 1)


def result(keep: float = 0.75, *, old: gates.GateMeasurement | None = OLD, **demanded: Any) -> dict[str, Any]:
    """What is kept of a gate, as it comes out of the database."""
    new = measured("b200", 2, keep, 2)
    verdict = gates.judge(Gate(**demanded), ASKED, new, old, documents=DOCUMENTS)
    kept = {"passed": verdict.passed, "verdict": verdict.value, "overridden": None, "at": "2026-11-20T10:00:00+00:00"}
    return json.loads(json.dumps({**kept, "reasons": list(verdict.reasons), **verdict.detail}))


def render(data: dict[str, Any]) -> str:
    return gate_pages.render(GatePage.model_validate(data))


def of_an_earlier_version(data: dict[str, Any]) -> dict[str, Any]:
    """What was kept when a gate compared means."""
    later = ("comparison", "scores", "findings", "ann", "latency")
    kept = {name: value for name, value in data.items() if name not in later}
    limits = ("min_recall", "max_drop", "k", "min_queries", "min_fidelity")
    return kept | {"gate": {name: data["gate"][name] for name in limits} | {"confidence": None}}


def with_texts(data: dict[str, Any]) -> dict[str, Any]:
    """The same with what is looked up when the page is made, and other slices."""
    new = measured("b200", 2, 0.6, 2)
    compared = compare(
        new.scored,
        OLD.scored,
        k=10,
        documents=DOCUMENTS,
        max_drop=0.02,
        slices={
            "words": length_slices({query: len(text.split()) for query, text in TEXTS.items()}),
            "tenant": {"small": list(TEXTS)[:5], "large": list(TEXTS)[5:]},
        },
        attainable=attainable_recall(QRELS, 10),
    )
    return data | {
        "comparison": compared.as_data(),
        "texts": TEXTS,
        "relevant": {query: list(judged) for query, judged in QRELS.items()},
        "items": {doc: (doc, f"the text of {doc}") for judged in QRELS.values() for doc in judged},
    }


def ann() -> dict[str, Any]:
    def point(ef: int, overlap: float) -> Point:
        times = {name: value * ef / 40 for name, value in TIMES.items()}
        interval = Interval(overlap, overlap - 0.01, min(1.0, overlap + 0.01))
        return Point(ef, interval, times, 0, QueryPlan(True, ("Index Scan",), ef))

    sweep = tuple(point(ef, overlap) for ef, overlap in ((10, 0.81), (40, 0.93), (80, 0.97), (160, 0.99), (640, 1.0)))
    half = Interval(0.5, 0.4, 0.6)
    return AnnReport(
        generation=2,
        revision="b200",
        index={"kind": "hnsw"},
        k=10,
        queries=QUERIES,
        documents=DOCUMENTS,
        chunks=5_000,
        min_overlap=0.95,
        encode_ms=TIMES,
        served=sweep[1],
        sweep=sweep,
        recommended=80,
        loss=Loss(QUERIES, half, half, Interval(0.0123, 0.01, 0.02)),
        lost_best=2,
        lost_relevant=1,
        lost=(LostBest("q3", "d7", 0.8125, relevant=True), LostBest("q4", "d555", 0.7125, relevant=False)),
        reasons=("the index gives 0.9300",),
        notes=(),
    ).as_data()


def latency() -> dict[str, Any]:
    old, new = (QueryTimes(n, name, TIMES, TIMES, TIMES) for n, name in ((1, "a100"), (2, "b200")))
    ratio = {name: Interval(1.17, 1.1, 1.24) for name in TIMES}
    return LatencyReport(200, old, new, ratio).as_data()


CASES: Mapping[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "pass": (lambda: result(0.95), "PASS"),
    "fail": (lambda: result(0.5), "FAIL"),
    "inconclusive": (lambda: result(0.75), "INCONCLUSIVE"),
    "by means": (lambda: of_an_earlier_version(result(0.5)), "FAIL"),
    "first": (lambda: result(old=None), "PASS"),
    "first, by means": (lambda: of_an_earlier_version(result(old=None, min_recall=0.99)), "FAIL"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_tells_verdict_reasons_and_every_metric_of_a_kept_result(case: str) -> None:
    make, verdict = CASES[case]
    data = make()
    page = Page(render(data))
    assert page.text.index(f" {verdict} judged 2026-11-20 10:00 UTC") > 0
    for told in [
        *data["reasons"],
        *(f"{VERDICTS[one['value']]} {one['sentence']}" for one in data.get("findings", ())),
    ]:
        assert told in page.text
    for role in {"new", "old"} & data.keys():
        for mean in data[role]["means"].values():
            assert f"{mean:.4f}" in page.text
        kept = data[role]["recall"]
        assert f"({kept['low']:.4f} to {kept['high']:.4f})" in page.text


def test_an_override_names_who_and_why_beside_the_verdict_that_it_overrides() -> None:
    data = result(0.5) | {"overridden": {"by": "ada@example.org", "reason": "the labels are of last year"}}
    text = Page(render(data)).text
    assert " FAIL " in text
    assert "OVERRIDDEN by ada@example.org: the labels are of last year" in text


def test_what_was_not_measured_says_so() -> None:
    why = "first generation, and the collection has no labelled queries"
    page = Page(
        render(
            {
                "verdict": "pass",
                "reasons": [],
                "overridden": None,
                "at": "2026-11-20T10:00:00+00:00",
                "not_measured": why,
            }
        )
    )
    assert why in page.text
    assert "svg" not in page.tags
    assert "NOT JUDGED" in Page(render({"verdict": None})).text


def test_everything_that_was_measured_is_there_as_chart_and_as_figures() -> None:
    data = with_texts(result(0.6)) | {"ann": ann(), "latency": latency()}
    page = Page(render(data))
    assert page.tags.count("svg") == 7
    assert page.tags.count("details") == len(data["comparison"]["lost"]) + len(data["comparison"]["won"]) == 40
    titles = page.tags.count("h2")
    assert page.text.count("?") >= titles == 7  # every title is a question
    small = next(one for one in data["comparison"]["slices"] if one["queries"] == 5)
    assert f"tenant: {small['name']} 5 too few to measure" in page.text
    for expected in (
        "0.9300 (0.9200 to 0.9400), at least 0.95 demanded",
        "ef_search 80",
        "the index gives 0.9300",
        "+0.0123 (+0.0100 to +0.0200)",
        "1.1700 (1.1000 to 1.2400)",
        "3.75 ms",
        "queries would be needed to tell the drop that is allowed",
    ):
        assert expected in page.text, expected
    lost = data["comparison"]["lost"][0]
    assert TEXTS[lost["query"]].strip() in page.text
    found = next(one for one in lost["old_ranking"] if one in QRELS[lost["query"]])
    assert f"✓ {found} the text of {found}" in page.text


def test_what_was_found_is_shown_with_the_beginning_of_its_text_or_as_gone() -> None:
    data, span = with_texts(result(0.6)), item_of(Span("d0", 10, 20))
    data["items"] = {"d0": ("d0", None), span: ("d0 (10-20)", "the passage itself")}
    data["comparison"]["lost"][0] |= {"old_ranking": ["d0", span], "new_ranking": ["unknown"]}
    assert "d0 gone since" in (text := Page(render(data)).text)
    assert "d0 (10-20) the passage itself" in text
    assert "\x1f" not in text


def test_texts_of_other_labels_than_were_measured_say_so() -> None:
    assert "labels changed since" in Page(render(result(0.6) | {"labels_changed": True})).text
    assert "labels changed since" not in Page(render(result(0.6))).text


def test_the_scatter_counts_who_won_and_who_lost() -> None:
    data = with_texts(result(0.6))
    scores = data["scores"]
    changes = [scores["new"][query] - old for query, old in scores["old"].items()]
    text = Page(render(data)).text
    assert f"{sum(one > 0 for one in changes)} won" in text
    assert f"{sum(one < 0 for one in changes)} lost" in text


def test_no_text_of_a_user_becomes_markup() -> None:
    data = with_texts(result(0.6)) | {"ann": ann(), "latency": latency(), "collection": HOSTILE}
    clean = Page(render(data | {"collection": "docs"}))
    data["texts"] = dict.fromkeys(TEXTS, HOSTILE)
    data["relevant"] = {query: [HOSTILE] for query in TEXTS}
    data["items"] = {HOSTILE: (HOSTILE, HOSTILE)}
    data["findings"] = [{"value": "fail", "sentence": HOSTILE}]
    data["overridden"] = {"by": HOSTILE, "reason": HOSTILE}
    data["reasons"] = [HOSTILE]
    data["labels"] = HOSTILE
    data["new"]["revision"] = data["old"]["revision"] = HOSTILE
    data["ann"]["reasons"] = [HOSTILE]
    for one in (*data["comparison"]["lost"], *data["comparison"]["won"]):
        one["old_ranking"] = one["new_ranking"] = [HOSTILE]
    for one in data["comparison"]["slices"]:
        one["name"] = one["field"] = HOSTILE
    text = render(data)
    page = Page(text)
    assert set(page.tags) <= set(clean.tags)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert re.sub(r"\s+", " ", printable(HOSTILE)) in page.text
    assert "\x00" not in text
    text.encode("utf-8")


def test_the_page_names_nothing_outside_itself() -> None:
    text = render(with_texts(result(0.6)) | {"ann": ann(), "latency": latency()})
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(page.tags)
    assert not {"src", "href", "srcset"} & {name for name, _ in page.attributes}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert not re.search(r"url\(|@import|https?:", text)


def test_old_and_new_that_are_equal_are_drawn_without_an_end_of_the_axis() -> None:
    same = Interval(1.0, 1.0, 1.0)
    assert intervals([ChartRow("hit", [Mark(same, "old"), Mark(same, "new")])], axis="hit").tag == "svg"
    assert bubbles({"q": 0.0}, {"q": 0.0}, axis="recall").tag == "svg"
    assert curve([Dot(40, 0.0)], axis="ef_search", up="overlap").tag == "svg"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.013, 0.002), (0.97, 0.9701), (0.0, 900.0), (-1.0, 1.0)])
def test_an_axis_has_a_few_round_ticks_inside_it(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high or tick == pytest.approx(low) or tick == pytest.approx(high) for tick in ticks)
