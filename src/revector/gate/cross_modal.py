"""Owns whether texts and images still find each other: recall in both directions on captions and their images.

What goes wrong is one tower changed without the other: its vectors still look like answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.encoders.check import probe_vectors, unit_rows
from revector.encoders.probes import PROBES, first_row
from revector.errors import SpecError
from revector.formats.kept import plain
from revector.gate.demand import GateScene
from revector.gate.query_set import QuerySet
from revector.interfaces import Encoder, Kind, Vectors
from revector.measure.metrics import Qrels, evaluate
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of
from revector.serving.searcher import Searcher
from revector.spec import Revision
from revector.stores.metrics import score_table

EVIDENCE = "cross_modal"

Direction: TypeAlias = Literal["text_to_image", "image_to_text"]

WORDS: dict[Direction, str] = {"text_to_image": "images by their captions", "image_to_text": "captions by their images"}

MOST_IMAGES = 2_000
"""Images that a caption's own is searched among: those of the captions, and others of the collection."""

SAME = 0.999
"""A tower is the same where every probe of its kind has at least this cosine to what it was."""

_HELD = """
SELECT doc_id, length(content) AS at FROM document d WHERE cid = :cid AND NOT deleted AND image IS NOT NULL
  AND (CAST(:newest AS bigint) IS NULL OR version <= :newest)
ORDER BY doc_id = ANY(CAST(:paired AS text[])) DESC, hashtextextended(doc_id, 0), doc_id LIMIT :most
"""


@dataclass(frozen=True, slots=True)
class CrossModal:
    """Recall@``k`` of each caption's images, and of each captioned image's captions; ``old`` None: nothing to compare.

    ``captions`` were searched for among those of all ``captioned`` images, these among ``images``. Scores: direction →
    one of each query, in the same order for both sides.
    """

    k: int
    captions: int
    captioned: int
    images: int
    new: Mapping[Direction, tuple[float, ...]]
    old: Mapping[Direction, tuple[float, ...]] | None = None


def measure(scene: GateScene) -> Mapping[str, object] | None:
    """Ask both generations by their own towers and the vectors of their indexes, compared exactly.

    Captions are the labelled queries, their images those of their relevant documents. None where neither direction is
    demanded, or no labelled document holds an image.
    """
    if scene.gate.max_text_to_image_drop is None and scene.gate.max_image_to_text_drop is None:
        return None
    found = captions_of(scene.engine, scene.generation.cid, scene.queries)
    if found is None:
        return None
    scene.progress.start("captions and images", len(found.texts), unit="captions")
    active, asked = scene.active, (scene.engine, scene.searcher)
    sees = active is not None and "image" in scene.searcher.encoders.of(active).kinds
    new = recalls(*asked, scene.generation, found, scene.gate.k)
    old = recalls(*asked, active, found, scene.gate.k) if active is not None and sees else None
    measured = CrossModal(
        scene.gate.k,
        len(found.judged),
        len({doc for judged in found.judged.values() for doc in judged}),
        len(found.at),
        {way: tuple(scores.values()) for way, scores in new.items()},
        None if old is None else {way: tuple(scores.values()) for way, scores in old.items()},
    )
    scene.progress.done()
    return {name: plain(getattr(measured, name)) for name in measured.__slots__}


@dataclass(frozen=True, slots=True)
class Captions:
    """Labelled queries that are captions: their ``texts``, the documents whose images they are of, where images are.

    ``at``: document → where its image begins; those of the captions, and others that they are searched among.
    """

    texts: Mapping[str, str]
    judged: Qrels
    at: Mapping[str, int]


def captions_of(engine: sa.Engine, cid: int, queries: QuerySet, *, newest: int | None = None) -> Captions | None:
    """Return the captions among ``queries``; None where no labelled document holds an image.

    ``newest``: only of documents that did not change since that version.
    """
    relevant = {query: {doc for doc, score in judged.items() if score >= 1} for query, judged in queries.qrels.items()}
    paired = sorted(set().union(*relevant.values()))
    values = {"cid": cid, "paired": paired, "most": max(MOST_IMAGES, len(paired)), "newest": newest}
    with engine.connect() as connection:
        at = {row.doc_id: row.at for row in connection.execute(sa.text(_HELD), values)}
    judged = {query: {doc: 1 for doc in sorted(docs) if doc in at} for query, docs in relevant.items()}
    judged = {query: docs for query, docs in judged.items() if docs}
    return Captions({query: queries.texts[query] for query in judged}, judged, at) if judged else None


def recalls(
    engine: sa.Engine, searcher: Searcher, generation: Generation, captions: Captions, k: int
) -> dict[Direction, dict[str, float]]:
    """Return the recall of each caption, and of each captioned image; 0 for an image that the index does not show."""
    at = captions.at
    with engine.connect() as connection:
        shown = {
            one.doc_id: one.vectors[one.locators[:, 0] == at[one.doc_id]]
            for one in lane_of(generation).read(connection, sorted(at))
        }
    shown = {doc_id: rows for doc_id, rows in shown.items() if len(rows)}
    images, words = list(shown), list(captions.texts)
    seen: Vectors = np.concatenate([np.empty((0, generation.spec.model.dim), np.float32), *shown.values()])
    asked = searcher.encode(generation, list(captions.texts.values()))
    stored = searcher.encode(generation, list(captions.texts.values()), "document")
    metric = generation.spec.index.metric
    of_image: dict[str, dict[str, int]] = {}
    for query, docs in captions.judged.items():
        for doc in docs:
            of_image.setdefault(doc, {})[query] = 1
    to_image = _best(score_table(asked, seen, metric), words, images, k)
    to_text = _best(score_table(seen, stored, metric), images, words, k)
    return {
        "text_to_image": evaluate(captions.judged, to_image, k)["recall"],
        "image_to_text": evaluate(of_image, to_text, k)["recall"],
    }


def _best(
    scores: npt.NDArray[np.floating], rows: Sequence[str], columns: Sequence[str], k: int
) -> dict[str, list[str]]:
    """Return the names of the ``k`` best columns of each row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {row: [columns[n] for n in best] for row, best in zip(rows, order, strict=True)}


# Before anything is embedded ------------------------------------------------------------------------------------------


def refuse_lone_tower(target: Revision, active: Generation | None, encoder: Encoder) -> None:
    """Refuse a revision that changes one tower alone and demands nothing of how they find each other.

    A tower is what its probes say. Raises ``SpecError``.
    """
    demanded = (target.gate.max_text_to_image_drop, target.gate.max_image_to_text_drop)
    if active is None or None not in demanded:
        return
    kinds: tuple[Kind, ...] = ("text", "image")
    if encoder.kinds != kinds or len(active.probes) != sum(len(PROBES[kind]) for kind in kinds):
        return
    own = probe_vectors(encoder)
    width = min(own.shape[1], active.probes.shape[1])
    cosines = np.sum(unit_rows(own[:, :width]) * unit_rows(active.probes[:, :width]), axis=1)
    first = first_row(kinds, "image")
    least = {"text": float(cosines[:first].min()), "image": float(cosines[first:].min())}
    changed = [kind for kind, cosine in least.items() if cosine < SAME]
    if len(changed) == 1:
        [kept] = set(kinds) - set(changed)
        adapted = "adapt this one (`revector train adapter`) and " if kept == "image" else ""
        raise SpecError(
            f"revision {target.revision} changes the tower for {changed[0]}s alone: a probe of it has cosine "
            f"{least[changed[0]]:.3f} to what it was, and those of the tower for {kept}s are as they were "
            f"({least[kept]:.3f}). Texts and images may no longer find each other, and its gate would not see that. "
            f"Nothing was changed; name a model whose towers were trained together, or {adapted}demand both directions "
            "in the migration file, such as gate = Gate(max_text_to_image_drop=0.02, max_image_to_text_drop=0.02), "
            "judged on labelled queries whose documents hold images."
        )
