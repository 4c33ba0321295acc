"""Owns the linear maps of packed layers: how a weight is kept and multiplied on each kind of device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from revector.encoders.packed.choosing import bfloat16_is_faster, gelu_is_faster_apart
from revector.encoders.packed.linears_int8 import LARGEST, Int8Linear, is_int8

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu")
"""Functions that a linear map can apply to its result; ``gelu`` is the exact one, by erf."""


class Linear(Protocol):
    """A linear map with what follows it, so that both can be one pass over memory."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(x @ weight.T + bias)``, plus ``residual``: ``(rows, in)`` to ``(rows, out)``.

        ``x`` and ``residual`` are contiguous, in the layers' dtype, as is the result.
        """
        ...


def compute_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype that layers run in for a model of ``dtype``: ``float32``, ``bfloat16`` or ``float16``.

    On CPUs float16, and bfloat16 where it is not really faster, are computed in float32 on the rounded weights: nearer
    to the model and faster than emulation. Layers of an int8 model run in bfloat16 around their int8 products, those of
    an int7 model in float32, so that every CPU gives the same vectors.
    """
    import torch

    dtype = {"int8": "bfloat16", "int7": "float32"}.get(dtype, dtype)
    if device.type != "cpu":
        wanted: torch.dtype = getattr(torch, dtype)
        return wanted
    native = dtype == "bfloat16" and _has_onednn() and bfloat16_is_faster()
    return torch.bfloat16 if native else torch.float32


def make_linear(weight: Tensor, bias: Tensor | None, *, dtype: str, role: str, activation: str = "none") -> Linear:
    """Return the linear map of ``weight`` ``(out, in)`` and ``bias`` ``(out,)``, which are on their device already.

    ``dtype`` is the model's; ``role`` says where the map stands (``layer0.attention.qkv``, ``.attention.out``,
    ``.ffn.up``, ``.ffn.gate``, ``.ffn.down``); ``activation`` is one of ``ACTIVATIONS``.
    """
    if dtype in LARGEST and is_int8(role):
        return Int8Linear(weight, bias, activation, dtype)
    kept = compute_dtype(dtype, weight.device)
    weight, bias = weight.to(kept), None if bias is None else bias.to(kept)
    if weight.device.type == "cpu" and _has_onednn():
        return _OneDnnLinear(weight, bias, activation)
    return _TorchLinear(weight, bias, activation)


def _has_onednn() -> bool:
    """Whether torch carries oneDNN with the fused linear map that its own compiler emits for CPUs."""
    import torch

    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _OneDnnLinear:
    """A weight in oneDNN's blocked layout, multiplied with bias, activation and residual in one pass.

    Measured on an AMD EPYC with AVX-512 at 1,024 rows: 230 to 256 GFLOP/s in float32 where ``F.linear`` (MKL) reaches
    105, and GELU and residual for 3 to 10 % instead of a pass over memory each; in bfloat16 500 instead of 470. On one
    with AVX2 alone: 62, MKL 55, and the fused GELU takes a quarter of the map's time, which a pass of its own halves.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        import torch

        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        name, algorithm = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}.get(activation, (activation, ""))
        apart = name == "gelu" and gelu_is_faster_apart(weight.dtype, algorithm)
        self._gelu = algorithm if apart else None
        self._post = ("none", "") if apart else (name, algorithm)
        self._map: Any = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        import torch

        name, algorithm = self._post
        if residual is None or name != "none" or self._gelu is not None:
            done: Tensor = self._map(x, self._weight, self._bias, name, [], algorithm)
            if self._gelu is not None:
                torch.ops.aten.gelu_(done, approximate=self._gelu)
            return done if residual is None else done.add_(residual)
        added: Tensor = self._map.binary(x, residual, self._weight, self._bias, "add")
        return added


class _TorchLinear:
    """A weight as torch keeps it, for devices where torch's own product is the fastest."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        self._weight, self._bias = weight, bias
        self._activation = _activation(activation)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        import torch.nn.functional as F  # noqa: N812

        done = self._activation(F.linear(x, self._weight, self._bias))
        return done if residual is None else done.add_(residual)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    import torch.nn.functional as F  # noqa: N812

    known: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda x: x,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
    }
    return known[name]
