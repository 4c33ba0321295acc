"""What a migration would redo, need and cost: from a sample before anything is changed, or from a rehearsal of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa

from revector.documents.deadletters import open_letters
from revector.encoders.check import probe_vectors, vectors_fp
from revector.encoders.pca import rotation_of
from revector.encoders.probes import PROBE_TEXTS
from revector.encoders.vocabulary import Vocabulary
from revector.gate.demands import DEMANDS
from revector.gate.needs import label_need
from revector.indexing.chunking import make_chunker
from revector.indexing.reuse import count_known
from revector.interfaces import Content, Encoder, NoProgress, Piece, Progress
from revector.planning import strata
from revector.planning.costs import money
from revector.planning.estimate import Estimate
from revector.planning.estimating import (
    Database,
    Means,
    costs_of,
    disks_of,
    look,
    search_cost,
    spending_of,
    step_plans,
    storage_of,
    total_of,
    window_of,
)
from revector.planning.forecast import Disk, MigrationPlan, Probe, SettingChange, Spending, Storage
from revector.planning.probing import probe, untried
from revector.planning.screening import Screening, screen
from revector.registry.collections import Collection, Generation, read_generation, window_is_over
from revector.registry.watching import clock_jumped
from revector.serving.queries import askable
from revector.spec import Revision


def make_plan(
    engine: sa.Engine,
    collection: Collection,
    active: Generation | None,
    revision: Revision,
    encoder: Encoder,
    *,
    labelled: Mapping[str, str] | None,
    means: Means,
    beside: int = 0,
    progress: Progress | None = None,
) -> MigrationPlan:
    """Return the plan for ``revision``: chunks and tokens from a sample by length, time from a probe of this encoder.

    The probe embeds chunks here and now: the time is that of this machine and process. Where PostgreSQL has much to do,
    a small temporary index tells how fast it is; where every vector is there, the encoder is not tried. Nothing stays;
    behind an API, some 50 texts are paid. ``labelled``: usable labelled queries by id; None where none are configured.
    ``beside``: queries without labels that would be asked of old and new, too.
    """
    progress = progress or NoProgress()
    read = _read_sample(engine, collection, revision, encoder, progress)
    unreadable = askable(labelled or {}, revision, Vocabulary(encoder.tokenizer))[1]
    tried = _try(engine, collection, revision, encoder, read, means.probe_s, progress)
    progress.start("plan: ask PostgreSQL")
    database = look(engine, collection, active, means.index_build)
    found = _figures(engine, collection, active, revision, (read, tried, database), means, len(labelled or {}))
    warnings = (*_warnings(collection, revision, None if labelled is None else len(labelled), beside),)
    warnings += (*_unreadable(read.unknown), *_window(engine, collection, revision), *_no_room(found.disks))
    warnings += _cap(found.spending, found.money.api_usd)
    risks = (*_risks(revision, found.storage, database, read.drawn), *_failed(found.probe))
    risks += (*_refused(engine, collection), *_refused_queries(unreadable), *_images(engine, collection, encoder))
    progress.done()
    return replace(found, warnings=warnings, risks=risks, unreadable_queries=unreadable)


def _figures(
    engine: sa.Engine,
    collection: Collection,
    active: Generation | None,
    revision: Revision,
    measured: tuple[_Read, _Tried, Database],
    means: Means,
    labelled: int,
) -> MigrationPlan:
    """Return the plan without what would refuse it and what to know."""
    (read, tried, database), changes = measured, diff(active, revision)
    drawn, to_embed = read.drawn, read.tokens.times(tried.share)
    storage = storage_of(drawn, revision, read.chunks, tried.share, costs_of(engine, revision))
    spending = spending_of(revision, means, database)
    amounts = (read.chunks, read.tokens, to_embed)
    counted = {"queries": labelled, "reused": tried.reused, "reembedded": means.reembedded}
    steps = step_plans(engine, revision, drawn, amounts, tried.probe, database, **counted)
    costs = means.costs if spending is None else means.costs.at(spending.usd_per_million_tokens)
    return MigrationPlan(
        collection=collection.name,
        revision=revision.revision,
        active_revision=None if active is None else active.revision,
        action=_action(active, revision, changes, drawn.documents, tried.reused),
        changes=changes,
        documents=drawn.documents,
        reused=tried.reused,
        sampled=drawn.sampled,
        strata=len(drawn.strata),
        chunks=read.chunks,
        tokens=read.tokens,
        tokens_to_embed=to_embed,
        probe=tried.probe,
        steps=steps,
        seconds=total_of([step.seconds for step in steps]),
        storage=storage,
        disks=disks_of(drawn, storage, database, means.archive, revision.index.store),
        money=money(costs, to_embed.value),
        spending=spending,
        window=window_of(means.window_hours, drawn, read.tokens, database, costs, own=spending is None),
        labelled_queries=labelled,
        gate="; ".join(demand.says(revision.gate) for demand in DEMANDS if demand.of(revision.gate) is not None),
        warnings=(),
        risks=(),
        unknown=read.unknown,
        searching=search_cost(read.chunks.value, revision.model.dim, revision.index, costs),
    )


class _Read(NamedTuple):
    """What a sample of the documents came to, cut and counted by the encoder's own tokenizer."""

    drawn: strata.StratifiedSample
    chunks: Estimate
    tokens: Estimate
    weighted: list[tuple[Piece, float]]
    cut_tokens_per_s: float
    unknown: Screening | None


class _Tried(NamedTuple):
    """How many documents have their vectors already, the share (0 to 1) of the others, and how fast the encoder is."""

    reused: int
    share: float
    probe: Probe


def _read_sample(
    engine: sa.Engine, collection: Collection, revision: Revision, encoder: Encoder, progress: Progress
) -> _Read:
    progress.start("plan: read a sample of the documents, cut it and count tokens")
    drawn = strata.draw(engine, collection.cid)
    chunker, vocabulary = make_chunker(revision.chunking, encoder.tokenizer), Vocabulary(encoder.tokenizer)
    unknown = screen(engine, collection.cid, vocabulary, chunker, revision.model.max_unknown_tokens)
    return _Read(drawn, *_count(drawn, revision, encoder), unknown)


def _try(
    engine: sa.Engine,
    collection: Collection,
    revision: Revision,
    encoder: Encoder,
    read: _Read,
    probe_s: float,
    progress: Progress,
) -> _Tried:
    """Look for vectors that are there already, and try the encoder where some are not."""
    progress.start("plan: look for vectors that are there already")
    reused, rate = _known(engine, collection, revision, encoder)
    reused = min(read.drawn.documents, reused)
    share = 1 - reused / max(1, read.drawn.documents)
    if not share:
        return _Tried(reused, share, untried(encoder, rate, cut_tokens_per_s=read.cut_tokens_per_s))
    progress.start(f"plan: try the model on this machine, for {probe_s:g} s at most")
    tried = probe(encoder, read.weighted, seconds=probe_s, cut_tokens_per_s=read.cut_tokens_per_s)
    return _Tried(reused, share, tried)


def _known(engine: sa.Engine, collection: Collection, revision: Revision, encoder: Encoder) -> tuple[int, float]:
    """Return how many documents have their vectors already, and tokens per second of the probe texts."""
    model, started = vectors_fp(encoder.components), time.perf_counter()
    probes = probe_vectors(encoder)
    rate = sum(map(encoder.count_tokens, PROBE_TEXTS)) / max(1e-6, time.perf_counter() - started)
    return count_known(engine, collection.cid, revision, model, rotation_of(encoder), probes=probes), rate


def _count(
    drawn: strata.StratifiedSample, revision: Revision, encoder: Encoder
) -> tuple[Estimate, Estimate, list[tuple[Piece, float]], float]:
    """Return chunks and tokens of all documents, the sampled chunks with their weights, and tokens cut per second."""
    chunker, started = make_chunker(revision.chunking, encoder.tokenizer), time.perf_counter()
    pieces = strata.by_stratum(drawn, lambda text: chunker.pieces([Content("text", text)]))
    cut_s = time.perf_counter() - started
    counts = [[sum(encoder.count_tokens(one.text) for one in cut) for cut in found] for found in pieces]
    weighted = [
        (one, stratum.documents / len(found))
        for stratum, found in zip(drawn.strata, pieces, strict=True)
        for cut in found
        for one in cut
    ]
    chunks = strata.total(drawn, [[len(cut) for cut in found] for found in pieces])
    return chunks, strata.total(drawn, counts), weighted, sum(map(sum, counts)) / max(cut_s, 1e-6)


def sample_pieces(engine: sa.Engine, cid: int, revision: Revision, encoder: Encoder) -> list[Piece]:
    """Return the pieces of about 200 documents, cut as ``revision`` says."""
    chunker = make_chunker(revision.chunking, encoder.tokenizer)
    return [piece for text in strata.draw(engine, cid).texts for piece in chunker.pieces([Content("text", text)])]


# What changes ---------------------------------------------------------------------------------------------------------

_EMBEDS = "every document is re-embedded"
_MEANS = {
    "model.query_prompt": "queries only: vectors are copied",
    "model.max_unknown_tokens": "which documents and queries are refused: vectors are copied",
    "index.kind": "another index over copied vectors",
    "index.m": "another graph over copied vectors",
    "index.ef_construction": "another graph over copied vectors",
    "index.ef_search": "searches only: vectors are copied",
    "index.quantize": "another graph over copied vectors",
    "index.rerank": "searches only: vectors are copied",
    "index.store": "copied vectors in another store",
    "index.metric": "another graph over copied vectors",
}


def diff(active: Generation | None, revision: Revision) -> tuple[SettingChange, ...]:
    """Return every setting of ``revision`` beside that of what is served, in the order of the migration file."""
    changes = []
    for part in ("model", "chunking", "index"):
        new = getattr(revision, part)
        old = None if active is None else getattr(active.spec, part)
        for name in type(new).__dataclass_fields__:
            before, after = None if old is None else getattr(old, name), getattr(new, name)
            mark = "+" if old is None else "=" if before == after else "~"
            means = _means(f"{part}.{name}", before, after) if mark == "~" else ""
            changes.append(SettingChange(f"{part}.{name}", mark, before, after, means))
    return tuple(changes)


def _means(name: str, before: object, after: object) -> str:
    if name == "model.dim" and isinstance(before, int) and isinstance(after, int):
        return "copied vectors are cut, if it is the same model" if after < before else _EMBEDS
    if name == "index.storage":
        return "copied vectors are rounded" if after == "halfvec" else "re-embedded unless the archive holds float32"
    return _MEANS.get(name, _EMBEDS)


def _action(
    active: Generation | None, revision: Revision, changes: Sequence[SettingChange], documents: int, reused: int
) -> str:
    if active is not None and active.revision == revision.revision:
        return "nothing: this revision is what is served"
    embedded = documents - reused
    what = f"re-embed {embedded:,} documents" if embedded else "re-embed nothing: copy every vector"
    what = what.removeprefix("re-") if active is None else what
    copied = f", copy {reused:,}," if embedded and reused else ""
    same = all(change.mark == "=" for change in changes)
    return f"{what}{copied} into a new index" + (", although it would equal the active one" if same else "")


# What to know ---------------------------------------------------------------------------------------------------------


def _no_room(disks: Sequence[Disk]) -> tuple[str, ...]:
    return tuple(disk.said for disk in disks if disk.too_small)


def _unreadable(unknown: Screening | None) -> tuple[str, ...]:
    if unknown is None or not unknown.unreadable.value:
        return ()
    many = unknown.unreadable
    ends = "" if many.low == many.high else f" ({many.low:,.0f} to {many.high:,.0f})"
    return (
        (
            f"{many.value:,.0f}{ends} of {unknown.documents:,} documents have a chunk of which more than "
            f"{unknown.limit:.0%} of the tokens are unknown to the model: each becomes a dead letter, and the swap "
            f"waits until it is waived. Unknown are: {unknown.examples}. A model that knows these scripts embeds them; "
            "a higher max_unknown_tokens lets them in, and no search can tell them apart"
        ),
    )


def _images(engine: sa.Engine, collection: Collection, encoder: Encoder) -> Iterator[str]:
    """Say what of the images is not embedded, or not counted."""
    held = sa.text(
        "SELECT count(*) FILTER (WHERE content <> '') AS with_text, count(*) AS documents FROM document "
        "WHERE cid = :cid AND image IS NOT NULL"
    )
    with engine.connect() as connection:
        found = connection.execute(held, {"cid": collection.cid}).one()
    if found.documents and "image" in encoder.kinds:
        yield f"{found.documents:,} images are embedded too, which time and tokens above do not count"
    elif found.documents:
        yield (
            f"{found.documents:,} documents hold an image, which the model does not embed: {found.with_text:,} are "
            f"found by their text alone, {found.documents - found.with_text:,} become dead letters"
        )


def _refused_queries(unreadable: Mapping[str, str]) -> tuple[str, ...]:
    if not unreadable:
        return ()
    some = ", ".join(sorted(unreadable)[:5]) + (" …" if len(unreadable) > 5 else "")
    first = next(iter(unreadable.values())).removesuffix(".")
    return (f"{len(unreadable):,} labelled queries would be refused and find nothing ({some}), for example: {first}",)


def _cap(prices: Spending | None, usd: float) -> tuple[str, ...]:
    if prices is None:
        return ()
    return tuple(
        f"embedding would cost about {usd:,.2f} USD, and {prices.provider} has {left:,.2f} USD left of its {cap}: it "
        "would stop before the batch that passes it"
        for cap, left in prices.left_usd.items()
        if usd > left
    )


def _risks(revision: Revision, storage: Storage, database: Database, drawn: strata.StratifiedSample) -> tuple[str, ...]:
    risks = []
    gb = 1e9
    if storage.build_memory.value > (given := database.build.memory_mib << 20):
        risks.append(
            f"the graph takes about {storage.build_memory.value / gb:,.1f} GB while it is built, beyond the "
            f"{given / gb:,.1f} GB of index_build.memory_mib: about twice the time"
        )
    if storage.graph.value > database.cache_bytes:
        risks.append(
            f"the graph of {storage.graph.value / gb:,.1f} GB exceeds PostgreSQL's effective_cache_size of "
            f"{database.cache_bytes / gb:,.1f} GB: searches would read the disk; halfvec or quantize shrink it"
        )
    if revision.chunking.unit == "document":
        risks.append("one chunk a document: what is beyond max_tokens is not searched")
    if drawn.sampled < 30 and drawn.sampled < drawn.documents:
        risks.append(f"only {drawn.sampled} documents were sampled: intervals are too narrow")
    return tuple(risks)


def _failed(probed: Probe) -> tuple[str, ...]:
    if not probed.failed:
        return ()
    return (
        f"{probed.failed} of {probed.chunks} chunks that were tried cannot be embedded: dead letters block the swap",
    )


def _refused(engine: sa.Engine, collection: Collection) -> tuple[str, ...]:
    with engine.connect() as connection:
        found = open_letters(connection, collection.cid)
    if not found.refused:
        return ()
    said = (
        f"{found.refused:,} records were refused at ingestion, {found.behind:,} of them later versions of what is "
        "served; the swap does not wait for them, as both indexes show the same (`revector dlq list`)"
    )
    return (said,)


def _warnings(collection: Collection, revision: Revision, labelled_queries: int | None, beside: int) -> tuple[str, ...]:
    warnings = []
    if labelled_queries is None and collection.active_gen is None:
        warnings.append("no labelled queries are configured: the first revision goes live unmeasured, the next cannot")
    elif (labelled_queries := labelled_queries or 0) < revision.gate.min_queries:
        warnings.append(
            f"the gate demands {revision.gate.min_queries} queries, {labelled_queries} exist: it will refuse"
        )
    elif collection.active_gen is not None and (need := label_need(revision.gate)):
        asked = f"{labelled_queries} labelled queries" + (f" and {beside} without labels" if beside else "")
        if labelled_queries + beside < need.same:
            warnings.append(
                f"{asked} cannot exclude a drop of {need.max_drop:g}, about {need.same} can: unless the new revision "
                "finds more than the active one, the gate will be inconclusive"
            )
    return tuple(warnings)


def _window(engine: sa.Engine, collection: Collection, revision: Revision) -> tuple[str, ...]:
    """Say that the way back of the last migration is still kept; one that is over is closed when an upgrade begins."""
    if collection.standby_gen is None or collection.rollback_deadline is None:
        return ()
    with engine.connect() as connection:
        over = window_is_over(connection, collection.cid)
        standby = read_generation(connection, collection.standby_gen).revision
        if standby == revision.revision or (over and not clock_jumped(connection, collection.cid)):
            return ()
    until = f"{collection.rollback_deadline:%Y-%m-%d %H:%M %Z}"
    kept = f"generation {collection.standby_gen} (revision {standby}) is kept for a rollback until {until}"
    return (f"{kept}: an upgrade is refused until that window is over, or given up (`revector retire --now`)",)
