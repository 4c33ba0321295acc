"""Owns the aliases that stores have of their own: for readers outside of revector, each follows a collection's alias.

What counts is in SQL, and moves there. A store's alias moves after it, is read back, and is set right once a minute;
what its readers can be promised is in docs/stores.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import sqlalchemy as sa

from revector.errors import SpecError, StoreRefused, StoreUnavailable
from revector.stores.opening import stores_of

log = logging.getLogger("revector.worker")

TURNS = 5
"""How often the alias may move while one in a store follows it."""


@dataclass(frozen=True, slots=True)
class WantedAlias:
    """Where a store's alias should lead: to an index of that store, or nowhere; ``ours`` are all that it may leave."""

    name: str
    index: str | None
    ours: frozenset[str]


def follow(engine: sa.Engine, cid: int) -> None:
    """Have each store's alias lead where the collection's does, and read that back.

    Nothing is locked: of two that do it at once, the last to write reads both again, and what is left of one that died
    is set right by the next. Raises ``StoreRefused`` where another's alias or index has the name.
    """
    for store in stores_of(engine).aliased:
        aliases = stores_of(engine).aliases_of(store)
        for _ in range(TURNS):
            wanted = _wanted(engine, cid, store)
            if _found(engine, store, wanted) == wanted.index:
                break
            aliases.lead(wanted.name, wanted.index)
        else:
            raise StoreUnavailable(
                f"the alias {wanted.name} in the store {store!r} was to lead to {wanted.index}, and does not. Searches "
                "through revector are right; it is tried again each minute by a worker."
            )


def follow_if_it_can(engine: sa.Engine, cid: int) -> str:
    """Follow as ``follow``; where that is not possible, return why: searches through revector need none of it."""
    try:
        follow(engine, cid)
    except (StoreRefused, StoreUnavailable) as error:
        log.error("an alias for readers outside of revector is not right: %s", error)  # noqa: TRY400 - it says all
        return str(error)
    return ""


def say(engine: sa.Engine, cid: int) -> str:
    """Say where aliases lead; nothing is changed. Raises ``StoreRefused`` for one that leads where it should not."""
    said = []
    for store in stores_of(engine).aliased:
        wanted = _wanted(engine, cid, store)
        found = _found(engine, store, wanted)
        if found != wanted.index:
            raise StoreRefused(
                f"the alias {wanted.name} in the store {store!r} leads to {found}, not to {wanted.index}. Searches "
                "through revector are right; a running `revector worker` sets it right within a minute."
            )
        said.append(f"{wanted.name} in {store} leads to {found or 'nothing, as no index there is active'}")
    return ", ".join(said)


def demand_free(engine: sa.Engine, cid: int, store: str) -> None:
    """Raise ``SpecError`` where a store that an index is to come to keeps an alias, and its name is taken there."""
    if store in stores_of(engine).aliased:
        try:
            _found(engine, store, _wanted(engine, cid, store))
        except StoreRefused as error:
            raise SpecError(str(error)) from error


def _found(engine: sa.Engine, store: str, wanted: WantedAlias) -> str | None:
    """Return where the store's alias leads. Raises ``StoreRefused`` where that is no index of this collection."""
    found = stores_of(engine).aliases_of(store).leads_to(wanted.name)
    if found is not None and found not in wanted.ours:
        what = "is an index" if found == wanted.name else f"is an alias that leads to {found}"
        raise StoreRefused(
            f"the store {store!r} is to keep an alias {wanted.name} (stores.{store}.native_alias), but there "
            f"{wanted.name} {what}, which revector did not make for this collection. It was left alone; remove it, or "
            "leave native_alias out."
        )
    return found


def _wanted(engine: sa.Engine, cid: int, store: str) -> WantedAlias:
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT c.name, g.physical_name, g.gen IS NOT DISTINCT FROM c.active_gen AS active FROM collection c "
                "LEFT JOIN generation g ON g.cid = c.cid AND g.spec->'index'->>'store' = :store WHERE c.cid = :cid"
            ),
            {"cid": cid, "store": store},
        ).all()
    active = next((row.physical_name for row in rows if row.active and row.physical_name), None)
    return WantedAlias(rows[0].name, active, frozenset(row.physical_name for row in rows if row.physical_name))
