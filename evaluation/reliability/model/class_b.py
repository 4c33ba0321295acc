"""Class B, the protocol for stores that share no transaction with SQL (reliability.md, 3.7, 3.8, Appendix A).

It was explored before any store was written; ``registry.attempts`` and ``indexing.keeping`` follow it. Slots, write
path and seed are those of class A. An *attempt* is a write-once set of points with an id of its own; SQL knows it
before the store does (its intent), says which attempt is visible, and collects the others. Requests that timed out land
at any later time. One document; the store does upsert and delete by id, no more.
"""

from __future__ import annotations

from evaluation.reliability.model.class_a import ClassA
from evaluation.reliability.model.explore import Steps
from evaluation.reliability.model.state_a import (
    BLINKED,
    DEAD,
    DROPPED,
    ENDED,
    ITEM,
    LEDGER_C,
    LEDGER_V,
    NO_INDEX,
    OLDER,
    RESURRECTED,
    SEEDED,
    SESSION_BACK,
    TRULY,
    C,
    Setting,
    T,
    V,
)

GEN, VERSION, STATE, SUPERSEDED, STORED, LATE = range(6)
"""An attempt: generation, version, state of its intent, whether it was superseded (1: since the running query began,
2: before), its points in the store, whether a request for them is still under way."""

ACCEPTED, SEARCHABLE = 1, 2
"""Points in the store: acknowledged, or found by a search too. In a slow store the second follows the first."""

FREE, OPEN, PUBLISHED, DOOMED, UNKNOWN, CLOSED = range(6)
"""States of an intent. ``UNKNOWN``: SQL does not know it, which is a fault. A closed one whose requests are over can
have no effect any more, so its place is free for another attempt."""

READ, PUT, PUBLISH, TOMBSTONE, LOOKED, ACKNOWLEDGED = 1, 2, 3, 4, 5, 6
"""A worker: has read the document; recorded an attempt; knows its points to be there; must publish a delete; has
looked which attempt is visible (where that comes first); has an acknowledgement and reads back."""

NAMED = 4
"""In a cell, the attempt that the ledger names takes the place of the rows' version."""


class ClassB(ClassA):
    """Protocol B in one setting, with the guards in ``off`` removed."""

    def __init__(self, setting: Setting, off: frozenset[str] = frozenset()) -> None:
        self._attempts = range(int(next(actor for actor in setting.actors if actor.endswith("attempts")).split()[0]))
        super().__init__(setting, off)
        self._each += [self.collector, self.late]
        if "queries" in self.actors:
            self.found = self.layout.take("query.searched", "query.found", "query.could")
        self.start = self.begin()
        self._attempt_id, self._intent = "attempt_id" not in off, "intent" not in off
        self._cas, self._doom_first = "intent_cas" not in off, "doom_first" not in off
        self._collector_waits, self._close_waits = "collector_waits" not in off, "close_waits" not in off
        self._recent, self._consume = "superseded_since_accepted" not in off, "consume_first" not in off
        self._filter, self._readback = "filter" not in off, "readback" not in off
        self._acknowledged = ACCEPTED if "slow store" in self.actors else SEARCHABLE

    def more_facts(self) -> None:
        """Attempts belong to what promises are judged by."""
        names = ("gen", "version", "state", "superseded", "stored", "late")
        self.attempt = [self.layout.take(*(f"a{a}.{name}" for name in names)) for a in self._attempts]

    # Workers ----------------------------------------------------------------------------------------------------------

    def workers(self, s: bytes, out: Steps) -> None:
        """Apply items: intent in SQL, points in the store, then one transaction that makes them visible."""
        for n, at in enumerate(self.worker):
            pc, g, a, v, c, former = s[at : at + 6]
            if not pc:
                self._claim(s, n, out)
                continue
            if pc == READ:
                self._open(s, n, out)
            elif pc == PUT:
                self._put(s, n, out)
            elif pc == ACKNOWLEDGED:
                if s[self.attempt[a] + STORED] == SEARCHABLE:
                    t = bytearray(s)
                    t[at] = PUBLISH
                    out.append((f"worker {n} reads its points back", bytes(t)))
            elif pc != PUBLISH or self._consume:
                t = bytearray(s)
                if self._publish_attempt(t, g, v, c, a if pc != TOMBSTONE else None, former):
                    t[at : at + 6] = bytes(6)
                    out.append((f"worker {n} publishes", bytes(t)))
            else:
                t = bytearray(s)
                t[at], t[at + 5] = LOOKED, s[self.cell[g][0] + NAMED]
                out.append((f"worker {n} reads which attempt is visible", bytes(t)))
            t = bytearray(s)
            t[at : at + 6] = bytes(6)
            out.append((f"worker {n} dies or is refused", bytes(t)))

    def _open(self, s: bytes, n: int, out: Steps) -> None:
        """Record an attempt in SQL before the store is touched."""
        at = self.worker[n]
        _, g, _, v, c, _ = s[at : at + 6]
        same = [a for a in self._attempts if s[self.attempt[a] + GEN] == g and s[self.attempt[a] + VERSION] == v]
        free = [a for a in self._attempts if not s[self.attempt[a] + GEN]]
        chosen = same if same and not self._attempt_id else free
        if not chosen:
            return
        a, t = chosen[0], bytearray(s)
        place = self.attempt[a]
        t[place + GEN], t[place + VERSION] = g, v
        t[place + STATE], t[place + SUPERSEDED] = OPEN if self._intent else UNKNOWN, 0
        t[at : at + 6] = bytes((PUT, g, a, v, c, 0))
        out.append((f"worker {n} records an attempt", bytes(t)))

    def _put(self, s: bytes, n: int, out: Steps) -> None:
        at = self.worker[n]
        place = self.attempt[s[at + 2]]
        if s[self.phase + s[at + 1]] == DROPPED:
            return
        t = bytearray(s)
        t[place + STORED] = max(s[place + STORED], self._acknowledged)
        t[at] = ACKNOWLEDGED if t[place + STORED] == ACCEPTED and self._readback else PUBLISH
        out.append((f"worker {n} writes the points", bytes(t)))
        t = bytearray(s)
        t[place + LATE] = 1
        t[at : at + 6] = bytes(6)
        out.append((f"worker {n} sees its request time out", bytes(t)))

    def _publish_attempt(self, t: bytearray, g: int, v: int, content: int, a: int | None, former: int) -> bool:
        """One SQL transaction: document proved, item consumed, intent open → published, former one superseded."""
        doc, cell = self.doc[0], self.cell[g][0]
        if t[self.phase + g] >= ENDED or (self._version_check and (t[doc + V] != v or t[doc + C] != content)):
            return False
        item = t[cell + ITEM]
        if (not item and self._consume) or (item > v and self._item_by_version):
            return False
        if a is not None and self._cas and t[self.attempt[a] + STATE] not in (OPEN, UNKNOWN):
            return False
        if v < t[cell + LEDGER_V]:
            if self._only_forward:
                return False
            t[self.harm] = OLDER
        t[cell + ITEM] = t[cell + DEAD] = 0
        former = t[cell + NAMED] if self._consume else former
        if former:
            t[self.attempt[former - 1] + SUPERSEDED] = 1
        if a is not None:
            t[self.attempt[a] + STATE], t[self.attempt[a] + SUPERSEDED] = PUBLISHED, 0
        t[cell + LEDGER_V], t[cell + LEDGER_C], t[cell + NAMED] = v, content, 0 if a is None else a + 1
        return True

    def late(self, s: bytes, out: Steps) -> None:
        """A request that timed out lands after all, or never; in a slow store points become searchable at last."""
        for a, place in enumerate(self.attempt):
            if s[place + STORED] == ACCEPTED:
                t = bytearray(s)
                t[place + STORED] = SEARCHABLE
                out.append((f"the points of a{a} become searchable", bytes(t)))
            if s[place + LATE]:
                for stored in (
                    {max(s[place + STORED], self._acknowledged), s[place + STORED]}
                    if s[self.phase + s[place + GEN]] != DROPPED
                    else ()
                ):
                    t = bytearray(s)
                    t[place + LATE], t[place + STORED] = 0, stored
                    out.append((f"the late request of a{a} {'lands' if stored else 'never lands'}", bytes(t)))

    # The collector ----------------------------------------------------------------------------------------------------

    def collector(self, s: bytes, out: Steps) -> None:
        """Doom in SQL first, delete from the store after, close when no request can be under way."""
        for a, place in enumerate(self.attempt):
            g, _, state, superseded, stored, late = s[place : place + 6]
            if not g or s[self.phase + g] == DROPPED:
                continue
            t = bytearray(s)
            named = s[self.cell[g][0] + NAMED] == a + 1
            waits = self._collector_waits and superseded == 1 and "queries" in self.actors and s[self.query]
            if state == OPEN or (state == PUBLISHED and not named and superseded and not waits):
                t[place + STATE] = DOOMED
                out.append((f"a{a} is doomed", bytes(t)))
            if stored and (state == DOOMED or (state == OPEN and not self._doom_first)):
                t = bytearray(s)
                t[place + STORED] = 0
                out.append((f"the points of a{a} are deleted", bytes(t)))
            if state == DOOMED and not stored and not (self._close_waits and (late or self._in_hand(s, a))):
                t = bytearray(s)
                t[place + STATE] = CLOSED
                self._tidy(t, a)
                out.append((f"a{a} is closed", bytes(t)))

    def _in_hand(self, s: bytes, a: int) -> bool:
        return any(s[at] == PUT and s[at + 2] == a for at in self.worker)

    def _tidy(self, t: bytearray, a: int) -> None:
        """Free the place of a closed attempt that no request and no worker can bring back."""
        place = self.attempt[a]
        if t[place + LATE] or self._in_hand(bytes(t), a):
            return
        t[place : place + 6] = bytes(6)
        for at in self.worker:
            if t[at] in (PUBLISH, LOOKED, ACKNOWLEDGED) and t[at + 2] == a:
                t[at : at + 6] = bytes(6)
        if "queries" in self.actors:
            t[self.found + 1] &= ~(1 << a)

    def note_drop(self, t: bytearray, g: int) -> None:
        """With an index its points go, and requests for it find nothing."""
        for at in self.worker:
            if t[at] and t[at + 1] == g:
                t[at : at + 6] = bytes(6)
        for a, place in enumerate(self.attempt):
            if t[place + GEN] == g:
                t[place + STORED] = t[place + LATE] = 0
                self._tidy(t, a)

    # Queries ----------------------------------------------------------------------------------------------------------

    def queries(self, s: bytes, out: Steps) -> None:
        """Resolve and encode; search the store; then filter in SQL what was found, and ask again if the alias moved."""
        pinned, t = s[self.query], bytearray(s)
        searched, found, could = s[self.found : self.found + 3]
        if not pinned:
            t[self.query] = s[self.active]
            for place in self.attempt:
                t[place + SUPERSEDED] = 2 if s[place + SUPERSEDED] else 0
            out.append(("a query is resolved and encoded", bytes(t)))
            return
        t[self.query] = 0
        t[self.found : self.found + 3] = bytes(3)
        if not searched:
            self._search(s, t, pinned, out)
        elif self._alias_recheck and s[self.active] != pinned:
            out.append(("a query finds that the alias moved", bytes(t)))
        else:
            self._filter_found(s, t, found, could)
            out.append(("a query is answered", bytes(t)))

    def _search(self, s: bytes, t: bytearray, pinned: int, out: Steps) -> None:
        if s[self.phase + pinned] == DROPPED:
            if not self._resolve_again:
                t[self.harm] = NO_INDEX
            out.append(("a query finds no index", bytes(t)))
            return
        found = sum(
            1 << a for a, at in enumerate(self.attempt) if s[at + STORED] == SEARCHABLE and s[at + GEN] == pinned
        )
        t[self.query] = pinned
        t[self.found : self.found + 3] = bytes((1, found, self.shows(s, pinned, 0)))
        out.append(("a query searches the store", bytes(t)))

    def _filter_found(self, s: bytes, t: bytearray, found: int, could: int) -> None:
        doc, seen = self.doc[0], s[self.query + 1]
        places = [self.attempt[a] for a in self._attempts if found >> a & 1 and self.is_visible(s, a)]
        visible = [s[place + VERSION] for place in places]
        shown = max(visible, default=0)
        if visible and (not s[doc + C] or min(visible) <= s[doc + TRULY]):
            t[self.harm] = RESURRECTED
        elif not shown and s[doc + C] and could > s[doc + T]:
            t[self.harm] = BLINKED
        elif shown < seen and s[doc + C] and s[doc + T] < seen:
            t[self.harm] = SESSION_BACK
        t[self.query + 1] = max(seen, shown)

    def is_visible(self, s: bytes | bytearray, a: int) -> bool:
        """Whether the filter lets an attempt through; its generation is the one that was searched."""
        place, doc = self.attempt[a], self.doc[0]
        g = s[place + GEN]
        if not self._filter:
            return True
        if s[place + STATE] != PUBLISHED or s[self.phase + g] >= ENDED or not s[doc + C]:
            return False
        if s[place + VERSION] <= s[doc + T] and self._tombstones:
            return False
        return s[self.cell[g][0] + NAMED] == a + 1 or (s[place + SUPERSEDED] == 1 and self._recent)

    # Promises ---------------------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        """Return the state at the start: each complete generation serves an attempt of its own."""
        state = bytearray(super().begin())
        for a, g in enumerate(g for g in (state[self.active], state[self.building]) if g):
            state[self.attempt[a] : self.attempt[a] + 6] = bytes((g, 1, PUBLISHED, 0, SEARCHABLE, 0))
            state[self.cell[g][0] + NAMED : self.cell[g][0] + NAMED + 2] = bytes((a + 1, 0))
        return bytes(state)

    def shows(self, state: bytes | bytearray, g: int, d: int) -> int:
        """Return the version that a query of ``g`` is served if search and filter are one moment; 0 for none."""
        named = state[self.cell[g][d] + NAMED]
        return state[self.cell[g][d] + LEDGER_V] if named and self._serves(state, named - 1) else 0

    def _serves(self, state: bytes | bytearray, a: int) -> bool:
        return state[self.attempt[a] + STORED] == SEARCHABLE and self.is_visible(state, a)

    def _judge_cell(self, state: bytes, g: int, d: int) -> str | None:
        """The promises of class A that hold here too, and those about attempts (I9)."""
        version, content, _, truly = state[self.doc[d] : self.doc[d] + 4]
        item, _, ledger, shown, named = state[self.cell[g][d] : self.cell[g][d] + 5]
        if item > version or ledger > version:
            return "ahead: an item or a ledger row is newer than its document, and nothing can fix it (I2)"
        shown_deleted = not content and not shown
        if state[self.phase + g] >= SEEDED and item < version and ledger != version and not shown_deleted:
            return "lost: the index is behind and no work waits (I1)"
        if bool(named) != bool(shown):
            return "resurrected: a tombstone names an attempt (I3)"
        if named and (state[self.attempt[named - 1] + STATE], state[self.attempt[named - 1] + VERSION]) != (
            PUBLISHED,
            ledger,
        ):
            return "unpublished: the ledger names an attempt that is not published at its version (I9)"
        return self._judge_attempts(state, g, truly, content)

    def _judge_attempts(self, state: bytes, g: int, truly: int, content: int) -> str | None:
        named = state[self.cell[g][0] + NAMED]
        for a, place in enumerate(self.attempt):
            if state[place + GEN] != g:
                continue
            served, known = self._serves(state, a), state[place + STATE]
            if served and (not content or state[place + VERSION] <= truly):
                return "resurrected: what was deleted is served (I3)"
            if served and not (named == a + 1 or state[place + SUPERSEDED]):
                return "unpublished: an attempt that nobody published is served"
            if state[place + STORED] and known in (UNKNOWN, CLOSED):
                return "unknown: SQL does not know of points in the store (I9)"
            if known == PUBLISHED and named != a + 1 and not state[place + SUPERSEDED]:
                return "leaked: nothing names an attempt and nothing collects it"
        if (
            named
            and content
            and state[self.attempt[named - 1] + VERSION] > truly
            and not self._serves(state, named - 1)
        ):
            return "blinked: an applied document is not served"
        return None
