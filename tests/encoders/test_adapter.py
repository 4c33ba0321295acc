"""An adapter behind a new tower for texts: texts are near their images again, and only that tower is another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extras import needs
from pictures import COLOURS, image, tiny_clip, words_and_colours
from revector.cli import run
from revector.encoders.adapter import RIDGE_FROM, fit, save_adapted
from revector.encoders.check import unit_rows
from revector.encoders.loading import load_encoder
from revector.errors import ConfigError, SpecError
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, Document, Encoder, NoProgress, Piece, whole_texts
from revector.spec import ModelSpec
from revector.training import adapting
from worlds import World

needs("torch", "sklearn", "sentence_transformers")

CAPTIONS = [f"{one} {other}" for one in (*COLOURS, "sky", "rose") for other in (*COLOURS, "sky", "rose")]


def load(folder: Path, dim: int = 8) -> Encoder:
    return load_encoder(ModelSpec(str(folder), dim, max_tokens=70), root=Path(), device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, one whose space of texts is turned, and that one with an adapter."""
    root = tmp_path_factory.mktemp("models")
    made = {"old": words_and_colours(root / "old"), "new": words_and_colours(root / "new", texts=3)}
    old, new = (load(made[name]).encode("query", whole_texts(CAPTIONS)) for name in ("old", "new"))
    save_adapted(made["new"], fit(new, old, ridge=False), root / "adapted")
    return {**made, "adapted": root / "adapted"}


def test_a_rotation_up_to_a_thousand_captions_and_a_linear_map_beyond_bring_vectors_back() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    rows = unit_rows(rng.normal(size=(RIDGE_FROM + 1, 6)).astype(np.float32))
    old = (rows @ turn).astype(np.float32)
    rotation, linear = fit(rows[:50], old[:50], ridge=False), fit(rows, old, ridge=True)
    np.testing.assert_allclose(rotation, turn.T, atol=1e-5)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-5)
    assert np.sum(unit_rows(rows @ linear.T) * old, axis=1).min() > 0.999
    assert not np.allclose(linear @ linear.T, np.eye(6), atol=1e-3)  # ridge regression shrinks


def test_texts_are_near_their_images_again_and_the_tower_for_images_is_as_it_was(folders: dict[str, Path]) -> None:
    models = {name: load(folder) for name, folder in folders.items()}
    seen = [Piece.whole(Content.image(image(name))) for name in COLOURS]
    nearest = {
        name: (one.encode("query", whole_texts(COLOURS)) @ one.encode("document", seen).T).argmax(axis=1).tolist()
        for name, one in models.items()
    }
    assert nearest["old"] == nearest["adapted"] == [0, 1, 2, 3]
    assert nearest["new"] != nearest["old"]
    towers: dict[str, Any] = {name: one.components["towers"] for name, one in models.items()}
    assert towers["adapted"]["image"] == towers["new"]["image"]
    assert towers["adapted"]["text"] not in (towers["new"]["text"], towers["old"]["text"])
    assert models["adapted"].fingerprint != models["new"].fingerprint


def test_a_clip_model_gets_its_adapter_too_and_a_model_of_texts_none(tmp_path: Path) -> None:
    clip = load(tiny_clip(tmp_path / "clip"))
    turn = np.eye(8, dtype=np.float32)[::-1].copy()
    save_adapted(tmp_path / "clip", turn, tmp_path / "turned")
    turned = load(tmp_path / "turned")
    words, shown = whole_texts(["red", "blue"]), [Piece.whole(Content.image(image("red")))]
    np.testing.assert_allclose(turned.encode("query", words), clip.encode("query", words)[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(turned.encode("document", shown), clip.encode("document", shown), atol=1e-5)
    with pytest.raises(ConfigError, match="exists already"):
        save_adapted(tmp_path / "clip", turn, tmp_path / "turned")


def test_what_the_gate_judges_by_is_left_out_and_too_few_captions_are_refused(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = load(folders["old"]), load(folders["new"])
    with pytest.raises(ConfigError, match=r"at least 100 captions; 36 were named, and 1 .* near"):
        adapting.fit_adapter([*CAPTIONS, "red  RED"], ["Red red"], old, new, NoProgress())
    with pytest.raises(ConfigError, match="the new one embeds text and image at 4 dimensions"):
        adapting.fit_adapter(CAPTIONS, [], old, load(folders["new"], 4), NoProgress())
    monkeypatch.setattr(adapting, "LEAST_CAPTIONS", 10)
    found = adapting.fit_adapter(CAPTIONS, [], old, new, NoProgress())
    assert (found.captions, found.left_out, found.way) == (36, 0, "a rotation")
    assert found.before < 0.5
    assert found.after > 0.99


def test_the_command_adapts_a_model_to_the_served_one_and_the_result_still_has_to_be_gated(
    folders: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapting, "LEAST_CAPTIONS", 10)
    world.project.__dict__["encoders"] = Encoders(world.project.load_encoder)
    world.documents.put_many([Document(name, None, image=image(name)) for name in COLOURS])
    world.labels((name, name) for name in COLOURS)
    world.revision(
        "a100", None, f'model = ModelSpec(name="{folders["old"]}", dim=8)', "gate = Gate(min_queries=1, k=2)"
    )
    world.upgrade("a100")
    lines = (json.dumps({"query": one, "positive": one}) + "\n" for one in CAPTIONS)
    (world.root / "captions.jsonl").write_text("".join(lines))
    words = ("--model", str(folders["new"]), "--pairs", "captions.jsonl", "--project", str(world.root))
    assert run(["train", "adapter", "models/adapted", *words]) == 0
    assert "a rotation, fitted on 32 captions; 4 were left out" in " ".join(capsys.readouterr().out.split())
    assert run(["train", "adapter", "models/again", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["captions"], told["left_out"]) == ("./models/again", 32, 4)
    world.revision("b200", "a100", 'model = ModelSpec(name="./models/adapted", dim=8)', "gate = Gate(max_drop=0.1)")
    with pytest.raises(SpecError, match="changes the tower for texts alone"):
        world.migrator.plan("b200")
