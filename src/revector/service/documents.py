"""Routes of single documents: put, get, delete, each committed when it answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import anyio
from fastapi import Query
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from revector.documents.documents import Documents, StoredDocument, WriteResult
from revector.documents.writing import LateMessage
from revector.interfaces import Document
from revector.service.problems import example
from revector.service.routes import DocId, Name, routes
from revector.service.state import Service, Shared

BIGGEST_VERSION = 2**63 - 1
_PATH = "/collections/{collection}/documents/{doc_id:path}"

Wait = Annotated[
    Literal["active"] | None,
    Query(description="`active`: answer once the active generation shows the write (read-your-write)."),
]
TimeoutS = Annotated[float, Query(gt=0, le=60, description="How many seconds `wait` may take; 409 afterwards.")]
Version = Annotated[
    int | None,
    Query(ge=0, le=BIGGEST_VERSION, description="The caller's own: the delete counts only if it is newer."),
]

reading = routes("read")
writing = routes("write")


class DocumentIn(BaseModel):
    """What ``PUT`` takes: the text, its metadata, and optionally the caller's own version, and an image."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"text": "Rivers carve valleys.", "meta": {"lang": "en", "year": 2024}, "version": 7}
        },
    )

    text: str
    meta: dict[str, object] = {}
    version: int | None = Field(default=None, ge=0, le=BIGGEST_VERSION)
    """The caller's own version: the write is kept only if it is newer than what is stored."""
    image: Base64Bytes | None = None
    """A file of JPEG, PNG, GIF, WEBP, BMP or TIFF, in base64; without one, the document has none any more. An image
    alone has the text \"\"."""

    def of(self, doc_id: str) -> Document:
        """Return the document of this id."""
        return Document(doc_id, self.text, self.meta, self.version, self.image)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a write did. ``changed`` is false when the same was stored before, or something newer: then ``older`` tells.

    ``deleted``: by the request, or because the text is empty and the collection deletes by that.
    """

    id: str
    version: int | None
    changed: bool
    deleted: bool = False
    older: LateMessage | None = None


_RECEIPT = example({"id": "guide-7", "version": 4711, "changed": True, "deleted": False, "older": None})


@reading.get(
    _PATH,
    responses=example(
        {
            "id": "guide-7",
            "version": 4711,
            "text": "Rivers carve valleys.",
            "meta": {"lang": "en"},
            "external_version": 7,
            "image": None,
            "refused": None,
        }
    ),
)
def get_document(collection: Name, doc_id: DocId, service: Shared) -> StoredDocument:
    """Return a document as it stands: the source of truth, not what the index shows.

    `image` is the SHA-256 of its image. `refused` is there where a later version could not be stored: what is served
    is behind it.
    """
    stored = service.documents(collection).get(doc_id)
    if stored is None:
        raise HTTPException(404, f"collection {collection!r} has no document {doc_id!r}.")
    return stored


@writing.put(_PATH, responses=_RECEIPT)
async def put_document(
    collection: Name, doc_id: DocId, document: DocumentIn, service: Shared, wait: Wait = None, timeout_s: TimeoutS = 30
) -> Receipt:
    """Create or replace a document. It is committed when this answers; live generations follow within the lag."""

    def put() -> tuple[Documents, WriteResult, int | None]:
        documents = service.documents(collection)
        written = documents.put_many([document.of(doc_id)])
        found = written.versions.get(doc_id)
        if found is None and (stored := documents.get(doc_id)):
            # A repeated call changes nothing, and must wait for what the first one wrote all the same.
            found = stored.version
        return documents, written, found

    documents, written, found = await run_in_threadpool(put)
    if wait and found is not None:
        await _served(service, documents, WriteResult({doc_id: found}), timeout_s)
    return _receipt(doc_id, written, found)


@writing.delete(_PATH, responses=_RECEIPT)
async def delete_document(
    collection: Name,
    doc_id: DocId,
    service: Shared,
    version: Version = None,
    wait: Wait = None,
    timeout_s: TimeoutS = 30,
) -> Receipt:
    """Delete a document: no search shows it from now on. One that does not exist is no error."""

    def delete() -> tuple[Documents, WriteResult]:
        documents = service.documents(collection)
        return documents, documents.delete(doc_id, version)

    documents, written = await run_in_threadpool(delete)
    if wait:
        await _served(service, documents, written, timeout_s)
    return _receipt(doc_id, written, written.versions.get(doc_id))


def _receipt(doc_id: str, written: WriteResult, version: int | None) -> Receipt:
    return Receipt(doc_id, version, bool(written.changed), doc_id in written.deleted, written.older.get(doc_id))


async def _served(service: Service, documents: Documents, written: WriteResult, timeout_s: float) -> None:
    """Wait in a thread of the few that are for waiting: the others are for searches and writes."""
    wait = partial(documents.wait_until_served, written, timeout_s=timeout_s)
    await anyio.to_thread.run_sync(wait, limiter=service.waiting)
