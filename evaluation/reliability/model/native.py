"""A native alias beside the SQL one (reliability.md, 3.13): SQL commits the swap, a reconciler copies it to the store.

A side model of class B, for readers outside the library. A request to set the native alias may land at any later
time, and a controller may be paused between reading SQL and sending it. Two generations, as many rollbacks as one
likes, then a retirement and a drop.
"""

from __future__ import annotations

from evaluation.reliability.model.explore import Layout, Steps

ACTIVE, STANDBY, DROPPED, NATIVE, READ, SENT, OWED = range(7)
"""Slots; the generation whose index is dropped; what the native alias names; what a controller has read in SQL and not
sent yet; what is under way to the store; whether anybody will look again."""


class NativeAlias:
    """The reconciler and the drop, with the guards in ``off`` removed."""

    def __init__(self, off: frozenset[str] = frozenset()) -> None:
        self.layout = Layout()
        self.layout.take("active", "standby", "dropped", "native", "controller.read", "request", "owed")
        self.start = bytes((1, 2, 0, 1, 0, 0, 0))
        self._reconciled = "reconciled" not in off
        self._sql, self._native = "drop_reads_sql" not in off, "drop_reads_native" not in off
        self._waits = "drop_waits_for_requests" not in off

    def steps(self, s: bytes) -> Steps:
        """Return every step: moves of the slots, the reconciler, the store, and the drop."""
        out: Steps = []
        active, standby, dropped, native, read, sent, owed = s
        if standby:
            out.append(("SWAP or ROLLBACK", bytes((standby, active, dropped, native, read, sent, 1))))
            out.append(("RETIRE", bytes((active, 0, dropped, native, read, sent, owed))))
        if not read and (owed or self._reconciled) and native != active:
            out.append(("a controller reads SQL", bytes((active, standby, dropped, native, active, sent, 0))))
        if read:
            out.append(("a controller dies", bytes((active, standby, dropped, native, 0, sent, owed))))
            if not sent:
                out.append(
                    ("a controller sends what it read", bytes((active, standby, dropped, native, 0, read, owed)))
                )
        if sent:
            out.append(("the request lands", bytes((active, standby, dropped, sent, read, 0, owed))))
            out.append(("the request is lost", bytes((active, standby, dropped, native, read, 0, owed))))
        for g in (1, 2):
            if not dropped and self._may_drop(s, g):
                out.append((f"DROP g{g}", bytes((active, standby, g, native, read, sent, owed))))
        return out

    def _may_drop(self, s: bytes, g: int) -> bool:
        """Neither SQL nor the store names it, and no controller and no request can make the store name it again."""
        if self._sql and g in (s[ACTIVE], s[STANDBY]):
            return False
        if self._native and s[NATIVE] == g:
            return False
        return not self._waits or g not in (s[READ], s[SENT])

    def broken(self, s: bytes) -> str | None:
        """Return the promise that a state breaks."""
        if s[DROPPED] and s[DROPPED] in (s[ACTIVE], s[STANDBY]):
            return "wrong index: one that SQL still names was dropped"
        if s[DROPPED] and s[NATIVE] == s[DROPPED]:
            return "native readers are sent to a dropped index"
        if s[NATIVE] != s[ACTIVE] and not (self._reconciled or s[OWED] or s[READ] or s[SENT]):
            return "two truths: the native alias is not SQL's, and nobody will look again"
        return None
