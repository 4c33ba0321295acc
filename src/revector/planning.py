"""What a migration would redo, need and cost: from a sample before anything is changed, or from a rehearsal of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.chunking import make_chunker
from revector.encoders import vectors_fp
from revector.interfaces import Encoder
from revector.registry.collections import Collection, Generation
from revector.report import Estimate, Plan, StepTime
from revector.reuse import count_known
from revector.spec import Revision

SAMPLE_DOCUMENTS = 200
PROBE_CHUNKS = 32
ROW_BYTES = 60
HNSW_BYTES_PER_LINK = 10
"""Rough sizes of a row's other columns and of a graph link in pgvector; the plan says that they are estimates."""


def make_plan(
    engine: sa.Engine,
    collection: Collection,
    active: Generation | None,
    revision: Revision,
    encoder: Encoder,
    *,
    labelled_queries: int | None,
) -> Plan:
    """Return the plan for ``revision``: chunks and tokens from a sample, time from a probe of this very encoder.

    The probe embeds 32 chunks here and now, so the time is that of this machine and process.
    """
    documents, texts = _sample(engine, collection.cid)
    chunks = _chunks(texts, revision, encoder)
    tokens = sum(encoder.count_tokens(chunk) for chunk in chunks)
    scale = documents / max(1, len(texts))
    probe = chunks[:: max(1, len(chunks) // PROBE_CHUNKS)][:PROBE_CHUNKS]
    encoder.encode_document(probe[:1])  # the first call also pays for what is set up lazily
    started = time.perf_counter()
    encoder.encode_document(probe)
    per_chunk_s = (time.perf_counter() - started) / max(1, len(probe))
    total_chunks = round(len(chunks) * scale)
    width = revision.model.dim * (2 if revision.index.storage == "halfvec" else 4)
    graph = 2 * revision.index.m * HNSW_BYTES_PER_LINK + width if revision.index.kind == "hnsw" else 0
    changes = _changes(active, revision)
    reused = min(documents, count_known(engine, collection.cid, revision, vectors_fp(encoder.components)))
    return Plan(
        collection=collection.name,
        revision=revision.revision,
        active_revision=None if active is None else active.revision,
        changes=changes,
        action=_action(active, revision, changes, documents - reused),
        documents=documents,
        reused=reused,
        sampled=len(texts),
        chunks=total_chunks,
        tokens=round(tokens * scale),
        seconds=total_chunks * per_chunk_s * (documents - reused) / max(1, documents),
        archive_bytes=total_chunks * revision.model.dim * 4,
        index_bytes=total_chunks * (width + ROW_BYTES + graph),
        labelled_queries=labelled_queries or 0,
        engine=str(getattr(encoder, "engine", "")),
        gate=_gate(revision),
        warnings=_warnings(collection, revision, labelled_queries),
    )


def sample_chunks(engine: sa.Engine, cid: int, revision: Revision, encoder: Encoder) -> list[str]:
    """Return the chunks of about 200 documents, cut as ``revision`` says."""
    return _chunks(_sample(engine, cid)[1], revision, encoder)


def _chunks(texts: Sequence[str], revision: Revision, encoder: Encoder) -> list[str]:
    chunker = make_chunker(revision.chunking, encoder.tokenizer)
    return [chunk.text for text in texts for chunk in chunker.chunks(text)]


def _sample(engine: sa.Engine, cid: int) -> tuple[int, list[str]]:
    """Return the number of documents and the texts of about 200 of them; the connection is not held while embedding."""
    with engine.connect() as connection:
        documents = connection.scalar(
            sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted"), {"cid": cid}
        )
        # A hash of the version picks a spread-out sample without sorting the corpus.
        texts = connection.scalars(
            sa.text(
                "SELECT content FROM document WHERE cid = :cid AND NOT deleted AND (CAST(:all AS boolean) OR "
                "hashint8(version) % CAST(:every AS int) = 0) LIMIT :limit"
            ),
            {
                "cid": cid,
                "all": documents <= SAMPLE_DOCUMENTS,
                "every": max(1, documents // SAMPLE_DOCUMENTS),
                "limit": SAMPLE_DOCUMENTS,
            },
        ).all()
    return int(documents), list(texts)


def _changes(active: Generation | None, revision: Revision) -> tuple[str, ...]:
    if active is None:
        return (f"first index: {revision.model.name}, {revision.model.dim} dimensions",)
    pairs = (
        ("model", active.spec.model, revision.model),
        ("chunking", active.spec.chunking, revision.chunking),
        ("index", active.spec.index, revision.index),
    )
    changes = []
    for part, old, new in pairs:
        for field in type(new).__dataclass_fields__:
            before, after = getattr(old, field), getattr(new, field)
            if before != after:
                changes.append(f"{part}.{field}: {before!r} → {after!r}")
    return tuple(changes)


def _action(active: Generation | None, revision: Revision, changes: tuple[str, ...], embedded: int) -> str:
    if active is not None and active.revision == revision.revision:
        return "nothing: this revision is what is served"
    what = f"re-embed {embedded:,} documents" if embedded else "embed nothing anew: copy every vector"
    return f"{what} into a new index" + ("" if changes else ", although it would equal the active one")


def _gate(revision: Revision) -> str:
    gate = revision.gate
    return (
        f"recall@{gate.k} at least {gate.min_recall:g}, at most {gate.max_drop:g} below the active revision, on at "
        f"least {gate.min_queries} labelled queries"
    )


def _warnings(collection: Collection, revision: Revision, labelled_queries: int | None) -> tuple[str, ...]:
    warnings = []
    if labelled_queries is None and collection.active_gen is None:
        warnings.append("no labelled queries are configured: the first revision goes live unmeasured, the next cannot")
    elif (labelled_queries or 0) < revision.gate.min_queries:
        warnings.append(
            f"the gate demands {revision.gate.min_queries} queries, {labelled_queries or 0} exist: it will refuse"
        )
    if collection.standby_gen is not None:
        warnings.append(
            f"generation {collection.standby_gen} is still on standby: the swap waits until its window is over or "
            "given up (`revector retire --now`)"
        )
    return tuple(warnings)


# From a rehearsal ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Growth:
    """How many times the rehearsed copy the whole collection is, by what the time of a step depends on."""

    chunks: Estimate
    tokens: Estimate
    graph: Estimate
    queries: Estimate


_NOTHING = Estimate(0.0, 0.0, 0.0)
_SAME = "takes no longer for a larger collection; measured without other load"
_GROWS = {
    "backfill": ("tokens", "as fast per token as here: one process on this machine"),
    "index": ("graph", "n log n in the number of chunks, and the graph fits into the memory of its build"),
    "verify": ("chunks", "reads every chunk once"),
    "gate": ("queries", "as fast per query as here, in a smaller index"),
}


def graph_growth(chunks: Estimate, rehearsed: float) -> Estimate:
    """Return how many times longer an HNSW graph of ``chunks`` is built than one of ``rehearsed``: n log n."""

    def work(n: float) -> float:
        return n * math.log(max(n, 2.0))

    return Estimate(work(chunks.value), work(chunks.low), work(chunks.high)).times(1 / work(max(rehearsed, 1.0)))


def step_times(
    rehearsed_s: Mapping[str, float], growth: Growth, *, ranges_s: float, drain_s: float, reembedded_s: float
) -> tuple[StepTime, ...]:
    """Return the time of each rehearsed step for the whole collection.

    ``ranges_s`` is what it takes to cut the real ids into shards; ``drain_s`` lies before the drop of an index;
    ``reembedded_s`` of the step verify go into a fixed number of documents that are embedded anew. What else a step
    takes however small the collection is (connections, locks) is scaled with the rest, so a small copy overstates.
    """
    times = []
    for step, seconds in rehearsed_s.items():
        by, assumes = _GROWS.get(step, (None, _SAME))
        fixed = seconds if by is None else min(seconds, reembedded_s) if step == "verify" else 0.0
        grown = _NOTHING if by is None else getattr(growth, by).times(seconds - fixed)
        more = {"provision": ranges_s, "retire": drain_s}.get(step, 0.0)
        estimated = Estimate(*(end + fixed + more for end in (grown.value, grown.low, grown.high)))
        times.append(StepTime(step, seconds, estimated, assumes))
    return tuple(times)
