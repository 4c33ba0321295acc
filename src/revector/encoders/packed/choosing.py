"""Owns the choice between two ways to compute the same: both are tried on a small map when a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS, INPUTS, OUTPUTS = 128, 384, 1536
"""The map that is tried: the first of MiniLM's feed-forward maps; 2 to 3 ms in float32 on a core with AVX2."""
TURNS = 5
WORTH = 1.2
"""bfloat16 must be this many times as fast to be computed in: a measurement near the bar would fall out differently
in two processes, and float32 is nearer to the model."""


def least_seconds(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least seconds of processor time that each of ``ways`` took; they take turns, ``TURNS`` each.

    Another process that runs meanwhile changes little: only this thread's own time counts, and the least of it.
    """
    for way in ways.values():
        way()  # oneDNN prepares its code at the first call
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            started = time.thread_time()
            way()
            took[name].append(time.thread_time() - started)
    return {name: min(seconds) for name, seconds in took.items()}


@cache
def gelu_is_faster_apart(dtype: torch.dtype, algorithm: str) -> bool:
    """Whether GELU takes less time as a pass of torch's own than inside oneDNN's product, on this CPU in ``dtype``.

    ``algorithm``: ``none`` for the exact one, ``tanh``. With AVX-512 the fused one is nearly free; with AVX2 it takes
    2.8 times the time of torch's. Results are the same up to rounding.
    """
    import torch

    x, weight = _tried(dtype)
    multiply: Any = torch.ops.mkldnn._linear_pointwise
    gelu_: Any = torch.ops.aten.gelu_
    with torch.inference_mode():
        took = least_seconds(
            {
                "fused": lambda: multiply(x, weight, None, "gelu", [], algorithm),
                "apart": lambda: gelu_(multiply(x, weight, None, "none", [], ""), approximate=algorithm),
            }
        )
    return took["apart"] < took["fused"]


@cache
def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies in bfloat16 ``WORTH`` times as fast as in float32.

    Not with AVX2, which has no instructions for it, nor with an AVX-512 that oneDNN has to emulate them on.
    """
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    multiply: Any = torch.ops.mkldnn._linear_pointwise
    maps = {name: _tried(getattr(torch, name)) for name in ("float32", "bfloat16")}
    with torch.inference_mode():
        took = least_seconds({name: partial(multiply, *map_, None, "none", [], "") for name, map_ in maps.items()})
    return took["float32"] >= WORTH * took["bfloat16"]


def _tried(dtype: torch.dtype) -> tuple[Any, Any]:
    """Return inputs ``(ROWS, INPUTS)`` and a weight ``(OUTPUTS, INPUTS)`` in oneDNN's layout, in ``dtype``."""
    import torch

    numbers = torch.linspace(-1, 1, ROWS * INPUTS).view(ROWS, INPUTS).to(dtype)
    weight = torch.linspace(-1, 1, OUTPUTS * INPUTS).view(OUTPUTS, INPUTS).to(dtype)
    return numbers, torch.ops.mkldnn._reorder_linear_weight(weight)
