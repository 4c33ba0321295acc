"""Owns the tables of a generation as wholes: which they are, and what someone broke by hand."""

from __future__ import annotations

import sqlalchemy as sa

from revector.database.driver import analyze
from revector.errors import IndexGone
from revector.lifecycle import Phase
from revector.registry import ledgers
from revector.registry.collections import Generation
from revector.stores.pgvector import PgVectorIndex

MISSING = "is missing"


def index_of(generation: Generation) -> PgVectorIndex:
    """Return the physical index of a generation."""
    return PgVectorIndex(generation.physical_name, generation.spec.model.dim, generation.spec.index)


def analyze_searched(engine: sa.Engine, generation: Generation) -> None:
    """Tell the planner how large the tables of a search in a generation are now.

    After a load it takes the documents for few, and would read them all instead of asking the ANN index.
    """
    analyze(engine, (generation.physical_name, "document", ledgers.table(generation.gen)))


def faults(connection: sa.Connection, generation: Generation) -> list[str]:
    """Say what is wrong: tables missing, vectors of another model, none where there should be, no graph.

    Each look is a few pages, whatever the size; what single rows show is for ``verification``.
    """
    index, ledger = index_of(generation), ledgers.table(generation.gen)
    if absent := [f"the table {name} {MISSING}" for name in (index.name, ledger) if not _is_there(connection, name)]:
        return absent
    found = list[str]()
    if index.encoder_fp(connection) != generation.encoder_fp:
        found.append(f"the fingerprint inside {index.name} is not the generation's")
    empty = f"SELECT NOT EXISTS (SELECT 1 FROM {index.name}) AND EXISTS (SELECT 1 FROM {ledger} WHERE NOT deleted)"
    if connection.scalar(sa.text(empty)):
        found.append(f"the table {index.name} is empty, and its ledger shows documents")
    if generation.phase not in (Phase.PROVISIONED, Phase.BACKFILLED) and not index.is_built(connection):
        found.append(f"the HNSW index of {index.name} {MISSING} or invalid")
    return found


def check(connection: sa.Connection, generation: Generation, what: str) -> None:
    """Raise ``IndexGone`` where something is wrong; ``what`` was asked."""
    if wrong := faults(connection, generation):
        raise IndexGone(
            f"{what} to revision {generation.revision}: someone changed the tables of generation {generation.gen} by "
            f"hand: {'; '.join(wrong)}. The alias was not moved; see `revector doctor`."
        )


def _is_there(connection: sa.Connection, name: str) -> bool:
    return connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is not None
