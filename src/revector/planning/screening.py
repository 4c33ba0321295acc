"""How much of a collection a model does not know: a sample of its documents, by script, with examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from revector.encoders.vocabulary import TokenCount, Vocabulary, excerpt, script_of
from revector.interfaces import Chunker, Content
from revector.planning.estimate import Estimate

MOST_DOCUMENTS, MOST_CHARACTERS = 2_000, 1_500_000
"""Where a sample ends: a second or two of counting tokens. A script of 2 documents in 1,000 is missed once in 50."""

OF_DOCUMENT = 20_000
"""Characters that are looked at of a long document: its beginning."""

PAGE = 200
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Script:
    """Documents of one script (or ``vocabulary.LONG_WORDS``, ``SYMBOLS``) in the sample.

    ``share`` of their tokens is unknown; ``unreadable`` of them have a chunk above the limit, the ``first`` of which
    are quoted by id (or others with unknown tokens, where none is above it).
    """

    script: str
    documents: int
    share: float
    unreadable: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Screening:
    """``looked`` of all ``documents`` were looked at; ``unreadable`` is how many of all would be refused.

    ``share``: of the tokens of the sample, 0 to 1. ``limit``: ``max_unknown_tokens``. ``scripts``: the least known
    first.
    """

    documents: int
    looked: int
    share: float
    limit: float
    unreadable: Estimate
    scripts: tuple[Script, ...]

    @property
    def examples(self) -> str:
        """The scripts with unknown tokens, each with its share and one document, as text."""
        named = [
            f"{one.script}, {one.share:.0%} of the tokens in {one.documents:,} documents such as {one.first[0]}"
            for one in self.scripts
            if one.first
        ]
        return "; ".join(named)


@dataclass(slots=True)
class _Seen:
    documents: int = 0
    unknown: int = 0
    known: int = 0
    unreadable: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)

    def add(self, shown: str, tally: TokenCount, *, unreadable: bool) -> None:
        self.documents += 1
        self.unknown, self.known = self.unknown + tally.unknown, self.known + tally.known
        if unreadable:
            self.unreadable.append(shown)
        elif tally.unknown and len(self.doubtful) < EXAMPLES:
            self.doubtful.append(shown)


def screen(
    engine: sa.Engine, cid: int, vocabulary: Vocabulary, chunker: Chunker, limit: float, *, gen: int | None = None
) -> Screening | None:
    """Look at a sample of a collection's documents, or of what generation ``gen`` shows of them.

    None where the encoder reads texts by itself, so that nothing can be unknown. The same documents are drawn as long
    as none changes.
    """
    if vocabulary.counts_only:
        return None
    documents, drawn = _draw(engine, cid, gen)
    seen: dict[str, _Seen] = {}
    for page in _pages(engine, cid, drawn):
        tallies = vocabulary.tallies([text for _, text in page])
        cut = {
            doc_id: chunker.pieces([Content("text", text)])
            for (doc_id, text), tally in zip(page, tallies, strict=True)
            if tally.unknown
        }
        refused = vocabulary.unreadable(cut, limit)
        for (doc_id, text), tally in zip(page, tallies, strict=True):
            one = seen.setdefault(script_of(text), _Seen())
            one.add(f"{doc_id} ({excerpt(text)})", tally, unreadable=doc_id in refused)
    looked = sum(one.documents for one in seen.values())
    whole = TokenCount(sum(one.unknown for one in seen.values()), sum(one.known for one in seen.values()))
    hits = sum(len(one.unreadable) for one in seen.values())
    return Screening(
        documents, looked, whole.share, limit, Estimate.of_count(0, hits, looked, documents), _scripts(seen)
    )


def _scripts(seen: dict[str, _Seen]) -> tuple[Script, ...]:
    found = [
        Script(
            name,
            one.documents,
            TokenCount(one.unknown, one.known).share,
            len(one.unreadable),
            tuple((one.unreadable or one.doubtful)[:EXAMPLES]),
        )
        for name, one in seen.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.share, one.script)))


def _draw(engine: sa.Engine, cid: int, gen: int | None) -> tuple[int, list[str]]:
    """Return how many documents there are, and the ids of those drawn: by a hash of the id, as far as the limits go."""
    shown = "" if gen is None else (
        "AND EXISTS (SELECT 1 FROM ledger l WHERE l.gen = :gen AND l.doc_id = d.doc_id AND l.content_hash = "
        "d.content_hash)"
    )  # fmt: skip
    which = f"FROM document d WHERE d.cid = :cid AND NOT d.deleted {shown}"
    values = {"cid": cid} | ({} if gen is None else {"gen": gen})
    with engine.connect() as connection:
        documents = connection.scalar(sa.text(f"SELECT count(*) {which}"), values)
        rows = connection.execute(
            sa.text(
                f"SELECT d.doc_id, least(octet_length(d.content), {OF_DOCUMENT}) AS size {which} ORDER BY "
                f"hashtextextended(d.doc_id, 2), d.doc_id LIMIT {MOST_DOCUMENTS}"
            ),
            values,
        ).all()
    drawn, left = list[str](), MOST_CHARACTERS
    for row in rows:
        if left <= 0:
            break
        drawn.append(row.doc_id)
        left -= row.size
    return int(documents or 0), drawn


def _pages(engine: sa.Engine, cid: int, drawn: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    for at in range(0, len(drawn), PAGE):
        with engine.connect() as connection:
            rows = connection.execute(
                sa.text(
                    f"SELECT doc_id, left(content, {OF_DOCUMENT}) AS text FROM document WHERE cid = :cid AND doc_id = "
                    "ANY(CAST(:ids AS text[])) AND NOT deleted ORDER BY doc_id"
                ),
                {"cid": cid, "ids": list(drawn[at : at + PAGE])},
            ).all()
        yield [(row.doc_id, row.text) for row in rows]
