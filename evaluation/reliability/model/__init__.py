"""Layer L0: the protocol as a model small enough to explore whole, every interleaving of it."""

from __future__ import annotations

from evaluation.reliability.model.guards import hunt

__all__ = ["hunt"]
