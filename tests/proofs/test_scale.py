"""The measurements at scale: they can be asked for help, fit what they should, and the simulation knows its bounds."""

from __future__ import annotations

import json
import random
from argparse import Namespace
from pathlib import Path

import jsonschema
import pytest
from evaluation.scale.measure import exponent
from evaluation.scale.simulate import OPTIONS, wall_hours
from test_bench import SCHEMA, help_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "evaluation" / "scale" / "results"


@pytest.mark.parametrize("name", ["measure", "simulate", "estimate"])
def test_a_measurement_says_what_it_measures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--output" in help_of(f"evaluation.scale.{name}", monkeypatch, capsys)


@pytest.mark.parametrize("name", ["measure", "graph", "large", "wide", "simulate", "estimate"])
def test_kept_figures_have_the_form_of_all_benchmarks(name: str) -> None:
    kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert kept["command"].startswith("python -m evaluation.scale.")
    jsonschema.validate({**kept, "command": kept["command"].replace(".scale.", ".bench.")}, SCHEMA)


def test_an_exponent_is_one_for_linear_and_zero_for_flat() -> None:
    counts = [1_000, 2_000, 8_000]
    assert exponent(counts, [3.0 * count for count in counts]) == 1.0
    assert exponent(counts, [7.0, 7.0, 7.0]) == 0.0
    assert exponent(counts, [count**2 / 5 for count in counts]) == 2.0


def simulated(gpus: int, seed: int = 0, **options: float) -> float:
    given = {name.replace("-", "_"): value for name, (value, _) in OPTIONS.items()}
    return wall_hours(Namespace(**(given | options)), gpus, random.Random(seed))


def test_without_deaths_and_slow_workers_only_the_ragged_end_is_lost() -> None:
    calm = {"deaths_per_hour": 0.0, "spread": 0.0, "slow_share": 0.0, "task_s": 0.0}
    assert simulated(1, gpu_hours=75.0, **calm) == pytest.approx(75.0)
    assert simulated(4, gpu_hours=75.0, **calm) == pytest.approx(75.0 / 4)  # 100 shards of 45 minutes
    assert simulated(64, gpu_hours=75.0, **calm) == pytest.approx(1.5)  # two rounds, of which the second is not full


def test_deaths_and_slow_workers_cost_time_and_lose_no_work() -> None:
    calm = [simulated(8, seed, deaths_per_hour=0.0, gpu_hours=60.0) for seed in range(20)]
    deadly = [simulated(8, seed, deaths_per_hour=0.5, gpu_hours=60.0) for seed in range(20)]
    assert sum(calm) < sum(deadly)
    assert min(calm) > 60.0 / 8 * 0.8
