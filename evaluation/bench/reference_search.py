"""The reference: files as they lie there, sentence-transformers, brute force by NumPy in float64, metrics by ranx.

Nothing of revector is imported, and nothing that it measures with (ir-measures, which asks trec_eval).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 1_024
"""Texts that are encoded, and kept, together."""

METRICS = {"recall": "recall", "ndcg": "ndcg", "mrr": "mrr", "hit": "hit_rate"}
"""Our names → those of ranx."""


class RanxAbsent(RuntimeError):
    """The independent library of metrics is not installed."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Ids with their texts and metadata, in the order of the file."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    meta: tuple[Mapping[str, Any], ...]


def read_texts(path: Path) -> Texts:
    """Read ``corpus.jsonl`` or ``queries.jsonl``, or its ``.gz``; title and text are joined by a space."""
    packed = path.with_name(f"{path.name}.gz")
    with path.open(encoding="utf-8") if path.is_file() else gzip.open(packed, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return Texts(
        tuple(row["_id"] for row in rows),
        tuple(f"{row.get('title') or ''} {row['text']}".strip() for row in rows),
        tuple(row.get("metadata") or {} for row in rows),
    )


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements; pairs judged 0 say nothing about what is relevant and are left out."""
    found: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                found.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return found


def encode(folder: Path, texts: Sequence[str], keep: Path) -> npt.NDArray[np.float64]:
    """Return the vectors of a sentence-transformers model, float64 ``(len(texts), dim)`` of length 1.

    ``keep`` is a folder for vectors by the hash of their texts: what was encoded once is read from there.
    """
    model: Any = None
    parts = list[npt.NDArray[np.float32]]()
    for at in range(0, len(texts), CHUNK):
        some = list(texts[at : at + CHUNK])
        digest = hashlib.sha256(json.dumps([folder.parent.name, some]).encode()).hexdigest()
        kept = keep / f"{digest}.npy"
        if kept.is_file():
            parts.append(np.load(kept))
            continue
        if model is None:
            model = _model(folder)
        parts.append(np.asarray(model.encode(some, batch_size=16, show_progress_bar=False), np.float32))
        keep.mkdir(parents=True, exist_ok=True)
        np.save(kept, parts[-1])
    vectors = np.concatenate(parts).astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _model(folder: Path) -> Any:
    """Return the model with its linear maps multiplied by oneDNN, which torch carries: half the time of its default."""
    import torch
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(str(folder), device="cpu")
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        for part in made.modules():
            if isinstance(part, torch.nn.Linear):
                weight = torch.ops.mkldnn._reorder_linear_weight(part.weight.detach().contiguous())
                part.forward = partial(_linear, torch.ops.mkldnn._linear_pointwise, weight, part.bias)
    return made


def _linear(multiply: Any, weight: Any, bias: Any, rows: Any) -> Any:
    return multiply(rows.contiguous(), weight, bias, "none", [], "")


def neighbours(
    queries: npt.NDArray[np.float64], documents: npt.NDArray[np.float64], ids: Sequence[str], k: int
) -> list[list[str]]:
    """Return the ``k`` nearest documents of each query, all vectors of length 1; ties in order of id."""
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    names, ordered, found = np.asarray([ids[i] for i in order], dtype=object), documents[order], list[list[str]]()
    for at in range(0, len(queries), CHUNK):
        # A product's last bits depend on its place in the matrix: equal vectors are to tie.
        cosines = np.round(queries[at : at + CHUNK] @ ordered.T, 12)
        found += [list(row) for row in names[np.argsort(-cosines, axis=1, kind="stable")[:, :k]]]
    return found


def score(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]], k: int
) -> dict[str, dict[str, float]]:
    """Return recall, nDCG, reciprocal rank and hit of each query at rank ``k``, by ranx. Raises ``RanxAbsent``.

    Source: Bassani, *ranx: A Blazing-Fast Python Library for Ranking Evaluation and Comparison* (ECIR 2022).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's casts of integers
            from ranx import Qrels, Run, evaluate

            measured = Run({query: {doc: 1.0 / rank for rank, doc in enumerate(run[query], 1)} for query in qrels})
            evaluate(
                Qrels({query: dict(judged) for query, judged in qrels.items()}),
                measured,
                names := [f"{name}@{k}" for name in METRICS.values()],
            )
    except ModuleNotFoundError as error:
        raise RanxAbsent(
            f"the reference is scored by ranx, which is not installed ({error}). Nothing was measured; pip install ranx"
        ) from error
    return {
        ours: {query: float(value) for query, value in measured.scores[name].items()}
        for ours, name in zip(METRICS, names, strict=True)
    }
