"""Owns how texts lie in memory without padding: windows sorted by length, and batches of them by token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALIGNMENT = 16
"""Batches hold a multiple of this many tokens: oneDNN prepares its code again for every number of rows (about 0.4 ms
each, the newest 1,024 are kept), and tensor cores want multiples of 8."""

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """The tokens of some texts, longest text first, one after the other.

    ``rows`` ``(n,)``: the number of each text among those given, from ``first``; ``lengths`` ``(n,)`` in tokens;
    ``ends`` ``(n + 1,)``: where each text begins, and the end of the last. ``ids`` and ``positions`` have
    ``ALIGNMENT`` spare entries.
    """

    rows: npt.NDArray[np.int64]
    lengths: Ints
    ends: npt.NDArray[np.int64]
    ids: Ints
    positions: Ints

    def stop(self, start: int, budget: int) -> int:
        """Return where a batch from text ``start`` ends: within ``budget`` tokens, but at least one text."""
        return max(start + 1, int(np.searchsorted(self.ends, self.ends[start] + budget, side="right")) - 1)


def make_window(ids: Sequence[Sequence[int]], *, first: int, pad_id: int | None) -> TokenWindow:
    """Return the window of texts whose token ``ids`` are given; each has one token or more.

    ``pad_id``: for models that number positions by their padding token (RoBERTa and its kin): from ``pad_id`` + 1,
    with the padding token itself, where a text holds it, at ``pad_id``. None counts from 0.
    """
    given = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
    order = np.argsort(-given, kind="stable")
    lengths = given[order]
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    total = int(ends[-1])
    flat = np.zeros(total + ALIGNMENT, dtype=np.int32)
    flat[:total] = np.fromiter(chain.from_iterable(ids[n] for n in order), dtype=np.int32, count=total)
    positions = np.zeros_like(flat)
    if pad_id is None:
        positions[:total] = np.arange(total) - np.repeat(ends[:-1], lengths)
    else:
        counted = flat[:total] != pad_id
        before = np.concatenate([[0], np.cumsum(counted)])
        positions[:total] = (before[1:] - np.repeat(before[ends[:-1]], lengths)) * counted + pad_id
    return TokenWindow(order + first, lengths, ends, flat, positions)


@dataclass(frozen=True)
class Batch:
    """Some texts of a window on their device: ``ids`` and ``positions`` ``(tokens,)``, ``lengths`` per text, sorted.

    The last text may be filler that brings the tokens to a multiple of ``ALIGNMENT``; ``texts`` counts the real ones.
    """

    ids: Tensor
    positions: Tensor
    lengths: list[int]
    texts: int

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.ids.device

    @property
    def longest(self) -> int:
        """Tokens of the longest text, filler included."""
        return max(self.lengths[0], self.lengths[-1])

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Texts of equal length: ``(first token, texts, length)`` each, in order."""
        runs: list[tuple[int, int, int]] = []
        token = 0
        for length, same in groupby(self.lengths):
            count = sum(1 for _ in same)
            runs.append((token, count, length))
            token += count * length
        return runs

    @cached_property
    def bounds(self) -> Tensor:
        """Where texts begin and the last ends: ``(texts + 1,)``, int32, on the device."""
        return to_device(np.cumsum([0, *self.lengths], dtype=np.int32), self.device)

    @cached_property
    def text_of_token(self) -> Tensor:
        """Which text each token belongs to: ``(tokens,)``."""
        import torch

        texts = torch.arange(len(self.lengths), device=self.device)
        return torch.repeat_interleave(texts, self.bounds.diff(), output_size=len(self.ids))

    @cached_property
    def place_in_text(self) -> Tensor:
        """Which token of its text each token is, from 0: ``(tokens,)``."""
        import torch

        return torch.arange(len(self.ids), device=self.device) - self.bounds[:-1][self.text_of_token]


def make_batch(window: TokenWindow, ids: Tensor, positions: Tensor, start: int, stop: int) -> Batch:
    """Return texts ``start`` to ``stop`` of ``window``, whose ``ids`` and ``positions`` are on the device already."""
    begin, end = int(window.ends[start]), int(window.ends[stop])
    lengths: list[int] = window.lengths[start:stop].tolist()
    if filler := -(end - begin) % ALIGNMENT:
        lengths.append(filler)
    return Batch(ids[begin : end + filler], positions[begin : end + filler], lengths, stop - start)


def to_device(values: Ints, device: torch.device) -> Tensor:
    """Return ``values`` as a tensor on ``device``; the copy to a GPU goes through pinned memory and is not awaited."""
    import torch

    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
