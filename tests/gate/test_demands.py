"""Promises of the table of demands: each is one row in one file, which judge, plan, page and documentation read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from revector.gate.demands import DEMANDS
from revector.gate.figures import GateFigures, GateResult
from revector.gate.results import FIGURES
from revector.pages import gate as pages
from revector.pages.gate_view import GatePage
from revector.spec import Gate

SETTINGS = {"k", "confidence", "slices", "method", "metric", "proxy"}
"""Fields of ``Gate`` that say how is measured, and demand nothing."""

EVERYTHING = Gate(
    min_recall=0.5,
    max_slice_drop=0.1,
    max_latency_ratio=1.5,
    shadow_hours=2.0,
    min_agreement=0.8,
    max_text_to_image_drop=0.03,
    max_image_to_text_drop=0.04,
)


def test_every_field_of_the_gate_is_a_row_or_a_setting_and_none_is_both() -> None:
    rows = [demand.field for demand in DEMANDS]
    assert rows == [one.name for one in fields(Gate) if one.name not in SETTINGS]
    assert len({demand.label for demand in DEMANDS}) == len(rows)


def test_the_manual_names_every_demand() -> None:
    said = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    assert [demand.field for demand in DEMANDS if demand.field not in said] == []


def test_a_demand_that_is_off_demands_nothing_and_each_of_the_others_has_words() -> None:
    off = Gate(min_fidelity=0.0, min_overlap=None)
    assert [demand.field for demand in DEMANDS if demand.of(off) is not None] == ["max_drop", "min_queries"]
    assert all(demand.of(EVERYTHING) is not None and demand.says(EVERYTHING) for demand in DEMANDS)


def test_a_row_with_evidence_keeps_it_apart_from_what_a_status_shows() -> None:
    kept = [demand.evidence for demand in DEMANDS if demand.measure is not None]
    assert kept == ["ann", "latency", "shadow", "cutoffs", "cross_modal"]
    assert set(kept) < set(FIGURES)


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.field)
def test_the_page_names_what_was_demanded(demand: Any) -> None:
    gate = {one.name: getattr(EVERYTHING, one.name) for one in fields(Gate)}
    page = pages.render(GatePage.model_validate({"verdict": "pass", "gate": gate}))
    assert f"<dt>{demand.label}</dt><dd>{demand.of(EVERYTHING):g}</dd>" in page.replace("&#x27;", "'")


def test_what_this_version_does_not_know_is_kept_and_what_was_not_given_is_not_sent() -> None:
    given = {"k": 10, "new": {"generation": 2, "revision": "b2", "recall": {"mean": 1.0, "low": 0.9, "high": 1.0}}}
    given["new"]["means"] = {"recall": 1.0}
    given |= {"later": {"figure": [1, 2]}, "ann": None}
    assert GateFigures.model_validate(given).as_data() == given


def test_a_verdict_of_the_first_version_is_read() -> None:
    """As it is in the database of a project that began with it: means, no findings, no confidence."""
    interval = {"mean": 0.8, "low": 0.7, "high": 0.9}
    side = {"generation": 1, "revision": "a1", "recall": interval, "means": {"recall": 0.8, "mrr": 0.5}}
    detail = {"k": 10, "queries": 60, "labels": "set/test", "new": side, "reasons": ["too low"]}
    detail |= {"gate": {"min_recall": 0.9, "max_drop": 0.02, "confidence": None}, "documents_seen": 120}
    row = {"id": 7, "generation": 1, "passed": False, "verdict": "fail", "overridden": None, "at": "2026-01-01T00:00Z"}
    kept = GateResult.model_validate(detail | row)
    assert kept.as_data() == detail | row
    page = pages.render(GatePage.model_validate(kept.as_data()))
    assert "too low" in page
    assert "0.8000 (0.7000 to 0.9000)" in page
