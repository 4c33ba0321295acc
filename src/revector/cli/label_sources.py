"""What the commands about labelled queries share: where the labels are, and which documents were ever stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from revector.cli.options import Session
from revector.errors import LabelError

if TYPE_CHECKING:
    from revector.labels import LabelSource


def source_of(session: Session, named: str | None) -> LabelSource:
    """Return the labels that were named, or those of the collection. Raises ``LabelError`` where it has none."""
    from revector.labels import label_source

    if named is not None:
        return label_source(named, Path(), lambda: session.project.database_url)
    if (source := session.project.labels(session.collection)) is None:
        raise LabelError(
            f"collection {session.collection!r} has no labelled queries. Nothing has run; set qrels in revector.toml "
            "to a folder in BEIR layout or of TREC files, a .csv file, or sql:SELECT ..."
        )
    return source


def document_lengths(session: Session, ids: Sequence[str]) -> dict[str, int | None]:
    """Return the length in characters of those documents that were ever stored; None where it was deleted."""
    import sqlalchemy as sa

    cid = session.project.cid(session.collection)
    rows = sa.text(
        "SELECT doc_id, CASE WHEN NOT deleted THEN char_length(content) END AS size FROM document WHERE cid = :cid AND "
        "doc_id = ANY(CAST(:ids AS text[]))"
    )
    with session.project.engine.connect() as connection:
        return {row.doc_id: row.size for row in connection.execute(rows, {"cid": cid, "ids": list(ids)})}
