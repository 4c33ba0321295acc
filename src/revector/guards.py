"""Owns the names of the clauses of SQL that forbid a race: a proof takes one away and must then see a promise break.

A clause is written where it acts, under its name: ``guard("publish.version", "d.version = s.version")``. Guards inside
functions of the database are in ``database/schema``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

GUARDS = {
    "write.gate": "a writer of several statements holds the gate: it misses no generation registered meanwhile",
    "publish.version": "only what is still the newest version of its document is published",
    "publish.document_lock": "a document cannot change between that look and the commit",
    "publish.item_version": "a work item of a newer version stays due",
    "publish.encoder": "only vectors of the generation's own encoder are published",
    "search.visible": "a search shows nothing of deleted documents, nor text from before a delete",
    "search.attempt": "of a store's points, only those are shown that the ledger names, or named as the search began",
    "reveal.open": "what was given up is never published: its points may be gone",
    "reveal.canary": "what was put before a store's loss was noticed is not published after it",
    "collect.unseen": "points are removed only when no search can be looking at them",
    "window.clock": "the rollback window ends by the database's clock, whatever a worker's says",
}
"""Every guard by name, with what holds because of it."""

_instead: dict[str, str] = {}


def guard(name: str, clause: str) -> str:
    """Return ``clause``, or what a proof put in the place of the guard ``name``."""
    return _instead.get(name, clause)


@contextmanager
def instead(clauses: Mapping[str, str]) -> Iterator[None]:
    """Put other SQL in the place of guards, by name, in this process and for proofs alone. Raises ``KeyError``."""
    unknown = clauses.keys() - GUARDS.keys()
    if unknown:
        raise KeyError(f"no guard is called {', '.join(sorted(unknown))}; there are {', '.join(GUARDS)}.")
    before = dict(_instead)
    _instead.update(clauses)
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)
