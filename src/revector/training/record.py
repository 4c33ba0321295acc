"""Owns what a trained model was made of: ``training.json`` in its folder, the pairs beside it, and its ancestors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from revector.errors import EncoderError
from revector.formats.kept import Kept
from revector.labels import write_beir
from revector.labels.model import Judgement, LabelledQuery, Read, believe
from revector.spec import stable_hash
from revector.training.corpus import TEXT, Corpus
from revector.training.judging import HeldOutRecall
from revector.training.pairs import Pair, same_query
from revector.training.trainer import Learned

RECORD = "training.json"
"""In the folder of a trained model. It shapes the model's fingerprint, as every JSON file there does."""
TAUGHT = "data/train.jsonl"
HELD_OUT = "data/held-out"
"""The queries held out, as labels: by these, and others that were not trained on, a gate may judge the model."""
_LIBRARIES = ("torch", "sentence-transformers", "transformers", "tokenizers", "bm25s", "accelerate", "datasets")


class TrainingRecord(Kept):
    """How a model was trained. ``version`` is the hash of ``data``, ``base`` and ``parameters``.

    ``data``: hashes of the pairs in each part and of the corpus, seed, shares, and what was left out. ``machine`` says
    whether the same run gives the same weights, and if not, why. ``negatives``: as ``Mined`` counts. ``parent``: the
    record of the base where it was trained here, too, without its figures; with its own parent.
    """

    version: str
    data: Mapping[str, Any]
    base: Mapping[str, Any]
    parameters: Mapping[str, Any]
    libraries: Mapping[str, str]
    machine: Mapping[str, Any]
    negatives: Mapping[str, int]
    training: Learned
    recall: HeldOutRecall
    parent: Mapping[str, Any] | None = None


def version_of(data: Mapping[str, Any], base: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return the version of a training: equal for equal pairs, parts, documents, base and parameters."""
    return stable_hash([data, base, parameters])


def libraries() -> dict[str, str]:
    """Return the versions of what trains, by name."""
    return {name: version(name) for name in _LIBRARIES}


def read_record(folder: Path) -> TrainingRecord | None:
    """Return the record in a model's folder, or None where it was not trained here. Raises ``EncoderError``."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise EncoderError(
            f"{path} is not what `revector finetune` wrote ({error.error_count()} faults). Nothing was changed; train "
            "the model again."
        ) from error


def parent_of(base: Path) -> dict[str, Any] | None:
    """Return what a child keeps of the record of its base; None where that was not trained here."""
    found = read_record(base)
    if found is None:
        return None
    kept = found.as_data()
    return {name: kept[name] for name in ("version", "data", "base", "parameters", "parent") if name in kept}


def taught_queries(base: Path) -> list[str]:
    """Return every query that the base was trained on here, its ancestors' too."""
    path = base / TAUGHT
    if not path.is_file():
        return []
    return [str(json.loads(line)["query"]) for line in path.read_text(encoding="utf-8").splitlines()]


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write ``training.json``, byte for byte the same for an equal record."""
    text = json.dumps(record.as_data(), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def write_pairs(folder: Path, base: Path, train: Sequence[Pair], held_out: Sequence[Pair], corpus: Corpus) -> None:
    """Write what was trained on, after what the base was trained on, as a file of pairs; and what was held out."""
    texts = dict(zip(corpus.ids, corpus.texts, strict=True))
    path = folder / TAUGHT
    path.parent.mkdir()
    before = (base / TAUGHT).read_text(encoding="utf-8") if (base / TAUGHT).is_file() else ""
    path.write_text(before + "".join(_line(pair, texts) for pair in train), encoding="utf-8")
    known = [pair for pair in held_out if not pair.doc_id.startswith(TEXT)]
    if known:
        queries = {stable_hash(same_query(pair.query))[:16]: pair.query for pair in reversed(known)}
        ids = {same_query(text): query for query, text in queries.items()}
        read = Read(
            HELD_OUT,
            HELD_OUT,
            HELD_OUT,
            [LabelledQuery(HELD_OUT, query, text) for query, text in reversed(queries.items())],
            [Judgement(HELD_OUT, ids[same_query(pair.query)], pair.doc_id, 1) for pair in known],
        )
        write_beir(folder / HELD_OUT, believe(read))


def _line(pair: Pair, texts: Mapping[str, str]) -> str:
    answer = {"positive": texts[pair.doc_id]} if pair.doc_id.startswith(TEXT) else {"doc_id": pair.doc_id}
    return json.dumps({"query": pair.query, **answer}, ensure_ascii=False) + "\n"
