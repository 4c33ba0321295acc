"""Owns the documents that fine-tuning looks at: all of a small collection, a drawn part of a large one."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

TEXT = "pair:"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents, in order of their ids: among these, negatives are mined and recall is measured.

    ``of``: how many the collection has. Texts of pairs that are no document have ids that begin with ``TEXT``.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    of: int

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of ids and texts."""
        digest = hashlib.sha256()
        for part in (part for pair in zip(self.ids, self.texts, strict=True) for part in pair):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    def with_texts(self, texts: Iterable[str]) -> Corpus:
        """Return the corpus with those of ``texts`` that are no document's."""
        there = set(self.texts)
        new = {f"{TEXT}{hashlib.sha256(text.encode()).hexdigest()}": text for text in texts if text not in there}
        ids = sorted(new)
        return Corpus((*self.ids, *ids), (*self.texts, *(new[one] for one in ids)), self.of)


def gather(documents: Iterable[tuple[str, str]], wanted: Collection[str], limit: int, *, seed: int = 0) -> Corpus:
    """Return the documents in ``wanted``, and of the others as many, drawn by their ids, as make ``limit`` of them all.

    ``documents``: ids and texts, read once; memory holds the texts that are kept.
    """
    kept: dict[str, str] = {}
    count = 0

    def others() -> Iterator[tuple[bytes, str, str]]:
        nonlocal count
        for doc_id, text in documents:
            count += 1
            if doc_id in wanted:
                kept[doc_id] = text
            else:
                yield hashlib.sha256(f"{seed}\0{doc_id}".encode()).digest(), doc_id, text

    drawn = heapq.nsmallest(limit, others())
    kept |= {doc_id: text for _, doc_id, text in drawn[: max(0, limit - len(kept))]}
    ids = sorted(kept)
    return Corpus(tuple(ids), tuple(kept[doc_id] for doc_id in ids), count)
