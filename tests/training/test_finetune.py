"""Fine-tuning as a whole on a tiny model: what it learns, repeats, refuses, and keeps through a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extras import needs
from revector import crash
from revector.encoders.loading import load_encoder
from revector.errors import ConfigError, EncoderError, LabelError
from revector.interfaces import NoProgress
from revector.labels import load_labels
from revector.spec import ModelSpec
from revector.training.finetune import TrainingRequest, TrainingSite, finetune, held_out_share
from revector.training.record import HELD_OUT, RECORD, TAUGHT, TrainingRecord, read_record
from revector.training.trainer import newest_checkpoint

needs("torch", "sentence_transformers", "accelerate", "bm25s", "datasets")

ASKED = TrainingRequest("./static", "pairs.jsonl", Path("tuned"), learning_rate=0.3, epochs=4, batch=32)


def train(site: TrainingSite, **changed: Any) -> TrainingRecord:
    return finetune(replace(ASKED, **changed), site, NoProgress())


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tuned(make_site: Callable[[Path], TrainingSite], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained once, for all tests of this file."""
    site = make_site(tmp_path_factory.mktemp("tuned"))
    train(site)
    return site.root / "tuned"


def test_training_is_judged_on_queries_that_were_held_out(tuned: Path) -> None:
    record = read_record(tuned)
    assert record is not None
    assert record.recall.verdict == "gain"
    held_out, taught = load_labels(tuned / HELD_OUT), (tuned / TAUGHT).read_text()
    assert len(held_out.queries) == record.recall.recall.queries == record.data["held_out_queries"] == 48
    assert not [query for query in held_out.queries.values() if f'"{query}"' in taught]


def test_a_run_that_was_killed_goes_on_to_the_same_model_byte_for_byte(site: TrainingSite, tuned: Path) -> None:
    child = os.fork()
    if child == 0:
        crash.arm("train.after_checkpoint:2")
        try:
            train(site)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    work = site.root / ".tuned.training"
    kept = newest_checkpoint(work)
    assert kept is not None
    assert not (site.root / "tuned").exists()
    with pytest.raises(ConfigError, match="holds an unfinished training, of other pairs"):
        train(site, seed=1)
    reported = Steps()
    finetune(ASKED, site, reported)
    assert reported.first == int(kept.name.removeprefix("checkpoint-")) > 0
    assert files(site.root / "tuned") == files(tuned)
    assert not work.exists()


class Steps(NoProgress):
    """Remembers where training began."""

    def __init__(self) -> None:
        self.what, self.first = "", -1

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        self.what = what

    def advance(self, n: int = 1) -> None:
        if self.what == "train" and self.first < 0:
            self.first = n


def test_a_torn_checkpoint_is_removed_and_the_one_before_it_counts(tmp_path: Path) -> None:
    for step, state in ((5, "{}"), (10, "{}"), (15, '{"torn'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_what_is_done_already_is_not_done_again_and_nothing_is_overwritten(site: TrainingSite, tuned: Path) -> None:
    shutil.copytree(tuned, site.root / "tuned")
    left = site.root / ".tuned.training"
    left.mkdir()
    reported = Steps()
    assert finetune(ASKED, site, reported) == read_record(tuned)
    assert reported.first < 0
    assert not left.exists()
    with pytest.raises(ConfigError, match="exists already"):
        train(site, seed=1)
    assert files(site.root / "tuned") == files(tuned)


def test_a_rate_for_transformers_moves_nothing_in_a_static_model_and_that_is_a_verdict(site: TrainingSite) -> None:
    record = train(site, learning_rate=2e-5, epochs=1)
    assert record.recall.verdict == "no detectable gain"
    assert (site.root / "tuned").is_dir()


def test_a_model_for_inner_products_is_trained_and_judged_by_them(site: TrainingSite) -> None:
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(str(site.root / "static"), device="cpu", local_files_only=True)
    plain = SentenceTransformer(modules=[network[0]], device="cpu", similarity_fn_name="dot")
    plain.save(str(site.root / "dot"), create_model_card=False)
    record = train(site, base="./dot", epochs=2)
    assert record.base["model"]["normalize"] is False
    assert record.recall.recall.new.mean > record.recall.recall.old.mean
    assert all(0 <= look <= 1 for look in record.training.looks)


# Provenance -----------------------------------------------------------------------------------------------------------


def test_the_record_is_part_of_the_fingerprint(tuned: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return load_encoder(ModelSpec(str(folder), 32), root=tmp_path, device="cpu").fingerprint

    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    assert fingerprint(other) == fingerprint(tuned)
    record = json.loads((other / RECORD).read_text())
    (other / RECORD).write_text(json.dumps(record | {"version": "another"}))
    assert fingerprint(other) != fingerprint(tuned)


def test_the_version_is_of_pairs_base_and_parameters(site: TrainingSite, tuned: Path) -> None:
    record = read_record(tuned)
    assert record is not None
    (site.root / "other.jsonl").write_text((site.root / "pairs.jsonl").read_text())
    assert train(site, pairs="other.jsonl", epochs=1, output=Path("renamed")).version != record.version
    assert train(site, pairs="other.jsonl", output=Path("same")).version == record.version
    assert record.parameters["learning_rate"] == 0.3
    assert record.libraries["sentence-transformers"]
    assert "gives the same weights" in record.machine["repeatable"]
    assert str(site.root) not in (tuned / RECORD).read_text()


def test_more_pairs_later_name_their_parent_and_do_not_judge_by_what_it_was_taught(
    site: TrainingSite, tuned: Path
) -> None:
    shutil.copytree(tuned, site.root / "parent")
    parent = read_record(tuned)
    assert parent is not None
    child = train(site, base="./parent", seed=7, held_out=0.8, epochs=1)
    assert child.parent is not None
    assert (child.parent["version"], child.parent["data"]["sha256"]) == (parent.version, parent.data["sha256"])
    taught, held_out = (tuned / TAUGHT).read_text(), load_labels(site.root / "tuned" / HELD_OUT)
    assert not [query for query in held_out.queries.values() if f'"{query}"' in taught]
    assert child.data["leaked_queries"] > 0
    assert (site.root / "tuned" / TAUGHT).read_text().startswith(taught)


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(EncoderError, match="is not what `revector finetune` wrote"):
        read_record(tmp_path)
    assert read_record(tmp_path / "none") is None


# What is refused before anything is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query": "how"}', "expected a JSON object with"),
        ('{"query": "how", "doc_id": "d001", "query": "what"}', "twice"),
        ('{"query": " ", "doc_id": "d001"}', "the query"),
        ('{"query": "how", "positive": ""}', "the text"),
        ("nothing", "expected a JSON object with"),
    ],
)
def test_a_malformed_pair_is_refused_with_its_place(site: TrainingSite, line: str, said: str) -> None:
    with (site.root / "pairs.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LabelError, match=rf"pairs.jsonl:241: .*{said}"):
        train(site)
    assert sorted(path.name for path in site.root.iterdir()) == ["pairs.jsonl", "static"]


def test_too_few_pairs_are_refused_with_their_number(site: TrainingSite) -> None:
    lines = (site.root / "pairs.jsonl").read_text().splitlines()[:120]
    (site.root / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(LabelError, match=r"of 120 pairs, 86 are left to train on \(at least 100 are needed\)"):
        train(site)


def test_what_cannot_be_trained_or_held_out_is_refused(site: TrainingSite) -> None:
    with pytest.raises(ConfigError, match="only a model of sentence-transformers can be"):
        train(site, base="hashing")
    with pytest.raises(ConfigError, match=r"revector\.toml names none"):
        train(site, held_out=None)
    with pytest.raises(LabelError, match=r"names none in revector\.toml"):
        train(site, pairs="qrels")
    with pytest.raises(LabelError, match=r"accepted are FILE\.jsonl"):
        train(site, pairs="pairs.parquet")
    with pytest.raises(ConfigError, match="its batches take no memory worth saving"):
        train(site, mini_batch=8)
    with pytest.raises(ConfigError, match="a share between 0 and 1"):
        held_out_share("1.5")
    assert (held_out_share("0.25"), held_out_share("qrels")) == (0.25, None)
