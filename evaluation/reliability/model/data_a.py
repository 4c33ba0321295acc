"""Class A below the slots: writers, workers, the bulk lane's sealed parts, the seed, dead letters and queries.

What is one step here is one transaction or one statement in the code (``documents.py`` and the schema's triggers,
``publish.py``, ``work.py``, ``backfill.py``, ``searcher.py``); whatever lies between two of them may interleave.
"""

from __future__ import annotations

from evaluation.reliability.model.explore import Steps
from evaluation.reliability.model.state_a import (
    BUILDING,
    DEAD,
    DROPPED,
    ENDED,
    FORGOTTEN,
    ITEM,
    LEDGER_C,
    LEDGER_V,
    NO_INDEX,
    OLDER,
    ROWS_C,
    ROWS_V,
    SEEDED,
    SESSION_BACK,
    TRULY,
    UNTRIED,
    WAIVED,
    WRONG_MODEL,
    C,
    Setting,
    StateA,
    T,
    V,
    token,
)

IDLE = 0
SNAPSHOT, GATE, WRITTEN = 1, 2, 3
"""A writer: has its REPEATABLE READ snapshot; holds the gate and knows its write set; has its row and version."""

OP, AT, GENS, MOVED, NUMBER = range(5)
"""A writer's fields: next operation, where it is, its write set, whether slots moved since its snapshot, its number."""

READ, EMBEDDED, UNCHANGED, TOMBSTONE, LEDGER_READ = 1, 2, 3, 4, 5
"""A worker: has read the document; knows that it must publish vectors, only a version, or a delete."""


class DataA(StateA):
    """Actors that write, apply and read documents."""

    def __init__(self, setting: Setting, off: frozenset[str] = frozenset()) -> None:
        super().__init__(setting, off)
        take = self.layout.take
        self.scripts = [tuple((int(op[0]), token(op[1])) for op in script.split()) for script in setting.writes]
        self.writer = [
            take(*(f"writer{n}.{name}" for name in ("op", "at", "gens", "moved", "number")))
            for n in range(len(self.scripts))
        ]
        self.worker = [
            take(*(f"worker{n}.{name}" for name in ("at", "gen", "doc", "version", "content", "tombstone")))
            for n in range(setting.workers)
        ]
        if "seeder" in self.actors:
            self.seed = take("seed.cursor", "seed.page", "seed.version")
        if "parts" in self.actors:
            self.part = take("part.gen", "part.doc", "part.version", "part.content")
        if "queries" in self.actors:
            self.query = take("query.gen", *(f"seen.d{d}" for d in range(self.documents)))
        self._read_guards()

    def _read_guards(self) -> None:
        off = self.off
        self._gate, self._row_lock = "gate" not in off, "row_lock_for_repeatable_read" not in off
        self._standby_fed, self._tombstone_kept = "standby_fed" not in off, "tombstone_kept" not in off
        self._number_late = "version_under_row_lock" not in off
        lease = "lease_is_not_safety" in off  # a lease, by the worker's own clock, stands for the proofs
        self._version_check = "version_check" not in off and not lease
        self._item_by_version = "item_by_version" not in off and not lease
        self._item_must_exist = "item_must_exist" not in off and not lease
        self._only_forward = "only_forward" not in off and not lease
        self._items_first = "items_read_before_ledger" not in off
        self._unchanged_tombstone = "unchanged_checks_tombstone" not in off
        self._asked_again = "unchanged_asked_again" not in off
        self._fail_by_version = "failure_by_version" not in off
        self._seed_proof = "seed_only_ends_on_empty" not in off
        self._pinned, self._alias_recheck = "pinned_query" not in off, "alias_recheck" not in off
        self._resolve_again = "resolve_again" not in off
        self._repeatable = "repeatable read" in self.actors
        self._split = "slow commits" in self.actors

    # Writers ----------------------------------------------------------------------------------------------------------

    def writers(self, s: bytes, out: Steps) -> None:
        """Write documents: snapshot if REPEATABLE READ, gate, row (its version under the row lock), commit."""
        for n, at in enumerate(self.writer):
            script, op, pc = self.scripts[n], s[at + OP], s[at + AT]
            if op == len(script):
                continue
            t = bytearray(s)
            if pc == IDLE and self._repeatable:
                t[at + AT], t[at + GENS], t[at + MOVED] = SNAPSHOT, self._write_set(s), 0
                out.append((f"writer {n} takes its snapshot", bytes(t)))
            elif pc < GATE:
                self._take_gate(s, t, n, out)
            elif pc == GATE and self._split:
                d, _ = script[op]
                if not self._row_locked(s, d):
                    number = s[self.next_version]
                    t[at + AT], t[at + NUMBER], t[self.next_version] = WRITTEN, number, number + 1
                    out.append((f"writer {n} writes the row", bytes(t)))
            else:
                self._commit(t, at, *script[op])
                out.append((f"writer {n} commits {'put' if script[op][1] else 'delete'}", bytes(t)))
            if pc and not s[at + NUMBER]:  # numbers are never given back: a writer that has one is let live, for finity
                t = bytearray(s)
                t[at + AT : at + NUMBER + 1] = bytes(4)
                out.append((f"writer {n} dies and will be repeated", bytes(t)))

    def _write_set(self, s: bytes) -> int:
        active, standby, building = s[self.active], s[self.standby], s[self.building]
        return (1 << active | (1 << standby if self._standby_fed else 0) | 1 << building) & ~1

    def _take_gate(self, s: bytes, t: bytearray, n: int, out: Steps) -> None:
        at = self.writer[n]
        if s[at + AT] == SNAPSHOT and s[at + MOVED] and self._row_lock:
            t[at + AT : at + NUMBER + 1] = bytes(4)
            out.append((f"writer {n} is told to repeat (40001)", bytes(t)))
            return
        if s[at + AT] == IDLE:
            t[at + GENS] = self._write_set(s)
        if not self._number_late:
            t[at + NUMBER], t[self.next_version] = s[self.next_version], s[self.next_version] + 1
        t[at + AT] = GATE
        out.append((f"writer {n} has the gate", bytes(t)))

    def _row_locked(self, s: bytes | bytearray, d: int) -> bool:
        """Whether a writer that has not committed holds the document's row."""
        return self._split and any(
            s[at + AT] == WRITTEN and self.scripts[n][s[at + OP]][0] == d for n, at in enumerate(self.writer)
        )

    def gate_is_free(self, s: bytes) -> bool:
        """Whether a control transaction can have the gate: no writer holds it shared."""
        return not self._gate or all(s[at + AT] < GATE for at in self.writer)

    def _commit(self, t: bytearray, at: int, d: int, content: int) -> None:
        """The row with its version, and the fan-out to the write set, become visible together."""
        doc, number, gens = self.doc[d], t[at + NUMBER], t[at + GENS]
        t[at + OP] += 1
        t[at + AT : at + NUMBER + 1] = bytes(4)
        if not content and not t[doc + C]:
            return  # deleting what is not there costs no version
        if not number:
            number = t[self.next_version]
            t[self.next_version] += 1
        self.note_change(t, d)
        t[doc + C] = content
        if not content:
            t[doc + TRULY] = number
        if not content and not self._tombstone_kept:
            t[doc + V] = t[doc + T] = 0
            return
        t[doc + V] = number
        if not content:
            t[doc + T] = number
        for g in range(1, self.generations + 1):
            cell = self.cell[g][d]
            if gens >> g & 1 and t[cell + ITEM] < number:
                t[cell + ITEM], t[cell + DEAD] = number, 0

    def note_change(self, t: bytearray, d: int) -> None:
        """Note that a document changed, for evidence that ages."""

    # Workers, parts and dead letters ----------------------------------------------------------------------------------

    def workers(self, s: bytes, out: Steps) -> None:
        """Apply items: any worker may take any due item at any moment, for leases protect nothing."""
        for n, at in enumerate(self.worker):
            pc, g, d, v, c, _ = s[at : at + 6]
            if pc == IDLE:
                self._claim(s, n, out)
                continue
            t = bytearray(s)
            if pc in (READ, LEDGER_READ):
                self._compare(t, at)
                out.append((f"worker {n} compares with the ledger", bytes(t)))
            elif (pc != UNCHANGED or self._still_shown(s, g, d, c)) and self._publish(
                t, g, d, v, c if pc != UNCHANGED else -1
            ):
                t[at : at + 6] = bytes(6)
                out.append((f"worker {n} publishes", bytes(t)))
            if pc == EMBEDDED:
                self._after_embedding(s, n, out)
            t = bytearray(s)
            t[at : at + 6] = bytes(6)
            out.append((f"worker {n} dies or is refused", bytes(t)))

    def _claim(self, s: bytes, n: int, out: Steps) -> None:
        at = self.worker[n]
        for g in (s[self.active], s[self.standby], s[self.building]):
            for d, cell in enumerate(self.cell[g] if g else ()):
                if not s[cell + ITEM] or s[cell + DEAD]:
                    continue
                doc, t = self.doc[d], bytearray(s)
                if not s[doc + V]:
                    continue
                if self._items_first:
                    pc = READ if s[doc + C] else TOMBSTONE
                    t[at : at + 6] = bytes((pc, g, d, s[doc + V], s[doc + C], s[doc + T] if s[doc + C] else 0))
                else:
                    t[at : at + 6] = bytes((LEDGER_READ, g, d, s[cell + LEDGER_V], s[cell + LEDGER_C], 0))
                out.append((f"worker {n} reads a document", bytes(t)))

    def _compare(self, t: bytearray, at: int) -> None:
        """Content that the generation shows since the latest delete needs no embedding (``applied_unchanged``)."""
        pc, g, d, v, c, tombstone = t[at : at + 6]
        doc, cell = self.doc[d], self.cell[g][d]
        ledger, shown = t[cell + LEDGER_V], t[cell + LEDGER_C]
        if pc == LEDGER_READ:
            ledger, shown, v, c, tombstone = v, c, t[doc + V], t[doc + C], t[doc + T]
        unchanged = self._is_unchanged(shown, ledger, c, tombstone)
        t[at : at + 6] = bytes((TOMBSTONE if not c else UNCHANGED if unchanged else EMBEDDED, g, d, v, c, 0))

    def _is_unchanged(self, shown: int, ledger: int, content: int, tombstone: int) -> bool:
        return shown == content and (ledger > tombstone or not self._unchanged_tombstone)

    def _still_shown(self, s: bytes, g: int, d: int, content: int) -> bool:
        """Asked again under publish's locks: a repair may have taken back what the ledger showed."""
        shown, ledger, tombstone = s[self.cell[g][d] + LEDGER_C], s[self.cell[g][d] + LEDGER_V], s[self.doc[d] + T]
        return not self._asked_again or self._is_unchanged(shown, ledger, content, tombstone)

    def _publish(self, t: bytearray, g: int, d: int, v: int, content: int) -> bool:
        """One transaction: document proved, generation live, item consumed, rows replaced whole, ledger forward.

        ``content`` -1 only moves the ledger's version. Returns False, with nothing that counts changed, if refused.
        """
        doc, cell = self.doc[d], self.cell[g][d]
        if t[self.phase + g] >= ENDED or (self._version_check and (t[doc + V] != v or self._row_locked(t, d))):
            return False
        item = t[cell + ITEM]
        if (not item and self._item_must_exist) or (item > v and self._item_by_version):
            return False
        if v < t[cell + LEDGER_V]:
            if self._only_forward:
                return False
            t[self.harm] = OLDER
        t[cell + ITEM] = t[cell + DEAD] = 0
        t[cell + LEDGER_V] = v
        if content >= 0:
            t[cell + LEDGER_C] = t[cell + ROWS_C] = content
            t[cell + ROWS_V] = v if content else 0
        return True

    def _after_embedding(self, s: bytes, n: int, out: Steps) -> None:
        _, g, d, v, c, _ = s[self.worker[n] : self.worker[n] + 6]
        cell = self.cell[g][d]
        if "parts" in self.actors and not s[self.part] and s[self.building] == g:
            t = bytearray(s)
            t[self.part : self.part + 4] = bytes((g, d, v, c))
            out.append((f"worker {n} seals a part", bytes(t)))
        if "dead letters" in self.actors and s[cell + ITEM] and (s[cell + ITEM] <= v or not self._fail_by_version):
            t = bytearray(s)
            t[cell + DEAD] = 1
            t[self.worker[n] : self.worker[n] + 6] = bytes(6)
            if s[cell + ITEM] > v:
                t[self.harm] = UNTRIED
            out.append((f"worker {n} gives the document up", bytes(t)))

    def parts(self, s: bytes, out: Steps) -> None:
        """Publish a sealed part from its file, at any time and any number of times, until it is marked or lost."""
        g, d, v, c = s[self.part : self.part + 4]
        if not g:
            return
        t = bytearray(s)
        if self._publish(t, g, d, v, c):
            out.append(("a part is published from its file", bytes(t)))
        t = bytearray(s)
        t[self.part : self.part + 4] = bytes(4)
        out.append(("a part is marked or found damaged", bytes(t)))

    def people(self, s: bytes, out: Steps) -> None:
        """Waive dead letters at their present version, or make them due again."""
        for g in (s[self.active], s[self.standby], s[self.building]):
            for cell in self.cell[g] if g else ():
                if s[cell + DEAD]:
                    t = bytearray(s)
                    t[cell + DEAD] = 0
                    out.append(("a person asks for another try", bytes(t)))
                    t = bytearray(s)
                    t[cell + WAIVED] = s[cell + ITEM]
                    out.append(("a person waives a dead letter", bytes(t)))

    def repairs(self, s: bytes, out: Steps) -> None:
        """Arm a document again in one generation (``repair.py``): its item, and a hash that no content has."""
        for g in (s[self.active], s[self.standby], s[self.building]):
            for d, cell in enumerate(self.cell[g] if g else ()):
                version = s[self.doc[d] + V]
                if version and not self._row_locked(s, d):
                    t = bytearray(s)
                    t[cell + ITEM], t[cell + DEAD] = version, 0
                    t[cell + LEDGER_C] |= FORGOTTEN if s[cell + LEDGER_C] else 0
                    out.append(("a repair arms a document again", bytes(t)))

    # The seed ---------------------------------------------------------------------------------------------------------

    def seeder(self, s: bytes, out: Steps) -> None:
        """Seed the building generation in pages of one document: read in a snapshot, then items and cursor together."""
        g = s[self.building]
        if not g or s[self.phase + g] != BUILDING:
            return
        cursor, page, version = s[self.seed : self.seed + 3]
        t = bytearray(s)
        if page:
            cell = self.cell[g][page - 1]
            if version and not s[cell + ITEM]:
                t[cell + ITEM] = version
            t[self.seed : self.seed + 3] = bytes((page, 0, 0))
            out.append(("a page of the seed is committed", bytes(t)))
            t = bytearray(s)
            t[self.seed + 1 : self.seed + 3] = bytes(2)
            out.append(("a page of the seed is lost", bytes(t)))
            return
        following = next((d for d in range(cursor, self.documents) if s[self.doc[d] + C]), None)
        if following is None:
            t[self.phase + g] = SEEDED
            t[self.seed : self.seed + 3] = bytes(3)
            out.append(("an empty page ends the seed", bytes(t)))
            return
        version = s[self.doc[following] + V]
        shown = s[self.cell[g][following] + LEDGER_V] == version
        t[self.seed + 1 : self.seed + 3] = bytes((following + 1, 0 if shown else version))
        out.append(("a page of the seed is read", bytes(t)))
        if not self._seed_proof:
            t = bytearray(s)
            t[self.phase + g] = SEEDED
            out.append(("a page of the seed fails and ends it", bytes(t)))

    # Queries ----------------------------------------------------------------------------------------------------------

    def queries(self, s: bytes, out: Steps) -> None:
        """One session asks again and again: resolve and encode, then search, filter and alias in one statement."""
        pinned, t = s[self.query], bytearray(s)
        if not pinned:
            if s[self.active]:
                t[self.query] = s[self.active]
                out.append(("a query is resolved and encoded", bytes(t)))
            return
        t[self.query] = 0
        g = pinned if self._pinned else s[self.active]
        if s[self.phase + g] == DROPPED:
            if not self._resolve_again:
                t[self.harm] = NO_INDEX
            out.append(("a query finds no index", bytes(t)))
            return
        if self._alias_recheck and self._pinned and s[self.active] != g:
            out.append(("a query finds that the alias moved", bytes(t)))
            return
        if g != pinned:
            t[self.harm] = WRONG_MODEL
        for d in range(self.documents):
            seen, shown, doc = s[self.query + 1 + d], self.shows(s, g, d), self.doc[d]
            if shown < seen and s[doc + C] and s[doc + T] < seen:
                t[self.harm] = SESSION_BACK
            t[self.query + 1 + d] = max(seen, shown)
        out.append(("a query is answered", bytes(t)))

    def forget_session(self, t: bytearray, g: int, *, forced: bool) -> None:
        """Where a person moved the alias over a missing document, the session starts again from what is there."""
        if "queries" in self.actors:
            for d in range(self.documents):
                at = self.query + 1 + d
                if forced or self.is_waived(t, g, d):
                    t[at] = min(t[at], self.shows(t, g, d))
