"""Owns the constants of the capacity model with their sources, and the bytes and CPU-seconds that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from revector.errors import ConfigError
from revector.spec import IndexSpec

PAGE, PAGE_HEADER, ITEM_POINTER = 8_192, 24, 4
"""PostgreSQL's page, its header and what each row in it takes besides (storage/bufpage.h)."""

NUMBER = {"vector": 4.0, "halfvec": 2.0, "bit": 1 / 8, "int8": 1.0}
"""Bytes of one dimension, in a table or in the nodes of a graph."""

INLINE = 7_000
"""Wider vectors lie in TOAST (``stores.pgvector``), in pieces of 1,996 bytes, four to a page."""


EF_SEARCH = IndexSpec().ef_search
CANDIDATE_DIM = 384
"""Where ``search_cpu_s`` and ``search_candidate_cpu_s`` were measured."""


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
    "search_candidate_cpu_s": Constant(
        21.3e-6, "CPU-s per search and candidate of ef_search beyond 100", "evaluation/bench/results/ef_search.json"
    ),
    "search_share": Constant(0.7, "of the cores for searches", "assumed: beyond it, searches queue"),
    "server_memory_gb": Constant(
        24_000, "10^9 bytes, the largest server to be had", "assumed: largest for rent in 2025"
    ),
    "server_cores": Constant(32, "cores of the server", "assumed"),
    "gb_per_core": Constant(8, "10^9 bytes", "the server of costs.server_usd_per_gb_hour: 256 GB, 32 cores"),
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


def search_cpu_s(
    chunks: float, dim: int, known: Mapping[str, Constant] = CONSTANTS, *, ef_search: int = EF_SEARCH
) -> float:
    """Return the CPU-seconds of one search, of PostgreSQL and its client, where the graph is in memory.

    Ten documents; the query's embedding is not in it. Measured to 400,000 chunks at the default ``ef_search``; what a
    candidate more or less of it costs, by itself.
    """
    per = known["search_cpu_s"].value + known["search_growth_cpu_s"].value * math.log(max(1.0, chunks / 50_000))
    usual = per * max(0.1, 1 + known["search_per_dim"].value * (dim - 64))
    more = known["search_candidate_cpu_s"].value * (ef_search - EF_SEARCH)
    return max(0.2 * usual, usual + more * max(0.1, 1 + known["search_per_dim"].value * (dim - CANDIDATE_DIM)))


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
