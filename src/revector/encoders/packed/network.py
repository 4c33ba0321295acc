"""Owns the forward pass of a transformer over packed tokens: embeddings, layers, pooling and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from revector.encoders.packed.attention import Attention, Shape
from revector.encoders.packed.layout import Batch
from revector.encoders.packed.linears import Linear

if TYPE_CHECKING:
    from torch import Tensor

Map = Callable[["Tensor"], "Tensor"]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The modes of sentence-transformers' Pooling, all of which are reproduced."""


@dataclass(frozen=True, slots=True)
class RotaryEmbedding:
    """Rotary position embedding (Su et al., 2021): ``cos`` and ``sin`` ``(positions, width)``, float32."""

    cos: Tensor
    sin: Tensor

    def __call__(self, qkv: Tensor, positions: Tensor) -> Tensor:
        """Return ``qkv`` ``(tokens, 3, heads, width)`` with queries and keys turned by their positions."""
        import torch

        turned = qkv[:, :2].float()
        half = turned.shape[-1] // 2
        across = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        cos, sin = self.cos[positions][:, None, None], self.sin[positions][:, None, None]
        qkv[:, :2] = (turned * cos).addcmul_(across, sin)
        return qkv


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. Norms come after each half (BERT), or before (ModernBERT: ``pre_norm``).

    ``gate`` is the second half of a gated unit: its result multiplies that of ``up``.
    """

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    attention_norm: Map
    feed_norm: Map
    shape: Shape
    pre_norm: bool = False
    gate: Linear | None = None
    rotation: RotaryEmbedding | None = None


@dataclass(frozen=True, slots=True)
class Transformer:
    """The layers of a model on one device. ``embed``: ids and positions to ``(tokens, hidden)``."""

    embed: Callable[[Tensor, Tensor], Tensor]
    layers: Sequence[Layer]
    final_norm: Map | None
    heads: int
    attend: Attention

    def __call__(self, batch: Batch) -> Tensor:
        """Return the last hidden states ``(tokens, hidden)``."""
        hidden = self.embed(batch.ids, batch.positions)
        for layer in self.layers:
            hidden = self._pre(layer, hidden, batch) if layer.pre_norm else self._post(layer, hidden, batch)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def _post(self, layer: Layer, hidden: Tensor, batch: Batch) -> Tensor:
        hidden = layer.attention_norm(layer.out(self._attention(layer, hidden, batch), hidden))
        return layer.feed_norm(layer.down(layer.up(hidden), hidden))

    def _pre(self, layer: Layer, hidden: Tensor, batch: Batch) -> Tensor:
        hidden = layer.out(self._attention(layer, layer.attention_norm(hidden), batch), hidden)
        normed = layer.feed_norm(hidden)
        inner = layer.up(normed)
        if layer.gate is not None:
            inner.mul_(layer.gate(normed))
        return layer.down(inner, hidden)

    def _attention(self, layer: Layer, hidden: Tensor, batch: Batch) -> Tensor:
        qkv = layer.qkv(hidden)
        qkv = qkv.view(len(qkv), 3, self.heads, -1)
        if layer.rotation is not None:
            qkv = layer.rotation(qkv, batch.positions)
        return self.attend(qkv, batch, layer.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """A sentence encoder on one device: transformer, poolings (one after the other, if several), further modules.

    ``head`` are sentence-transformers' own modules on sentence vectors, in float32.
    """

    transformer: Transformer
    poolings: tuple[str, ...]
    head: Sequence[Any] = field(default_factory=tuple)

    def __call__(self, batch: Batch) -> Tensor:
        """Return sentence vectors ``(batch.texts, width)``, float32."""
        import torch

        hidden = self.transformer(batch)
        vectors = torch.cat([pool(hidden, batch, mode) for mode in self.poolings], dim=1)[: batch.texts]
        features = {"sentence_embedding": vectors}
        for module in self.head:
            features = module(features)
        return features["sentence_embedding"]


def pool(hidden: Tensor, batch: Batch, mode: str) -> Tensor:
    """Return one vector per text, ``(texts, hidden)``, float32, filler included; sums are taken in float32."""
    if mode in ("cls", "lasttoken"):
        places = batch.bounds[:-1] if mode == "cls" else batch.bounds[1:] - 1
        return hidden[places].float()
    if mode == "max":
        return _reduce(hidden, batch, "max")
    lengths = batch.bounds.diff()[:, None].float()
    if mode == "weightedmean":
        weights = (batch.place_in_text + 1)[:, None]
        return _reduce(hidden.float() * weights, batch, "sum") / (lengths * (lengths + 1) / 2)
    return _reduce(hidden, batch, "sum") / (lengths if mode == "mean" else lengths.sqrt())


def _reduce(values: Tensor, batch: Batch, how: str) -> Tensor:
    """Return the ``sum`` or ``max`` of ``values`` ``(tokens, hidden)`` over each text."""
    import torch

    if batch.device.type != "cpu":
        return torch.segment_reduce(values.float(), how, lengths=batch.bounds.diff().long(), unsafe=True)
    groups = (values[at : at + count * length].view(count, length, -1) for at, count, length in batch.runs)
    if how == "max":
        return torch.cat([group.amax(1).float() for group in groups])
    return torch.cat([group.sum(1, dtype=torch.float32) for group in groups])
