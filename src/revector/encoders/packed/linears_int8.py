"""Owns the linear map in 8-bit integers for CPUs: calibration on fixed texts, rounding, and the proof that the CPU can.

Weights are rounded per output, inputs by one step per channel that is settled once, on ``CALIBRATION``: a vector
depends on its own text alone. Channels with large values would spend the range of all others, so a part of their size
moves into the weights (SmoothQuant: Xiao et al., 2023, arXiv:2211.10438).

x86 CPUs without VNNI add two products of an unsigned and a signed byte in 16 bits, which overflow with weights of 8
bits and never with 7. Hence two dtypes: int8 for CPUs with VNNI, and int7, whose products are exact on every x86 CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from revector.encoders.packed.choosing import gelu_is_faster_apart
from revector.encoders.probes import PROBE_TEXTS
from revector.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

_TEXTS = """\
The committee published its annual report in March, noting that exports had grown by four percent while domestic
demand stayed flat. Critics said the figures ignored seasonal effects, and asked for a revision before June.

Compute the arithmetic mean along the specified axis.
Parameters
----------
a : array_like
    Array containing numbers whose mean is desired.
axis : None or int, optional
    Axis along which the means are computed.
Returns
-------
m : ndarray
    A new array containing the mean values.

We report a randomised, double-blind trial of 412 adults with type 2 diabetes. After 24 weeks the mean change in HbA1c
was -0.9% (95% CI -1.1 to -0.7) against -0.2% with placebo; adverse events were mild and transient.

how do I reset my password if I no longer have access to my email?

Return a dictionary of the keyword arguments, or raise TypeError if any of them is unknown. Deprecated since version
1.4: use ``options`` instead.

In laminar flow over a flat plate the boundary layer thickens with the square root of the distance from the leading
edge; transition depends on the Reynolds number, free-stream turbulence and surface roughness.

import os
class Reader:
    def __init__(self, path, mode='r'):
        self.path = path
    def lines(self):
        with open(self.path) as file:
            for line in file:
                yield line.rstrip()

She closed the door quietly, listened for a moment, and walked down to the river, where the boats were already out and
the gulls were crying over the nets.

best budget laptop 2023 for students

The tenant shall keep the premises in good repair and shall not assign or sublet without the prior written consent of
the landlord, which shall not be unreasonably withheld. Notice: thirty (30) days.

Preheat the oven to 180 °C. Whisk two eggs with 150 g of sugar until pale, fold in the flour and a pinch of salt, and
bake for 25 minutes or until a skewer comes out clean.

Photosynthesis converts light energy into chemical energy: 6 CO2 + 6 H2O -> C6H12O6 + 6 O2. In plants it takes place
in the chloroplasts, whose membranes hold chlorophyll.

Traceback (most recent call last):
  File "main.py", line 12, in <module>
    run(config['port'])
KeyError: 'port'

Manchester United beat Chelsea 2-1 on Saturday thanks to a late goal in the 89th minute.

El gobierno anunció ayer nuevas medidas para reducir el desempleo juvenil en las regiones del sur.

Let G be a finite group and H a normal subgroup of prime index p. Then every element of G outside H has order
divisible by p, and the quotient G/H is cyclic.

The battery lasts about two days, the screen is bright enough outdoors, but the speaker crackles at full volume. I
would buy it again at this price. 4/5 stars.

ALTER TABLE orders ADD COLUMN shipped_at timestamptz; CREATE INDEX CONCURRENTLY ON orders (customer_id, shipped_at);

Founded in 1848 by German immigrants, the town grew around its railway junction and had 12,400 inhabitants by 1900.
Its cathedral, rebuilt after the fire of 1911, is listed as a monument.

A hash table stores key-value pairs in an array of buckets; collisions are resolved by chaining or open addressing,
and lookups take constant time on average if the load factor stays bounded.

Symptoms of dehydration include thirst, dark urine, dizziness and confusion. See a doctor at once if a child is
drowsy, has no tears when crying, or has not passed urine for eight hours.

yes

Quarterly revenue: $4.2bn (+7% y/y); operating margin 18.3%; free cash flow $610m; guidance unchanged."""

CALIBRATION: tuple[str, ...] = (*PROBE_TEXTS, *_TEXTS.split("\n\n"))
"""Texts that settle the steps of all inputs. Never edit: int8 generations that are stored would no longer match."""

LARGEST = {"int8": 127, "int7": 64}
"""Largest weight by dtype. int7: 2 * 255 * 64 = 32,640 is the largest sum of two products, and 16 bits hold 32,767."""

MIGRATION = 0.5
"""Power of a channel's largest value that moves into the weights: 0 none, 1 all of it."""

_POST = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "none": ("none", "")}


def is_int8(role: str) -> bool:
    """Whether the map of ``role`` is rounded for a model of dtype int8 or int7; the others stay in floating point.

    All but ``ffn.down``: its inputs, behind GELU, hold rare values a hundred times the usual one, and its weights
    single entries of 50 times their neighbours. Measured on all-MiniLM-L6-v2 and 300 docstrings: overlap@10 with
    float32 is .956 with it and .972 without, for 3 % more time; in int7 .947 and .968.
    """
    return not role.endswith("ffn.down")


class Int8Linear:
    """A linear map that watches its inputs in float32 until ``settle``, and multiplies in int8 from then on.

    ``weight`` ``(out, in)`` and ``bias`` ``(out,)`` in float32 on the CPU; ``activation`` as in ``linears``; ``dtype``
    int8 or int7. Raises ``EncoderError`` where ``require_int8`` does.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str, dtype: str = "int8") -> None:
        import torch

        require_int8(weight.device.type, dtype)
        self._largest = LARGEST[dtype]
        self._weight: Tensor | None = weight.float()
        self._bias = torch.zeros(len(weight)) if bias is None else bias.float()
        self._post = _POST[activation]
        self._least, self._most = torch.zeros(weight.shape[1]), torch.zeros(weight.shape[1])

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(x @ weight.T + bias)``, plus ``residual``, in the dtype of ``x``: ``(rows, out)``.

        Each row depends on the same row of ``x`` and ``residual`` alone.
        """
        import torch

        if self._weight is not None:
            return self._watch(x, residual, self._weight)
        if not len(x):
            return x.new_empty(0, len(self._bias))
        scaled = x.to(torch.float32, copy=True).mul_(self._inverse).add_(self._zero - 128)
        rounded = scaled.round_().clamp_(-128, 127).to(torch.int8)
        # oneDNN is fast for unsigned inputs alone: signed ones fall back to its reference code, 10,000 times slower.
        unsigned = rounded.view(torch.uint8).bitwise_xor_(128)
        name, algorithm = self._post
        apart = name == "gelu" and gelu_is_faster_apart(x.dtype, algorithm)
        map_: Any = torch.ops.onednn.qlinear_pointwise
        packed = (unsigned, 1.0, self._zero, self._packed, self._steps, self._zeros)
        if residual is None or name != "none":
            post: Any = ("none", [], "") if apart else (name, [], algorithm)
            done: Tensor = map_(*packed, self._bias, 1.0, 0, x.dtype, *post)
            if apart:
                torch.ops.aten.gelu_(done, approximate=algorithm)
            return done if residual is None else done.add_(residual)
        added: Tensor = map_.binary(*packed, residual, self._bias, 1.0, 0, x.dtype, 1.0, 0, "add", 1.0, "none", [], "")
        return added

    def _watch(self, x: Tensor, residual: Tensor | None, weight: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F  # noqa: N812

        if len(x):
            self._least = torch.minimum(self._least, x.amin(dim=0).float())
            self._most = torch.maximum(self._most, x.amax(dim=0).float())
        done = F.linear(x.float(), weight, self._bias)
        name, algorithm = self._post
        if name == "gelu":
            done = F.gelu(done, approximate=algorithm)
        elif name == "relu":
            done = F.relu(done)
        return (done if residual is None else done.add_(residual)).to(x.dtype)

    def settle(self) -> None:
        """Fix the steps by the inputs seen so far, round the weights, and drop the float ones."""
        import torch

        if self._weight is None:
            return
        largest = torch.maximum(-self._least, self._most)
        # A channel that was (nearly) silent on the calibration texts keeps a step that holds more than silence.
        moved = largest.clamp(min=float(largest.mean()) / 50).clamp_(min=1e-6) ** MIGRATION
        least, most = float((self._least / moved).min()), float((self._most / moved).max())
        step = max(most - least, 1e-6) / 255
        weight = self._weight * moved
        steps = weight.abs().amax(dim=1).clamp_(min=1e-12) / self._largest
        rounded = (weight / steps[:, None]).round_().to(torch.int8)
        self._packed: Any = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._steps, self._zeros = steps * step, torch.zeros(len(weight), dtype=torch.int64)
        self._inverse, self._zero = 1 / (moved * step), round(-least / step)
        self._weight = None


def calibrate(maps: Iterable[object], embed: Callable[[Sequence[str]], object]) -> None:
    """Settle each ``Int8Linear`` among ``maps`` by what it sees while ``embed`` embeds ``CALIBRATION``."""
    embed(CALIBRATION)
    for one in maps:
        if isinstance(one, Int8Linear):
            one.settle()


def require_int8(device: str, dtype: str = "int8") -> None:
    """Raise ``EncoderError`` unless ``device`` is ``cpu``, and this torch and CPU multiply ``dtype`` exactly.

    x86 CPUs without VNNI add pairs of products in 16 bits, which overflow; a product of the largest values shows it.
    """
    other = "bfloat16 or float32"
    if device != "cpu":
        found = f"the device is {device}"
    elif not multiplies_exactly(dtype):
        lacks = "this CPU (no AVX-512 VNNI or AVX-VNNI?)" if dtype == "int8" else "this CPU"
        found = f"{lacks} or this build of torch does not multiply {dtype} exactly"
        other = "int7 (weights of 7 bits: exact here) or float32" if multiplies_exactly("int7") else other
    else:
        return
    where = "CPUs with VNNI" if dtype == "int8" else "x86 CPUs"
    raise EncoderError(
        f"{dtype} was asked for by model.dtype, but {found}. It is for {where} alone. Nothing was embedded; use "
        f"such a CPU, or write a revision with model.dtype {other}."
    )


@cache
def multiplies_exactly(dtype: str) -> bool:
    """Whether the largest weights of ``dtype`` times the largest inputs give the right sums on this CPU."""
    import torch

    largest = LARGEST[dtype]
    try:
        ones = torch.ones(64), torch.zeros(64, dtype=torch.int64), torch.zeros(64)
        packed: Any = torch.ops.onednn.qlinear_prepack(torch.full((64, 64), largest, dtype=torch.int8), None)
        inputs = torch.full((16, 64), 255, dtype=torch.uint8)
        done = torch.ops.onednn.qlinear_pointwise(inputs, 1.0, 0, packed, *ones, 1.0, 0, torch.float32, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool((done == 64 * largest * 255).all())
