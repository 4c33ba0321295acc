"""What a history says about moves: the chain of epochs, who was active when, what a swap had proved, and the window.

A move is registration, swap, rollback, retirement or abort. One that answered without an epoch did nothing; one without
an answer may have happened, and then it filled a gap between two epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from evaluation.reliability.history import Record

ALIAS = ("swap", "rollback")
"""Moves that change the active generation to theirs."""

MOVES = ("register", *ALIAS, "retire", "abort")


@dataclass(slots=True)
class _Move:
    """One call: places of its two records in the history, and what both said; ``epoch`` None: nobody knows."""

    begun: int
    ended: int
    record: Record
    gen: int | None
    epoch: int | None

    def __str__(self) -> str:
        return f"{self.record.op} {self.record.call} to generation {self.gen} (epoch {self.epoch})"


class Moves:
    """Follows moves, and which generations answered; ``report`` is called with each promise that broke."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._done: list[_Move] = []
        self._open: dict[int, _Move] = {}
        self._newest: _Move | None = None
        self._doubtful: list[tuple[int, int, Record]] = []
        self._first: list[tuple[int, int, Record]] = []
        self._epochs: dict[tuple[int, int | None], Record] = {}

    def move(self, invoke: Record, answer: Record | None, begun: int, place: int) -> None:
        """Take note of a move that begins (``answer`` None) or ends."""
        if answer is None:
            self._open[invoke.call] = _Move(begun, place, invoke, invoke.gen, None)
            return
        if answer.kind != "info":
            self._open.pop(invoke.call, None)
        if answer.kind != "ok" or answer.epoch is None:
            return
        move = _Move(begun, place, answer, invoke.gen if answer.gen is None else answer.gen, answer.epoch)
        self._done.append(move)
        if answer.op in ALIAS and (self._newest is None or answer.epoch > _epoch(self._newest)):
            self._newest = move
        self._has_its_proof(move)

    def _has_its_proof(self, move: _Move) -> None:
        detail = move.record.detail
        if move.record.op == "swap":
            missing = [name for name in ("verified", "recalled") if not detail.get(name)]
            if missing:
                self._report("swap history", f"{move} was not {' and '.join(missing)}")
            if (waiting := detail.get("waiting")) is None or waiting > detail.get("waived", 0):
                self._report("swap history", f"{move} while items waited: {dict(detail)}")
        if move.record.op == "retire" and not (detail.get("deadline_passed") or detail.get("given_up")):
            self._report("window", f"{move} before the deadline, and nobody gave the window up")

    def query(self, answer: Record, begun: int, place: int) -> None:
        """Take note of who answered a query; most need no more than a look."""
        if self._newest is None:
            if answer.gen not in {one.gen for _, _, one in self._first}:
                self._first.append((begun, place, answer))
        elif answer.gen != self._newest.gen:
            self._doubtful.append((begun, place, answer))
        if answer.epoch is not None:
            self._epochs.setdefault((answer.epoch, answer.gen), answer)

    def sample(self, answer: Record) -> None:
        """Check a sample of the standby generation inside its window."""
        if missing := answer.detail.get("missing", 0):
            self._report("window", f"standby generation {answer.gen} lacked {missing} document(s) at {answer.at}")

    # The whole history ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Judge the chain of moves and every answer of a generation that was not plainly active."""
        self._done.sort(key=_epoch)
        self._check_epochs()
        self._check_slots()
        answers = (*self._first, *self._doubtful)
        active = {gen: list(self._active(gen)) for gen in {answer.gen for _, _, answer in answers}}
        for begun, place, answer in answers:
            if not any(start < place and begun < stop for start, stop in active[answer.gen]):
                self._report("swap history", f"query {answer.call} was answered by {answer.gen}, which was not active")
        self._check_epochs_of_queries()

    def _check_epochs(self) -> None:
        used = 0
        for before, move in pairwise(self._done):
            gap = _epoch(move) - _epoch(before) - 1
            if gap < 0:
                self._report("double effect", f"{before} and {move}")
            unknown = sum(one.begun < move.ended for one in self._open.values()) - used
            if gap > unknown:
                self._report("swap history", f"between {before} and {move} {gap} epoch(s) are missing")
            used += max(0, min(gap, unknown))

    def _check_slots(self) -> None:
        """Follow the slots through the moves; across a gap only what the next move says is known."""
        active: int | None = None
        known, ended = False, set[int | None]()
        for before, move in zip([None, *self._done], self._done, strict=False):
            known = known and before is not None and _epoch(move) == _epoch(before) + 1
            if move.record.op in ALIAS:
                if known and move.record.detail.get("old", active) != active:
                    self._report("swap history", f"{move} left {move.record.detail['old']}, active was {active}")
                if move.gen in ended:
                    self._report("window", f"{move}, which had ended before")
                active, known = move.gen, True
            elif move.record.op in ("retire", "abort"):
                if known and move.gen == active:
                    self._report("swap history", f"{move}, which was active")
                ended.add(move.gen)

    def _active(self, gen: int | None) -> Iterator[tuple[float, float]]:
        """Yield the places between which ``gen`` may have been active."""
        moves = [move for move in self._done if move.record.op in ALIAS]
        unknown = [move for move in self._open.values() if move.record.op in ALIAS]
        first_end = moves[0].ended if moves else float("inf")
        if moves and "old" in moves[0].record.detail and all(move.begun > first_end for move in unknown):
            first = moves[0].record.detail["old"]
        else:
            first = self._first[0][2].gen if self._first else None
        if gen == first:
            yield -1, first_end
        for n, move in enumerate(moves):
            if move.gen == gen:
                yield move.begun, next((one.ended for one in moves[n + 1 :] if one.gen != gen), float("inf"))
        for move in unknown:
            if move.gen in (gen, None):
                yield move.begun, float("inf")

    def _check_epochs_of_queries(self) -> None:
        moves = {_epoch(move): move.gen for move in self._done if move.record.op in ALIAS}
        others = {_epoch(move) for move in self._done} - moves.keys()
        for (epoch, gen), answer in self._epochs.items():
            at = epoch
            while at in others:
                at -= 1
            if at in moves and moves[at] != gen:
                self._report("swap history", f"query {answer.call} at epoch {epoch} was answered by {gen}")


def _epoch(move: _Move) -> int:
    return move.epoch or 0
