"""Measures how fast an encoder is here and now, on chunks drawn as they occur in the collection."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

from revector.encoders.probes import probes_of
from revector.errors import EncoderMismatch, EncoderUnavailable
from revector.indexing.encoding import MODEL_ERRORS
from revector.interfaces import Encoder, Piece
from revector.planning.estimate import NORMAL_95, Estimate
from revector.planning.forecast import Probe

FIRST_BATCH, MOST_BATCH = 32, 1_024
FULL_S = 0.5
"""A batch is doubled until it takes this long: a GPU is not full with 32 chunks."""

PATIENT_S = 5.0
"""A probe that may take so long goes on for a tenth of it at least."""

API_CHUNKS = 32
"""Behind an API each chunk is paid, and limits, not batches, decide how fast it is."""


def probe(encoder: Encoder, chunks: Sequence[tuple[Piece, float]], *, seconds: float, cut_tokens_per_s: float) -> Probe:
    """Embed ``chunks`` (each with how many of the collection it stands for) for at most about ``seconds``.

    On a CPU a chunk is hardly embedded twice; another device is kept busy for all of the time, as its first seconds say
    little. A text that cannot be embedded is counted and left out. Raises what the encoder raises for all of them.
    """
    device, api = str(getattr(encoder, "device", "cpu")), encoder.components.get("kind") == "api"
    numbers = random.Random(0)  # noqa: S311 - a draw, no secret
    # Weighted, without repeats in one pass: Efraimidis and Spirakis, 2006.
    order = sorted(chunks, key=lambda chunk: numbers.random() ** (1 / max(chunk[1], 1e-9)), reverse=True)
    pieces = [piece for piece, _ in order][: API_CHUNKS if api else None]
    encoder.encode("document", probes_of(encoder.kinds)[:1])  # the first call also pays for what is set up lazily
    took: list[tuple[int, float]] = []
    failed, tried = dict[int, Exception](), 0
    at, size, began = 0, FIRST_BATCH, time.perf_counter()
    while at < len(pieces) and time.perf_counter() - began < seconds:
        batch = pieces[at : at + size]
        started = time.perf_counter()
        try:
            encoder.encode("document", batch)
        except (EncoderUnavailable, EncoderMismatch):
            raise
        except MODEL_ERRORS as error:
            size = max(1, len(batch) // 2)
            if len(batch) == 1:
                failed[at] = error
                at += 1
            tried = max(tried, at)
            continue
        spent = time.perf_counter() - started
        took.append((sum(encoder.count_tokens(piece.text) for piece in batch), spent))
        at += len(batch)
        tried = max(tried, at)
        size = min(MOST_BATCH, max(FIRST_BATCH, 2 * size)) if spent < FULL_S else size
        long = device != "cpu" or (seconds >= PATIENT_S and time.perf_counter() - began < seconds / 10)
        if at >= len(pieces) and long and not api:
            at = 0
    if failed and not took:
        raise next(iter(failed.values()))
    tokens, spent = sum(count for count, _ in took), sum(one for _, one in took)
    return Probe(
        device="api" if api else device,
        engine=str(getattr(encoder, "engine", "")),
        chunks=tried,
        failed=len(failed),
        tokens=tokens,
        seconds=round(spent, 3),
        tokens_per_s=_rate(took),
        cut_tokens_per_s=cut_tokens_per_s,
    )


def untried(encoder: Encoder, tokens_per_s: float, *, cut_tokens_per_s: float) -> Probe:
    """Return what stands for a probe where there is nothing to embed: a rough rate that was seen anyway."""
    return Probe(
        device="api" if encoder.components.get("kind") == "api" else str(getattr(encoder, "device", "cpu")),
        engine=str(getattr(encoder, "engine", "")),
        chunks=0,
        failed=0,
        tokens=0,
        seconds=0.0,
        tokens_per_s=Estimate(tokens_per_s, tokens_per_s, tokens_per_s),
        cut_tokens_per_s=cut_tokens_per_s,
    )


def _rate(took: Sequence[tuple[int, float]]) -> Estimate:
    """Return tokens per second with the 95 % interval of a ratio (Cochran, section 2.11); none below three batches."""
    tokens = max(1, sum(count for count, _ in took))
    seconds = max(1e-9, sum(spent for _, spent in took))
    per_token, n = seconds / tokens, len(took)
    if n < 3:
        return Estimate(1 / per_token, 1 / per_token, 1 / per_token)
    squares = sum((spent - per_token * count) ** 2 for count, spent in took)
    half = min(0.9 * per_token, NORMAL_95 * math.sqrt(squares * n / (n - 1)) / tokens)
    return Estimate(1 / per_token, 1 / (per_token + half), 1 / (per_token - half))
