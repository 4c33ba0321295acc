"""Owns finding vectors of one index that are equal although their texts are not: nothing can tell such chunks apart."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from revector.encoders.vocabulary import excerpt
from revector.registry.collections import Generation
from revector.registry.lane import Lane
from revector.registry.lanes import lane_of

MOST_GROUPS, MOST_TEXTS = 50, 200
"""Groups that are looked at, the largest first, and texts of each."""

SIGNS = 128
"""Dimensions whose signs bring candidates together: equal vectors share them, and few others do."""

EXAMPLES = 5

_GROUPS = """
WITH signs AS MATERIALIZED (
  {signs}),
twins AS (SELECT key FROM signs GROUP BY key HAVING count(*) > 1),
texts AS (
  SELECT DISTINCT ON (s.key, t.text) s.key, s.doc_id, s.chunk, t.text
  FROM signs s JOIN twins USING (key)
  JOIN document d ON d.cid = :cid AND d.doc_id = s.doc_id AND NOT d.deleted
  JOIN ledger l ON l.gen = :gen AND l.doc_id = s.doc_id AND l.content_hash = d.content_hash
  CROSS JOIN LATERAL (SELECT substr(d.content, s.start + 1, s.stop - s.start) AS text) t
  ORDER BY s.key, t.text, s.doc_id, s.chunk)
SELECT (array_agg(doc_id ORDER BY doc_id, chunk))[1 : {most}] AS ids,
  (array_agg(chunk ORDER BY doc_id, chunk))[1 : {most}] AS chunks,
  (array_agg(text ORDER BY doc_id, chunk))[1 : {most}] AS texts
FROM texts GROUP BY key HAVING count(*) > 1 ORDER BY count(*) DESC, min(doc_id) LIMIT {groups}
"""


@dataclass(frozen=True, slots=True)
class Alike:
    """One vector of several texts: how many were seen with it (at most ``MOST_TEXTS``), the first with their id."""

    texts: int
    first: tuple[str, ...]


def find_alike(connection: sa.Connection, generation: Generation, tolerance: float) -> list[Alike]:
    """Return vectors that several texts have, up to a cosine distance of ``tolerance``, most texts first.

    Texts that differ in letter case, accents and white space alone are no different ones: many models drop these.
    Reads every vector once and no text but those of candidates; changes of documents meanwhile raise no false alarm.
    """
    lane = lane_of(generation)
    signs = lane.signs(connection, min(generation.spec.model.dim, SIGNS))
    sql = _GROUPS.format(signs=signs.sql, most=MOST_TEXTS, groups=MOST_GROUPS)
    groups = connection.execute(sa.text(sql), {"cid": generation.cid, "gen": generation.gen, **signs.values}).all()
    found = [one for group in groups for one in [_compare(connection, lane, group, tolerance)] if one is not None]
    return sorted(found, key=lambda one: (-one.texts, one.first))


def _compare(connection: sa.Connection, lane: Lane, group: sa.Row[object], tolerance: float) -> Alike | None:
    """Return what has the vector that most texts of a group have; None where it is one text's."""
    read = {one.doc_id: one.vectors for one in lane.read(connection, sorted(set(group.ids)))}
    places = zip(group.ids, group.chunks, strict=True)
    rows = np.array([read[one][chunk] for one, chunk in places if one in read and chunk < len(read[one])], np.float64)
    if len(rows) != len(group.ids):
        return None  # written meanwhile
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    same = 1 - rows @ rows.T <= tolerance
    equal = np.flatnonzero(same[same.sum(axis=1).argmax()])
    unlike = {_letters(group.texts[n]): f"{group.ids[n]} ({excerpt(group.texts[n])})" for n in reversed(equal.tolist())}
    return Alike(len(unlike), tuple(sorted(unlike.values())[:EXAMPLES])) if len(unlike) > 1 else None


def _letters(text: str) -> str:
    """Return a text without what models may drop: letter case, accents, white space."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Mn")
