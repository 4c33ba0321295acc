"""Owns what a person hears about number formats on this CPU: which are computed as asked, and what each costs."""

from __future__ import annotations

from functools import cache, partial

from revector.encoders.packed.choosing import INPUTS, OUTPUTS, ROWS, least_seconds
from revector.encoders.packed.linears import compute_dtype, make_linear
from revector.encoders.packed.linears_int8 import LARGEST, calibrate, multiplies_exactly


def no_faster(dtype: str, device: str) -> str:
    """Return a clause where a model of ``dtype`` is computed in float32 on ``device``, so no faster, or nothing."""
    import torch

    if device.partition(":")[0] != "cpu" or dtype not in ("bfloat16", "float16"):
        return ""
    if compute_dtype(dtype, torch.device("cpu")) != torch.float32:
        return ""
    other = "int8" if multiplies_exactly("int8") else "int7" if multiplies_exactly("int7") else ""
    instead = f"; {other} is faster, and keeps fewer neighbours" if other else ""
    return f"{dtype} is computed in float32 on this CPU ({instructions()}) and saves no time{instead}"


def instructions() -> str:
    """Return the vector instructions that torch uses on this CPU: ``AVX2``, ``AVX512`` or another."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


@cache
def product_speeds() -> dict[str, float | None]:
    """Return how many times as fast as in float32 a product of MiniLM's size is, by dtype; None where it is refused.

    Measured at the first call, in about 0.2 s of processor time. A whole model gains less: attention stays as it is.
    """
    import torch

    x = torch.linspace(-1, 1, 4 * ROWS * INPUTS).view(-1, INPUTS)
    weight = torch.linspace(-1, 1, OUTPUTS * INPUTS).view(OUTPUTS, INPUTS)
    dtypes = ["float32", "bfloat16", *(one for one in LARGEST if multiplies_exactly(one))]
    with torch.inference_mode():
        maps = {dtype: make_linear(weight, None, dtype=dtype, role="layer0.ffn.up") for dtype in dtypes}
        inputs = {dtype: x.to(compute_dtype(dtype, x.device)) for dtype in dtypes}
        calibrate(maps.values(), lambda _texts: [map_(inputs[dtype]) for dtype, map_ in maps.items()])
        took = least_seconds({dtype: partial(map_, inputs[dtype]) for dtype, map_ in maps.items()})
    every = ("float32", "bfloat16", *LARGEST)
    return {dtype: took["float32"] / took[dtype] if dtype in took else None for dtype in every}
