"""The benchmarks can be asked for help, and the figures that are kept have one form."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

BENCH = Path(__file__).parents[2] / "evaluation" / "bench"
COMMANDS = (
    "airflow_overhead",
    "archive",
    "datasets",
    "engine",
    "exact",
    "flood",
    "gate",
    "kinds",
    "memory",
    "protocol",
    "publish",
    "reference",
    "rival",
    "service",
    "sql_swaps",
    "swaps",
)
SCHEMA = {
    "type": "object",
    "required": ["command", "machine", "figures"],
    "additionalProperties": False,
    "properties": {
        "command": {"type": "string", "pattern": r"^python -m evaluation\.bench\.\w+"},
        "machine": {"type": "object", "required": ["cpus", "load_average_1_5_15_min", "at"]},
        "figures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "value", "unit", "goal", "holds"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "value": {"type": ["number", "string", "null"]},
                    "unit": {"type": "string"},
                    "goal": {"type": ["string", "null"]},
                    "holds": {"type": ["boolean", "null"]},
                },
            },
        },
    },
}


def help_of(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``python -m module --help`` prints."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_says_what_it_measures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--output" in help_of(f"evaluation.bench.{name}", monkeypatch, capsys)


def test_datasets_that_are_absent_are_said_before_anything_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evaluation.bench.datasets", str(tmp_path), "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=BENCH.parents[1], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"no corpus.jsonl under {tmp_path}" in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("path", sorted((BENCH / "results").glob("*.json")), ids=lambda path: path.stem)
def test_kept_figures_have_the_form_that_the_readme_reads(path: Path) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(kept, SCHEMA)
    assert all((figure["goal"] is None) == (figure["holds"] is None) for figure in kept["figures"])
