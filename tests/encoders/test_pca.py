"""A model turned to its principal components: an ordinary model, cut with less loss, and nothing embedded again."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

from extras import needs
from revector.cli import run
from revector.encoders.check import unit_rows, vectors_fp
from revector.encoders.loading import load_encoder
from revector.encoders.lsa import train_lsa
from revector.encoders.pca import read_rotation, rotation_of, train_pca
from revector.errors import ConfigError, EncoderError
from revector.indexing.encoding import Encoders
from revector.indexing.publish import Applier
from revector.indexing.reuse import Reuse
from revector.interfaces import Document, Encoder, Vectors, whole_texts
from revector.registry.work import read_items
from revector.spec import ModelSpec
from worlds import World

needs("torch", "sklearn")

WIDTH = 24
WORDS = [f"{a}{b}" for a in "bcdfgklmnp" for b in ("ana", "ere", "iti", "oro", "ulu")]


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[10 * (n % 5) : 10 * (n % 5) + 10], 6)) for n in range(count)]


CORPUS = texts(300, 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``base`` and ``turned``, which was made of it and of its vectors of ``CORPUS``."""
    root = tmp_path_factory.mktemp("models")
    train_lsa(CORPUS, root / "base", dim=WIDTH, vocabulary=500)
    vectors = load(root, "base").encode("document", whole_texts(CORPUS))
    train_pca(iter([vectors[:200], vectors[200:]]), root / "base", root / "turned")
    return root


def load(root: Path, name: str, dim: int = WIDTH) -> Encoder:
    return load_encoder(ModelSpec(f"./{name}", dim), root=root, device="cpu")


def test_a_turned_model_is_the_base_times_the_principal_components_by_definition(models: Path) -> None:
    vectors = load(models, "base").encode("document", whole_texts(CORPUS))
    turned = load(models, "turned").encode("document", whole_texts(CORPUS))
    _, _, axes = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(turned), np.abs(vectors @ axes.T), atol=1e-3)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-5)
    queries = texts(20, 7)
    base, own = (load(models, name).encode("query", whole_texts(queries)) for name in ("base", "turned"))
    rotation = rotation_of(load(models, "turned"))
    assert rotation is not None
    np.testing.assert_allclose(own, rotation(base), atol=1e-5)


def test_a_cut_after_turning_changes_cosines_less_than_any_other_cut(models: Path) -> None:
    whole = load(models, "base").encode("document", whole_texts(CORPUS))
    cosines = whole @ whole.T

    def error(cut: Vectors) -> float:
        units = unit_rows(cut[:, :6])
        return float(np.linalg.norm(units @ units.T - cosines))

    turned = load(models, "turned", dim=6).encode("document", whole_texts(CORPUS))
    assert turned.shape == (300, 6)
    rng = np.random.default_rng(0)
    others = [whole @ np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32) for _ in range(10)]
    assert error(turned) < 0.75 * min(map(error, others))


def test_the_share_that_a_cut_keeps_is_that_of_the_vectors(models: Path, tmp_path: Path) -> None:
    vectors = load(models, "base").encode("document", whole_texts(CORPUS))
    kept = train_pca([vectors], models / "base", tmp_path / "again")
    assert kept[-1] == pytest.approx(1)
    rotation = rotation_of(load(tmp_path, "again"))
    assert rotation is not None
    assert kept[5] == pytest.approx(np.sum(rotation(vectors)[:, :6] ** 2) / np.sum(vectors**2), abs=1e-5)


def test_a_turned_model_is_plain_sentence_transformers(models: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(models / "turned"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(
        plain.encode(CORPUS[:5], normalize_embeddings=True),
        load(models, "turned").encode("document", whole_texts(CORPUS[:5])),
        atol=1e-5,
    )


def test_the_base_is_known_by_its_files_and_another_rotation_is_another_model(models: Path, tmp_path: Path) -> None:
    base, turned = load(models, "base"), load(models, "turned")
    rotation = rotation_of(turned)
    assert rotation is not None
    assert rotation.base_fp == vectors_fp(base.components)
    assert rotation_of(base) is None
    vectors = base.encode("document", whole_texts(CORPUS))
    train_pca([vectors[:150]], models / "base", tmp_path / "other")
    assert load(tmp_path, "other").fingerprint != turned.fingerprint
    files = {
        name: sha[::-1] if name.endswith("tokenizer.json") else sha for name, sha in base.components["files"].items()
    }
    changed = read_rotation(models / "turned", {**turned.components, "files": {**turned.components["files"], **files}})
    assert changed is not None
    assert changed.base_fp != rotation.base_fp


@pytest.mark.parametrize("damage", ["[]", "{", '{"rotation": "nowhere", "base": {"modules.json": "0"}}'])
def test_a_damaged_manifest_is_refused_when_the_model_is_loaded(models: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(models / "turned", tmp_path / "turned")
    (tmp_path / "turned" / "revector.json").write_text(damage)
    with pytest.raises(EncoderError, match=r"not what `revector train pca` wrote.*Nothing was changed"):
        load(tmp_path, "turned")


def test_what_cannot_be_turned_is_refused_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    vectors = load(models, "base").encode("document", whole_texts(CORPUS))
    (tmp_path / "plain").mkdir()
    for blocks, base, folder, said in (
        ([vectors[: WIDTH - 1]], models / "base", tmp_path / "new", "at least 24 vectors, found 23"),
        ([], models / "base", tmp_path / "new", "found 0"),
        ([vectors], models / "turned", tmp_path / "new", "rotated already"),
        ([vectors], tmp_path / "plain", tmp_path / "new", "no modules.json"),
        ([vectors], models / "base", tmp_path / "plain", "exists already"),
    ):
        with pytest.raises(ConfigError, match=said):
            train_pca(blocks, base, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


# On a collection ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lsa(world: World, models: Path) -> World:
    """A collection that serves ``base``, with the encoders that ship."""
    shutil.copytree(models / "base", world.root / "base")
    for path in (world.root / "migrations" / "docs").iterdir():
        path.unlink()
    world.revision("a100", None, f'model = ModelSpec(name="./base", dim={WIDTH})')
    world.documents.put_many([Document(f"d{n:05d}", text) for n, text in enumerate(CORPUS)])
    world.project.__dict__["encoders"] = Encoders(lambda model: load_encoder(model, root=world.root, device="cpu"))
    world.upgrade("a100")
    return world


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every document that is embedded for an index from here on."""
    seen: list[str] = []
    real = Applier._embed
    monkeypatch.setattr(
        Applier, "_embed", lambda self, todo: (seen.extend(item.doc_id for item, _ in todo), real(self, todo))[1]
    )
    return seen


def turn(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(world.root)
    assert run(["train", "pca", "models/turned", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_revision_of_the_turned_model_embeds_nothing_and_can_go_back_and_be_retired(
    lsa: World, embedded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert turn(lsa, monkeypatch, capsys)["model"] == "./models/turned"
    lsa.revision("b200", "a100", 'model = ModelSpec(name="./models/turned", dim=8)', "gate = Gate(max_drop=1.0)")
    lsa.labels((f"d{n:05d}", text) for n, text in enumerate(CORPUS[:60]))
    assert lsa.migrator.plan("b200").reused == len(set(CORPUS))
    lsa.upgrade("b200")
    assert embedded == []
    assert lsa.project.verify("docs", reembed=1_000).passed  # every row against its text, embedded by the turned model
    lsa.documents.put("new", "bana bere bana")
    lsa.settle()
    assert set(embedded) == {"new"}  # once for each model
    assert lsa.search("bana bere bana", 1) == ["new"]
    lsa.migrator.rollback("to try it")
    assert lsa.search("bana bere bana", 1) == ["new"]
    assert lsa.generation().revision == "a100"
    lsa.upgrade("b200")
    lsa.migrator.retire("done", now=True)
    assert lsa.generation().revision == "b200"
    assert set(embedded) == {"new"}
    lsa.revision("c300", "b200", 'model = ModelSpec(name="./models/turned", dim=4)', "gate = Gate(max_drop=1.0)")
    lsa.upgrade("c300")
    assert set(embedded) == {"new"}  # the cut of a cut, and of what the archive keeps of the base


def test_vectors_of_a_base_that_answers_otherwise_are_not_turned(
    lsa: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turn(lsa, monkeypatch, capsys)
    lsa.revision("b200", "a100", 'model = ModelSpec(name="./models/turned", dim=8)', "gate = Gate(max_drop=1.0)")
    lsa.upgrade("b200", to="provision")
    active, building = lsa.generation(), lsa.generation("building")
    rotation = rotation_of(lsa.project.encoders.of(building))
    items = read_items(lsa.engine, active.cid, ["d00007"])
    assert Reuse(lsa.engine, building, rotation).find(items)
    assert not Reuse(lsa.engine, building).find(items)
    changed = replace(building, probes=-building.probes)
    assert not Reuse(lsa.engine, changed, rotation).find(items)
    narrow = f"UPDATE revector.generation SET spec = jsonb_set(spec, '{{model,dim}}', '{WIDTH - 1}'), probes = (SELECT "
    lsa.unguarded(f"{narrow} decode(repeat('0000803f', 16 * {WIDTH - 1}), 'hex')) WHERE gen = {active.gen}")
    assert not Reuse(lsa.engine, building, rotation).find(items)


def test_what_is_served_cut_or_is_no_local_model_cannot_be_turned(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["train", "pca", "models/turned"]) == 2
    assert "only a local model at its full width" in capsys.readouterr().err
    assert not (served.root / "models").exists()
