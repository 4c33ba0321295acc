"""`revector finetune` on a real database: verdict, exit code, the drafted revision, and a second run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import TOPICS, text, write_pairs

from extras import needs
from revector.cli import exits, run
from revector.interfaces import Document
from revector.migration_files import load_revision
from worlds import World

needs("torch", "sentence_transformers", "accelerate", "bm25s", "datasets")


@pytest.fixture
def at(world: World, static: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A collection of the tiny model's documents, and pairs."""
    world.documents.put_many([Document(f"d{topic:03d}", text(topic)) for topic in range(TOPICS)])
    (world.root / "static").symlink_to(static)
    write_pairs(world.root)
    monkeypatch.chdir(world.root)
    return world


COMMAND = ("finetune", "--base", "./static", "--pairs", "pairs.jsonl", "-o", "models/tuned")


def test_a_gain_drafts_the_revision_that_takes_the_model(at: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--lr", "0.3", "--epochs", "4", "--batch", "32", "-m", "ours", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["model"]) == ("gain", "./models/tuned")
    drafted = load_revision(Path(found["revision"]))
    assert (drafted.model.name, drafted.model.dim, drafted.down_revision) == ("./models/tuned", 32, "b200")
    assert run([*COMMAND, "--lr", "0.3", "--epochs", "4", "--batch", "32"]) == 0
    said = capsys.readouterr().out
    assert "Verdict: gain." in said
    assert Path(found["revision"]).name in said
    assert len(list((at.root / "migrations" / "docs").glob("*.py"))) == 3


def test_no_gain_is_a_verdict_with_an_exit_code_and_drafts_nothing(
    at: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, "--lr", "0.00002", "--epochs", "1"]) == exits.NO_GAIN
    said = capsys.readouterr().out
    assert "Verdict: no detectable gain." in said
    assert "revector revision -m fine-tuned --model ./models/tuned" in said
    assert len(list((at.root / "migrations" / "docs").glob("*.py"))) == 2
    assert (at.root / "models" / "tuned" / "training.json").is_file()
