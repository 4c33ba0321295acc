"""The DAG that trains a model: its form, where it runs, and a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import TOPICS, text, write_pairs

from airflow_names import ParamValidationError
from extras import needs
from revector.airflow import FinetuneOperator, finetune_dag
from revector.airflow.versions import AirflowSkipException
from revector.interfaces import Document
from worlds import World

FORM = {"base": "./static", "pairs": "pairs.jsonl", "name": "ours"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("REVECTOR_CONFIG", raising=False)
    (tmp_path / "revector.toml").write_text("[collections.docs]\n[collections.api]\n")
    return tmp_path / "revector.toml"


def test_it_trains_in_the_gpu_queue_and_the_pool_that_is_asked_for(config: Path) -> None:
    train: Any = finetune_dag(config=config, pool="two_gpus").get_task("train")
    assert (train.queue, train.pool, train.retries) == ("gpu", "two_gpus", 3)
    assert finetune_dag(config=config, queue="h200").get_task("train").queue == "h200"
    assert finetune_dag(config=config).params.get_param("collection").schema["enum"] == ["api", "docs"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pairs", "/etc/pairs.jsonl"),
        ("pairs", "clicks:../../clicks.csv"),
        ("name", "../ours"),
        ("name", ""),
        ("epochs", 0),
        ("learning_rate", 0),
        ("held_out", "1.5"),
    ],
)
def test_the_form_refuses_what_cannot_be_or_lies_outside_of_the_project(config: Path, name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        finetune_dag(config=config).params.get_param(name).resolve(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pairs", "qrels"), ("pairs", "clicks:logs/clicks.csv"), ("held_out", "qrels"), ("held_out", "0.25")],
)
def test_the_form_takes_what_can_be(config: Path, name: str, value: object) -> None:
    assert finetune_dag(config=config).params.get_param(name).resolve(value) == value


@pytest.fixture
def taught(world: World, static: Path) -> World:
    """A collection of the tiny model's documents, and pairs."""
    world.documents.put_many([Document(f"d{topic:03d}", text(topic)) for topic in range(TOPICS)])
    (world.root / "static").symlink_to(static)
    write_pairs(world.root)
    return world


def test_a_gain_is_returned_and_none_skips_what_follows(taught: World) -> None:
    needs("torch", "sentence_transformers", "accelerate", "bm25s", "datasets")
    context: Any = {}
    train = FinetuneOperator(task_id="train", **FORM, learning_rate=0.3, epochs=10)
    found = train.call(taught.project, "docs", context)
    assert (found["model"], found["verdict"]) == ("./models/ours", "gain")
    assert train.call(taught.project, "docs", context) == found
    slow = FinetuneOperator(task_id="train", **FORM | {"name": "slow"}, learning_rate=1e-6, epochs=1)
    with pytest.raises(AirflowSkipException, match=r"no detectable gain: recall@10 .*\./models/slow is saved"):
        slow.call(taught.project, "docs", context)
    assert (taught.root / "models" / "slow" / "training.json").is_file()
