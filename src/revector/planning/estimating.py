"""What a plan reckons with, and its figures: seconds of each step, bytes, disks, prices and the rollback window."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from revector.encoders.api.settings import PREFIX, ProviderSettings, split_reference
from revector.planning import constants
from revector.planning.costs import HOURS_PER_MONTH, Costs, money
from revector.planning.estimate import Estimate
from revector.planning.forecast import Disk, Probe, RollbackCost, SearchCost, Spending, StepPlan, Storage
from revector.planning.server import WORTH_S, Slowdown, measure
from revector.planning.strata import StratifiedSample
from revector.registry.collections import Collection, Generation
from revector.registry.spending import spent
from revector.spec import PGVECTOR, IndexSpec, Revision
from revector.stores.opening import stores_of
from revector.stores.pgvector import Build
from revector.stores.seam import StoreCosts

PROBE_S = 2.0

WORTH_ALONE_S = 20 * WORTH_S
"""The same where nothing is embedded: someone who copies vectors waits for nothing but the server."""

SEARCH_S = 0.01
"""Of one labelled query on one index, besides its embedding; measured 2 to 12 ms."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a plan reckons with: prices, providers of API models, where the archive lies, and the rollback window."""

    archive: Path
    costs: Costs = field(default_factory=Costs)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    index_build: Build = field(default_factory=Build)
    window_hours: float = 48.0
    probe_s: float = PROBE_S
    reembedded: int = 64
    """Documents that the step verify re-embeds."""


@dataclass(frozen=True, slots=True)
class Database:
    """What PostgreSQL says of itself and of the collection."""

    served_bytes: int
    changed_in_a_day: int
    wal_kept_bytes: int
    cache_bytes: int
    build: Build
    here: bool
    folder: str | None
    cores: int
    spent_usd: Mapping[str, float]
    month_usd: Mapping[str, float]


def look(engine: sa.Engine, collection: Collection, active: Generation | None, build: Build) -> Database:
    """Ask PostgreSQL; its folder is told only where it runs on this machine and lets us see it."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.text(
                """
                SELECT coalesce(pg_total_relation_size(to_regclass(:served)), 0) AS served,
                  (SELECT count(*) FROM document WHERE cid = :cid AND changed_at > clock_timestamp() - interval '1 day'
                     AND changed_at > (SELECT min(changed_at) + interval '1 hour' FROM document WHERE cid = :cid))
                    AS changed,
                  pg_size_bytes(current_setting('max_wal_size')) AS wal,
                  pg_size_bytes(current_setting('effective_cache_size')) AS cache,
                  CAST(current_setting('max_parallel_workers') AS int) AS workers
                """
            ),
            {"served": "" if active is None else active.physical_name, "cid": collection.cid},
        ).one()
        paid = spent(connection)
    here = _is_here(engine)
    return Database(
        served_bytes=int(row.served),
        changed_in_a_day=int(row.changed),
        wal_kept_bytes=int(row.wal),
        cache_bytes=int(row.cache),
        build=build,
        here=here,
        folder=data_folder(engine),
        cores=len(os.sched_getaffinity(0)) if here and hasattr(os, "sched_getaffinity") else 1 + int(row.workers),
        spent_usd={use["provider"]: use["usd"] for use in paid},
        month_usd={use["provider"]: use["month_usd"] for use in paid},
    )


def _is_here(engine: sa.Engine) -> bool:
    host = engine.url.query.get("host") or engine.url.host or "localhost"
    return str(host).startswith("/") or host in ("localhost", "127.0.0.1", "::1")


def data_folder(engine: sa.Engine) -> str | None:
    """Return PostgreSQL's folder; None where it runs on another machine, or does not let us see it."""
    asked = "SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'usage') THEN current_setting('data_directory') END"
    with engine.connect() as connection:
        folder: str | None = connection.scalar(sa.text(asked))
    return folder if _is_here(engine) and folder and Path(folder).exists() else None


def costs_of(engine: sa.Engine, revision: Revision) -> StoreCosts | None:
    """Return what points take in the revision's store; None where they are rows of PostgreSQL."""
    store = revision.index.store
    return None if store == PGVECTOR else stores_of(engine).traits(store).costs


def step_plans(
    engine: sa.Engine,
    revision: Revision,
    drawn: StratifiedSample,
    amounts: tuple[Estimate, Estimate, Estimate],
    probed: Probe,
    database: Database,
    *,
    queries: int,
    reused: int,
    reembedded: int,
) -> tuple[StepPlan, ...]:
    """Return what each step takes in one process here; ``amounts``: chunks, tokens, and tokens left to embed.

    What the server does is reckoned by the constants, and put right by a probe of it where it is worth one.
    """
    chunks, tokens, to_embed = amounts
    value = {name: one.value for name, one in constants.CONSTANTS.items()}
    embedded = drawn.documents - reused
    rows = drawn.documents * value["seed_cpu_s"] + constants.publish_cpu_s(embedded) + reused * value["copy_cpu_s"]
    costs = costs_of(engine, revision)
    rows += 0.0 if costs is None else chunks.value * costs.put_cpu_s
    processes, build = _building(revision, chunks, drawn.id_bytes, database, costs)
    checks = chunks.value * value["verify_cpu_s"]
    worth = rows + build[0] + checks >= (WORTH_S if embedded else WORTH_ALONE_S)
    slower = measure(engine, processes if build[0] else 1) if worth else Slowdown()
    said = f" (PostgreSQL could not be probed: {slower.refused})" if slower.refused else ""
    cut = to_embed.value / max(probed.cut_tokens_per_s, 1.0)
    embed = _over(to_embed, probed.tokens_per_s)
    again = min(reembedded, drawn.documents) * tokens.value / max(1, drawn.documents) / probed.tokens_per_s.value
    return (
        StepPlan(
            "backfill", _plus(embed, cut + rows * slower.alone), f"the probe; publishing {_by(slower.alone)}{said}"
        ),
        StepPlan(
            "index",
            Estimate(*(end * slower.together for end in build)),
            f"{processes} processes; {_by(slower.together)}" if build[0] else "nothing to build",
        ),
        StepPlan(
            "verify",
            _exactly(checks * slower.alone + again),
            f"{_by(slower.alone)}; {reembedded} documents are re-embedded",
        ),
        StepPlan("gate", _exactly(2 * queries * SEARCH_S * slower.alone), f"{queries:,} queries on two indexes"),
    )


def _building(
    revision: Revision, chunks: Estimate, id_bytes: float, database: Database, costs: StoreCosts | None
) -> tuple[int, list[float]]:
    """Return how many processes build the graph, and how long they take for the number of chunks and its two ends."""
    dim, index, ends = revision.model.dim, revision.index, (chunks.value, chunks.low, chunks.high)
    if costs is not None:
        return 1, [end * costs.build_cpu_s if index.kind == "hnsw" else 0.0 for end in ends]
    table = chunks.value * constants.row_bytes(dim, index.storage, id_bytes)
    processes = constants.build_processes(table, database.cores, database.build.workers)
    return processes, [constants.build_cpu_s(end, dim, index) / processes for end in ends]


def _by(times: float) -> str:
    return "as in revector capacity" if times == 1 else f"{times:.1f} times as long as in revector capacity, as probed"


def _over(tokens: Estimate, rate: Estimate) -> Estimate:
    """Return seconds; the relative half-widths of both intervals add in squares, for they are independent."""
    value = tokens.value / rate.value
    below = math.hypot(1 - tokens.low / tokens.value, 1 - rate.value / rate.high) if tokens.value else 0.0
    above = math.hypot(tokens.high / tokens.value - 1, rate.value / rate.low - 1) if tokens.value else 0.0
    return Estimate(value, value * max(0.0, 1 - below), value * (1 + above))


def _plus(one: Estimate, more: float) -> Estimate:
    return Estimate(one.value + more, one.low + more, one.high + more)


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def total_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the sum, with the ends as if all were high or low at once."""
    return Estimate(*(sum(getattr(one, end) for one in parts) for end in ("value", "low", "high")))


def storage_of(
    drawn: StratifiedSample, revision: Revision, chunks: Estimate, share: float, costs: StoreCosts | None
) -> Storage:
    """Return the bytes of ``chunks``; the ``share`` of the documents that is re-embedded goes to the archive too.

    In another store, as its ``costs`` say: what is there takes no disk and no memory of PostgreSQL's.
    """
    dim, index, value = revision.model.dim, revision.index, {k: one.value for k, one in constants.CONSTANTS.items()}
    graph = constants.graph_bytes(dim, index) if costs is None else 0.0
    rows = constants.row_bytes(dim, index.storage, drawn.id_bytes) if costs is None else costs.bytes_of(dim, index)
    return Storage(
        float32=chunks.times(dim * 4),
        float16=chunks.times(dim * 2),
        int8=chunks.times(dim),
        index=chunks.times(rows + graph),
        graph=chunks.times(graph),
        build_memory=chunks.times(constants.build_bytes(dim, index) if graph else 0.0),
        archive=_plus(chunks.times(dim * 4 * share), drawn.documents * share * value["archive_bytes"]),
        wal=_plus(chunks.times(rows + graph if costs is None else 0.0), constants.wal_bytes(drawn.documents)),
    )


def disks_of(
    drawn: StratifiedSample, storage: Storage, database: Database, archive: Path, store: str
) -> tuple[Disk, ...]:
    """Return the disks of database, archive and another ``store``; where the first two are one, both needs are its.

    The log (WAL) counts as far as ``max_wal_size`` lets it grow; one that is archived or replicated slowly takes more.
    """
    here = store == PGVECTOR
    records = sum(constants.CONSTANTS[name].value for name in ("ledger_bytes", *(() if here else ("intent_bytes",))))
    rows = storage.index.high if here else 0.0
    index = round(rows + drawn.documents * records + min(storage.wal.high, database.wal_kept_bytes))
    there = () if here else (Disk(f"store {store}", "", round(storage.index.high), None),)
    kept, folder = round(storage.archive.high), archive
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if database.folder is None:
        return Disk("PostgreSQL", "", index, None), Disk("archive", str(archive), kept, free), *there
    if Path(database.folder).stat().st_dev == folder.stat().st_dev:
        return Disk("PostgreSQL and archive", str(archive), index + kept, free), *there
    left = shutil.disk_usage(database.folder).free
    return Disk("PostgreSQL", database.folder, index, left), Disk("archive", str(archive), kept, free), *there


def spending_of(revision: Revision, means: Means, database: Database) -> Spending | None:
    """Return price, use and cap of the provider that the model is behind; None for a local model."""
    if not revision.model.name.startswith(PREFIX):
        return None
    name = split_reference(revision.model.name)[0]
    if (chosen := means.providers.get(name)) is None:
        return None
    used, month = database.spent_usd.get(name, 0.0), database.month_usd.get(name, 0.0)
    so_far = {"max_spend_usd": used, "max_spend_usd_per_month": month, "max_spend_usd_per_migration": 0.0}
    left = {cap: usd - so_far[cap] for cap, usd in chosen.caps.items()}
    return Spending(name, chosen.price_per_million_tokens_usd, used, chosen.max_spend_usd, left)


def window_of(
    hours: float, drawn: StratifiedSample, tokens: Estimate, database: Database, costs: Costs, *, own: bool
) -> RollbackCost:
    """Return what keeping the old index for ``hours`` costs, at the write rate of the last day."""
    embedded = database.changed_in_a_day * hours / 24 * tokens.value / max(1, drawn.documents)
    paid = money(costs, embedded)
    return RollbackCost(
        hours=hours,
        storage_bytes=database.served_bytes,
        storage_usd=database.served_bytes / 1e9 * costs.storage_usd_per_gb_month * hours / HOURS_PER_MONTH,
        writes_per_day=database.changed_in_a_day,
        tokens=embedded,
        embedding_usd=paid.gpu_usd if own else paid.api_usd,
    )


def search_cost(chunks: float, dim: int, index: IndexSpec, costs: Costs) -> SearchCost | None:
    """Return what a search will take of PostgreSQL; None where that was not measured."""
    if index.kind != "hnsw" or index.store != PGVECTOR:
        return None
    seconds = constants.search_cpu_s(chunks, dim, ef_search=index.ef_search)
    share = constants.CONSTANTS["search_share"].value
    usd_per_core_hour = constants.CONSTANTS["gb_per_core"].value * costs.server_usd_per_gb_hour
    usd_per_million = 1e6 * seconds / share / 3_600 * usd_per_core_hour
    return SearchCost(index.ef_search, 1_000 * seconds, share / seconds, usd_per_million)
