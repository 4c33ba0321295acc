"""Owns how a framework's store uses a collection: it writes in batches and waits for them, and reads whole texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from revector.adapters.serving import opened
from revector.config import Project
from revector.documents.documents import StoredDocument, WriteResult
from revector.errors import ConfigError
from revector.interfaces import Document
from revector.serving.searcher import Answer, Hit

Row = TypeVar("Row")

BATCH = 500
"""Documents of one transaction."""


class OpenCollection:
    """A collection that a framework's store has open.

    ``project``: a project, its folder or file, else that of ``$REVECTOR_CONFIG``. ``wait_s``: how long writing waits
    until searches show the documents (`revector worker` embeds them), None: not at all.
    """

    def __init__(self, name: str, project: Project | Path | str | None, wait_s: float | None) -> None:
        self.name, self.wait_s, self.project = name, wait_s, opened(project)
        self.documents, self.searcher = self.project.documents(name), self.project.searcher(name)

    def put(self, documents: Iterable[Document]) -> None:
        """Write documents, ``BATCH`` in each transaction, then wait for all of them.

        Raises ``DocumentError`` for what cannot be stored, and stores nothing of its batch; ``NotCaughtUp`` where
        searches do not show them in time: they are stored.
        """
        versions: dict[str, int] = {}
        for some in _batches(documents):
            versions |= self.documents.put_many(some).versions
        if self.wait_s is not None:
            self.documents.wait_until_served(WriteResult(versions), timeout_s=self.wait_s)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete documents; ids that do not exist are left alone."""
        for some in _batches(dict.fromkeys(ids)):
            self.documents.delete_many(some)

    def get(self, ids: Iterable[str]) -> Iterator[StoredDocument]:
        """Yield those of the documents that exist, whole, in the order of ``ids``."""
        found = (self.documents.get(doc_id) for doc_id in dict.fromkeys(ids))
        return (one for one in found if one is not None)

    def whole(self, answer: Answer) -> list[tuple[Hit, str]]:
        """Return each hit with its whole document, without those that were deleted a moment ago."""
        texts = self.documents.texts([hit.id for hit in answer.hits])
        return [(hit, texts[hit.id]) for hit in answer.hits if hit.id in texts]


def no_more(options: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` for options of other stores, which would mean nothing here."""
    if options:
        raise ConfigError(f"{', '.join(sorted(options))}: not an option of this store. Nothing was done; leave it out.")


def _batches(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    left = iter(rows)
    while some := list(islice(left, BATCH)):
        yield some
