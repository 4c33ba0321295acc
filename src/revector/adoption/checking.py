"""Owns the comparison of an adopted table with the documents: triggers, columns, and every row in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from revector.adoption import following, view
from revector.adoption.adoptions import Adoption

FIRST = 5


@dataclass(slots=True)
class TableFindings:
    """What is not as it should be; ``differing`` and ``vanished`` count documents, with the first ids of each."""

    table: str
    faults: list[str] = field(default_factory=list)
    differing: int = 0
    vanished: int = 0
    first: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every write of the application is followed, and all of them were."""
        return not (self.faults or self.differing or self.vanished)

    @property
    def said(self) -> list[str]:
        """What is wrong, in sentences."""
        some = f", such as {', '.join(map(repr, self.first))}" if self.first else ""
        said = list(self.faults)
        if self.differing:
            said.append(f"{self.differing:,} rows of {self.table} are not documents as they stand{some}")
        if self.vanished:
            said.append(f"{self.vanished:,} documents have no row in {self.table}{some}")
        return said


_DIFFERING = """
SELECT f.doc_id, count(*) OVER () AS n FROM {documents}
  LEFT JOIN document d ON d.cid = :cid AND d.doc_id = f.doc_id AND NOT d.deleted
WHERE (d.content, d.meta) IS DISTINCT FROM (f.content, f.meta) AND adopted_unfit(f.doc_id, f.content, :max) IS NULL
ORDER BY 1 LIMIT :first
"""
_VANISHED = """
SELECT d.doc_id, count(*) OVER () AS n FROM document d
WHERE d.cid = :cid AND NOT d.deleted AND NOT EXISTS (
  SELECT 1 FROM {documents} WHERE f.doc_id = d.doc_id)
ORDER BY 1 LIMIT :first
"""


def trigger_faults(connection: sa.Connection, adoption: Adoption) -> list[str]:
    """Say what keeps writes of the application from being followed; quick enough for every day."""
    if adoption.gone:
        return [f"{adoption.terms.table}: {one} was dropped" for one in adoption.gone]
    return following.faults(connection, adoption.cid, adoption.terms.table)


def way_out(
    adoption: Adoption, collection: str, *, followed: bool, shown: bool = True, differs: bool = False
) -> str | None:
    """Return what to do; None where there is nothing to do.

    ``followed``: writes are; ``shown``: the view is as it was made; ``differs``: rows differ.
    """
    if adoption.gone:
        return f"`revector unadopt -c {collection}` ends the adoption"
    if not followed:
        return f"`revector adopt -c {collection}` makes triggers again, and writes what was missed"
    if not adoption.copied:
        return f"rows are still missing; `revector adopt -c {collection}` goes on, if nobody does"
    if not shown:
        return f"`revector adopt -c {collection}` makes the view again; drop first what has its name"
    return f"`revector verify -c {collection} --repair` writes what was missed" if differs else None


def compare(engine: sa.Engine, adoption: Adoption, *, whole: bool = True) -> TableFindings:
    """Look at the triggers and, if ``whole``, compare every row with its document and the reverse; holds no one up."""
    found = TableFindings(adoption.terms.table)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        found.faults = trigger_faults(connection, adoption) + view.faults(connection, adoption.cid, adoption.view)
        if not whole or adoption.gone or not _has_functions(connection, adoption):
            return found
        values = {"cid": adoption.cid, "max": adoption.table.max_bytes, "first": FIRST}
        for statement, name in ((_DIFFERING, "differing"), (_VANISHED, "vanished")):
            rows = connection.execute(sa.text(statement.format(documents=adoption.table.documents)), values).all()
            if rows:
                setattr(found, name, rows[0].n)
                found.first += [row.doc_id for row in rows][: FIRST - len(found.first)]
    return found


def _has_functions(connection: sa.Connection, adoption: Adoption) -> bool:
    there = "SELECT count(*) FROM pg_proc WHERE oid = to_regproc(:name)"
    return bool(connection.scalar(sa.text(there), {"name": adoption.table.rows}))
