"""Owns embedding by packed networks: tokenising ahead, budgets of tokens, devices side by side, order restored."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector import counts
from revector.encoders.packed.families import check_supported, extract, padding_id
from revector.encoders.packed.layout import Batch, TokenWindow, make_batch, make_window, to_device
from revector.encoders.packed.linears_int8 import LARGEST, calibrate
from revector.encoders.packed.network import Network
from revector.interfaces import Vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from torch import Tensor

WINDOW_TEXTS = 2048
"""Texts that are tokenised and sorted by length together."""
WINDOWS_AHEAD = 2
"""Windows that may wait, tokenised, for a device."""
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65_536
"""Default budgets. CPU: 512 to 8,192 differ by less than 10 % with MiniLM; GPU: not measured, chosen so that kernels
are large beside the cost of launching them."""

_LOGGER = logging.getLogger(__name__)


def default_batch_tokens(device: torch.device) -> int:
    """Return how many tokens a forward pass takes where nothing is said."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left for a tensor."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


class PackedEngine:
    """A model on one or more devices, ready to embed. Raises ``Unsupported`` for models that it cannot reproduce.

    ``batch_tokens``: tokens of a forward pass (a longer text is one alone); None takes what was measured best. Where
    memory runs out, the device's budget halves for good. Not for several threads at once.
    """

    def __init__(
        self,
        network: SentenceTransformer,
        *,
        devices: Sequence[torch.device],
        dtype: str,
        batch_tokens: int | None,
        prompts: bool,
    ) -> None:
        check_supported(network, prompts=prompts)
        self._tokenizer = _cutting_tokenizer(network)
        self._pad_id = padding_id(network)
        networks = {device: extract(network, device=device, dtype=dtype) for device in dict.fromkeys(devices)}
        self._replicas = [_Replica(networks[device], device, batch_tokens) for device in devices]
        if dtype in LARGEST:
            layers = chain.from_iterable(one.transformer.layers for one in networks.values())
            maps = (each for layer in layers for each in (layer.qkv, layer.out, layer.up, layer.down, layer.gate))
            calibrate(maps, lambda texts: self.encode(texts, 1))

    def encode(self, texts: Sequence[str], dim: int) -> Vectors:
        """Return the first ``dim`` numbers of each text's vector: ``(len(texts), dim)``, float32, in order."""
        vectors = np.empty((len(texts), dim), dtype=np.float32)
        size = min(WINDOW_TEXTS, -(-len(texts) // len(self._replicas)))
        windows = self._windows(texts, size)
        with closing(windows):
            if len(self._replicas) == 1 or len(texts) <= size:
                self._replicas[0].run(windows, vectors)
            else:
                self._share(windows, vectors)
        return vectors

    def _share(self, windows: Iterator[TokenWindow], vectors: Vectors) -> None:
        """Let every device take windows until none is left; where one fails, the others stop at their next."""
        shared = _Shared(windows)
        with ThreadPoolExecutor(len(self._replicas), thread_name_prefix="revector-device") as threads:
            runs = [threads.submit(replica.run, shared, vectors) for replica in self._replicas]
            try:
                for run in as_completed(runs):
                    run.result()
            finally:
                shared.stop()

    def _windows(self, texts: Sequence[str], size: int) -> Generator[TokenWindow]:
        """Yield the windows of ``texts``; all but a single one are tokenised by a thread while devices compute."""
        if len(texts) <= size:
            if texts:
                yield self._window(texts, 0)
            return
        ahead = ThreadPoolExecutor(1, thread_name_prefix="revector-tokens")
        waiting: deque[Future[TokenWindow]] = deque()
        try:
            for first in range(0, len(texts), size):
                waiting.append(ahead.submit(self._window, texts[first : first + size], first))
                if len(waiting) > WINDOWS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            ahead.shutdown(wait=True, cancel_futures=True)

    def _window(self, texts: Sequence[str], first: int) -> TokenWindow:
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        counts.add("tokens_embedded", sum(map(len, ids)), "local")
        return make_window(ids, first=first, pad_id=self._pad_id)


class _Shared(Iterator[TokenWindow]):
    """Windows that several threads take from, each by one."""

    def __init__(self, windows: Iterator[TokenWindow]) -> None:
        self._windows, self._lock, self._stopped = windows, threading.Lock(), False

    def __next__(self) -> TokenWindow:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._windows)

    def stop(self) -> None:
        """Give out no further window."""
        self._stopped = True


@dataclass(frozen=True, slots=True)
class _Pending:
    """Vectors of a window that a device may still be computing; ``done`` is its CUDA event."""

    rows: npt.NDArray[np.int64]
    host: Tensor
    done: Any

    def collect(self, vectors: Vectors) -> None:
        if self.done is not None:
            self.done.synchronize()
        vectors[self.rows] = self.host.numpy()


class _Replica:
    """A network on its device with its budget of tokens."""

    def __init__(self, network: Network, device: torch.device, batch_tokens: int | None) -> None:
        self._network, self._device = network, device
        self._budget = batch_tokens or default_batch_tokens(device)

    def run(self, windows: Iterator[TokenWindow], vectors: Vectors) -> None:
        """Write the vectors of ``windows`` into their rows. A window is launched before the last one is awaited."""
        import torch

        pending: _Pending | None = None
        with torch.inference_mode():
            for window in windows:
                launched = self._launch(window, vectors.shape[1])
                if pending is not None:
                    pending.collect(vectors)
                pending = launched
            if pending is not None:
                pending.collect(vectors)

    def _launch(self, window: TokenWindow, dim: int) -> _Pending:
        import torch

        ids, positions = to_device(window.ids, self._device), to_device(window.positions, self._device)
        parts: list[Tensor] = []
        start = 0
        while start < len(window.rows):
            stop = window.stop(start, self._budget)
            part = self._attempt(make_batch(window, ids, positions, start, stop))
            if part is None:
                self._halve(int(window.ends[stop] - window.ends[start]))
                continue
            parts.append(part[:, :dim])
            start = stop
        found = torch.cat(parts)
        if self._device.type != "cuda":
            return _Pending(window.rows, found.cpu(), None)
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
        done = torch.cuda.current_stream(self._device).record_event()
        return _Pending(window.rows, host, done)

    def _attempt(self, batch: Batch) -> Tensor | None:
        """Return the batch's vectors, or None where memory ran out and the batch can still be cut."""
        try:
            return self._network(batch)
        except RuntimeError as error:
            if batch.texts == 1 or not is_out_of_memory(error):
                raise
        return None

    def _halve(self, tokens: int) -> None:
        import torch

        self._budget = max(1, min(self._budget, tokens) // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _LOGGER.warning(
            "no memory for %d tokens on %s: batches hold %d from now on", tokens, self._device, self._budget
        )


def _cutting_tokenizer(network: SentenceTransformer) -> Tokenizer:
    """Return a copy of the model's tokenizer that cuts as sentence-transformers does and does not pad."""
    from tokenizers import Tokenizer

    own: Any = network.tokenizer
    copy = Tokenizer.from_str(own.backend_tokenizer.to_str())
    copy.no_padding()
    copy.enable_truncation(max_length=int(network.max_seq_length or 0), direction=own.truncation_side)
    return copy
