"""Owns the way from pairs to a trained model: read, parted, mined, trained, judged, and saved whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from revector.documents.documents import Documents
from revector.encoders.check import unit_rows
from revector.encoders.files import file_hashes, new_folder, refuse_existing
from revector.encoders.references import is_hub_id, model_folder, resolve_model
from revector.encoders.specify import metric_for, specify
from revector.errors import ConfigError
from revector.indexing.chunking import make_chunker
from revector.interfaces import Content, Encoder, NoProgress, Progress
from revector.labels import LabelSource, load_labels
from revector.spec import Chunking, ModelSpec, stable_hash
from revector.training.corpus import Corpus, gather
from revector.training.judging import ModelVectors, embed, judge, queries_of
from revector.training.negatives import Mined, mine
from revector.training.pairs import MatchedPairs, NamedPair, Pair, matched, of_labels, read_pairs, same_query
from revector.training.parts import Parts, part
from revector.training.record import (
    TrainingRecord,
    libraries,
    parent_of,
    read_record,
    taught_queries,
    version_of,
    write_pairs,
    write_record,
)
from revector.training.trainer import LEARNING_RATES, Lesson, kind_of, load_network, train

MARGIN = 0.0
NAMED = 10
STOP_DOCUMENTS = 2_000
"""Documents, beside answers and hard negatives, among which the queries to stop by are ranked at each look."""
MODEL, LEARNED = "model", "learned.json"


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What is asked for. ``base``: a model reference; ``pairs``: as of ``read_pairs``; ``output``: the new folder.

    ``learning_rate`` None: as suits the kind of model. ``negatives``: hard ones for each pair; ``margin``: cosine by
    which one may be nearer to the query than the answer. ``held_out``: a share of the queries, or None: the
    collection's labelled queries. ``documents``: at most so many are looked at. ``max_tokens``: of a text that is read.
    """

    base: str
    pairs: str
    output: Path
    epochs: int = 3
    learning_rate: float | None = None
    batch: int = 64
    mini_batch: int | None = None
    negatives: int = 5
    margin: float = MARGIN
    held_out: float | None = 0.2
    documents: int = 50_000
    max_tokens: int | None = None
    patience: int = 2
    seed: int = 0


class _Project(Protocol):
    """What is asked of a project; see ``config.Project``."""

    root: Path
    settings: Any

    def documents(self, collection: str) -> Documents: ...

    def labels(self, collection: str) -> LabelSource | None: ...

    def load_encoder(self, model: ModelSpec) -> Encoder: ...


@dataclass(frozen=True, slots=True)
class TrainingSite:
    """Where it is trained: a project's folder, its documents and labels, how it loads models, and on which device."""

    root: Path
    documents: Documents
    labels: LabelSource | None
    load: Callable[[ModelSpec], Encoder]
    device: str

    @classmethod
    def of(cls, project: _Project, collection: str) -> TrainingSite:
        """Return the site of a project's collection. Raises ``ConfigError`` for libraries that are not installed."""
        for library in ("sentence_transformers", "accelerate", "bm25s", "datasets"):
            if find_spec(library) is None:
                raise ConfigError(
                    f"training needs {library}, which is not installed. Nothing was trained; run: pip install "
                    "'revector[finetune]'"
                )
        from revector.encoders.sentence_transformers import usable_devices

        device = str(usable_devices(project.settings.encoder.device)[0])
        return cls(
            project.root, project.documents(collection), project.labels(collection), project.load_encoder, device
        )


def held_out_share(said: str) -> float | None:
    """Return the share of queries to hold out; None for ``qrels``. Raises ``ConfigError`` for anything else."""
    if said == "qrels":
        return None
    try:
        share = float(said)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ConfigError(
            f"queries held out are a share between 0 and 1, or qrels, found {said!r:.80}. Nothing was trained."
        )
    return share


def finetune(request: TrainingRequest, site: TrainingSite, progress: Progress) -> TrainingRecord:
    """Train a model and save it as ``request.output``; return its record.

    Everything is checked before anything is trained. Killed at any moment, the same request goes on where it was; where
    it is done already, it does nothing. Raises ``LabelError`` for pairs that cannot be used, and ``ConfigError`` for a
    base that cannot be trained, for an output that is there already, of other pairs, base or parameters, and for what
    is being trained by another process.
    """
    prepared = _prepare(request, site, progress)
    network = load_network(prepared.base, site.device)
    rate = LEARNING_RATES[kind_of(network)] if request.learning_rate is None else request.learning_rate
    begun = _begun(request, site, prepared, rate)
    output = site.root / request.output
    done = read_record(output)
    if done is not None and done.version == begun["version"]:
        shutil.rmtree(_work_of(output), ignore_errors=True)  # killed just before it was removed
        return done
    refuse_existing(output)
    with _work(output, begun["version"]) as work:
        base = _embedded(prepared.encoder, prepared, work / "base.npz", progress)
        mined = _mined(request, prepared, base)
        if not (work / LEARNED).is_file():
            learned = train(network, _lesson(request, site, prepared, mined.rows, rate), work, progress)
            network.save(str(work / MODEL), create_model_card=False)
            _write_whole(work / LEARNED, json.dumps(asdict(learned)).encode())
        tuned_encoder = site.load(replace(prepared.model, name=str(work / MODEL)))
        tuned = _embedded(tuned_encoder, prepared, work / "tuned.npz", progress)
        recall = judge(prepared.parts.held_out, prepared.corpus, base, tuned, metric_for(prepared.model, site.root))
        found = TrainingRecord(
            **begun,
            negatives={"left_out_as_false": mined.false, "drawn_at_random": mined.drawn},
            training=json.loads((work / LEARNED).read_text(encoding="utf-8")),
            recall=recall,
        )
        with new_folder(output) as folder:
            shutil.copytree(work / MODEL, folder, dirs_exist_ok=True)
            write_pairs(folder, prepared.base, prepared.parts.train, prepared.parts.held_out, prepared.corpus)
            write_record(folder, found)
        shutil.rmtree(work)
    return found


# What is known before anything is trained -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The base, loaded, the documents as far as it reads them, and the pairs in their parts."""

    model: ModelSpec
    base: Path
    encoder: Encoder
    corpus: Corpus
    matched: MatchedPairs
    parts: Parts


def _prepare(request: TrainingRequest, site: TrainingSite, progress: Progress) -> _Prepared:
    reference = resolve_model(request.base, site.root)
    if not (is_hub_id(reference) or Path(reference).is_absolute()):
        raise _untrainable(request.base)
    given: dict[str, Any] = {} if request.max_tokens is None else {"max_tokens": request.max_tokens}
    model = specify(request.base, site.root, site.load, **given).model
    encoder = site.load(model)
    if encoder.components.get("trust_code"):
        raise _untrainable(request.base)
    base = model_folder(model, site.root)
    named = read_pairs(request.pairs, site.root, site.labels)
    labelled = _labelled(request, site)
    wanted = {one.doc_id for one in (*named, *labelled) if one.doc_id is not None}
    progress.start("read", site.documents.count())
    read = gather(_counted(site.documents.each(), progress), wanted, request.documents, seed=request.seed)
    progress.done()
    found, corpus = matched(named, read)
    held_out = matched(labelled, corpus)[0].pairs if labelled and request.held_out is None else ()
    parts = part(
        found.pairs,
        share=request.held_out or 0.0,
        held_out=held_out,
        keep_out=[one.query for one in labelled],
        taught=taught_queries(base),
        seed=request.seed,
    )
    return _Prepared(model, base, encoder, _as_read(corpus, encoder, model.max_tokens), found, parts)


def _untrainable(base: str) -> ConfigError:
    return ConfigError(
        f"model {base!r} was to be trained; only a model of sentence-transformers can be, without code of its own. "
        "Nothing was trained; name another base."
    )


def _labelled(request: TrainingRequest, site: TrainingSite) -> list[NamedPair]:
    """Return the collection's own labelled queries, by which its gate judges: they are not trained on."""
    if site.labels is None or request.pairs == "qrels":
        if request.held_out is None:
            raise ConfigError(
                "the collection's labelled queries were to be held out, and "
                + ("they are the pairs" if site.labels else "revector.toml names none")
                + ". Nothing was trained; hold out a share of the queries, such as --held-out 0.2."
            )
        return []
    return of_labels(load_labels(site.labels))


def _counted(documents: Iterator[tuple[str, str]], progress: Progress) -> Iterator[tuple[str, str]]:
    for document in documents:
        progress.advance()
        yield document


def _as_read(corpus: Corpus, encoder: Encoder, max_tokens: int) -> Corpus:
    """Return the texts as far as the model reads them: one piece a document, from its beginning."""
    chunker = make_chunker(Chunking(unit="document", max_tokens=max_tokens, overlap_tokens=0), encoder.tokenizer)
    pieces = (chunker.pieces([Content("text", text)]) for text in corpus.texts)
    texts = tuple(cut[0].text if cut else text for cut, text in zip(pieces, corpus.texts, strict=True))
    return replace(corpus, texts=texts)


def _begun(request: TrainingRequest, site: TrainingSite, prepared: _Prepared, rate: float) -> dict[str, Any]:
    """Return the record as far as it is known before training, with its version."""
    import torch

    parts, found = prepared.parts, prepared.matched
    data = {
        "sha256": {name: _digest(getattr(parts, name)) for name in ("train", "stop", "held_out")},
        "pairs": {name: len(getattr(parts, name)) for name in ("train", "stop", "held_out")},
        "held_out_queries": len(queries_of(parts.held_out)),
        "held_out_with_a_taught_answer": parts.shared,
        "read": found.read,
        "repeated": found.repeated,
        "of_unknown_documents": found.lost,
        "unknown_documents": found.unknown[:NAMED],
        "leaked_queries": len(parts.leaked),
        "documents": len(prepared.corpus.ids),
        "documents_in_collection": prepared.corpus.of,
        "corpus_sha256": prepared.corpus.sha256,
    }
    base = {"model": asdict(prepared.model), "files": stable_hash(file_hashes(prepared.base))}
    given = {name: value for name, value in asdict(request).items() if name not in ("base", "pairs", "output")}
    parameters = {**given, "learning_rate": rate}
    cpu = site.device == "cpu"
    same = "the same run on this kind of machine, with as many threads, gives the same weights"
    return {
        "version": version_of(data, base, parameters),
        "data": {"source": request.pairs, **data},
        "base": base,
        "parameters": parameters,
        "libraries": libraries(),
        "machine": {
            "device": site.device,
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "repeatable": same if cpu else f"no: sums of floats on {site.device} have no fixed order",
        },
        "parent": parent_of(prepared.base),
    }


def _digest(pairs: Sequence[Pair]) -> str:
    return stable_hash([[pair.query, pair.doc_id] for pair in pairs])


# Training and judging -------------------------------------------------------------------------------------------------


@contextmanager
def _work(output: Path, version: str) -> Iterator[Path]:
    """Yield the folder of what is under way, held by this process alone. Raises ``ConfigError`` for another's."""
    work = _work_of(output)
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{output} is being trained by another process. Nothing was changed; wait.") from error
        path = work / "version"
        there = path.read_text(encoding="utf-8") if path.is_file() else version
        if there != version:
            raise ConfigError(
                f"{work} holds an unfinished training, of other pairs, documents, base or parameters (version "
                f"{there[:12]}, asked for is {version[:12]}). Nothing was changed; ask for what was asked then, and it "
                "goes on, or remove that folder."
            )
        _write_whole(path, version.encode())
        yield work


def _work_of(output: Path) -> Path:
    return output.parent / f".{output.name}.training"


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").replace(path)


def _embedded(encoder: Encoder, prepared: _Prepared, path: Path, progress: Progress) -> ModelVectors:
    """Return corpus and held-out queries by ``encoder``; kept in ``path``, so that nothing is done twice."""
    if not path.is_file():
        queries = list(queries_of(prepared.parts.held_out).values())
        progress.start(f"embed by {path.stem}", len(prepared.corpus.ids) + len(queries), "texts")
        documents = embed(encoder, "document", prepared.corpus.texts, progress)
        buffer = io.BytesIO()
        np.savez(buffer, documents=documents, queries=embed(encoder, "query", queries, progress))
        _write_whole(path, buffer.getvalue())
        progress.done()
    with np.load(path) as kept:
        return ModelVectors(kept["documents"], kept["queries"])


def _mined(request: TrainingRequest, prepared: _Prepared, base: ModelVectors) -> Mined:
    parts = prepared.parts
    answers: dict[str, set[str]] = {}
    for pair in (*prepared.matched.pairs, *parts.held_out):
        answers.setdefault(same_query(pair.query), set()).add(pair.doc_id)
    pairs = (*parts.train, *parts.stop)
    return mine(
        pairs,
        answers,
        prepared.corpus,
        prepared.encoder,
        unit_rows(base.documents),
        unit_rows(embed(prepared.encoder, "query", [pair.query for pair in pairs], NoProgress())),
        negatives=request.negatives,
        margin=request.margin,
        seed=request.seed,
    )


def _lesson(
    request: TrainingRequest, site: TrainingSite, prepared: _Prepared, rows: npt.NDArray[np.int64], rate: float
) -> Lesson:
    parts, texts = prepared.parts, prepared.corpus.texts
    row_of = {doc_id: row for row, doc_id in enumerate(prepared.corpus.ids)}
    columns = {
        "anchor": [pair.query for pair in parts.train],
        "positive": [texts[row_of[pair.doc_id]] for pair in parts.train],
    } | {f"negative_{n}": [texts[row] for row in column] for n, column in enumerate(rows.T[:, : len(parts.train)], 1)}
    asked = queries_of(parts.stop)
    stop: dict[str, set[int]] = {query: set() for query in asked.values()}
    for pair in parts.stop:
        stop[asked[same_query(pair.query)]].add(row_of[pair.doc_id])
    drawn = np.random.default_rng(request.seed).permutation(len(texts))[:STOP_DOCUMENTS]
    among = set(drawn.tolist()).union(rows[len(parts.train) :].ravel().tolist(), *stop.values())
    return Lesson(
        model=prepared.model,
        metric=metric_for(prepared.model, site.root),
        train=columns,
        stop=stop,
        stop_texts={row: texts[row] for row in sorted(among)},
        epochs=request.epochs,
        learning_rate=rate,
        batch=request.batch,
        mini_batch=request.mini_batch,
        patience=request.patience,
        seed=request.seed,
        device=site.device,
    )
