"""Owns the local embedding engine: transformers run on packed tokens, without padding, for the families it knows."""

from __future__ import annotations

from revector.encoders.packed.engine import PackedEngine, is_out_of_memory
from revector.encoders.packed.families import Unsupported
from revector.encoders.packed.speeds import instructions, no_faster, product_speeds

__all__ = ["PackedEngine", "Unsupported", "instructions", "is_out_of_memory", "no_faster", "product_speeds"]
