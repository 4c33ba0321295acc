"""Owns when the view of an adopted table is made, made again and dropped, and which revisions it can follow."""

from __future__ import annotations

import sqlalchemy as sa

from revector.adoption import view
from revector.adoption.adoptions import LOCK_MS, Adoption, read_adoption
from revector.adoption.following import run
from revector.adoption.table import TableLook
from revector.adoption.terms import parts_of
from revector.database.engine import repeated, transaction
from revector.errors import ConfigError, SpecError
from revector.interfaces import Progress
from revector.registry.collections import Generation, read_generation
from revector.registry.control import add_event, before_event
from revector.registry.lanes import lane_of
from revector.spec import IndexSpec, Revision
from revector.stores.pgvector import Build


def look(connection: sa.Connection, found: TableLook, name: str, index: IndexSpec) -> None:
    """Add to what was seen of a table what keeps a view from being made of it and of such an index."""
    said, grants = view.problems(connection, name, found.terms, found.columns)
    refusal = view.index_refusal(index, index.storage, index.metric)
    found.problems += said + ([] if refusal is None else [f"no view can be made: {refusal}"])
    found.grants += grants


def ensure(engine: sa.Engine, adoption: Adoption, name: str | None, *, actor: str, progress: Progress) -> None:
    """Make the view ``name``, or the one that was made and is gone; one that is as it was made is left as it is.

    Raises ``ConfigError`` for a second view, a name that is taken, and indexes whose vectors no view can read.
    """
    known = adoption.view
    name = name or (None if known is None else known.name)
    if name is None:
        return
    if known is not None and parts_of(view.full_name(name, adoption.terms)) != parts_of(known.name):
        raise ConfigError(
            f"{adoption.terms.table} is read through the view {known.name}, not {name}. Nothing was changed; rename "
            "that view with ALTER VIEW, or drop it with `revector unadopt --only-view`."
        )
    with engine.connect() as connection:
        generations = _generations(connection, adoption.cid)
        if known is not None and not view.faults(connection, adoption.cid, known):
            return
    first = generations[0].spec.index if generations else IndexSpec()
    for one in generations:
        if (refusal := view.index_refusal(one.spec.index, first.storage, first.metric)) is not None:
            raise ConfigError(f"no view of generation {one.gen} can be made: {refusal}. Nothing was changed.")
    _make(engine, adoption, name, first.storage, actor)
    for one in generations:
        lane_of(one).build(engine, progress, Build())
        lane_of(one).analyze(engine)


def _generations(connection: sa.Connection, cid: int) -> list[Generation]:
    """Return those that are or may be active again without being built: active first, then standby."""
    slots = "SELECT gen FROM slot WHERE cid = :cid AND role IN ('active', 'standby') ORDER BY role"
    return [read_generation(connection, gen) for gen in connection.scalars(sa.text(slots), {"cid": cid})]


@repeated
def _make(engine: sa.Engine, adoption: Adoption, name: str, storage: str, actor: str) -> None:
    with transaction(engine) as connection:
        before_event(connection, adoption.cid)
        run(connection, f"SET LOCAL lock_timeout = {LOCK_MS}")
        if adoption.view is not None and adoption.view.there:
            view.serve_again(connection, adoption.cid, adoption.view)
        else:
            view.make(connection, adoption.table, name, storage)
        add_event(connection, adoption.cid, actor, "view", None, {"view": name, "table": adoption.terms.table})


@repeated
def drop(engine: sa.Engine, cid: int, *, actor: str) -> str | None:
    """Drop the view of an adopted table; return its name, None where there is none. Raises ``StateError``."""
    with transaction(engine) as connection:
        before_event(connection, cid)
        run(connection, f"SET LOCAL lock_timeout = {LOCK_MS}")
        adoption = read_adoption(connection, cid)
        if adoption is None or adoption.view is None:
            return None
        view.drop(connection, cid, adoption.view)
        add_event(connection, cid, actor, "no_view", None, {"view": adoption.view.name})
        return adoption.view.name


def check_revision(connection: sa.Connection, cid: int, target: Revision) -> None:
    """Raise ``SpecError`` where the view of an adopted table could not read the index of a revision."""
    known = connection.execute(
        sa.text("SELECT view_name, view_storage FROM adoption WHERE cid = :cid AND view_name IS NOT NULL"), {"cid": cid}
    ).one_or_none()
    live = _generations(connection, cid)
    metric = live[0].spec.index.metric if live else target.index.metric
    refusal = None if known is None else view.index_refusal(target.index, known.view_storage, metric)
    if known is not None and refusal is not None:
        raise SpecError(
            f"revision {target.revision} cannot be read through the view {known.view_name}: {refusal}. Nothing was "
            "changed; correct the migration file, or end the view with `revector unadopt --only-view`."
        )
