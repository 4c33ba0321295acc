"""What a store outside of PostgreSQL costs through revector beside its own client alone, on the same server.

    .venv/stores/bin/python -m evaluation.bench.stores --kind chroma --url http://127.0.0.1:8000
    unshare --net .venv/stores/bin/python -m evaluation.milvus_server \
        .venv/stores/bin/python -m evaluation.bench.stores --kind milvus

The same vectors (hashing, 384 dimensions, one chunk a document) are published by revector and upserted by the store's
own client, part by part in turns, into indexes of the same settings; then both are asked the same queries, in turns: of
all documents, and of those that a filter keeps, which the store's own client has in its points and revector in SQL.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from evaluation.bench.common import Figure, machine, parser, revision, temporary_project, write
from evaluation.bench.publish import COLLECTION, DIM, REVISION, _parts, _precomputed
from revector.config import Project, load_project
from revector.indexing.publish import PreparedBatch
from revector.interfaces import NoProgress, Vectors
from revector.registry import sharding
from revector.registry.collections import Generation, read_generation
from revector.registry.lanes import lane_of
from revector.spec import IndexSpec

LEAST_SHARE, MOST_RATIO, LEAST_RECALL = 0.6, 1.3, -0.002
KEPT, LEAST_FILTERED = (0.5, 0.1, 0.01), 0.99
"""Shares of the documents that filters keep, and the recall that is wanted among them."""
K, BATCH, WARM = 10, 1_000, 50
GATE = "gate = Gate(max_drop=1.0, min_overlap=None, min_queries=1)"


class Bare(NamedTuple):
    """A store's own client: adds ids with vectors, returns the rows nearest to a query, and ends."""

    add: Callable[[Sequence[str], Vectors], object]
    near: Callable[[Vectors], list[str]]
    kept: Callable[[Vectors, int], list[str]]
    """The same among the first so many rows."""
    end: Callable[[], object]
    build: Callable[[], object] = lambda: None
    """Have its graph built over all that was added, where that is not done while it is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both; return 1 if a goal is missed."""
    options = parser("evaluation.bench.stores", __doc__)
    options.add_argument("--kind", choices=sorted(BARE), required=True)
    options.add_argument("--url", help="default: $REVECTOR_TEST_<KIND>_URL")
    options.add_argument("--documents", type=int, default=20_000)
    options.add_argument("--queries", type=int, default=200)
    chosen = options.parse_args(argv)
    before, url = machine(), chosen.url or os.environ[f"REVECTOR_TEST_{chosen.kind.upper()}_URL"]
    table = f'[stores.vectors]\nkind = "{chosen.kind}"\nurl = "{url}"\n'
    with temporary_project(f"drain_s = 0\n{table}[collections.{COLLECTION}]\n") as root:
        _precomputed(root, chosen.documents, 256).raw_engine.dispose()
        body = f'model = ModelSpec(name="hashing", dim={DIM})\nindex = IndexSpec(store="vectors")\n{GATE}'
        revision(root, COLLECTION, REVISION, None, body)
        project = load_project(root)
        bare = BARE[chosen.kind](url)
        try:
            figures = list(_measured(project, bare, chosen.queries))
        finally:
            bare.end()
            project.migrator(COLLECTION).abort("measured")
            project.raw_engine.dispose()
    figures.insert(0, Figure("store", project.stores.ask("vectors"), ""))
    command = f"python -m evaluation.bench.stores --kind {chosen.kind} --documents {chosen.documents}"
    output = chosen.output.with_name(f"stores_{chosen.kind}.json") if chosen.output.stem == "stores" else chosen.output
    return write(output, command, before, figures)


def _measured(project: Project, bare: Bare, queries: int) -> Iterator[Figure]:
    generation = _begun(project)
    vectors, ids = [], list[str]()
    applier = project.worker().applier(generation)
    ours, theirs = [0.0, 0.0], [0.0, 0.0]
    for part in _parts(project):
        names = [str(uuid.uuid4()) for _ in part.doc_ids]
        for spent, act in (
            (theirs, lambda part=part, names=names: bare.add(names, part.embeddings)),
            (ours, lambda part=part: applier.publish(PreparedBatch(part, (), (), ()))),
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            act()
            spent[0] += time.perf_counter() - wall
            spent[1] += time.process_time() - cpu
        vectors.append(part.embeddings)
        ids += part.doc_ids
    everything, names = np.concatenate(vectors), ids
    lane = lane_of(generation)
    lane.index.finish(NoProgress())
    bare.build()
    lane.analyze(project.engine)  # as a migration does before its index is searched
    share = theirs[0] / ours[0]
    yield Figure("documents", len(everything), "")
    yield Figure("its own client: upserts", round(len(everything) / theirs[0]), "points/s")
    yield Figure("revector: intents, upserts, published", round(len(everything) / ours[0]), "points/s")
    at_least = f"at least {LEAST_SHARE}"
    yield Figure("publish against its own client", round(share, 3), "ratio", at_least, share >= LEAST_SHARE)
    yield Figure("revector's own CPU", round(1e3 * ours[1] / len(everything), 3), "ms a document, all of it")
    with project.engine.connect() as connection:
        size = connection.scalar(sa.text(f"SELECT pg_total_relation_size('intent_g{generation.gen}')"))
    yield Figure("intents in PostgreSQL", round(int(size or 0) / len(everything)), "bytes a document")
    yield from _intents_cost(project, generation)
    yield from _searched(project, generation, bare, everything, names, queries)
    yield from _filtered(project, generation, bare, everything, names, queries // 4)


def _begun(project: Project) -> Generation:
    """Return the generation in the store, registered and with all its work due."""
    project.migrator(COLLECTION).upgrade(REVISION, to="provision", shards=1)
    with project.engine.connect() as connection:
        gen = int(connection.scalar(sa.text("SELECT building_gen FROM collection")) or 0)
        generation = read_generation(connection, gen)
        (shard,) = sharding.read_shards(connection, gen)
    while not sharding.seed_page(project.engine, generation.cid, shard):
        pass
    return generation


def _intents_cost(project: Project, generation: Generation) -> Iterator[Figure]:
    """Measure what PostgreSQL executes for intents alone: opened, published, superseded, for each of many."""
    n = 10_000
    opened = """INSERT INTO intent (gen, attempt, doc_id, version, content_hash, n_chunks)
        SELECT {gen}, gen_random_uuid(), 'x' || n, 1, md5(n::text) || md5(n::text), 1 FROM generate_series(1, {n}) n"""
    published = "UPDATE intent SET state = 'published' WHERE gen = {gen} AND doc_id LIKE 'x%'"
    superseded = """UPDATE intent SET superseded_seq = nextval('publish_seq'), superseded_at = clock_timestamp()
        WHERE gen = {gen} AND doc_id LIKE 'x%'"""
    spent_ms = 0.0
    with project.engine.connect() as connection:
        for statement in (opened, published, superseded):
            said = connection.execute(
                sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.format(gen=generation.gen, n=n)}")
            )
            spent_ms += float(said.scalar_one()[0]["Execution Time"])
        connection.rollback()
    each = spent_ms / n
    yield Figure("PostgreSQL's work on an intent, executed alone", round(each, 4), "ms", "at most 0.3", each <= 0.3)


def _searched(
    project: Project, generation: Generation, bare: Bare, vectors: Vectors, ids: Sequence[str], count: int
) -> Iterator[Figure]:
    searcher, mine, its = project.searcher(COLLECTION), list[float](), list[float]()
    recalls: tuple[list[float], list[float]] = [], []
    for query in _queries(vectors, WARM):  # connections are made, statements prepared, widths learnt
        bare.near(query)
        searcher.search_vector(generation, query, K)
    for query in _queries(vectors, count):
        alike = vectors @ query
        good = set(np.flatnonzero(alike >= np.sort(alike)[-K] - 1e-5).tolist())  # many texts have one vector
        started = time.perf_counter()
        found = bare.near(query)
        its.append(time.perf_counter() - started)
        recalls[1].append(len(good & {int(one) for one in found}) / K)
        started = time.perf_counter()
        answer = searcher.search_vector(generation, query, K)
        mine.append(time.perf_counter() - started)
        assert answer is not None
        recalls[0].append(len({ids[n] for n in good} & {hit.id for hit in answer.hits}) / K)
    ratio = statistics.median(mine) / statistics.median(its)
    yield Figure("its own client: search, p50", round(1e3 * statistics.median(its), 2), "ms")
    yield Figure("revector: search with visibility and texts, p50", round(1e3 * statistics.median(mine), 2), "ms")
    yield Figure(
        "search against its own client, p50", round(ratio, 3), "ratio", f"at most {MOST_RATIO}", ratio <= MOST_RATIO
    )
    own, through = statistics.mean(recalls[1]), statistics.mean(recalls[0])
    yield Figure("recall@10 of its own client against exact search", round(own, 4), "")
    holds = through - own >= LEAST_RECALL
    yield Figure("recall@10 through revector", round(through, 4), "", "at most 0.002 less", holds)


def _queries(vectors: Vectors, count: int) -> Vectors:
    rng = np.random.default_rng(3)
    drawn = vectors[rng.choice(len(vectors), count, replace=False)] + 0.02 * rng.standard_normal((count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def _filtered(
    project: Project, generation: Generation, bare: Bare, vectors: Vectors, ids: Sequence[str], count: int
) -> Iterator[Figure]:
    """Ask both for what is near among the first rows alone."""
    with project.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # as if it always had been so
        named = "UPDATE document d SET meta = jsonb_build_object('row', n - 1) FROM unnest(CAST(:ids AS text[])) "
        connection.execute(
            sa.text(f"{named} WITH ORDINALITY given(doc_id, n) WHERE d.doc_id = given.doc_id"), {"ids": ids}
        )
    searcher = project.searcher(COLLECTION)
    for share in KEPT:
        most = int(share * len(ids))
        spent: tuple[list[float], list[float]] = [], []
        recalls: tuple[list[float], list[float]] = [], []
        short = [0, 0]
        for query in _queries(vectors, count):
            alike = vectors[:most] @ query
            good = set(np.flatnonzero(alike >= np.sort(alike)[-K] - 1e-5).tolist())
            started = time.perf_counter()
            theirs = {int(one) for one in bare.kept(query, most)}
            between = time.perf_counter()
            answer = searcher.search_vector(generation, query, K, where={"row": {"lt": most}})
            spent[0].append(between - started)
            spent[1].append(time.perf_counter() - between)
            assert answer is not None
            ours = {hit.id for hit in answer.hits}
            recalls[0].append(len(good & theirs) / K)
            recalls[1].append(len({ids[n] for n in good} & ours) / K)
            short[0] += len(theirs) < K
            short[1] += len(ours) < K
        for n, who in enumerate(("its own client", "revector")):
            what, mine = f"{who}, a filter that keeps {share:.0%}", n == 1
            recall = round(statistics.mean(recalls[n]), 4)
            yield Figure(f"{what}: p50", round(1e3 * statistics.median(spent[n]), 2), "ms")
            yield Figure(
                f"{what}: recall@10",
                recall,
                "",
                f"at least {LEAST_FILTERED}" if mine else None,
                recall >= LEAST_FILTERED if mine else None,
            )
            yield Figure(
                f"{what}: answers of fewer than {K}",
                short[n],
                f"of {count}",
                "0" if mine else None,
                not short[n] if mine else None,
            )


def _milvus(url: str) -> Bare:
    from pymilvus import DataType, MilvusClient

    client, spec = MilvusClient(url), IndexSpec()
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=36)
    schema.add_field("row", DataType.INT32)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    params = client.prepare_index_params()
    built = {"M": spec.m, "efConstruction": spec.ef_construction}
    params.add_index("vector", index_type="HNSW", metric_type="COSINE", params=built)
    client.create_collection("bare", schema=schema, index_params=params, consistency_level="Strong")
    said: dict[str, Any] = {"search_params": {"params": {"ef": spec.ef_search}}, "output_fields": ["row"]}
    rows = iter(range(10**9))

    def add(ids: Sequence[str], vectors: Vectors) -> None:
        for at in range(0, len(ids), BATCH):
            some = slice(at, at + BATCH)
            points = [
                {"id": one, "row": next(rows), "vector": vector}
                for one, vector in zip(ids[some], vectors[some], strict=True)
            ]
            client.upsert("bare", points)

    def near(query: Vectors, filtered: str = "") -> list[str]:
        found = client.search("bare", data=[query], limit=K, filter=filtered, **said)
        return [hit["entity"]["row"] for hit in found[0]]

    def build() -> None:
        client.flush("bare")
        while int(client.describe_index("bare", "vector").get("pending_index_rows", 0)):
            time.sleep(0.5)

    return Bare(
        add, near, lambda query, most: near(query, f"row < {most}"), lambda: client.drop_collection("bare"), build
    )


def _chroma(url: str) -> Bare:
    from urllib.parse import urlsplit

    import chromadb

    spec, at = IndexSpec(), urlsplit(url)
    client = chromadb.HttpClient(host=str(at.hostname), port=at.port or 8000)
    graph = {"space": "cosine", "max_neighbors": spec.m, "ef_construction": spec.ef_construction, "ef_search": 100}
    made = client.create_collection("bare", configuration={"hnsw": graph}, embedding_function=None)
    rows = iter(range(10**9))

    def add(ids: Sequence[str], vectors: Vectors) -> None:
        for at in range(0, len(ids), BATCH):
            some = slice(at, at + BATCH)
            made.upsert(list(ids[some]), vectors[some], [{"row": next(rows)} for _ in ids[some]])

    def near(query: Vectors, where: Any = None) -> list[str]:
        found = made.query(query_embeddings=[query], n_results=K, where=where, include=["metadatas", "distances"])
        return [str(one["row"]) for one in found["metadatas"][0]]

    def kept(query: Vectors, most: int) -> list[str]:
        return near(query, {"row": {"$lt": most}})

    return Bare(add, near, kept, lambda: client.delete_collection("bare"))


def _redis(url: str) -> Bare:
    import redis

    spec, client = IndexSpec(), redis.Redis.from_url(url, protocol=3)
    settings = ["TYPE", "FLOAT32", "DIM", DIM, "DISTANCE_METRIC", "COSINE"]
    settings += ["M", spec.m, "EF_CONSTRUCTION", spec.ef_construction]
    schema = ["SCHEMA", "vector", "VECTOR", "HNSW", len(settings), *settings, "row", "NUMERIC"]
    client.execute_command("FT.CREATE", "bare", "PREFIX", 1, "bare:", *schema)
    rows = iter(range(10**9))

    def add(ids: Sequence[str], vectors: Vectors) -> None:
        for at in range(0, len(ids), BATCH):
            some = slice(at, at + BATCH)
            with client.pipeline(transaction=False) as together:
                for one, vector in zip(ids[some], vectors[some], strict=True):
                    together.hset(f"bare:{one}", mapping={"row": next(rows), "vector": vector.tobytes()})
                together.execute()

    def near(query: Vectors, filtered: str = "*") -> list[str]:
        asked = f"{filtered}=>[KNN {K} @vector $query EF_RUNTIME {spec.ef_search} AS distance]"
        said = ["PARAMS", 2, "query", query.tobytes(), "SORTBY", "distance", "RETURN", 1, "row", "DIALECT", 2]
        found = client.execute_command("FT.SEARCH", "bare", asked, *said)
        return [one[b"extra_attributes"][b"row"].decode() for one in found[b"results"]]

    def kept(query: Vectors, most: int) -> list[str]:
        return near(query, f"(@row:[0 ({most}])")

    return Bare(add, near, kept, lambda: client.execute_command("FT.DROPINDEX", "bare", "DD"))


BARE: dict[str, Callable[[str], Bare]] = {"chroma": _chroma, "milvus": _milvus, "redis": _redis}

if __name__ == "__main__":
    sys.exit(main())
