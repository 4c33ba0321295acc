"""Owns which lane a generation's index is in, and whether someone broke its tables by hand."""

from __future__ import annotations

import sqlalchemy as sa

from revector.errors import IndexGone
from revector.lifecycle import Phase
from revector.registry.attempts import AttemptsLane
from revector.registry.collections import Generation
from revector.registry.in_sql import InSqlLane
from revector.registry.lane import Lane
from revector.spec import PGVECTOR


def lane_of(generation: Generation) -> Lane:
    """Return the index of a generation, wherever it is. Nothing is asked of its store yet."""
    return InSqlLane(generation) if generation.spec.index.store == PGVECTOR else AttemptsLane(generation)


def faults(connection: sa.Connection, generation: Generation) -> list[str]:
    """Say what is wrong: tables missing, vectors of another model, none where there should be, no graph.

    Each look is a few pages, whatever the size; what single rows show is for ``verify``.
    """
    built = generation.phase not in (Phase.PROVISIONED, Phase.BACKFILLED)
    return lane_of(generation).faults(connection, built=built)


def check(connection: sa.Connection, generation: Generation, what: str) -> None:
    """Raise ``IndexGone`` where something is wrong; ``what`` was asked."""
    if wrong := faults(connection, generation):
        raise IndexGone(
            f"{what} to revision {generation.revision}: someone changed the tables of generation {generation.gen} by "
            f"hand: {'; '.join(wrong)}. The alias was not moved; see `revector doctor`."
        )
