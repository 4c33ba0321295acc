"""Owns what a corpus of any size would need: GPUs, the servers of documents and vectors, network, archive and money."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from revector.errors import ConfigError
from revector.planning.constants import (
    CONSTANTS,
    Constant,
    build_bytes,
    build_cpu_s,
    build_processes,
    graph_bytes,
    publish_cpu_s,
    row_bytes,
    search_cpu_s,
    wal_bytes,
)
from revector.planning.costs import HOURS_PER_MONTH, Costs, Money, money
from revector.spec import MAX_DIM, IndexSpec
from revector.stores.opening import KINDS
from revector.stores.seam import StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

GB = 1e9

MEASURED = "what a point takes there: evaluation/bench/README.md"


@dataclass(frozen=True, slots=True)
class CapacityInput:
    """What the model is asked: a corpus, an index over it, and the means; ``hours`` is the wanted wall time.

    ``store``: the kind of the store that holds the vectors; None: PostgreSQL, beside the documents. ``qps``: searches a
    second that are to be answered, by as many servers as that takes.
    """

    documents: float
    dim: int
    chunks_per_document: float = 1.0
    tokens_per_chunk: float = 200.0
    index: IndexSpec = field(default_factory=IndexSpec)
    gpus: int = 1
    hours: float | None = None
    store: str | None = None
    qps: float | None = None

    def __post_init__(self) -> None:
        limits = {
            "--documents": (self.documents, 1, 1e12),
            "--dim": (self.dim, 1, MAX_DIM),
            "--chunks-per-document": (self.chunks_per_document, 1e-3, 1e5),
            "--tokens-per-chunk": (self.tokens_per_chunk, 1, 1e6),
            "--gpus": (self.gpus, 1, 1e6),
            "--hours": (1 if self.hours is None else self.hours, 1e-3, 1e6),
            "--qps": (1 if self.qps is None else self.qps, 1e-3, 1e9),
        }
        for option, (found, least, most) in limits.items():
            if not least <= found <= most:
                raise ConfigError(f"{option} is {least:g} to {most:g}, found {found:g}. Nothing was computed.")
        if (traits := self._traits) is None:
            return
        if lacks := traits.lacks(self.index):
            raise ConfigError(f"the store {self.store} {lacks}. Nothing was computed.")
        if self.qps is not None:
            raise ConfigError(
                f"--qps is for PostgreSQL: what a search costs {self.store} was not measured. Nothing was computed."
            )

    @property
    def _traits(self) -> StoreTraits | None:
        if self.store is None:
            return None
        if self.store not in KINDS:
            raise ConfigError(
                f"--store is one of {', '.join(sorted(KINDS))}, found {self.store!r}. Nothing was computed."
            )
        return KINDS[self.store](self.store, StoreSettings(kind=self.store)).traits

    @property
    def elsewhere(self) -> StoreCosts | None:
        """What a point takes in the store; None beside the documents."""
        return None if self._traits is None else self._traits.costs


@dataclass(frozen=True, slots=True)
class Need:
    """One figure: ``key`` for machines, ``name`` for people; ``by`` names the constants and rules behind it."""

    part: str
    key: str
    name: str
    value: float
    unit: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the model answers."""

    corpus: CapacityInput
    lines: tuple[Need, ...]
    money: Money
    constants: Mapping[str, Constant]

    @property
    def warning(self) -> str:
        """What is wrong with the answer as a whole: an index must fit into the memory of one server."""
        server = next(line.value for line in self.lines if line.key == "server_gb")
        largest = self.constants["server_memory_gb"].value
        if server <= largest:
            return ""
        if self.corpus.store is not None:
            return (
                f"No server has {server:,.0f} GB (the largest: {largest:,.0f}): spread it over several by means of "
                f"{self.corpus.store}, or have fewer bytes a vector: fewer --dim or --m."
            )
        return (
            f"No server has {server:,.0f} GB (the largest: {largest:,.0f}), and an index is not spread over several. "
            "Fewer bytes a vector: --storage halfvec, --quantize bit, fewer --dim or --m."
        )

    def as_data(self) -> dict[str, object]:
        """Return figures by key, prices and constants as plain data."""
        return {
            "corpus": asdict(self.corpus),
            "figures": {line.key: {"value": line.value, "unit": line.unit, "by": line.by} for line in self.lines},
            "money": asdict(self.money),
            "warning": self.warning,
            "constants": {name: asdict(one) for name, one in self.constants.items()},
        }


def capacity(corpus: CapacityInput, costs: Costs, known: Mapping[str, Constant] = CONSTANTS) -> Capacity:
    """Return what a migration of ``corpus`` would need: GPUs, one PostgreSQL server, network, archive and money."""
    tokens = corpus.documents * corpus.chunks_per_document * corpus.tokens_per_chunk
    spent = money(costs, tokens)
    sizes = _sizes(corpus, spent, known)
    lines = (
        *_embedding(corpus, spent, known),
        *_writing(corpus, sizes, known),
        *_storing(corpus, costs, sizes, known),
        *(_serving if corpus.store is None else _serving_elsewhere)(corpus, costs, sizes, known),
    )
    return Capacity(corpus, lines, spent, dict(known))


def wall_hours(corpus: CapacityInput, spent: Money, known: Mapping[str, Constant]) -> float:
    """Return the hours of embedding with ``corpus.gpus`` workers, deaths and ragged ends included."""
    return spent.gpu_hours * (known["dead_worker_share"].value if corpus.gpus > 1 else 1.0) / corpus.gpus


def _embedding(corpus: CapacityInput, spent: Money, known: Mapping[str, Constant]) -> list[Need]:
    part, chunks = "embedding", corpus.documents * corpus.chunks_per_document
    lines = [
        Need(part, "chunks", "chunks", chunks, ""),
        Need(part, "tokens", "tokens", spent.tokens, ""),
        Need(part, "gpu_hours", "GPU-hours", spent.gpu_hours, "h", "costs.gpu_tokens_per_minute"),
        Need(part, "wall_hours", f"wall time with {corpus.gpus:,} GPUs", wall_hours(corpus, spent, known), "h",
             "dead_worker_share" if corpus.gpus > 1 else ""),
    ]  # fmt: skip
    if corpus.hours is not None:
        wanted = math.ceil(spent.gpu_hours * known["dead_worker_share"].value / corpus.hours)
        name = f"GPUs for {corpus.hours:g} h"
        lines.append(Need(part, "gpus_wanted", name, max(1, wanted), "", "dead_worker_share"))
    return lines


class _Sizes(NamedTuple):
    """What several figures are made from: hours, numbers of rows, and bytes."""

    hours: float
    chunks: float
    rows: float
    graph: float
    texts: float
    publish_h: float


def _sizes(corpus: CapacityInput, spent: Money, known: Mapping[str, Constant]) -> _Sizes:
    chunks, per_document = corpus.documents * corpus.chunks_per_document, known["seed_cpu_s"].value
    store, put_s = corpus.elsewhere, 0.0
    if store is None:
        row = row_bytes(corpus.dim, corpus.index.storage, known["id_bytes"].value)
        graph = graph_bytes(corpus.dim, corpus.index)
    else:
        row, graph, put_s = store.bytes_of(corpus.dim, corpus.index), 0.0, store.put_cpu_s * chunks
    return _Sizes(
        hours=wall_hours(corpus, spent, known) if corpus.hours is None else corpus.hours,
        chunks=chunks,
        rows=chunks * row,
        graph=chunks * graph,
        texts=spent.tokens * known["bytes_per_token"].value,
        publish_h=(corpus.documents * per_document + publish_cpu_s(corpus.documents, known) + put_s) / 3_600,
    )


def _writing(corpus: CapacityInput, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    part, hours = "writing", sizes.hours
    here = corpus.store is None
    wal = wal_bytes(corpus.documents, known) + (sizes.rows + sizes.graph if here else 0.0)
    put, logged = ("", ", rows, graph") if here else (f"; {MEASURED}", "; that of intents was not measured")
    network = sizes.texts + sizes.chunks * corpus.dim * 4 * 2
    return [
        Need(part, "publish_cpu_hours", "CPU-hours to publish", sizes.publish_h, "h",
             f"seed_cpu_s, publish_cpu_s, publish_growth_cpu_s{put}"),
        Need(part, "rows_per_s", "documents published", corpus.documents / hours / 3_600, "/s", "wall time"),
        Need(part, "wal_gb", "write-ahead log", wal / GB, "GB", f"wal_per_document, wal_growth{logged}"),
        Need(part, "wal_mb_per_s", "of it per second", wal / 1e6 / hours / 3_600, "MB/s", "wall time"),
        Need(part, "network_gb", "network, texts out and vectors in and archived", network / GB, "GB",
             "bytes_per_token"),
        Need(part, "network_mbit_per_s", "of it per second", network * 8 / 1e6 / hours / 3_600, "Mbit/s", "wall time"),
    ]  # fmt: skip


def _storing(corpus: CapacityInput, costs: Costs, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    part, index, dim = "storage", sizes.rows + sizes.graph, corpus.dim
    base = sizes.texts + corpus.documents * (known["document_bytes"].value + known["ledger_bytes"].value)
    archive = sizes.chunks * dim * 4 + corpus.documents * known["archive_bytes"].value
    intents = corpus.documents * known["intent_bytes"].value
    if corpus.store is None:
        where = [
            Need(part, "index_gb", "one index: rows, key and graph", index / GB, "GB", "page layout, id_bytes"),
            Need(part, "postgresql_gb", "PostgreSQL while two indexes live", (base + 2 * index) / GB, "GB",
                 "two like indexes"),
        ]  # fmt: skip
    else:
        where = [
            Need(
                part,
                "index_gb",
                f"one index in {corpus.store}",
                index / GB,
                "GB",
                MEASURED,
            ),
            Need(part, "store_gb", f"{corpus.store} while two indexes live", 2 * index / GB, "GB", "two like indexes"),
            Need(part, "postgresql_gb", "PostgreSQL meanwhile", (base + 2 * intents) / GB, "GB", "intent_bytes"),
        ]
    return [
        Need(part, "raw_gb", "vectors alone, float32", sizes.chunks * dim * 4 / GB, "GB"),
        Need(part, "documents_gb", "documents and ledger", base / GB, "GB",
             "bytes_per_token, document_bytes, ledger_bytes"),
        *where,
        Need(part, "archive_gb", "archive, float32", archive / GB, "GB", "archive_bytes"),
        Need(part, "archive_usd_month", "archive in object storage", archive / GB * costs.storage_usd_per_gb_month,
             "USD/month", "costs.storage_usd_per_gb_month"),
    ]  # fmt: skip


def _serving(corpus: CapacityInput, costs: Costs, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    value = {name: one.value for name, one in known.items()}
    dim, index, chunks, graph = corpus.dim, corpus.index, sizes.chunks, sizes.graph
    making = chunks * build_bytes(dim, index, value["build_bytes_per_link"]) if index.kind == "hnsw" else 0.0
    server_gb = max(1, math.ceil(graph / GB / value["memory_share"]))
    while_built_gb = max(server_gb, math.ceil((graph + making) / GB / value["memory_share"]))
    processes = build_processes(sizes.rows, int(value["server_cores"]))
    build_h = build_cpu_s(chunks, dim, index, known) / processes / 3_600
    verify_h = chunks * value["verify_cpu_s"] / 3_600
    search_s = search_cpu_s(chunks, dim, known, ef_search=index.ef_search)
    per_s = value["server_cores"] * value["search_share"] / search_s
    paid_gb = max(server_gb, value["server_cores"] * value["gb_per_core"])
    server_usd = paid_gb * costs.server_usd_per_gb_hour * HOURS_PER_MONTH
    server, query = "server", "queries"
    return [
        Need(server, "graph_gb", "memory that searches walk through", graph / GB, "GB", "page layout"),
        Need(server, "server_gb", f"one server of {server_gb:,} GB", server_gb, "GB",
             "memory_share; an index lives on one server"),
        Need(server, "server_while_built_gb", "… while the next index is built in memory", while_built_gb, "GB",
             "build_bytes_per_link; maintenance_work_mem must hold it, else twice the time"),
        Need(server, "build_hours", f"build by {processes} processes", build_h, "h",
             "build_cpu_s and _growth, build_per_dim, server_cores"),
        Need(server, "verify_hours", "verification by one process", verify_h, "h", "verify_cpu_s"),
        Need(query, "search_ms", f"processor time of a search at ef_search {index.ef_search}, its embedding apart",
             search_s * 1_000, "ms", "search_cpu_s and _growth, search_candidate_cpu_s, search_per_dim"),
        Need(query, "searches_per_s", f"searches on {value['server_cores']:g} cores", per_s, "/s",
             "server_cores, search_share"),
        Need(query, "server_usd_month", "the server", server_usd, "USD/month",
             "costs.server_usd_per_gb_hour, at least gb_per_core"),
        *_servers(corpus, per_s, server_usd),
        Need(query, "usd_per_million_searches", "a million searches, at that rate all month",
             server_usd / (per_s * HOURS_PER_MONTH * 3_600) * 1e6, "USD", "server_usd_month / searches_per_s"),
        Need("time", "total_hours", "to the swap, without the gate",
             max(sizes.hours, sizes.publish_h) + build_h + verify_h, "h"),
    ]  # fmt: skip


def _servers(corpus: CapacityInput, per_s: float, server_usd: float) -> list[Need]:
    """Return what so many searches a second take: the server that writes, and hot standbys with a whole index each."""
    if corpus.qps is None:
        return []
    part, servers = "queries", max(1, math.ceil(corpus.qps / per_s))
    return [
        Need(part, "servers", f"servers for {corpus.qps:,g} searches/s", servers, "", "searches_per_s"),
        Need(part, "replicas", "of them replicas (hot standbys), each with the whole index", servers - 1, "",
             "no spare is counted"),
        Need(part, "servers_usd_month", "all of them", servers * server_usd, "USD/month", "server_usd_month"),
    ]  # fmt: skip


def _serving_elsewhere(corpus: CapacityInput, costs: Costs, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    """As if all of an index were in memory, which of a graph it has to be; what a search costs was not measured."""
    server, store = "server", corpus.elsewhere or StoreCosts()
    server_gb, both_gb = (max(1, math.ceil(n * sizes.rows / GB / known["memory_share"].value)) for n in (1, 2))
    build_h = sizes.chunks * store.build_cpu_s / 3_600 if corpus.index.kind == "hnsw" else 0.0
    verify_h = sizes.chunks * known["verify_cpu_s"].value / 3_600
    return [
        Need(server, "server_gb", f"a server of {corpus.store} with {server_gb:,} GB", server_gb, "GB",
             "memory_share; all of an index in memory"),
        Need(server, "server_while_built_gb", "… while the next index is there as well", both_gb, "GB",
             "two like indexes"),
        Need(server, "build_hours", "build by one core, where it does not grow with each point", build_h, "h",
             MEASURED),
        Need(server, "verify_hours", "verification by one process", verify_h, "h", "verify_cpu_s"),
        Need(server, "server_usd_month", "the server", server_gb * costs.server_usd_per_gb_hour * HOURS_PER_MONTH,
             "USD/month", "costs.server_usd_per_gb_hour"),
        Need("time", "total_hours", "to the swap, without the gate",
             max(sizes.hours, sizes.publish_h) + build_h + verify_h, "h"),
    ]  # fmt: skip
