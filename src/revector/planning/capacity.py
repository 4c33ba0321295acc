"""Owns what a corpus of any size would need: constants with their sources, the bytes of rows and graphs, the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from revector.errors import ConfigError
from revector.planning.costs import HOURS_PER_MONTH, Costs, Money, money
from revector.spec import MAX_DIM, IndexSpec

PAGE, PAGE_HEADER, ITEM_POINTER = 8_192, 24, 4
"""PostgreSQL's page, its header and what each row in it takes besides (storage/bufpage.h)."""

NUMBER = {"vector": 4.0, "halfvec": 2.0, "bit": 1 / 8}
"""Bytes of one dimension, in a table or in the nodes of a graph."""

INLINE = 7_000
"""Wider vectors lie in TOAST (``stores.pgvector``), in pieces of 1,996 bytes, four to a page."""

GB = 1e9


@dataclass(frozen=True, slots=True)
class Constant:
    """A number that the model reckons with, in ``unit``, and where it comes from; a user may put in another."""

    value: float
    unit: str
    source: str


_SCALE = "evaluation/scale/results/measure.json, 50,000 to 400,000 documents"
_LARGE = "evaluation/scale/results/large.json, 1 to 10 million documents"
CONSTANTS: Mapping[str, Constant] = {
    "seed_cpu_s": Constant(4.5e-6, "CPU-s per document", f"{_SCALE}: seed"),
    "publish_cpu_s": Constant(27e-6, "CPU-s per document", f"{_SCALE}: publish"),
    "publish_growth_cpu_s": Constant(4.3e-6, "CPU-s per document and ln(documents / cached)", f"{_LARGE}: publish"),
    "adopt_cpu_s": Constant(
        300e-6, "CPU-s per row of an adopted table", "evaluation/bench/results/adoption.json, less the graph"
    ),
    "copy_cpu_s": Constant(70e-6, "CPU-s per document whose vectors are found", f"{_SCALE}: copy: backfill"),
    "verify_cpu_s": Constant(10.5e-6, "CPU-s per chunk", f"{_SCALE}: verify"),
    "build_cpu_s": Constant(130e-6, "CPU-s per chunk, M 16, ef 100", f"{_SCALE}: index, and 8,000 in wide.json"),
    "build_growth_cpu_s": Constant(225e-6, "CPU-s per chunk and ln(1 + chunks / build_overlap)", f"{_SCALE}: index"),
    "build_overlap": Constant(30_000, "chunks below which visits overlap", f"{_SCALE}: index"),
    "build_per_dim": Constant(0.0023, "of both, per dimension beyond 64", "evaluation/scale/results/wide.json: index"),
    "wal_per_document": Constant(1_300, "bytes", f"{_SCALE}: WAL of seed and backfill, less the row of the vector"),
    "wal_growth": Constant(170, "bytes per document and ln(documents / cached)", f"{_LARGE}: WAL of seed and backfill"),
    "cached": Constant(400_000, "documents", f"{_LARGE}: beyond it, an index at random exceeds 256 MB of buffers"),
    "ledger_bytes": Constant(200, "bytes per document", f"{_SCALE}: size of ledger"),
    "intent_bytes": Constant(
        423, "bytes per document whose vectors are in another store", "evaluation/bench/stores.py: size of intents"
    ),
    "document_bytes": Constant(256, "bytes per document besides its text", f"{_SCALE}: size of documents"),
    "archive_bytes": Constant(105, "bytes per document besides its vectors", f"{_SCALE}: size of archive"),
    "build_bytes_per_link": Constant(
        24, "bytes of memory per neighbour slot of a graph in the making", "pgvector: 64 MiB hold 29,000 × 384, M 16"
    ),
    "bytes_per_token": Constant(4.5, "bytes of text", "English prose and BERT's word pieces; docs/tokens of your plan"),
    "id_bytes": Constant(10, "bytes", "assumed"),
    "search_cpu_s": Constant(
        3.9e-3, "CPU-s per search of 50,000 chunks, k 10, without its encoder", f"{_SCALE}: search"
    ),
    "search_growth_cpu_s": Constant(1.3e-3, "CPU-s per search and ln(chunks / 50,000)", f"{_SCALE}: search"),
    "search_per_dim": Constant(
        0.0009, "of both, per dimension beyond 64", "evaluation/scale/results/wide.json: search"
    ),
    "search_share": Constant(0.7, "of the cores for searches", "assumed: beyond it, searches queue"),
    "server_memory_gb": Constant(
        24_000, "10^9 bytes, the largest server to be had", "assumed: largest for rent in 2025"
    ),
    "server_cores": Constant(32, "cores of the server", "assumed"),
    "memory_share": Constant(0.75, "of the memory for the graph", "assumed: the rest for buffers and backends"),
    "dead_worker_share": Constant(
        1.16, "times an even share of the embedding", "evaluation/scale/results/simulate.json: 64 GPUs, p95"
    ),
}
"""Every number that is no setting of the caller's. CPU-seconds are of one core of an AMD EPYC at 2.6 GHz or so."""


def constants(overrides: Mapping[str, float]) -> dict[str, Constant]:
    """Return ``CONSTANTS`` with some values replaced. Raises ``ConfigError`` for unknown names and values up to 0."""
    for name, value in overrides.items():
        if name not in CONSTANTS:
            raise ConfigError(
                f"constant {name!r} is not known; there are {', '.join(sorted(CONSTANTS))}. Nothing was computed."
            )
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"constant {name} must be above 0, found {value:g}. Nothing was computed.")
    return {
        name: replace(one, value=overrides[name], source="your own") if name in overrides else one
        for name, one in CONSTANTS.items()
    }


def _value(name: str) -> float:
    return CONSTANTS[name].value


# Bytes ----------------------------------------------------------------------------------------------------------------


def _aligned(size: float, to: int = 8) -> int:
    return math.ceil(size / to) * to


def row_bytes(dim: int, storage: str, id_bytes: float) -> float:
    """Return the bytes of one chunk in an index's table and its key, on the disk.

    Whole rows fill up to nine tenths of a page. ``id_bytes``: mean length of a document id. Source: PostgreSQL 18, heap
    and btree page layout; measured within 1 %.
    """
    vector = 8 + dim * NUMBER[storage]
    key = (_aligned(8 + 1 + id_bytes + 4) + ITEM_POINTER) / 0.9
    head = 24 + _aligned(_aligned(1 + id_bytes, 4) + 4) + 16
    if dim * NUMBER[storage] < INLINE:
        row = head + _aligned(vector) + ITEM_POINTER
        return PAGE / max(1, int(0.9 * (PAGE - PAGE_HEADER) / row)) + key
    pieces = math.ceil(vector / 1_996)
    return (head + 20 + ITEM_POINTER) / 0.9 + pieces * (PAGE / 4 + 16 / 0.9) + key


def graph_bytes(dim: int, index: IndexSpec) -> float:
    """Return the bytes of one vector in an HNSW index of pgvector, on the disk and in memory when it is searched.

    A vector (72 bytes and itself) and its neighbours (6 bytes a slot, 2 M and M for each level above the first, which
    one in M reaches) share a page of 8 kB if they fit. Source: pgvector 0.8.5, src/hnsw.h; measured within 3 %.
    """
    if index.kind != "hnsw":
        return 0.0
    usable, m = PAGE - PAGE_HEADER - 8, index.m
    element = _aligned(72 + 8 + dim * NUMBER[index.graph]) + ITEM_POINTER
    neighbours = _aligned(4 + 2 * m * 6) + ITEM_POINTER + 6 * m / (m - 1)
    if element + neighbours <= usable:
        return PAGE / int(usable / (element + neighbours))
    return PAGE / int(usable / element) + PAGE / (usable / neighbours)


def index_bytes(dim: int, index: IndexSpec, id_bytes: float) -> float:
    """Return the bytes of one chunk in a physical index: row, key and, for ``hnsw``, its part of the graph."""
    return row_bytes(dim, index.storage, id_bytes) + graph_bytes(dim, index)


def build_bytes(dim: int, index: IndexSpec, per_link: float = _value("build_bytes_per_link")) -> float:
    """Return the bytes of memory that one vector takes while its HNSW graph is built."""
    return 8 + dim * NUMBER[index.graph] + 2 * index.m * per_link


def build_cpu_s(chunks: float, dim: int, index: IndexSpec, known: Mapping[str, Constant] = CONSTANTS) -> float:
    """Return the CPU-seconds of an HNSW build: n log n once the graph is large, with a part that grows by dimension.

    In a small graph the searches of an insertion meet the same nodes again and again, so cost first rises faster: that
    is the logarithm's shift. Assumes that the graph fits into the memory of its build, and cost in proportion to
    ``ef_construction``. Measured with M 16; generated texts are hard data, clustered vectors are faster.
    """
    if index.kind != "hnsw" or chunks < 1:
        return 0.0
    value = {name: one.value for name, one in known.items()}
    per = value["build_cpu_s"] + value["build_growth_cpu_s"] * math.log1p(chunks / value["build_overlap"])
    wider = max(0.1, 1 + value["build_per_dim"] * (dim - 64))
    return chunks * per * wider * index.ef_construction / 100


def search_cpu_s(chunks: float, dim: int, known: Mapping[str, Constant] = CONSTANTS) -> float:
    """Return the CPU-seconds of one search, of PostgreSQL and its client, where the graph is in memory.

    Ten documents at the default ``ef_search``; the query's embedding is not in it. Measured to 400,000 chunks.
    """
    per = known["search_cpu_s"].value + known["search_growth_cpu_s"].value * math.log(max(1.0, chunks / 50_000))
    return per * max(0.1, 1 + known["search_per_dim"].value * (dim - 64))


def publish_cpu_s(documents: float, known: Mapping[str, Constant] = CONSTANTS) -> float:
    """Return the CPU-seconds, of PostgreSQL and its client, of making ``documents`` visible.

    Rows arrive in the order of ids, but the hash of each text goes to a random page of its index: once that has
    outgrown the buffers, a page is read, and logged whole after each checkpoint.
    """
    return documents * (
        known["publish_cpu_s"].value + _uncached(documents, known) * known["publish_growth_cpu_s"].value
    )


def wal_bytes(documents: float, known: Mapping[str, Constant] = CONSTANTS) -> float:
    """Return the bytes of write-ahead log of seeding and publishing ``documents``, without rows and graph."""
    return documents * (known["wal_per_document"].value + _uncached(documents, known) * known["wal_growth"].value)


def _uncached(documents: float, known: Mapping[str, Constant]) -> float:
    return math.log(max(1.0, documents / known["cached"].value))


def build_processes(table_bytes: float, cores: int, most: int = 7) -> int:
    """Return how many processes build an index: all of ``most`` and the first, once the table has 8 MB.

    Counted up to ``cores``; more are started and share them. Sources: pgvector 0.8.5, hnswbuild.c, and
    ``min_parallel_table_scan_size``.
    """
    return 1 if table_bytes < 8 * 2**20 else max(1, min(cores, 1 + most))


# The model ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CapacityInput:
    """What the model is asked: a corpus, an index over it, and the means; ``hours`` is the wanted wall time."""

    documents: float
    dim: int
    chunks_per_document: float = 1.0
    tokens_per_chunk: float = 200.0
    index: IndexSpec = field(default_factory=IndexSpec)
    gpus: int = 1
    hours: float | None = None

    def __post_init__(self) -> None:
        limits = {
            "--documents": (self.documents, 1, 1e12),
            "--dim": (self.dim, 1, MAX_DIM),
            "--chunks-per-document": (self.chunks_per_document, 1e-3, 1e5),
            "--tokens-per-chunk": (self.tokens_per_chunk, 1, 1e6),
            "--gpus": (self.gpus, 1, 1e6),
            "--hours": (1 if self.hours is None else self.hours, 1e-3, 1e6),
        }
        for option, (found, least, most) in limits.items():
            if not least <= found <= most:
                raise ConfigError(f"{option} is {least:g} to {most:g}, found {found:g}. Nothing was computed.")


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
        *_serving(corpus, costs, sizes, known),
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
    return _Sizes(
        hours=wall_hours(corpus, spent, known) if corpus.hours is None else corpus.hours,
        chunks=chunks,
        rows=chunks * row_bytes(corpus.dim, corpus.index.storage, known["id_bytes"].value),
        graph=chunks * graph_bytes(corpus.dim, corpus.index),
        texts=spent.tokens * known["bytes_per_token"].value,
        publish_h=(corpus.documents * per_document + publish_cpu_s(corpus.documents, known)) / 3_600,
    )


def _writing(corpus: CapacityInput, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    part, hours = "writing", sizes.hours
    wal = wal_bytes(corpus.documents, known) + sizes.rows + sizes.graph
    network = sizes.texts + sizes.chunks * corpus.dim * 4 * 2
    return [
        Need(part, "publish_cpu_hours", "CPU-hours to publish", sizes.publish_h, "h",
             "seed_cpu_s, publish_cpu_s, publish_growth_cpu_s"),
        Need(part, "rows_per_s", "documents published", corpus.documents / hours / 3_600, "/s", "wall time"),
        Need(part, "wal_gb", "write-ahead log", wal / GB, "GB", "wal_per_document, wal_growth, rows, graph"),
        Need(part, "wal_mb_per_s", "of it per second", wal / 1e6 / hours / 3_600, "MB/s", "wall time"),
        Need(part, "network_gb", "network, texts out and vectors in and archived", network / GB, "GB",
             "bytes_per_token"),
        Need(part, "network_mbit_per_s", "of it per second", network * 8 / 1e6 / hours / 3_600, "Mbit/s", "wall time"),
    ]  # fmt: skip


def _storing(corpus: CapacityInput, costs: Costs, sizes: _Sizes, known: Mapping[str, Constant]) -> list[Need]:
    part, index, dim = "storage", sizes.rows + sizes.graph, corpus.dim
    base = sizes.texts + corpus.documents * (known["document_bytes"].value + known["ledger_bytes"].value)
    archive = sizes.chunks * dim * 4 + corpus.documents * known["archive_bytes"].value
    return [
        Need(part, "raw_gb", "vectors alone, float32", sizes.chunks * dim * 4 / GB, "GB"),
        Need(part, "documents_gb", "documents and ledger", base / GB, "GB",
             "bytes_per_token, document_bytes, ledger_bytes"),
        Need(part, "index_gb", "one index: rows, key and graph", index / GB, "GB", "page layout, id_bytes"),
        Need(part, "postgresql_gb", "PostgreSQL while two indexes live", (base + 2 * index) / GB, "GB",
             "two like indexes"),
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
    search_s = search_cpu_s(chunks, dim, known)
    per_s = value["server_cores"] * value["search_share"] / search_s
    server_usd = server_gb * costs.server_usd_per_gb_hour * HOURS_PER_MONTH
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
        Need(query, "search_ms", "processor time of a search, without embedding the query",
             search_s * 1_000, "ms", "search_cpu_s and _growth, search_per_dim"),
        Need(query, "searches_per_s", f"searches on {value['server_cores']:g} cores", per_s, "/s",
             "server_cores, search_share"),
        Need(query, "server_usd_month", "the server", server_usd, "USD/month", "costs.server_usd_per_gb_hour"),
        Need(query, "usd_per_million_searches", "a million searches, at that rate all month",
             server_usd / (per_s * HOURS_PER_MONTH * 3_600) * 1e6, "USD", "server_usd_month / searches_per_s"),
        Need("time", "total_hours", "to the swap, without the gate",
             max(sizes.hours, sizes.publish_h) + build_h + verify_h, "h"),
    ]  # fmt: skip
