"""Class A's slots: register, swap, rollback, retire, abort and drop, the runs that ask for them, and evidence.

A control transaction is one step, for the gate that it holds keeps every writer and every other control step out, and
publishers only ever make its emptiness test truer (``control.py``, ``moves.py``, ``migrator.py``, ``evidence.py``).
"""

from __future__ import annotations

from evaluation.reliability.model.data_a import AT, MOVED, SNAPSHOT, DataA
from evaluation.reliability.model.explore import Steps
from evaluation.reliability.model.state_a import (
    ALIAS_BACK,
    BUILDING,
    DROPPED,
    ENDED,
    LIVE,
    NONE,
    REVERSED,
    ROLLED_BACK,
    SEEDED,
    STALE_EVIDENCE,
    TOGGLED,
    WRONG_ABORTED,
    WRONG_EVIDENCE,
    WRONG_RETIRED,
    C,
    Setting,
    V,
)

BEGUN, HAS_TOKEN = 1, 2
"""A run that swaps: has begun, and may have swapped without knowing it; has its token."""

STEP, EPOCH, ROLLED = range(3)
"""A run's fields: where it is, whether slots moved since it began, whether (in truth) it was rolled back since."""

LOOKED = 2
"""A measurement that has its token (1) and has read what changed so far."""

VERDICT, SEEN, CHANGED, TRUTH = range(4)
"""Evidence of a generation: latest verdict (1 passed, 2 failed), highest version that it saw, the documents that truly
changed since, and the latest verdict of a run that was the newest when it wrote."""

RUN, MEASURE, ABORT, OTHER = 1, 3, 5, 6
"""Who holds the newest token: one of two runs, of two measurements, the abort that stalls, or anybody else."""


class ControlA(DataA):
    """Actors that move the slots."""

    def __init__(self, setting: Setting, off: frozenset[str] = frozenset()) -> None:
        super().__init__(setting, off)
        take, gens = self.layout.take, range(1, self.generations + 1)
        if "cut_test_under_gate" in off:
            self.tested = take("swap.tested")
        self.token = take("newest token")
        names = ("at", "moved", "rolled")
        self.run = [take(*(f"run{n}.{name}" for name in names)) for n in range(2 if "runs" in self.actors else 0)]
        if "retirements" in self.actors:
            self.retiring = take("retire.gen", "retire.moved")
        if "aborts" in self.actors:
            self.abort = take("abort.gen")
        if "evidence" in self.actors:
            kept = ("verdict", "seen", "changed", "truth")
            self.evidence = [0] + [take(*(f"g{g}.evidence.{name}" for name in kept)) for g in gens]
            tasks = range(1 if "one measurement" in self.actors else 2)
            self.measure = [take(*(f"measure{n}.{name}" for name in ("at", "seen", "changed"))) for n in tasks]
        self._test_first = "cut_test_under_gate" not in off
        self._dead_block, self._by_version = "dead_block" not in off, "waiver_by_version" not in off
        self._rollback_test, self._no_toggle = "rollback_test" not in off, "rollback_no_toggle" not in off
        self._retire_lock, self._epoch = "retire_lock" not in off, "retire_epoch" not in off
        self._fence, self._run_epoch = "token_fence" not in off, "forward_again_epoch" not in off
        self._again_counts = "rollback_again_counts" not in off
        self._drop_waits, self._seeded = "drop_waits" not in off, "seeded_before_swap" not in off
        self._one_migration, self._one_way_back = "one_migration" not in off, "one_way_back" not in off
        self._current, self._own = "evidence_current" not in off, "evidence_of_generation" not in off
        self._evidence_token, self._seen_gate = "evidence_token" not in off, "changes_seen_under_gate" not in off

    # Moves ------------------------------------------------------------------------------------------------------------

    def moves(self, s: bytes, out: Steps) -> None:
        """Move the slots whenever the rules allow it, for no reason; ``runs`` ask for swaps where runs are modelled."""
        if not self.gate_is_free(s):
            return
        self._register(s, out)
        if "runs" not in self.actors:
            for t in self._swaps(s):
                out.append(("SWAP", bytes(t)))
        self._rollback(s, out)
        if s[self.standby] and "retirements" not in self.actors:
            t = bytearray(s)
            self._end(t, s[self.standby])
            out.append(("RETIRE", bytes(t)))
        if "drops" in self.actors:
            self._drop(s, out)

    def _moved(self, t: bytearray) -> None:
        """One epoch further, so that a process that saw the slots before sees that they moved."""
        if self._repeatable:
            for at in self.writer:
                t[at + MOVED] = t[at + AT] == SNAPSHOT
        if "retirements" in self.actors and t[self.retiring]:
            t[self.retiring + 1] = 1
        for at in self.run:
            t[at + EPOCH] = t[at] > 0

    def _register(self, s: bytes, out: Steps) -> None:
        g = next((g for g in range(1, self.generations + 1) if s[self.phase + g] == NONE), None)
        if g is None or (s[self.building] and self._one_migration) or not any(s[doc + C] for doc in self.doc):
            return
        t = bytearray(s)
        t[self.building], t[self.phase + g] = g, BUILDING
        t[self.token] = OTHER
        self._moved(t)
        out.append(("REGISTER", bytes(t)))

    def _swaps(self, s: bytes) -> list[bytearray]:
        """Return the states after a swap: none if it is refused. Also the way forward again, from a rollback."""
        old, g = s[self.active], s[self.building]
        again = s[self.standby] and s[self.phase + s[self.standby]] == ROLLED_BACK
        if again:
            g = s[self.standby]
        elif not g or (s[self.standby] and self._one_way_back) or (s[self.phase + g] != SEEDED and self._seeded):
            return []
        t = bytearray(s)
        if not self._test_first and not again:
            if not s[self.tested]:
                return []
            t[self.tested] = 0
        elif self.waiting(s, g, dead_block=self._dead_block, by_version=self._by_version):
            return []
        if "evidence" in self.actors and not self._evidence_allows(s, t, g):
            return []
        if old and self.is_behind(s, g, old):
            t[self.harm] = ALIAS_BACK
        t[self.active], t[self.standby], t[self.phase + g] = g, old, LIVE
        if not again:
            t[self.building] = 0
        self._moved(t)
        self.forget_session(t, g, forced=False)
        return [t]

    def tests(self, s: bytes, out: Steps) -> None:
        """The emptiness test with a snapshot from before the lock, where that guard is removed."""
        g = s[self.building]
        if g and s[self.phase + g] == SEEDED and not s[self.tested] and not self.waiting(s, g):
            t = bytearray(s)
            t[self.tested] = 1
            out.append(("a swap waits for the gate, its snapshot taken", bytes(t)))

    def _rollback(self, s: bytes, out: Steps) -> None:
        back = s[self.standby]
        if not back:
            return
        if s[self.phase + back] == ROLLED_BACK and self._no_toggle:
            t = bytearray(s)
            for at in self.run:
                t[at + ROLLED] = t[at] > 0
                t[at + EPOCH] |= t[at] > 0 and self._again_counts
            out.append(("ROLLBACK, done before", bytes(t)))
            return
        waits = self.waiting(s, back) and self._rollback_test
        for forced in (False, True) if "force" in self.actors else (False,):
            if forced or not waits:
                out.append(("ROLLBACK --force" if forced else "ROLLBACK", self._rolled_back(s, forced=forced)))

    def _rolled_back(self, s: bytes, *, forced: bool) -> bytes:
        back, left, t = s[self.standby], s[self.active], bytearray(s)
        behind = self.is_behind(s, back, left)
        if s[self.phase + back] == ROLLED_BACK:
            t[self.harm] = TOGGLED
        elif behind and not forced:
            t[self.harm] = ALIAS_BACK
        t[self.active], t[self.standby], t[self.phase + left] = back, left, ROLLED_BACK
        self._moved(t)
        self.forget_session(t, back, forced=forced)
        for at in self.run:
            t[at + ROLLED] = t[at] > 0
        return bytes(t)

    def _end(self, t: bytearray, g: int) -> None:
        """A generation leaves its slot and is live no more."""
        t[self.phase + g] = ENDED
        for slot in (self.standby, self.building):
            if t[slot] == g:
                t[slot] = 0
        self._moved(t)

    def _drop(self, s: bytes, out: Steps) -> None:
        for g in range(1, self.generations + 1):
            in_use = self._drop_waits and "queries" in self.actors and s[self.query] == g
            if s[self.phase + g] == ENDED and not in_use:
                t = bytearray(s)
                t[self.phase + g] = DROPPED
                cells = self.cell[g]
                t[cells[0] : cells[0] + 7 * len(cells)] = bytes(7 * len(cells))
                self.note_drop(t, g)
                out.append(("DROP", bytes(t)))

    def note_drop(self, t: bytearray, g: int) -> None:
        """Forget what else lies in the index of ``g``."""

    # Runs: what asks for a move, decides before it acts, may be paused in between, and is retried ---------------------

    def runs(self, s: bytes, out: Steps) -> None:
        """Two runs of one migration (an upgrade, a DAG run): every step takes a token; a lost reply is a retry."""
        rolled_back = s[self.standby] and s[self.phase + s[self.standby]] == ROLLED_BACK
        for n, at in enumerate(self.run):
            step, t = s[at], bytearray(s)
            if step == 0:
                if s[self.building] or rolled_back:
                    t[at] = BEGUN
                    out.append((f"run {n} begins", bytes(t)))
                continue
            if step == BEGUN:
                t[at], t[self.token] = HAS_TOKEN, RUN + n
                out.append((f"run {n} takes the token for its swap", bytes(t)))
            elif (s[self.token] == RUN + n or not self._fence) and self.gate_is_free(s):
                self._run_swaps(s, n, out)
            for to, name in ((BEGUN, "is retried"), (0, "ends")):
                if to != step:
                    t = bytearray(s)
                    t[at : at + 3] = bytes((to, s[at + EPOCH], s[at + ROLLED]) if to else 3)
                    out.append((f"run {n} {name}", bytes(t)))

    def _run_swaps(self, s: bytes, n: int, out: Steps) -> None:
        at = self.run[n]
        again = s[self.standby] != 0
        if again and self._run_epoch and s[at + EPOCH]:
            return
        for t in self._swaps(s):
            if again and s[at + ROLLED]:
                t[self.harm] = REVERSED
            lost = bytearray(t)
            t[at : at + 3] = bytes(3)
            out.append((f"SWAP by run {n}", bytes(t)))
            lost[at] = BEGUN
            out.append((f"SWAP by run {n}, its reply is lost", bytes(lost)))

    def retirements(self, s: bytes, out: Steps) -> None:
        """A retirement: decided on what is on standby, carried out later."""
        g, moved = s[self.retiring : self.retiring + 2]
        t = bytearray(s)
        if not g:
            if s[self.standby]:
                t[self.retiring] = s[self.standby]
                out.append(("a retirement is decided", bytes(t)))
            return
        t[self.retiring : self.retiring + 2] = bytes(2)
        out.append(("the retirement is refused or dies", bytes(t)))
        ends = s[self.standby] if self._retire_lock else g
        if not ends or not self.gate_is_free(s) or (moved and self._epoch and self._retire_lock):
            return
        t = bytearray(s)
        self._end(t, ends)
        t[self.retiring : self.retiring + 2] = bytes(2)
        if ends != g:
            t[self.harm] = WRONG_RETIRED
        out.append(("RETIRE", bytes(t)))

    def aborts(self, s: bytes, out: Steps) -> None:
        """One abort that is decided and then stalls, and others that are quick."""
        g, t = s[self.abort], bytearray(s)
        if s[self.building]:
            if not g:
                t[self.abort], t[self.token] = s[self.building], ABORT
                out.append(("an abort is decided and has its token", bytes(t)))
            if self.gate_is_free(s):
                t = bytearray(s)
                self._abort(t)
                t[self.token] = OTHER
                out.append(("ABORT by someone else", bytes(t)))
        if not g:
            return
        t = bytearray(s)
        t[self.abort] = 0
        out.append(("the abort is refused or dies", bytes(t)))
        if s[self.building] and (s[self.token] == ABORT or not self._fence) and self.gate_is_free(s):
            t = bytearray(s)
            self._abort(t)
            t[self.abort] = 0
            if s[self.building] != g:
                t[self.harm] = WRONG_ABORTED
            out.append(("ABORT", bytes(t)))

    def _abort(self, t: bytearray) -> None:
        self._end(t, t[self.building])
        if "seeder" in self.actors:
            t[self.seed : self.seed + 3] = bytes(3)

    # Evidence ---------------------------------------------------------------------------------------------------------

    def measures(self, s: bytes, out: Steps) -> None:
        """Two measurements of the building generation, a task and its retry: token, look, measure, save."""
        g = s[self.building]
        for n, at in enumerate(self.measure):
            step, t = s[at], bytearray(s)
            if step == 0:
                if g and s[self.phase + g] == SEEDED:
                    t[at], t[self.token] = 1, MEASURE + n
                    out.append((f"measurement {n} takes the token", bytes(t)))
                continue
            if step == 1 and (self.gate_is_free(s) or not self._seen_gate):
                t[at : at + 3] = bytes((LOOKED, max(s[doc + V] for doc in self.doc), 0))
                out.append((f"measurement {n} reads what changed so far", bytes(t)))
            elif step == LOOKED and g and self.gate_is_free(s):
                self._save(s, n, g, out)
            t = bytearray(s)
            t[at : at + 3] = bytes(3)
            out.append((f"measurement {n} dies or is refused", bytes(t)))

    def _save(self, s: bytes, n: int, g: int, out: Steps) -> None:
        newest = s[self.token] == MEASURE + n
        if self._evidence_token and not newest:
            return
        at, kept = self.measure[n], self.evidence[g]
        for verdict, name in ((1, "passed"), (2, "failed")):
            t = bytearray(s)
            t[kept : kept + 4] = bytes((verdict, s[at + 1], s[at + 2], verdict if newest else s[kept + TRUTH]))
            t[at : at + 3] = bytes(3)
            out.append((f"measurement {n} is saved: {name}", bytes(t)))

    def _evidence_allows(self, s: bytes, t: bytearray, g: int) -> bool:
        """Whether the latest verdict passed and nothing changed since, as far as is recorded; the truth is a harm."""
        kept = [self.evidence[g]] if self._own else self.evidence[1:]
        valid = [at for at in kept if s[at + VERDICT] == 1 and self._is_current(s, at)]
        if s[self.evidence[g] + TRUTH] != 1:
            t[self.harm] = WRONG_EVIDENCE
        elif s[self.evidence[g] + CHANGED]:
            t[self.harm] = STALE_EVIDENCE
        return bool(valid)

    def _is_current(self, s: bytes, at: int) -> bool:
        return not self._current or all(s[doc + V] <= s[at + SEEN] for doc in self.doc)

    def note_change(self, t: bytearray, d: int) -> None:
        """A document changed: evidence and measurements under way age by it."""
        if "evidence" in self.actors:
            for at in self.evidence[1:]:
                if t[at + VERDICT]:
                    t[at + CHANGED] |= 1 << d
            for at in self.measure:
                if t[at] == LOOKED:
                    t[at + 2] |= 1 << d
