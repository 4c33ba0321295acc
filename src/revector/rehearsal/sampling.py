"""The sample of a rehearsal: drawn in SQL by a seed, labelled documents first, and measured as a part of the whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from revector.interfaces import Encoder, Progress
from revector.planning.estimate import NORMAL_95, Estimate
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of

COPY_ROWS = 2_000
READ_ROWS = 4
"""Whole documents that are held at once while they are measured: each may take megabytes."""

LABELLED_SHARE = 0.5
"""Most of a sample that is given to labelled documents, unless the gate demands more queries than fit there."""


@dataclass(frozen=True, slots=True)
class RehearsalSample:
    """What was drawn: all ``labelled`` documents of the chosen queries, and ``drawn`` others at random."""

    documents: int
    labelled: int
    drawn: int


@dataclass(slots=True)
class FigureSums:
    """Count, sum and sum of squares of one figure per document."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Count one document."""
        self.n, self.total, self.squares = self.n + 1, self.total + value, self.squares + value * value


@dataclass(slots=True)
class SampleStratum:
    """What the documents of one part of the sample came to in an index; ``dead`` were not embedded."""

    chunks: FigureSums = field(default_factory=FigureSums)
    tokens: FigureSums = field(default_factory=FigureSums)
    truncated: int = 0
    dead: int = 0

    def add(self, text: str, pieces: Sequence[Sequence[int]], encoder: Encoder) -> None:
        """Count a document whose index holds ``pieces``, start and stop of each."""
        self.chunks.add(len(pieces))
        self.tokens.add(sum(encoder.count_tokens(text[start:stop]) for start, stop in pieces))
        self.dead += not pieces
        self.truncated += bool(pieces) and max(stop for _, stop in pieces) < len(text.rstrip())


def choose_queries(
    qrels: Mapping[str, Mapping[str, int]], *, seed: int, most_documents: int, least_queries: int
) -> tuple[list[str], set[str]]:
    """Return queries in an order of the seed's, and all their relevant documents: at most ``most_documents``.

    The order alone decides, so that queries with many relevant documents are not passed over; ``least_queries`` of them
    are taken however many documents they need.
    """
    chosen: list[str] = []
    documents: set[str] = set()
    for query in sorted(qrels, key=lambda query: hashlib.sha256(f"{seed}\x1f{query}".encode()).digest()):
        more = {document for document, score in qrels[query].items() if score > 0} - documents
        if len(documents) + len(more) > most_documents and len(chosen) >= least_queries:
            break
        chosen.append(query)
        documents |= more
    return chosen, documents


def draw(engine: sa.Engine, cid: int, labelled: Sequence[str], *, size: int, seed: int) -> RehearsalSample:
    """Draw a sample of about ``size`` documents of the real collection ``cid`` into the scratch table ``sample``.

    At least half of it is random, whatever the labels take: only random documents speak for the rest. The same seed
    draws the same documents from the same collection.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE sample (doc_id text COLLATE "C" PRIMARY KEY, labelled boolean NOT NULL)'
        )
        documents = connection.scalar(
            sa.text("SELECT count(*) FROM revector.document WHERE cid = :cid AND NOT deleted"), {"cid": cid}
        )
        taken = connection.execute(
            sa.text("INSERT INTO sample SELECT doc_id, true FROM unnest(CAST(:ids AS text[])) doc_id"),
            {"ids": sorted(labelled)},
        ).rowcount
        drawn = connection.execute(
            sa.text(
                "INSERT INTO sample SELECT doc_id, false FROM revector.document d WHERE cid = :cid AND NOT deleted AND "
                "NOT EXISTS (SELECT 1 FROM sample s WHERE s.doc_id = d.doc_id) ORDER BY hashtextextended(doc_id, "
                ":seed), doc_id LIMIT :rows"
            ),
            {"cid": cid, "seed": seed, "rows": max(2, size - taken, math.ceil(size * (1 - LABELLED_SHARE)))},
        ).rowcount
    return RehearsalSample(int(documents or 0), taken, drawn)


_SAMPLED = (
    "FROM sample s JOIN revector.document d ON d.cid = :real AND d.doc_id = s.doc_id AND s.doc_id > :after AND "
    "s.doc_id <= :last AND NOT d.deleted"
)
"""The sampled documents of a page, as they are in the real tables."""


def copy_documents(engine: sa.Engine, real_cid: int, cid: int, progress: Progress) -> None:
    """Copy the sampled documents, page by page inside the database; one that was deleted meanwhile is left out."""
    after = ""
    while True:
        with engine.begin() as connection:
            page = connection.execute(
                sa.text(
                    "SELECT max(doc_id) AS last, count(*) AS rows FROM (SELECT doc_id FROM sample WHERE doc_id > "
                    ":after ORDER BY doc_id LIMIT :rows) page"
                ),
                {"after": after, "rows": COPY_ROWS},
            ).one()
            if page.last is None:
                break
            connection.execute(
                sa.text(
                    f"WITH seen AS (INSERT INTO image (sha256, bytes) SELECT DISTINCT i.sha256, i.bytes {_SAMPLED} "
                    "JOIN revector.image i ON i.sha256 = d.image ON CONFLICT DO NOTHING) INSERT INTO document (cid, "
                    "doc_id, content, image, meta, external_version) SELECT :cid, d.doc_id, d.content, d.image, "
                    f"d.meta, d.external_version {_SAMPLED} ORDER BY 2"
                ),
                {"cid": cid, "real": real_cid, "after": after, "last": page.last},
            )
        after = page.last
        progress.advance(page.rows)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE document")


def measure(
    engine: sa.Engine, generation: Generation, encoder: Encoder, progress: Progress
) -> dict[bool, SampleStratum]:
    """Count chunks, tokens and truncated documents of the sample in an index: the labelled (True) and the others."""
    found, lane, after = {True: SampleStratum(), False: SampleStratum()}, lane_of(generation), ""
    page = sa.text(f"SELECT doc_id FROM sample WHERE doc_id > :after ORDER BY doc_id LIMIT {COPY_ROWS}")
    texts = sa.text(
        "SELECT s.labelled, d.doc_id, d.content FROM sample s JOIN document d ON d.cid = :cid AND d.doc_id = s.doc_id "
        "WHERE s.doc_id = ANY(CAST(:ids AS text[]))"
    ).execution_options(yield_per=READ_ROWS)
    with engine.connect() as connection:
        while ids := connection.scalars(page, {"after": after}).all():
            pieces = {one.doc_id: one.locators.tolist() for one in lane.read(connection, ids)}
            for row in connection.execute(texts, {"cid": generation.cid, "ids": list(ids)}):
                found[row.labelled].add(row.content, pieces.get(row.doc_id, []), encoder)
                progress.advance()
            after = ids[-1]
    return found


def whole(certain: FigureSums, drawn: FigureSums, documents: int) -> Estimate:
    """Return the total over all ``documents`` with its 95 % interval, of which the ``certain`` ones were all seen.

    The others are estimated from those drawn at random: normal interval with finite population correction (Cochran,
    *Sampling Techniques*, 1977, sections 2.6 and 5.3). With fewer than about 30 drawn it is too narrow.
    """
    rest = max(drawn.n, documents - certain.n)
    if drawn.n == 0:
        return Estimate(certain.total, certain.total, certain.total)
    mean = drawn.total / drawn.n
    variance = max(0.0, drawn.squares - drawn.n * mean * mean) / max(1, drawn.n - 1)
    half = NORMAL_95 * rest * math.sqrt(variance / drawn.n * (1 - drawn.n / rest))
    value = certain.total + rest * mean
    return Estimate(value, max(certain.total + drawn.total, value - half), value + half)
