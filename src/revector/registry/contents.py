"""What a stored document holds: its text, and its image, whose bytes are read when they are needed."""

from __future__ import annotations

import sqlalchemy as sa

from revector.errors import DocumentError
from revector.interfaces import Blob, Content

IMAGE_CHARACTERS = 1_000
"""What an image counts for where batches are sized by text: a tower for images sees 50 to 576 patches."""

HELD = "d.content, d.image, octet_length(i.bytes) AS image_bytes"
"""Columns of a document ``d`` that ``contents_of`` takes, with its image ``i``; no byte of that is read."""

IMAGE = "LEFT JOIN image i ON i.sha256 = d.image"


def hit_columns(shown_hash: str, document: str = "d") -> str:
    """Return the columns ``text`` and ``kind`` of a hit ``t`` in its ``document``, whose index shows ``shown_hash``.

    Where that is not the document as it stands, the text is all of it, and the kind of what matched is not known.
    """
    same, content = f"CASE WHEN {shown_hash} = {document}.content_hash THEN", f"{document}.content"
    return (
        f"{same} substr({content}, t.start + 1, t.stop - t.start) ELSE {content} END AS text, "
        f"{same} CASE WHEN t.start < length({content}) THEN 'text' ELSE 'image' END END AS kind"
    )


def contents_of(engine: sa.Engine, text: str | None, image: str | None, size: int | None) -> tuple[Content, ...]:
    """Return what a document holds, the text first; nothing for a tombstone. An image alone has the empty text."""
    if text is None:
        return ()
    held = (Content("text", text),) if text else ()
    return held if image is None else (*held, Content("image", Blob(image, size or 0, lambda: _read(engine, image))))


def _read(engine: sa.Engine, image: str) -> bytes:
    with engine.connect() as connection:
        data = connection.scalar(sa.text("SELECT bytes FROM image WHERE sha256 = :image"), {"image": image})
    if data is None:
        raise DocumentError(f"the image {image} is gone: its document was changed meanwhile. It is read again.")
    return bytes(data)


def sweep_images(engine: sa.Engine) -> int:
    """Remove the images that no document holds any more; return how many. One that is being written is left alone."""
    with engine.begin() as connection:
        return connection.execute(
            sa.text(
                "DELETE FROM image WHERE sha256 IN (SELECT i.sha256 FROM image i WHERE NOT EXISTS (SELECT 1 FROM "
                "document d WHERE d.image = i.sha256) FOR UPDATE SKIP LOCKED)"
            )
        ).rowcount
