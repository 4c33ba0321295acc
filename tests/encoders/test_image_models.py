"""Models of two towers, by sentence-transformers: what they embed, how they are told apart, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extras import needs
from pictures import COLOURS, image, tiny_clip, words_and_colours
from revector.encoders import images
from revector.encoders.check import check_same_encoder, probe_vectors
from revector.encoders.loading import load_encoder
from revector.encoders.probes import PROBES, probes_of
from revector.encoders.specify import specify
from revector.errors import DocumentError, EncoderError, EncoderMismatch
from revector.interfaces import Blob, Content, Encoder, Piece, whole_texts
from revector.spec import ModelSpec

needs("sentence_transformers")

load: Callable[[ModelSpec], Encoder] = partial(load_encoder, root=Path(), device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"clip": tiny_clip(root / "clip"), "router": words_and_colours(root / "router")}


def seen(encoder: Encoder, *files: bytes) -> Any:
    return encoder.encode("document", [Piece.whole(Content.image(data)) for data in files])


@pytest.mark.parametrize("name", ["clip", "router"])
def test_texts_and_images_in_any_mixture_are_embedded_as_each_alone(folders: dict[str, Path], name: str) -> None:
    model = specify(str(folders[name]), Path(), load).model
    encoder = load(model)
    assert (encoder.kinds, encoder.dim) == (("text", "image"), 8)
    probes = probes_of(encoder.kinds)
    vectors = probe_vectors(encoder)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(probes))
    np.testing.assert_allclose(encoder.encode("document", [probes[n] for n in shuffled]), vectors[shuffled], atol=1e-5)
    narrow = load(replace(model, dim=4)).encode("query", PROBES["image"])
    np.testing.assert_allclose(narrow, seen_cut(vectors[16:], 4), atol=1e-5)


def seen_cut(vectors: Any, dim: int) -> Any:
    cut = vectors[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def test_a_words_vector_is_nearest_to_images_of_its_colour(folders: dict[str, Path]) -> None:
    encoder = load(ModelSpec(str(folders["router"]), 8))
    pictures = seen(encoder, *(image(name, (90, 70), format="JPEG") for name in COLOURS))
    asked = encoder.encode("query", whole_texts(f"a {name} rose" for name in COLOURS))
    assert (asked @ pictures.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_a_text_longer_than_its_tower_reads_is_cut_and_a_limit_beyond_it_refused(folders: dict[str, Path]) -> None:
    model = specify(str(folders["clip"]), Path(), load).model
    assert model.max_tokens == 75  # of 77 positions, two are for special tokens
    long, cut = load(model).encode("document", whole_texts(["red " * 500, "red " * 75]))
    np.testing.assert_allclose(long, cut, atol=1e-5)
    with pytest.raises(EncoderError, match="has 77 positions"):
        load(replace(model, max_tokens=76))


def test_the_tower_that_changed_has_another_fingerprint_and_the_other_the_same(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def towers(folder: Path, **settings: Any) -> dict[str, str]:
        found: Any = load(ModelSpec(str(folder), **{"dim": 8, **settings})).components["towers"]
        return found

    one = towers(folders["router"])
    assert towers(folders["router"], dim=4) == one
    words = towers(words_and_colours(tmp_path / "words", texts=3))
    pictures = towers(words_and_colours(tmp_path / "pictures", images=3))
    assert (words["image"], pictures["text"]) == (one["image"], one["text"])
    assert words["text"] != one["text"]
    assert pictures["image"] != one["image"]
    prompted = towers(folders["router"], query_prompt="a ")
    assert (prompted["image"], prompted["text"] != one["text"]) == (one["image"], True)
    clip = towers(folders["clip"], max_tokens=70)
    assert towers(folders["clip"], max_tokens=60)["image"] == clip["image"]


def test_images_that_are_scaled_otherwise_are_another_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = load(ModelSpec(str(folders["router"]), 8))
    copy = tmp_path / "copy"
    shutil.copytree(folders["router"], copy)
    [settings] = copy.rglob("preprocessor_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"image_mean": [0.4, 0.5, 0.5]}))
    other = load(ModelSpec(str(copy), 8))
    with pytest.raises(EncoderMismatch, match="towers/image"):
        check_same_encoder(encoder.components, probe_vectors(encoder), other)


def test_another_library_that_unpacks_images_is_proved_by_the_probe_images(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(ModelSpec(str(folders["router"]), 8))
    stored = probe_vectors(encoder)
    libraries = {**encoder.components["libraries"], "pillow": "1.0"}  # type: ignore[dict-item]
    check_same_encoder({**encoder.components, "libraries": libraries}, stored, encoder)
    stored[16:] = np.roll(stored[16:], 1, axis=0)
    with pytest.raises(EncoderMismatch, match="vectors differ: probe"):
        check_same_encoder({**encoder.components, "libraries": libraries}, stored, encoder)


def test_large_images_are_unpacked_a_few_at_a_time(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = load(ModelSpec(str(folders["router"]), 8))
    batches: list[int] = []
    encode = images.ImageEngine._encode
    monkeypatch.setattr(images, "BATCH_PIXELS", 2_500)
    monkeypatch.setattr(images, "BATCH_IMAGES", 3)
    monkeypatch.setattr(
        images.ImageEngine, "_encode", lambda self, some, side: batches.append(len(some)) or encode(self, some, side)
    )
    files = [image("red", (40, 30)), image("blue", (40, 30)), image("green", (99, 99)), *[image("red", (5, 5))] * 4]
    found = seen(encoder, *files)
    assert batches == [2, 1, 3, 1]
    np.testing.assert_allclose(found[3:], found[[0, 0, 0, 0]], atol=1e-5)


def test_where_memory_runs_out_batches_halve_and_a_fault_of_another_kind_is_none_of_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder: Any = load(ModelSpec(str(folders["router"]), 8))
    network, sizes = encoder._images._network, []

    def small(pictures: Any, *, batch_size: int, **_: Any) -> Any:
        sizes.append(batch_size)
        if batch_size > 16:
            raise torch.OutOfMemoryError
        return np.ones((len(pictures), 8), np.float32)

    monkeypatch.setattr(network, "encode_document", small)
    assert seen(encoder, image("red")).shape == (1, 8)
    assert sizes == [64, 32, 16]
    monkeypatch.setattr(network, "encode_document", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        seen(encoder, image("red"))


def test_bytes_that_show_nothing_fail_alone_and_integers_are_refused(folders: dict[str, Path]) -> None:
    encoder = load(ModelSpec(str(folders["router"]), 8))
    with pytest.raises(DocumentError, match="read as none of"):
        encoder.encode("document", [Piece.whole(Content("image", Blob("0" * 64, 2, lambda: b"no")))])
    with pytest.raises(EncoderError, match="int8 was asked for"):
        load(ModelSpec(str(folders["router"]), 8, dtype="int8"))
