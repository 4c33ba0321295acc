"""The state of class A: documents, work set, ledger, index rows and slots as bytes, and the promises about them.

One byte a field. A *cell* is what one generation knows of one document: its work item, its ledger row, its index rows
and its waiver. Versions come from one sequence and are small here, for few writes happen.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.reliability.model.explore import Layout

NONE, BUILDING, SEEDED, LIVE, ROLLED_BACK, ENDED, DROPPED = range(7)
"""Phases of a generation as far as the protocol looks: ``completed`` counts as live, the steps of a run as building."""

V, C, T, TRULY = range(4)
"""A document: version, content (0: deleted or absent), version of its latest delete, and the same whatever the guards
record: the truth that promises are judged by."""

ITEM, DEAD, LEDGER_V, LEDGER_C, ROWS_V, ROWS_C, WAIVED = range(7)
"""A cell: the work item's version (0: none) and whether it is dead; version and content that the ledger shows (0: a
tombstone or nothing); version and content of the index rows (0: none); the version that a person waived."""

FORGOTTEN = 0x80
"""Set in ``LEDGER_C``: the rows are as they were, but no content counts as unchanged against them."""

HARMS = (
    "",
    "went back: the alias moved to an index that shows less",
    "went back: a session was served an older version than before",
    "stale: an older version replaced a newer one in the ledger",
    "wrong model: the query was encoded by another encoder than the index",
    "error: a query by the alias met a dropped index",
    "reversed: a rollback, asked for again, moved the alias forward",
    "reversed: a run that began before the rollback moved the alias forward",
    "wrong generation: a retirement acted on another one than it was decided for",
    "wrong generation: an abort acted on another one than it was decided for",
    "stale evidence: the alias moved though more documents had changed than allowed",
    "wrong evidence: the alias moved against the verdict of the newest run",
    "given up: a dead letter at a version that nobody tried",
    "resurrected: a query was served what was deleted before it was answered",
    "blinked: a document in reach when the query searched was not served",
)
(
    _,
    ALIAS_BACK,
    SESSION_BACK,
    OLDER,
    WRONG_MODEL,
    NO_INDEX,
    TOGGLED,
    REVERSED,
    WRONG_RETIRED,
    WRONG_ABORTED,
    STALE_EVIDENCE,
    WRONG_EVIDENCE,
    UNTRIED,
    RESURRECTED,
    BLINKED,
) = range(len(HARMS))


@dataclass(frozen=True, slots=True)
class Setting:
    """Bounds of one exploration.

    ``writes`` holds one script for each writer: ``0a`` puts content a into document 0, ``0-`` deletes it, in order.
    ``actors`` are the processes that exist beside the writers; they do anything they may, any number of times, and
    die at any point. Every document holds ``a`` at the start, applied in the first generation, unless there is none
    yet ("first migration"), and in a second that is being built, where that is "backfilled".
    """

    name: str
    writes: tuple[str, ...]
    actors: frozenset[str]
    documents: int = 1
    generations: int = 2
    workers: int = 1

    def __str__(self) -> str:
        return (
            f"{self.name}: writes {' | '.join(self.writes)}; {self.documents} documents, {self.generations} "
            f"generations, {self.workers} workers; {', '.join(sorted(self.actors))}"
        )


STORED = "a"


def token(letter: str) -> int:
    """Return the content that a letter of a script stands for; ``-`` is a delete, 0."""
    return 0 if letter == "-" else ord(letter) - ord("`")


class StateA:
    """Layout and promises of class A; what the actors do to it is in the subclasses. ``off`` names removed guards."""

    def __init__(self, setting: Setting, off: frozenset[str] = frozenset()) -> None:
        self.setting, self.off, self.actors = setting, off, setting.actors
        self.documents, self.generations = setting.documents, setting.generations
        self.layout = take = Layout()
        self.harm, self.active, self.standby, self.building, self.next_version = (
            take.take(name) for name in ("harm", "active", "standby", "building", "next")
        )
        self.phase = take.take(*(f"g{g}.phase" for g in range(1, self.generations + 1))) - 1
        self.doc = [
            take.take(*(f"d{d}.{name}" for name in ("version", "content", "tombstone", "truly")))
            for d in range(self.documents)
        ]
        fields = ("item", "dead", "ledger.version", "ledger.content", "rows.version", "rows.content", "waived")
        self.cell = [[0] * self.documents] + [
            [take.take(*(f"g{g}.d{d}.{name}" for name in fields)) for d in range(self.documents)]
            for g in range(1, self.generations + 1)
        ]
        self.more_facts()
        self.facts = len(take.names)
        self._judged: dict[bytes, str | None] = {}
        self._filter, self._tombstones = "read_filter" not in off, "tombstone_filter" not in off

    def more_facts(self) -> None:
        """Reserve what else promises are judged by."""

    def begin(self) -> bytes:
        """Return the state at the start."""
        state = bytearray(len(self.layout.names))
        state[self.next_version] = 1
        complete = [] if "first migration" in self.actors else [1, 2] if "backfilled" in self.actors else [1]
        for g, slot, phase in zip(complete, (self.active, self.building), (LIVE, SEEDED), strict=False):
            state[slot], state[self.phase + g] = g, phase
        content = token(STORED)
        for d in range(self.documents):
            state[self.doc[d] + V], state[self.doc[d] + C] = d + 1, content
            for g in complete:
                cell = self.cell[g][d]
                state[cell + LEDGER_V : cell + ROWS_C + 1] = bytes((d + 1, content, d + 1, content))
            state[self.next_version] = d + 2
        return bytes(state)

    # What the actors ask of a state -----------------------------------------------------------------------------------

    def waiting(self, state: bytes | bytearray, g: int, *, dead_block: bool = True, by_version: bool = True) -> bool:
        """Whether items keep the alias from moving to ``g``: due, or dead and not waived at their version."""
        for cell in self.cell[g]:
            if not (item := state[cell + ITEM]):
                continue
            if not state[cell + DEAD]:
                return True
            waived = state[cell + WAIVED] == item if by_version else state[cell + WAIVED]
            if dead_block and not waived:
                return True
        return False

    def shows(self, state: bytes | bytearray, g: int, d: int) -> int:
        """Return the version of ``d`` that a query of ``g`` is served; 0 for none."""
        doc, cell = self.doc[d], self.cell[g][d]
        if self._filter and not state[doc + C]:
            return 0
        if state[doc + V] and (rows := state[cell + ROWS_V]) and (rows > state[doc + T] or not self._tombstones):
            return state[cell + LEDGER_V]
        return 0

    def is_waived(self, state: bytes | bytearray, g: int, d: int) -> bool:
        """Whether a person accepted that ``g`` lacks ``d`` at the version that waits."""
        cell = self.cell[g][d]
        return bool(state[cell + DEAD]) and state[cell + WAIVED] == state[cell + ITEM]

    def is_behind(self, state: bytes | bytearray, g: int, old: int) -> bool:
        """Whether the alias, moved from ``old`` to ``g``, would show less; waived documents are a person's choice."""
        return any(
            self.shows(state, g, d) < self.shows(state, old, d) and not self.is_waived(state, g, d)
            for d in range(self.documents)
        )

    # Promises ---------------------------------------------------------------------------------------------------------

    def broken(self, state: bytes) -> str | None:
        """Return the promise that a state breaks; judged once for all states with the same facts."""
        facts = state[: self.facts]
        try:
            return self._judged[facts]
        except KeyError:
            verdict = self._judged[facts] = self._judge(facts)
            return verdict

    def _judge(self, state: bytes) -> str | None:
        if state[self.harm]:
            return HARMS[state[self.harm]]
        slots = {state[self.active]: (LIVE,), state[self.standby]: (LIVE, ROLLED_BACK)}
        slots[state[self.building]] = (BUILDING, SEEDED)
        for g in range(1, self.generations + 1):
            if g not in slots:
                if NONE < state[self.phase + g] < ENDED:
                    return "orphan: a live generation is in no slot, so no write reaches it"
                continue
            phases = slots[g]
            if state[self.phase + g] not in phases:
                return "slots: one names a generation that is not live and complete (I5)"
            for d in range(self.documents):
                if (found := self._judge_cell(state, g, d)) is not None:
                    return found
        return None

    def _judge_cell(self, state: bytes, g: int, d: int) -> str | None:
        version, content, _, truly = state[self.doc[d] : self.doc[d] + 4]
        item, _, ledger, shown, rows, rows_content, _ = state[self.cell[g][d] : self.cell[g][d] + 7]
        if not version:
            return None  # never written, or removed without a tombstone: the views join the document
        if item > version or ledger > version:
            return "ahead: an item or a ledger row is newer than its document, and nothing can fix it (I2)"
        shown_deleted = not content and not shown
        if state[self.phase + g] >= SEEDED and item < version and ledger != version and not shown_deleted:
            return "lost: the index is behind and no work waits (I1)"
        if shown & FORGOTTEN and not item:
            return "unrepaired: nothing waits, and the rows that a repair gave up are still shown"
        shown &= ~FORGOTTEN
        if rows_content != shown or bool(rows) != bool(shown):
            return "mixed: the index rows are not those that the ledger names (I12)"
        served = rows and (content or not self._filter) and (rows > state[self.doc[d] + T] or not self._tombstones)
        if served and not content:
            return "resurrected: a deleted document is served (I3)"
        if served and rows <= truly:
            return "resurrected: text from before a delete is served (I3)"
        if content and ledger == version and shown != content:
            return "stale: the ledger names the newest version over older text"
        if content and ledger == version and not served:
            return "blinked: an applied document is not served"
        return None
