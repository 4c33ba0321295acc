"""The report of the proof: it is complete, and what it names is there."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from evaluation.reliability.crashes import LAYER as CRASHES
from evaluation.reliability.faults import LAYER as STRIKES
from evaluation.reliability.faults_wire import FAULTS
from evaluation.reliability.prove import LAYERS
from evaluation.reliability.summary import HERE, races, write_report

TESTS = Path(__file__).parents[1]


def functions(file: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", next(TESTS.rglob(file)).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_race_of_the_catalogue_has_a_mechanism() -> None:
    assert list(races()) == [f"R{number:02}" for number in range(1, 80)]
    assert all(race["what"] and race["how"] for race in races().values())


@pytest.mark.parametrize("number", races())
def test_every_test_that_a_race_names_is_there(number: str) -> None:
    for name in races()[number].get("tests", ()):
        file, _, function = name.partition("::")
        assert function in functions(file), name


def test_every_layer_is_a_module_with_a_place_for_its_figures() -> None:
    assert [layer.name for layer in LAYERS] == [f"L{number}" for number in range(9)]


def test_the_report_names_what_missed_its_goal_and_what_was_not_run(tmp_path: Path) -> None:
    figure = {"name": "kills", "value": 3, "unit": "kills", "goal": "≥ 2,000", "holds": False}
    (tmp_path / "crashes.json").write_text(json.dumps({"command": "python -m x", "figures": [figure]}))
    report = write_report([("L3", "kills", "crashes"), ("L6", "a soak", "soak")], tmp_path).read_text()
    assert "| L3 | kills | 3 kills | ≥ 2,000 |" in report
    assert "Not run: L6" in report


@pytest.mark.parametrize(
    ("figures", "piece", "absent"),
    [
        (
            CRASHES.figures,
            {"runs": 1, "seconds": 1.0, "broken": 0, "tally": {"during upgrade": 1}, "findings": []},
            {"named crash points that killed"},
        ),
        (
            STRIKES.figures,
            {"runs": 1, "tally": {"encoder: hang": 1}, "findings": []},
            {
                "faults of the disk",
                *(f"operations struck on the wire by: {f}" for f in FAULTS),
            },
        ),
    ],
)
def test_what_no_piece_has_run_is_not_ticked(figures: Any, piece: Any, absent: set[str], tmp_path: Path) -> None:
    found = {figure.name: figure for figure in figures([piece])}
    assert {name for name, figure in found.items() if figure.value == "not run"} == absent
    assert all(found[name].holds is None for name in absent)
    content = {"command": "python -m x", "figures": [asdict(figure) for figure in found.values()]}
    (tmp_path / "layer.json").write_text(json.dumps(content))
    report = write_report([("L", "a layer", "layer")], tmp_path).read_text()
    assert all(f"| {name} | not run " in report and f"L: {name}" in report for name in absent)


@pytest.mark.parametrize("path", sorted((HERE / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_say_how_they_came_about(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["command"].startswith("python -m evaluation.")
    assert found["machine"]["cpus"]
    assert all(set(figure) == {"name", "value", "unit", "goal", "holds"} for figure in found["figures"])
