"""The one judge of answers and indexes against the truth, which shares no code with what it judges.

What an index must hold is worked out from the puts that were recorded, by an encoder and a chunker of the proofs' own
(``truth``); registry, ledger and work set are asked only who is live and what waits. What was shown becomes records of
the history, whose checker decides which states were possible.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from evaluation.reliability.checker import Finding, check
from evaluation.reliability.history import Hit, Recorder
from evaluation.reliability.traffic import TOKEN, token_in
from evaluation.reliability.truth import Chunk, Truth

from revector.interfaces import Vectors
from revector.serving import searcher

TOLERANCE = 1e-4
"""Of a score or a vector's component, for float32 sums in another order."""

ROLES = ("active", "standby", "building")


class Row(NamedTuple):
    """One row of an index."""

    chunk: int
    version: int
    start: int
    stop: int
    vector: Sequence[float]


@lru_cache(maxsize=200_000)
def embedded(own: Truth, text: str) -> tuple[list[Chunk], Vectors]:
    """Return the chunks of a text and their vectors."""
    return own.embedded(text)


@lru_cache(maxsize=50_000)
def asked(own: Truth, query: str) -> Vectors:
    """Return the vector of a query: ``(dim,)``."""
    return own.vector(query)


def mismatch(rows: Sequence[Row], text: str, own: Truth, tolerance: float = TOLERANCE) -> tuple[str, str] | None:
    """Return the promise that the rows of a document break if they are to show ``text``, and how; None if they do."""
    chunks, vectors = embedded(own, text)
    if len(versions := {row.version for row in rows}) > 1:
        return "mixed chunks", f"rows have versions {sorted(versions)}"
    places = [(number, chunk.start, chunk.end) for number, chunk in enumerate(chunks)]
    if (found := [(row.chunk, row.start, row.stop) for row in rows]) != places:
        return "mixed chunks", f"rows are {found}, the text's chunks {places}"
    if not np.allclose([row.vector for row in rows], vectors, atol=tolerance):
        return "wrong model", "vectors are not those of the text by the index's own model"
    return None


def read_rows(connection: sa.Connection, table: str) -> dict[str, list[Row]]:
    """Read a physical index whole, by document."""
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    statement = f"SELECT doc_id, chunk, version, start, stop, embedding::text AS v FROM {table} ORDER BY doc_id, chunk"
    for row in connection.execute(sa.text(statement)):
        rows[row.doc_id].append(Row(row.chunk, row.version, row.start, row.stop, json.loads(row.v)))
    return rows


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges one site.

    ``own``: what a revision must make of texts, by its id; ``text``: the text of a token; ``candidates``: which tokens
    a document may show where one is shown, the likeliest first; ``others``: models that a mix-up could bring in.
    """

    own: Callable[[str], Truth]
    text: Callable[[str], str]
    candidates: Callable[[str, str], Iterable[str]]
    others: Sequence[Truth]
    rows: Callable[[sa.Connection, str], Mapping[str, Sequence[Row]]] = read_rows
    """How an index is read whole, by its name."""

    # Answers ----------------------------------------------------------------------------------------------------------

    def answer(
        self, query: str, answer: searcher.Answer, *, by: str = "document", whole: bool = False
    ) -> dict[str, Any]:
        """Return what a history keeps of an answer: hits by their tokens, who encoded the query, and the index's own.

        ``whole``: the search was exact and cut nothing off, so that a document shows its best chunk, or all of them.
        """
        own = self.own(answer.revision)
        hits = (self._seen(own, query, one) if one.kind == "image" else self._hit(own, one) for one in answer.hits)
        return {
            "gen": answer.generation,
            "hits": tuple(hit for hit in hits if hit is not None),
            "encoder": self._encoder(own, query, answer, by=by, whole=whole),
            "index_encoder": own.fingerprint,
        }

    def _encoder(self, own: Truth, query: str, answer: searcher.Answer, *, by: str, whole: bool) -> str:
        if answer.encoder_fp != own.fingerprint:
            return f"fingerprint {answer.encoder_fp[:12]}"
        grouped: defaultdict[str, list[searcher.Hit]] = defaultdict(list)
        for hit in answer.hits:
            grouped[hit.id].append(hit)

        def strange(asking: Truth) -> list[searcher.Hit]:
            """Return the hits of a document whose scores none of its contents explains."""
            vector = asked(asking, query)
            unexplained = (hits for hits in grouped.values() if not self._explains(own, vector, hits, by, whole=whole))
            return next(unexplained, [])

        if not (left := strange(own)):
            return own.fingerprint
        for other in self.others:
            if other != own and not strange(other):
                return other.fingerprint
        return f"none that explains {left} of {query!r}"

    def _explains(self, own: Truth, vector: Vectors, hits: Sequence[searcher.Hit], by: str, *, whole: bool) -> bool:
        for token in self.candidates(hits[0].id, token_in(hits[0].text) or ""):
            scores = embedded(own, self.text(token))[1] @ vector
            if any(hit.chunk >= len(scores) or abs(scores[hit.chunk] - hit.score) > TOLERANCE for hit in hits):
                continue
            if not whole or (len(hits) == len(scores) if by == "chunk" else hits[0].score > max(scores) - TOLERANCE):
                return True
        return False

    def _hit(self, own: Truth, hit: searcher.Hit) -> Hit:
        token = token_in(hit.text)
        if token is None:
            return Hit(hit.id, f"no token in {hit.text[:40]!r}", hit.version, hit.chunk)
        text = self.text(token)
        chunks, _ = embedded(own, text)
        if hit.chunk < len(chunks) and hit.text == chunks[hit.chunk].text:
            return Hit(hit.id, token, hit.version, hit.chunk, len(chunks))
        # The whole document: a newer version than the index's row waits to be embedded.
        return Hit(hit.id, token if hit.text == text else f"a piece of {token}", hit.version, hit.chunk)

    def _seen(self, own: Truth, query: str, hit: searcher.Hit) -> Hit | None:
        """Return the one put whose image has this score; None where several have, and it tells nothing."""
        vector, found = asked(own, query), list[Hit]()
        for token in self.candidates(hit.id, ""):
            chunks, vectors = embedded(own, self.text(token))
            if hit.chunk == len(chunks) - 1 and abs(float(vectors[-1] @ vector) - hit.score) < TOLERANCE:
                found.append(Hit(hit.id, token, hit.version, hit.chunk, len(chunks)))
        return found[0] if len(found) == 1 else None

    # Indexes ----------------------------------------------------------------------------------------------------------

    def table(self, connection: sa.Connection, cid: int) -> dict[str, Hit]:
        """Return the document table, each document by the token whose very text it has."""
        rows = connection.execute(
            sa.text("SELECT doc_id, version, content FROM document WHERE cid = :cid AND NOT deleted"), {"cid": cid}
        )
        found = {}
        for row in rows:
            token = token_in(row.content)
            whole = token is not None and self.text(token) == row.content
            found[row.doc_id] = Hit(row.doc_id, token if token and whole else f"{row.content[:40]!r}", row.version)
        return found

    def index(
        self, connection: sa.Connection, name: str, revision: str, table: Mapping[str, Hit], *, exact: bool = True
    ) -> tuple[list[Hit], list[Finding]]:
        """Return the rows of an index by the tokens that they show, and what shows none of its document's contents.

        ``exact``: rows carry their document's version; a change of metadata alone leaves it behind.
        """
        own, hits, found = self.own(revision), list[Hit](), list[Finding]()
        for doc_id, rows in self.rows(connection, name).items():
            now = table.get(doc_id)
            likely = [now.content] if now else []
            tokens = [*likely, *self.candidates(doc_id, *(likely or [""]))]
            wrong = [(token, mismatch(rows, self.text(token), own)) for token in tokens[:1] if TOKEN.fullmatch(token)]
            token = next((token for token, why in wrong if why is None), None) or next(
                (one for one in tokens[1:] if mismatch(rows, self.text(one), own) is None), None
            )
            if token is None:
                promise, detail = next((why for _, why in wrong if why), ("phantom", "nobody ever wrote it"))
                promise = promise if doc_id in table else "resurrected"
                found.append(Finding(promise, f"{name} of {revision}, {doc_id}: {detail}"))
            moved = now is not None and now.content == token and not exact
            hits += [
                Hit(
                    doc_id,
                    token or "something else",
                    now.version if moved and now else row.version,
                    row.chunk,
                    len(rows) if token else None,
                )
                for row in rows
            ]
        return hits, found


_LIVE = """
SELECT s.gen, g.physical_name, g.revision FROM slot s JOIN generation g USING (gen)
WHERE s.cid = :cid AND s.role = ANY(:roles) ORDER BY s.gen
"""
_LEDGER = """
SELECT d.doc_id, d.version, l.version AS applied FROM document d
LEFT JOIN ledger l ON l.gen = :gen AND l.doc_id = d.doc_id
WHERE d.cid = :cid AND (l.version, l.deleted) IS DISTINCT FROM (d.version, d.deleted)
  AND NOT (d.deleted AND l.version IS NULL) LIMIT 3
"""
"""A tombstone of a document that was never there needs no entry."""

_WAITING = "SELECT gen, doc_id, state, last_error FROM pending WHERE gen = ANY(:gens) LIMIT 3"


def look(
    engine: sa.Engine,
    cid: int,
    judge: Judge,
    recorder: Recorder,
    *,
    roles: Sequence[str] = ROLES,
    exact: bool = True,
) -> list[Finding]:
    """Record the document table and every live index, whole, while no write is in hand.

    Returns what no history can tell: vectors of nothing, ledgers that say otherwise, work that is left.
    """
    found: list[Finding] = []
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        table = judge.table(connection, cid)
        recorder.ok(recorder.invoke("documents", "observer"), "documents", "observer", hits=tuple(table.values()))
        live = connection.execute(sa.text(_LIVE), {"cid": cid, "roles": list(roles)}).all()
        for one in live:
            hits, wrong = judge.index(connection, one.physical_name, one.revision, table, exact=exact)
            call = recorder.invoke("index", "observer", gen=one.gen)
            recorder.ok(call, "index", "observer", gen=one.gen, hits=tuple(hits))
            behind = connection.execute(sa.text(_LEDGER), {"cid": cid, "gen": one.gen}).all()
            found += wrong
            if behind:
                found.append(Finding("lost", f"the ledger of generation {one.gen} says otherwise: {behind}"))
        waiting = connection.execute(sa.text(_WAITING), {"gens": [one.gen for one in live]}).all()
    return found + ([Finding("lost", f"work is left after heal: {waiting}")] if waiting else [])


def at_rest(engine: sa.Engine, cid: int, judge: Judge, recorder: Recorder, *, exact: bool = True) -> list[Finding]:
    """Look at everything while nothing is under way, and judge the whole history with it."""
    found = look(engine, cid, judge, recorder, exact=exact)
    return found + check(sorted(recorder.records, key=lambda record: record.at))
