"""Owns where an adoption stands, as data: what was taken, whether writes are followed, what was found at the last look.

Quick enough to be asked for every few seconds: the catalogue is read, and no row of the application.
"""

from __future__ import annotations

import sqlalchemy as sa

from revector.adoption import view
from revector.adoption.adoptions import read_adoption
from revector.adoption.checking import trigger_faults, way_out
from revector.adoption.copies import CopiedPlace, read_copied
from revector.formats.kept import Kept


class TableComparison(Kept):
    """The last comparison of every row with its document; ``differing`` says what was wrong, in sentences."""

    at: str
    differing: tuple[str, ...]


class AdoptionStatus(Kept):
    """The table that a collection has adopted, by the names that it has now; or the place that was copied."""

    table: str
    followed: bool
    """Whether it is a table of this database; a file, another database or a store is read again by another run."""
    since: str
    copied: bool
    """Whether every row was copied; until then rows are still missing."""
    id: tuple[str, ...]
    text: tuple[str, ...]
    meta: tuple[str, ...]
    where: str | None
    """The SQL condition of the rows that are documents; None: all of them."""
    vector: str | None
    """The column whose vectors were taken; None: all texts were embedded."""
    model: str
    proof: str
    """What the vectors were proved to be, in a sentence."""
    faults: tuple[str, ...]
    """Why writes of the application are not followed."""
    view: str | None
    """The view by which the application reads its rows beside the vectors that are served."""
    view_faults: tuple[str, ...]
    """How it is not as it was made."""
    compared: TableComparison | None
    advice: str | None
    """What to do, where there is something to do."""


_COMPARED = """
SELECT at, detail->'table' AS said FROM event
WHERE cid = :cid AND kind = 'verify_live' AND detail->'sample' = 'null' AND at > :since ORDER BY seq DESC LIMIT 1
"""


def read_standing(connection: sa.Connection, cid: int, collection: str) -> AdoptionStatus | None:
    """Return where the adoption of a collection stands; None where nothing was adopted."""
    adoption = read_adoption(connection, cid)
    if adoption is None:
        place = read_copied(connection, cid)
        return None if place is None else _of_a_place(place, collection)
    faults = trigger_faults(connection, adoption)
    unlike = view.faults(connection, cid, adoption.view)
    row = connection.execute(sa.text(_COMPARED), {"cid": cid, "since": adoption.adopted_at}).one_or_none()
    compared = None if row is None else TableComparison(at=row.at.isoformat(), differing=tuple(row.said))
    differs = compared is not None and bool(compared.differing)
    terms = adoption.terms
    return AdoptionStatus(
        table=terms.table,
        followed=True,
        since=adoption.adopted_at.isoformat(),
        copied=adoption.copied,
        id=terms.id,
        text=terms.text,
        meta=terms.meta,
        where=terms.where,
        vector=terms.vector if adoption.vectors_fp else None,
        model=adoption.proof["model"]["name"],
        proof=adoption.proof["said"],
        faults=tuple(faults),
        view=None if adoption.view is None else adoption.view.name,
        view_faults=tuple(unlike),
        compared=compared,
        advice=way_out(adoption, collection, followed=not faults, shown=not unlike, differs=differs),
    )


def _of_a_place(place: CopiedPlace, collection: str) -> AdoptionStatus:
    missing = f"rows are still missing; `revector adopt -c {collection}` goes on, if nobody does"
    return AdoptionStatus(
        table=place.origin,
        followed=False,
        since=place.adopted_at.isoformat(),
        copied=place.copied,
        id=place.terms.id,
        text=place.terms.text,
        meta=place.terms.meta,
        where=place.terms.where,
        vector=place.terms.vector if place.vectors_fp else None,
        model=place.proof["model"]["name"],
        proof=place.proof["said"],
        faults=(),
        view=None,
        view_faults=(),
        compared=None,
        advice=None if place.copied else missing,
    )
