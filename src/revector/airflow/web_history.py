"""The page's routes to the history: a filtered page of events, the check of the chain, CSV and Parquet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from revector.airflow.web_access import READS_HISTORY, Known, project
from revector.history import audit

LARGEST = 2**63 - 1
LARGEST_INT = 2**31 - 1

router = APIRouter(prefix="/ui/data/history/{collection}", dependencies=[READS_HISTORY])

Text = Annotated[str, Field(min_length=1, max_length=500, pattern="^[^\x00]*$")]


class Filter(BaseModel):
    """What the page's form sends; see ``audit.EventFilter``."""

    model_config = ConfigDict(extra="forbid")

    kind: list[Text] = Field(default=[], max_length=100)
    actor: Text | None = None
    gen: int | None = Field(None, ge=0, le=LARGEST_INT)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    run: Text | None = None
    text: Text | None = None

    def wanted(self) -> audit.EventFilter:
        """Return the filter as the library knows it."""
        given = {name: getattr(self, name) for name in ("actor", "gen", "since", "until", "run", "text")}
        return audit.EventFilter(kinds=tuple(self.kind) or None, **given)


class Page(Filter):
    """A filter, and which page of its events."""

    before: int | None = Field(None, ge=1, le=LARGEST)
    limit: int = Field(50, ge=1, le=500)


class Export(Filter):
    """A filter, and the form of the file."""

    form: Literal["csv", "parquet"]


@router.get("")
def events(collection: Known, asked: Annotated[Page, Query()]) -> dict[str, object]:
    """Return a page of events, newest first, and what there is to filter by."""
    with project().engine.connect() as connection:
        found = audit.read_page(connection, collection, asked.wanted(), before=asked.before, limit=asked.limit)
        return found | {"choices": audit.choices(connection, collection)}


@router.get("/check")
def check(collection: Known) -> dict[str, object]:
    """Compute the hash chain again and say whether it holds."""
    with project().engine.connect() as connection:
        return asdict(audit.check_chain(connection, collection))


@router.get("/export")
def export(collection: Known, asked: Annotated[Export, Query()]) -> Response:
    """Return every event that the filter leaves, as a file."""
    name = f"revector-{collection}-history.{asked.form}"
    if asked.form == "csv":
        head = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_csv(collection, asked.wanted()), media_type="text/csv; charset=utf-8", headers=head)
    descriptor, path = tempfile.mkstemp(suffix=".parquet")
    os.close(descriptor)
    gone = BackgroundTask(Path(path).unlink, missing_ok=True)
    with project().engine.connect() as connection:
        audit.write_parquet(audit.stream(connection, collection, asked.wanted()), Path(path))
    return FileResponse(path, filename=name, media_type="application/vnd.apache.parquet", background=gone)


def _csv(collection: str, wanted: audit.EventFilter) -> Iterator[str]:
    with project().engine.connect() as connection:
        yield from audit.csv_lines(audit.stream(connection, collection, wanted))
