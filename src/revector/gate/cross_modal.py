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
from revector.interfaces import Encoder, Kind, Vectors
from revector.measure.metrics import Qrels, evaluate
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of
from revector.spec import Revision
from revector.stores.metrics import score_table

EVIDENCE = "cross_modal"

Direction: TypeAlias = Literal["text_to_image", "image_to_text"]

MOST_IMAGES = 2_000
"""Images that a caption's own is searched among: those of the captions, and others of the collection."""

SAME = 0.999
"""A tower is the same where every probe of its kind has at least this cosine to what it was."""

_HELD = """
SELECT doc_id, length(content) AS at FROM document d WHERE cid = :cid AND NOT deleted AND image IS NOT NULL
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
    relevant = {
        query: {doc: 1 for doc, score in judged.items() if score >= 1} for query, judged in scene.queries.qrels.items()
    }
    with scene.engine.connect() as connection:
        paired = sorted({doc for judged in relevant.values() for doc in judged})
        rows = connection.execute(
            sa.text(_HELD), {"cid": scene.generation.cid, "paired": paired, "most": max(MOST_IMAGES, len(paired))}
        )
        at = {row.doc_id: row.at for row in rows}
    captions = {query: {doc: 1 for doc in judged if doc in at} for query, judged in relevant.items()}
    captions = {query: judged for query, judged in captions.items() if judged}
    if not captions:
        return None
    texts = {query: scene.queries.texts[query] for query in captions}
    scene.progress.start("captions and images", len(texts), unit="captions")
    active = scene.active
    sees = active is not None and "image" in scene.searcher.encoders.of(active).kinds
    found = CrossModal(
        scene.gate.k,
        len(captions),
        len({doc for judged in captions.values() for doc in judged}),
        len(at),
        _recalls(scene, scene.generation, captions, texts, at),
        _recalls(scene, active, captions, texts, at) if active is not None and sees else None,
    )
    scene.progress.done()
    return {name: plain(getattr(found, name)) for name in found.__slots__}


def _recalls(
    scene: GateScene, generation: Generation, captions: Qrels, texts: Mapping[str, str], at: Mapping[str, int]
) -> dict[Direction, tuple[float, ...]]:
    """Return the recall of each caption, and of each captioned image; 0 for an image that the index does not show."""
    with scene.engine.connect() as connection:
        shown = {
            one.doc_id: one.vectors[one.locators[:, 0] == at[one.doc_id]]
            for one in lane_of(generation).read(connection, sorted(at))
        }
    shown = {doc_id: rows for doc_id, rows in shown.items() if len(rows)}
    images, words = list(shown), list(texts)
    seen: Vectors = np.concatenate([np.empty((0, generation.spec.model.dim), np.float32), *shown.values()])
    asked = scene.searcher.encode(generation, [texts[query] for query in words])
    stored = scene.searcher.encode(generation, [texts[query] for query in words], "document")
    metric, k = generation.spec.index.metric, scene.gate.k
    of_image: dict[str, dict[str, int]] = {}
    for query, judged in captions.items():
        for doc in judged:
            of_image.setdefault(doc, {})[query] = 1
    to_image = _best(score_table(asked, seen, metric), words, images, k)
    to_text = _best(score_table(seen, stored, metric), images, words, k)
    return {
        "text_to_image": tuple(evaluate(captions, to_image, k)["recall"].values()),
        "image_to_text": tuple(evaluate(of_image, to_text, k)["recall"].values()),
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
