"""Class A, the protocol as it is in revector for pgvector: settings that are explored, and guards that are removed.

Vectors lie in the same database as documents, work set and ledger, so publishing is one transaction, and a query's
search, filter and check of the alias are one statement. Kills, retries, expired leases, queries, failures, rollbacks
and swaps may happen any number of times; bounded are writes, documents, generations and processes. Guards that this
model asked for, and that revector did not have by then, are in ``guards.ASKED_FOR``.
"""

from __future__ import annotations

from evaluation.reliability.model.control_a import ControlA
from evaluation.reliability.model.explore import Steps
from evaluation.reliability.model.state_a import Setting

ORDER = (
    "writers",
    "workers",
    "seeder",
    "moves",
    "tests",
    "queries",
    "parts",
    "people",
    "repairs",
    "runs",
    "retirements",
    "aborts",
    "measures",
)
ALIASES = {"dead letters": "people", "evidence": "measures"}


class ClassA(ControlA):
    """The whole protocol in one setting, with the guards in ``off`` removed."""

    def __init__(self, setting: Setting, off: frozenset[str] = frozenset()) -> None:
        super().__init__(setting, off)
        present = {"writers", *(ALIASES.get(actor, actor) for actor in self.actors)}
        if not self._test_first:
            present.add("tests")
        self._each = [getattr(self, name) for name in ORDER if name in present]
        self.start = self.begin()

    def steps(self, state: bytes) -> Steps:
        """Return every step of every actor."""
        out: Steps = []
        for actor in self._each:
            actor(state, out)
        return out
