"""What the victims were told, and which states of the documents that leaves possible."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from evaluation.reliability.crash_actors import CALLS
from evaluation.reliability.crash_server import End
from evaluation.reliability.crash_site import COLLECTION, Site, text_of
from evaluation.reliability.history import Hit, Record, load

from revector.interfaces import Document


@dataclass(slots=True)
class Write:
    """One write of one document, a delete where ``content`` is None; ``ended``: answered, or its process was dead."""

    doc_id: str
    content: str | None
    process: str
    batch: int | None
    invoked: float
    ended: float = float("inf")
    acknowledged: bool = False
    version: int | None = None


@dataclass
class Truth:
    """What the victims were told, in the form of the histories, and which states that leaves possible."""

    records: list[Record] = field(default_factory=list)
    writes: dict[int, Write] = field(default_factory=dict)
    failures: dict[int, Record] = field(default_factory=dict)
    """By child: what it raised."""
    _seen: int = 0

    def read(self, site: Site, end: End) -> None:
        """Take over the notes of a child that ended."""
        path = site.log / f"{end.child}.jsonl"
        for record in load(path) if path.exists() else ():
            if record.op in ("put", "delete"):
                self.note(record)
                self.writes[record.call].ended = min(self.writes[record.call].ended, end.at)
            elif record.kind == "fail":
                self.failures[end.child] = record

    def note(self, record: Record) -> None:
        """Take over one note of a write."""
        self.records.append(record)
        if record.kind == "invoke":
            self.writes[record.call] = Write(
                str(record.doc_id), record.content, record.process, record.detail.get("batch"), record.at
            )
        else:
            write = self.writes[record.call]
            write.ended, write.acknowledged, write.version = record.at, record.kind == "ok", record.version

    def saw(self, op: str, gen: int | None, hits: Iterable[Hit]) -> None:
        """Take note of the document table or of one index, whole, while no write is in hand."""
        self._seen += 1
        self.records.append(Record(-self._seen, "ok", op, "observer", time.monotonic(), gen=gen, hits=tuple(hits)))

    def answered(self, child: int) -> bool:
        """Whether a child's latest write, which is its second call, was acknowledged: for an ingester."""
        write = self.writes.get(child * CALLS + 2)
        return write is not None and write.acknowledged

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged writes of documents."""
        return sum(write.acknowledged for write in self.writes.values())

    @property
    def unknown(self) -> int:
        """Number of writes of documents without an answer."""
        return len(self.writes) - self.acknowledged

    def possible(self) -> dict[str, list[Write]]:
        """Return, by document, the writes that may be its present state: an acknowledged one first, if there is one.

        The newest acknowledged version counts, and each write without an answer, unless its process was dead before
        that version was asked for: a transaction that a dead client committed held the document's row from before its
        death, so what was asked for later came after it.
        """
        by_document: dict[str, list[Write]] = {}
        for write in self.writes.values():
            by_document.setdefault(write.doc_id, []).append(write)
        found = {}
        for doc_id, writes in by_document.items():
            told = [write for write in writes if write.acknowledged and write.version is not None]
            newest = max(told, key=lambda write: write.version or 0, default=None)
            since = newest.invoked if newest else 0.0
            found[doc_id] = ([newest] if newest else []) + [
                write for write in writes if not write.acknowledged and write.ended >= since
            ]
        return found


def write_first(site: Site, truth: Truth, ids: Iterable[str]) -> None:
    """Write the corpus that a site begins with, as acknowledged writes."""
    contents = {doc_id: f"first.{doc_id}" for doc_id in ids}
    at = time.monotonic()
    written = site.project.documents(COLLECTION).put_many(
        [Document(doc_id, text_of(doc_id, content)) for doc_id, content in contents.items()]
    )
    for call, (doc_id, content) in enumerate(contents.items(), 1):
        facts = {"doc_id": doc_id, "content": content}
        truth.note(Record(call, "invoke", "put", "first", at, **facts))
        truth.note(Record(call, "ok", "put", "first", at, version=written.versions[doc_id], **facts))
