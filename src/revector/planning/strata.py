"""The sample of a plan: documents drawn by length, and totals over all of them with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from revector.planning.estimate import NORMAL_95, Estimate

_T = TypeVar("_T")

SAMPLE_DOCUMENTS = 200
LEAST_OF_STRATUM = 5
SPARE = 3.0
"""How many times more documents than wanted are looked at by their hash, so that enough are found."""

LARGEST_HASH = 2.0**63


@dataclass(frozen=True, slots=True)
class LengthClass:
    """Documents of one length class (bytes between two powers of two): how many there are, and texts drawn of them."""

    documents: int
    bytes: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StratifiedSample:
    """A stratified sample of a collection."""

    strata: tuple[LengthClass, ...]
    id_bytes: float

    @property
    def documents(self) -> int:
        """Documents that are not deleted."""
        return sum(stratum.documents for stratum in self.strata)

    @property
    def bytes(self) -> int:
        """Bytes of their texts."""
        return sum(stratum.bytes for stratum in self.strata)

    @property
    def sampled(self) -> int:
        """Documents in the sample."""
        return sum(len(stratum.texts) for stratum in self.strata)

    @property
    def texts(self) -> list[str]:
        """All texts of the sample."""
        return [text for stratum in self.strata for text in stratum.texts]


_LENGTH = f"width_bucket(octet_length(content), ARRAY[{', '.join(str(2**n) for n in range(1, 31))}])"
"""The binary logarithm, in integers: that of numerics takes longer than all the rest.

Without reading the text: PostgreSQL keeps the length beside what it moved out of the row.
"""


def draw(engine: sa.Engine, cid: int, *, documents: int = SAMPLE_DOCUMENTS) -> StratifiedSample:
    """Draw about ``documents`` documents of a collection by length; the same ones as long as none changes.

    Long documents get more than their share, for their chunks and tokens vary most (Neyman's allocation with a spread
    in proportion to the length; Cochran, *Sampling Techniques*, 1977, section 5.5), and no class fewer than 5. Reads
    every row's length twice, but only the texts that were drawn.
    """
    with engine.connect() as connection:
        counted = connection.execute(
            sa.text(
                f"SELECT {_LENGTH} AS length, count(*) AS documents, sum(octet_length(content))::bigint AS bytes, "
                "avg(octet_length(doc_id))::float8 AS id_bytes FROM document WHERE cid = :cid AND NOT deleted "
                "GROUP BY 1 ORDER BY 1"
            ),
            {"cid": cid},
        ).all()
        wanted = _allocate({row.length: (row.documents, row.bytes) for row in counted}, documents)
        texts = _read(connection, cid, {row.length: row.documents for row in counted}, wanted)
    total = sum(row.documents for row in counted)
    return StratifiedSample(
        tuple(LengthClass(row.documents, row.bytes, tuple(texts[row.length])) for row in counted if texts[row.length]),
        sum(row.id_bytes * row.documents for row in counted) / max(1, total),
    )


def _allocate(strata: Mapping[int, tuple[int, int]], documents: int) -> dict[int, int]:
    if sum(count for count, _ in strata.values()) <= documents:
        return {length: count for length, (count, _) in strata.items()}
    whole = max(1, sum(size for _, size in strata.values()))
    return {
        length: min(count, max(LEAST_OF_STRATUM, round(documents * size / whole)))
        for length, (count, size) in strata.items()
    }


def _read(
    connection: sa.Connection, cid: int, counts: Mapping[int, int], wanted: Mapping[int, int]
) -> dict[int, list[str]]:
    """Return the texts of the documents with the smallest hashes in each class: a sample at random, without a sort."""
    shares = {length: min(1.0, SPARE * (wanted[length] + 3) / counts[length]) for length in counts}
    rows = connection.execute(
        sa.text(
            f"SELECT d.doc_id, d.length FROM (SELECT doc_id, {_LENGTH} AS length, "
            "abs(hashtextextended(doc_id, 1)::float8) AS hash FROM document WHERE cid = :cid AND NOT deleted) d JOIN "
            "unnest(CAST(:lengths AS int[]), CAST(:limits AS float8[])) AS s(length, most) ON s.length = d.length "
            "WHERE d.hash <= s.most ORDER BY d.hash"
        ),
        {"cid": cid, "lengths": list(shares), "limits": [share * LARGEST_HASH for share in shares.values()]},
    )
    chosen: dict[str, int] = {}
    left = dict(wanted)
    for row in rows:
        if left[row.length] > 0:
            left[row.length] -= 1
            chosen[row.doc_id] = row.length
    found: dict[int, list[str]] = {length: [] for length in counts}
    texts = connection.execute(
        sa.text(
            "SELECT doc_id, content FROM document WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[])) AND NOT "
            "deleted ORDER BY doc_id"
        ),
        {"cid": cid, "ids": list(chosen)},
    )
    for row in texts:
        found[chosen[row.doc_id]].append(row.content)
    return found


def total(drawn: StratifiedSample, values: Sequence[Sequence[float]]) -> Estimate:
    """Return the total over all documents of what ``values`` says about the sampled ones, stratum by stratum.

    With its 95 % interval: normal, each stratum with its finite population correction (Cochran, sections 5.3 and
    2.6). The degrees of freedom of small strata make it a little too narrow.
    """
    value = variance = seen = 0.0
    for stratum, found in zip(drawn.strata, values, strict=True):
        n, size = len(found), stratum.documents
        mean = sum(found) / n
        value, seen = value + size * mean, seen + sum(found)
        if n > 1:
            spread = sum((one - mean) ** 2 for one in found) / (n - 1)
            variance += size * size * spread / n * (1 - n / size)
    half = NORMAL_95 * math.sqrt(max(0.0, variance))
    return Estimate(value, max(seen, value - half), value + half)


def by_stratum(drawn: StratifiedSample, measure: Callable[[str], _T]) -> list[list[_T]]:
    """Return what ``measure`` makes of every sampled text, stratum by stratum."""
    return [[measure(text) for text in stratum.texts] for stratum in drawn.strata]
