"""What a history says about documents: which contents are possible, and which answers and indexes break a promise.

A document is a register whose versions are its order. What a call without an answer did is not known until an answer,
the document table or an index shows its content; until then either is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.reliability.history import Hit, Record

Report = Callable[[str, str], None]
"""Takes a promise and what broke it."""


@dataclass(slots=True)
class _Content:
    """The puts of one content: ``calls`` that did not fail, of which ``unknown`` have no answer."""

    calls: int = 0
    unknown: int = 0
    acknowledged: bool = False
    ended: int = -1
    """Place in the history of the last answer to one of them."""


@dataclass(slots=True)
class _Document:
    """One document: its contents, and what each version is (None: a delete)."""

    contents: dict[str, _Content] = field(default_factory=dict)
    made: dict[int, str | None] = field(default_factory=dict)
    """By acknowledged writes."""
    seen: dict[int, str] = field(default_factory=dict)
    """By answers and indexes only."""
    best: int = 0
    """The highest acknowledged version."""
    begun: int = -1
    """Where in the history the write of ``best`` began."""
    deletes: list[tuple[int, int, int]] = field(default_factory=list)
    """Place of the answer, then the highest version and the latest beginning of all deletes up to it."""
    unknown_deletes: dict[int, float] = field(default_factory=dict)
    """By call: up to which place in the history it may still happen."""

    def may_be_gone(self) -> bool:
        """Whether no document at all is a possible state."""
        late = any(until >= self.begun for until in self.unknown_deletes.values())
        return late or self.made.get(self.best) is None

    def was_before(self, rows: Sequence[Hit] | None, begun: int) -> bool:
        """Whether what is shown was written before ``begun``, so that no write since then has happened."""
        if rows:
            content = self.contents[rows[0].content]
            return content.acknowledged and content.ended < begun
        return not self.unknown_deletes and (not self.deletes or self.deletes[-1][0] < begun)


_Rows = Mapping[str, Sequence[Hit]]


class Documents:
    """Follows writes, answers and the state after heal; ``report`` is called with each promise that broke."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._documents: dict[str, _Document] = {}
        self._shown: dict[tuple[str, str], tuple[int, str, int]] = {}  # highest version, its content, since when
        self._table: _Rows | None = None
        self._indexes: list[tuple[int | None, _Rows]] = []
        self._begun = 0
        self._batches: dict[str, dict[str, tuple[str, int]]] = {}  # of puts together: by document content and place

    # Writes -----------------------------------------------------------------------------------------------------------

    def write(self, invoke: Record, answer: Record | None, begun: int, place: int) -> None:
        """Take note of a put or delete that begins (``answer`` None) or ends."""
        self.compare()
        document = self._documents.setdefault(str(invoke.doc_id), _Document())
        if invoke.op == "delete":
            self._delete(document, invoke, answer, begun, place)
            return
        content = document.contents.setdefault(str(invoke.content), _Content())
        if answer is None:
            content.calls += 1
            content.unknown += 1
        elif answer.kind == "fail":
            content.calls -= 1
            content.unknown -= 1
        elif answer.kind == "ok":
            content.unknown -= 1
            content.acknowledged, content.ended = True, place
            if answer.version is not None:
                self._made(document, invoke, answer.version, begun)
        if "batch" in invoke.detail:
            self._batch(str(invoke.detail["batch"]), invoke, answer, begun)

    def _batch(self, batch: str, invoke: Record, answer: Record | None, begun: int) -> None:
        """Keep puts that were made together until all of them are answered."""
        puts = self._batches.setdefault(batch, {})
        puts[str(invoke.doc_id)] = str(invoke.content), begun
        if answer is not None and answer.kind != "info":
            told = (self._documents[doc_id].contents[content].acknowledged for doc_id, (content, _) in puts.items())
            if answer.kind == "fail" or all(told):
                del self._batches[batch]

    def _delete(self, document: _Document, invoke: Record, answer: Record | None, begun: int, place: int) -> None:
        if answer is None:
            document.unknown_deletes[invoke.call] = float("inf")
        elif answer.kind == "info" and answer.detail.get("dead"):
            document.unknown_deletes[invoke.call] = place
        elif answer.kind in ("ok", "fail"):
            document.unknown_deletes.pop(invoke.call, None)
            if answer.kind == "ok" and answer.version is not None:
                _, version, latest = document.deletes[-1] if document.deletes else (0, 0, -1)
                document.deletes.append((place, max(version, answer.version), max(latest, begun)))
                self._made(document, invoke, answer.version, begun)

    def _made(self, document: _Document, invoke: Record, version: int, begun: int) -> None:
        if version in document.made:
            self._report("double effect", f"{invoke.doc_id}: two writes were told version {version}")
        seen = document.seen.pop(version, None)
        if seen is not None and seen != invoke.content:
            name = "resurrected" if invoke.op == "delete" else "phantom"
            self._report(name, f"{invoke.doc_id}: {seen} was shown as version {version}, which is {invoke.op} {invoke}")
        document.made[version] = invoke.content
        if version > document.best:
            document.best, document.begun = version, begun

    # Answers ----------------------------------------------------------------------------------------------------------

    def query(self, answer: Record, begun: int, place: int) -> None:
        """Check the hits of one answer."""
        where = f"query {answer.call} of {answer.process}"
        if answer.encoder != answer.index_encoder:
            self._report("wrong model", f"{where}: encoded by {answer.encoder}, searched in {answer.index_encoder}")
        for hit in answer.hits:
            self._is_possible(hit, begun, where)
            if hit.chunks is not None and not 0 <= hit.chunk < hit.chunks:
                self._report("mixed chunks", f"{where}: {_text(hit)} has chunk {hit.chunk} of {hit.chunks}")
            key = answer.process, hit.doc_id
            version, content, since = self._shown.get(key, (-1, "", -1))
            if hit.version > version:
                self._shown[key] = hit.version, hit.content, place
            elif hit.content != content and begun > since and hit.version < version:
                self._report("went back", f"{where}: {_text(hit)} after version {version} ({content})")
        if len({hit.doc_id for hit in answer.hits}) < len(answer.hits):
            for rows in _by_document(answer.hits).values():
                self._is_unmixed(rows, where)

    def _is_possible(self, hit: Hit, begun: int, where: str) -> bool:
        """Whether an answer that was asked for at ``begun`` may show this."""
        document = self._documents.get(hit.doc_id)
        content = None if document is None else document.contents.get(hit.content)
        if document is None or (content is None and document.made.get(hit.version, "") is not None):
            return self._broken("phantom", f"{where}: {_text(hit)}, which nobody put")
        made = document.made.get(hit.version) or document.seen.get(hit.version)
        for answered, version, latest in reversed(document.deletes):
            if answered >= begun:
                continue
            if hit.version <= version or (content and not content.unknown and content.ended < latest):
                return self._broken("resurrected", f"{where}: {_text(hit)}, deleted by version {version}")
            break
        if content is None or (made is None and hit.version in document.made):
            return self._broken("resurrected", f"{where}: {_text(hit)}, which is the version of its delete")
        if made is None:
            document.seen[hit.version] = hit.content
        elif made != hit.content:
            return self._broken("phantom", f"{where}: {_text(hit)}, but that version is {made}")
        return True

    def _broken(self, promise: str, detail: str) -> bool:
        self._report(promise, detail)
        return False

    def _is_unmixed(self, rows: Sequence[Hit], where: str) -> bool:
        contents, numbers = {hit.content for hit in rows}, [hit.chunk for hit in rows]
        if len(contents) > 1:
            return self._broken("mixed chunks", f"{where}: {rows[0].doc_id} has chunks of {sorted(contents)}")
        if len(set(numbers)) < len(numbers):
            return self._broken("mixed chunks", f"{where}: {_text(rows[0])} has chunks {numbers}")
        return True

    def _is_whole(self, rows: Sequence[Hit], where: str) -> bool:
        numbers, chunks = sorted(hit.chunk for hit in rows), rows[0].chunks
        if chunks is None or numbers == list(range(chunks)):
            return True
        return self._broken("mixed chunks", f"{where}: {_text(rows[0])} has chunks {numbers} of {chunks}")

    # After heal -------------------------------------------------------------------------------------------------------

    def healed(self, answer: Record, begun: int) -> None:
        """Take the document table or one index, whole; they are compared when the next write begins, or at the end."""
        rows = _by_document(answer.hits)
        if answer.op == "documents":
            self._table = rows
        else:
            self._indexes.append((answer.gen, rows))
        self._begun = begun

    def compare(self) -> None:
        """Compare what was found after heal with the writes, and the indexes with the document table."""
        if self._table is None and not self._indexes:
            return
        table, indexes = self._table, self._indexes
        self._table, self._indexes = None, []
        doubted: set[str] = set()
        if table is not None:
            doubted = self._compare_with_writes(table, "the document table", "lost")
            self._compare_with_batches(table, doubted)
        for gen, rows in indexes:
            if table is None:
                self._compare_with_writes(rows, f"index {gen}", "stale")
            else:
                self._compare_with_table(rows, table, f"index {gen}", doubted)

    def _compare_with_writes(self, found: _Rows, where: str, older: str) -> set[str]:
        """Return the documents that are not as acknowledged writes left them; ``older`` names one that is behind."""
        wrong = {doc_id for doc_id, rows in found.items() if not self._is_sound(rows, where)}
        for doc_id, document in self._documents.items():
            rows = found.get(doc_id)
            if rows is None and not document.may_be_gone():
                self._report("lost", f"{where}: {doc_id} is absent, version {document.best} was acknowledged")
                wrong.add(doc_id)
            elif rows and doc_id not in wrong and self._is_behind(rows[0], document):
                self._report(older, f"{where}: {_text(rows[0])}, but version {document.best} was acknowledged")
                wrong.add(doc_id)
        return wrong

    def _compare_with_batches(self, table: _Rows, doubted: set[str]) -> None:
        """Find puts of several documents without an answer of which a part is there and a part is not."""
        for batch, puts in self._batches.items():
            there = absent = False
            for doc_id, (content, begun) in puts.items():
                document, rows = self._documents[doc_id], table.get(doc_id)
                if doc_id in doubted:
                    continue
                if document.contents[content].acknowledged or (rows and rows[0].content == content):
                    there = True
                else:
                    absent |= document.was_before(rows, begun)
            if there and absent:
                self._report("half", f"the batch {batch!r} is there for a part of its documents only: {sorted(puts)}")

    def _compare_with_table(self, found: _Rows, table: _Rows, where: str, doubted: set[str]) -> None:
        for doc_id, [wanted, *_] in table.items():
            rows = found.get(doc_id)
            if doc_id in doubted or (rows and not self._is_sound(rows, where)):
                continue
            decided = self._content(wanted).acknowledged
            if rows is None:
                self._report("lost" if decided else "half", f"{where}: {_text(wanted)} is in the document table only")
            elif rows[0].content != wanted.content:
                ahead = rows[0].version > wanted.version and not self._content(rows[0]).acknowledged
                name = "stale" if decided and not ahead else "half"
                self._report(name, f"{where}: {_text(rows[0])}, the document table has {_text(wanted)}")
        for doc_id, rows in found.items():
            if doc_id in table or doc_id in doubted or not self._is_sound(rows, where):
                continue
            name = "resurrected" if self._content(rows[0]).acknowledged else "half"
            self._report(name, f"{where}: {_text(rows[0])}, which is absent from the document table")

    def _is_sound(self, rows: Sequence[Hit], where: str) -> bool:
        return (
            all(self._is_possible(hit, self._begun, where) for hit in rows)
            and self._is_unmixed(rows, where)
            and self._is_whole(rows, where)
        )

    def _is_behind(self, hit: Hit, document: _Document) -> bool:
        return hit.version < document.best and document.made[document.best] != hit.content

    def _content(self, hit: Hit) -> _Content:
        return self._documents[hit.doc_id].contents[hit.content]

    def end(self) -> None:
        """Judge what only the whole history can tell: contents that were shown and whose puts all said otherwise."""
        self.compare()
        for doc_id, document in self._documents.items():
            shown: dict[str, list[int]] = {}
            for version, token in document.seen.items():
                shown.setdefault(token, []).append(version)
            for token, versions in shown.items():
                content, what = document.contents[token], f"{doc_id}: {token} was shown as version {versions}"
                if not content.calls:
                    self._report("phantom", f"{what}, but its put failed")
                elif not content.unknown:
                    self._report("phantom", f"{what}, which no put was told")
                elif len(versions) > content.unknown:
                    self._report("double effect", f"{what} by {content.unknown} unanswered put(s)")


def _by_document(hits: Iterable[Hit]) -> dict[str, list[Hit]]:
    rows: dict[str, list[Hit]] = {}
    for hit in hits:
        rows.setdefault(hit.doc_id, []).append(hit)
    return rows


def _text(hit: Hit) -> str:
    return f"{hit.doc_id} with {hit.content} (version {hit.version})"
