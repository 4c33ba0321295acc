"""The route that takes many documents at once: a stream of lines, written in batches, every line accounted for."""

from __future__ import annotations

import codecs
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa
from fastapi import Request, Response
from pydantic import ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from revector.documents.documents import Documents
from revector.documents.writing import LateMessage, differing
from revector.errors import DocumentError, RevectorError
from revector.formats.strict_json import parse
from revector.interfaces import Document
from revector.service import bodies
from revector.service.documents import DocumentIn
from revector.service.problems import answer_of, example, of_refusal
from revector.service.routes import GivenId, Name, routes
from revector.service.state import Shared

BATCH_LINES, BATCH_BYTES = 500, 4 << 20
"""What is held and written at once: enough to amortise a transaction, little enough that memory stays flat."""

MOST_REJECTED = 1_000
"""All rejected lines are in the answer, so that none gets lost; an upload with more is of another format, and ends."""

MOST_LATE = 1_000
"""Documents that came too late which the answer names; it counts all of them."""

_SOURCE = "an upload"

MEDIA_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")

_LINES = (
    '{"id": "guide-7", "text": "Rivers carve valleys.", "meta": {"lang": "en"}}\n'
    '{"id": "guide-8", "text": "Glaciers carve wider ones.", "version": 3}\n'
)

writing = routes("write", body="stream", lane="uploads")


class Line(DocumentIn):
    """One line of an upload: a document with its id."""

    model_config = ConfigDict(extra="forbid", title="Line")

    id: GivenId


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that was not stored; ``id`` is None where it could not be read."""

    line: int
    id: str | None
    reason: str


@dataclass(slots=True)
class UploadReport:
    """What became of an upload: ``read = written + deleted + unchanged + older + len(rejected)``.

    Empty lines count as nothing. ``deleted``: for want of text, where the collection deletes by that; ``older``: not
    newer than what is stored, of which ``late`` names those with other content, up to 1,000.
    """

    read: int = 0
    written: int = 0
    deleted: int = 0
    unchanged: int = 0
    older: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    late: dict[str, LateMessage] = field(default_factory=dict)


@writing.post(
    "/collections/{collection}/documents",
    response_model=UploadReport,
    responses=example(
        {
            "read": 3,
            "written": 1,
            "deleted": 0,
            "unchanged": 1,
            "older": 0,
            "rejected": [{"line": 3, "id": "guide-9", "reason": "There is no text; it must be a string. …"}],
            "late": {},
        }
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One JSON object per line: `id`, `text`, and optionally `meta` and `version`.",
            "content": {MEDIA_TYPES[0]: {"schema": {"type": "string"}, "example": _LINES}},
        }
    },
)
async def upload_documents(collection: Name, request: Request, service: Shared) -> UploadReport | Response:
    """Create or replace many documents, of any number, one JSON object per line, plain or as gzip; memory is flat.

    Lines are written in batches as they arrive, in their order: of two with one id the later wins. A line that cannot
    be stored costs only itself, and is in the answer with its number and reason; where its id can be read, it is a dead
    letter as well. After an error, or 1,000 rejected
    lines, the problem's `report` says how far it came: what was read before is stored, and sending all of it again does
    no harm.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in MEDIA_TYPES:
        raise HTTPException(415, f"documents come as {MEDIA_TYPES[0]}, one JSON object per line. Nothing was stored.")
    upload = _Upload(await run_in_threadpool(service.documents, collection))
    lines, batch, size = _Lines(service.body_limit), list[tuple[int, bytes | None]](), 0

    async def store(lines: list[tuple[int, bytes | None]]) -> None:
        await request.state.ask_again()  # an upload may take hours
        await run_in_threadpool(upload.store, lines)

    also = " The upload ended there; `report` says what became of the lines before."
    try:
        async for piece in bodies.pieces(request.receive, request.headers, lambda: bodies.IDLE_S):
            for number, line in lines.feed(piece):
                batch.append((number, line))
                size += len(line or b"")
                if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
                    await store(batch)
                    batch, size = [], 0
        await store(batch + lines.end())
    except (RevectorError, sa.exc.SQLAlchemyError) as error:
        return answer_of(error, also=also, report=upload.data())
    except HTTPException as error:
        return of_refusal(error, also=also, report=upload.data())
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was not sent to its end. Whole batches of it are stored.") from error
    return upload.report


class _Upload:
    """Writes batches of lines and counts what became of each."""

    def __init__(self, documents: Documents) -> None:
        self._documents, self.report = documents, UploadReport()

    def store(self, lines: list[tuple[int, bytes | None]]) -> None:
        """Write what can be stored. Raises what the database raises, and ``DocumentError`` at too many rejections."""
        batch: dict[str, tuple[int, Document]] = {}
        for number, line in lines:
            if line is not None and not line.strip():
                continue
            try:
                found = _parsed(line)
            except DocumentError as error:
                self._reject(number, None, str(error))
                continue
            if found.id in batch:
                self._write(batch)
                batch = {}
            batch[found.id] = number, found
        self._write(batch)

    def _write(self, batch: dict[str, tuple[int, Document]]) -> None:
        written, refused = self._documents.put_valid([document for _, document in batch.values()], _SOURCE)
        report = self.report
        report.read += len(batch) - len(refused)
        report.deleted += len(written.deleted)
        report.written += written.changed - len(written.deleted)
        report.older += len(written.older)
        report.unchanged += len(batch) - len(refused) - written.changed - len(written.older)
        report.late.update(list(differing(written.older).items())[: MOST_LATE - len(report.late)])
        for doc_id, reason in refused.items():
            self._reject(batch[doc_id][0], doc_id, reason)

    def _reject(self, number: int, doc_id: str | None, reason: str) -> None:
        if len(self.report.rejected) == MOST_REJECTED:
            raise DocumentError(f"{MOST_REJECTED:,} lines were rejected, and line {number} would be one more.")
        self.report.read += 1
        self.report.rejected.append(Rejected(number, _shown(doc_id), _shown(reason) or ""))

    def data(self) -> dict[str, object]:
        """Return the report as JSON data."""
        return asdict(self.report)


class _Lines:
    """Cuts a stream of bytes into lines, numbered from 1, and holds no more than one of ``limit`` bytes.

    None stands for a line that is longer.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._number = limit, 0
        self._held, self._too_long = bytearray(), False

    def feed(self, piece: bytes) -> list[tuple[int, bytes | None]]:
        """Return the lines that end in ``piece``."""
        *ends, rest = piece.split(b"\n")
        found = []
        for end in ends:
            self._hold(end)
            found.append(self._line())
        self._hold(rest)
        return found

    def end(self) -> list[tuple[int, bytes | None]]:
        """Return the last line, if it did not end with a line break."""
        return [self._line()] if self._held or self._too_long else []

    def _hold(self, part: bytes) -> None:
        if self._too_long or len(self._held) + len(part) > self._limit:
            self._too_long = True
            self._held.clear()
        else:
            self._held += part

    def _line(self) -> tuple[int, bytes | None]:
        self._number += 1
        line = None if self._too_long else bytes(self._held)
        if line is not None and self._number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        self._held.clear()
        self._too_long = False
        return self._number, line


def _parsed(line: bytes | None) -> Document:
    if line is None:
        raise DocumentError("The line is longer than any document may be. It was not stored.")
    try:
        bodies.check_shape(line)
        found = Line.model_validate(parse(line))
    except HTTPException as error:
        raise DocumentError(error.detail) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DocumentError(f"{place}: {first['msg']}. It was not stored." if place else first["msg"]) from error
    except ValueError as error:
        raise DocumentError(f"The line is no JSON: {error}. It was not stored.") from error
    return found.of(found.id)


def _shown(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()[:1_000]
