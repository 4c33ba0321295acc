"""Commands that move documents: ingest, put, delete and get."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.exits import NOTHING_TO_DO
from revector.cli.options import Collection, Json, ProjectPath, Session, json_object, open_session, read_image
from revector.cli.output import one_line, pairs
from revector.cli.progress import reporting
from revector.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from revector.documents.deadletters import Refusal
    from revector.documents.ingesting import IngestReport
    from revector.documents.writing import LateMessage
    from revector.interfaces import Source
    from revector.upkeep.rereading import Reread

_PANEL = "Documents"

Version = Annotated[
    int | None, typer.Option("--version", help="Your own version: an older write that arrives late is ignored.")
]


class OnMissing(StrEnum):
    """What becomes of documents that a source has not."""

    KEEP = "keep"
    DELETE = "delete"


SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]",
        help="BEIR folder, .jsonl, .csv, .parquet, 'sql:SELECT …' or docstrings:; default: revector.toml.",
    ),
]
MetaFields = Annotated[
    list[str] | None, typer.Option(help="Field to keep as metadata; may be repeated; default: all others.")
]
ColumnTypes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=TYPE",
        help="Type of a CSV column: text, number or bool; '*': all others; may be repeated; default: by its cells.",
    ),
]
SourceUrl = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL of a sql: source; default: source_url, else the own database.")
]
ImageField = Annotated[
    str | None, typer.Option(help="Field with an image: a path below the source's folder, a URL, or bytes.")
]
OnMissingOption = Annotated[
    OnMissing | None,
    typer.Option(
        help="What happens to documents that the source no longer has: keep, or delete where it is the truth; default: "
        "revector.toml's for its own source, else keep."
    ),
]
MaxMissing = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Largest share of documents to delete this way; default: revector.toml, 0.05.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(ingest)
    document = typer.Typer(help="One document, or a few by their ids.", no_args_is_help=True)
    for command in (put, get, delete):
        document.command()(command)
    app.add_typer(document, name="document", rich_help_panel=_PANEL)


def ingest(
    source: SourceArgument = None,
    *,
    id_field: Annotated[str | None, typer.Option(help="Field with the id.")] = None,
    text_field: Annotated[list[str] | None, typer.Option(help="Field with text; may be repeated.")] = None,
    meta_field: MetaFields = None,
    version_field: Annotated[str | None, typer.Option(help="Field with your own version, a number or a time.")] = None,
    image_field: ImageField = None,
    column_type: ColumnTypes = None,
    url: SourceUrl = None,
    on_missing: OnMissingOption = None,
    max_missing: MaxMissing = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N documents, for a quick run.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Store every document of a source; what is unchanged costs nothing, what cannot be stored is a dead letter.

    For example:
      revector ingest docs.jsonl --id-field id --text-field title --text-field body
      revector ingest "sql:SELECT id, body FROM article" --url "$URL" --id-field id --text-field body
    """
    from revector.sources import is_csv, open_source, parse_types

    session = open_session(project, collection, as_json=json)
    settings = session.project.collection(session.collection)
    place, types = source or _configured_source(session), parse_types(column_type or ())
    if types and not is_csv(place):
        raise ConfigError(f"--column-type is for CSV files; {place!r:.80} has types of its own. Nothing was read.")
    read = open_source(
        place,
        id_field=id_field or settings.id_field,
        text_fields=text_field or settings.text_fields,
        meta_fields=meta_field or settings.meta_fields,
        version_field=version_field or settings.version_field,
        image_field=image_field or settings.image_field,
        url=(url or settings.source_url or session.project.database_url) if place.startswith("sql:") else None,
        column_types=settings.column_types | types,
        images=session.project.settings.image_limits,
    )
    deletes = (on_missing or (OnMissing.KEEP if source else settings.on_missing)) == OnMissing.DELETE
    most = settings.max_missing if max_missing is None else max_missing
    found = _reread(session, _limited(read, limit, deletes=deletes), most if deletes else None)
    report = found.ingested
    assert report is not None
    session.out.show(
        asdict(report) | {"missing_deleted": found.deleted},
        lambda console: _ingest_page(report, found.deleted if deletes else None, console),
    )


def put(
    doc_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    text: Annotated[str | None, typer.Option(help="The text; without it and --file, standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="File with the text, in UTF-8.")] = None,
    image: Annotated[Path | None, typer.Option(help="File with its image; the text may be left out then.")] = None,
    meta: Annotated[str | None, typer.Option(help="Metadata as a JSON object.")] = None,
    version: Version = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return once searches see it; a worker must run.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Create or replace one document.

    For example:
      revector document put guide-7 --text "How to begin" --meta '{"lang": "en"}' --wait
      revector document put guide-8 < guide-8.txt
      revector document put cat --text "a tabby cat" --image cat.jpg
    """
    session = open_session(project, collection, as_json=json)
    content = None if image and text is None and file is None else _text(text, file)
    seen = None if image is None else read_image(image)
    documents = session.project.documents(session.collection)
    written = documents.put(doc_id, content, json_object("--meta", meta), version, image=seen)
    if wait:
        documents.wait_until_served(written)
    stored, late, deleted = written.versions.get(doc_id), written.older.get(doc_id), doc_id in written.deleted

    def page(console: Console) -> None:
        if stored is None:
            line = f"{doc_id!r} is unchanged." if late is None else f"{doc_id!r} is as before: {_older(late)}."
        elif deleted:
            line = f"Deleted {doc_id!r} as version {stored:,}: it has no text."
        else:
            line = f"Stored {doc_id!r} as version {stored:,}."
        console.print(line, soft_wrap=True)

    session.out.show(
        {"id": doc_id, "changed": stored is not None, "version": stored, "deleted": deleted, "older": late}, page
    )


def delete(
    doc_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    *,
    version: Version = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Delete documents: they are hidden from searches at once.

    For example:
      revector document delete guide-7 guide-8
    """
    session = open_session(project, collection, as_json=json)
    written = session.project.documents(session.collection).delete_many(doc_ids, version)
    ignored = [doc_id for doc_id in doc_ids if doc_id not in written.versions]
    session.out.show(
        {"deleted": sorted(written.versions), "ignored": ignored, "older": written.older},
        lambda console: console.print(
            f"Deleted {written.changed:,}" + (f"; not there or newer: {', '.join(ignored)}" if ignored else "") + ".",
            soft_wrap=True,
        ),
    )


def get(
    doc_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Show a document as it stands, and whether a later version was refused; exit code 10 if there is none.

    For example:
      revector document get guide-7
    """
    session = open_session(project, collection, as_json=json)
    documents = session.project.documents(session.collection)
    stored = documents.get(doc_id)
    refused = stored.refused if stored else documents.refused([doc_id]).get(doc_id)
    behind = None if refused is None else refused_line(doc_id, refused)

    def page(console: Console) -> None:
        if behind is not None:
            console.print(behind, style="yellow", soft_wrap=True)
        if stored is None:
            console.print(f"There is no document {doc_id!r}.", soft_wrap=True)
            return
        external = {} if stored.external_version is None else {"your version": str(stored.external_version)}
        values = {name: one_line(str(value), 200) for name, value in stored.meta.items()}
        seen = {"image": f"SHA-256 {stored.image}"} if stored.image else {}
        pairs(console, {"id": stored.id, "version": f"{stored.version:,}", **external, **seen, **values})
        console.print()
        console.print(stored.text, soft_wrap=True)

    session.out.show(stored, page)
    if stored is None:
        raise typer.Exit(NOTHING_TO_DO)


# Helpers --------------------------------------------------------------------------------------------------------------


def refused_line(doc_id: str, refused: Refusal) -> str:
    """Return the sentence that a later version of a document was refused."""
    version = "" if refused.version is None else f" (your version {refused.version})"
    waived = f"; waived by {refused.waived_by}" if refused.waived_by else ""
    when = f"{refused.at:%Y-%m-%d %H:%M} UTC"
    return f"A later version of {doc_id!r}{version} was refused on {when}{waived}: {refused.reason}"


def _limited(source: Source, limit: int | None, *, deletes: bool) -> Source:
    """Return the first so many documents of a source. Raises ``ConfigError`` where the rest would be deleted."""
    from revector.sources import FirstDocuments

    if limit is None:
        return source
    if limit < 1 or deletes:
        raise ConfigError(
            f"--limit {limit}: it is at least 1, and for a run that deletes nothing, for what is not read is not gone. "
            "Nothing was read; say --on-missing keep."
        )
    return FirstDocuments(source, limit)


def _reread(session: Session, source: Source, max_missing: float | None) -> Reread:
    from revector.config import current_actor
    from revector.upkeep.rereading import reread_source

    opened, name = session.project, session.collection
    with reporting(quiet=session.out.as_json) as progress:
        return reread_source(
            opened.engine,
            opened.cid(name),
            opened.documents(name),
            source,
            actor=current_actor(),
            max_missing=max_missing,
            progress=progress,
        )


def _ingest_page(report: IngestReport, missing_deleted: int | None, console: Console) -> None:
    """Print what was stored; ``missing_deleted`` is None where nothing that the source has not may be deleted."""
    deleted = f"{report.deleted:,} deleted (no text), " if report.deleted else ""
    older = f"{report.older:,} older than what is stored, " if report.older else ""
    console.print(
        f"Read {report.read:,} from {report.source}: {report.written:,} written, {deleted}{report.unchanged:,} "
        f"unchanged, {older}{report.rejected:,} rejected"
        + ("." if missing_deleted is None else f"; {missing_deleted:,} not in it were deleted."),
        soft_wrap=True,
    )
    for doc_id, late in report.late.items():
        console.print(f"  {doc_id}: {_older(late)}", style="yellow", soft_wrap=True)
    if report.differing > len(report.late):
        console.print(f"  …; {report.differing:,} in all came too late with other content", soft_wrap=True)
    for doc_id, reason in report.reasons.items():
        console.print(f"  {doc_id}: {reason}", style="yellow", soft_wrap=True)
    if report.rejected > len(report.reasons):
        console.print("  …; all of them: revector dlq list", soft_wrap=True)


def _older(late: LateMessage) -> str:
    other = ", and its content differs" if late.differs else ""
    return f"version {late.version} is not newer than the stored {late.stored}{other}"


def _configured_source(session: Session) -> str:
    from revector.sources import located

    source = session.project.collection(session.collection).source
    if not source:
        raise ConfigError(
            f"no source was named and collection {session.collection!r} has none in revector.toml. Nothing was stored; "
            "name one."
        )
    return located(source, session.project.root)


def _text(text: str | None, file: Path | None) -> str:
    """Return the text of the one place that was named."""
    if text is not None and file is not None:
        raise ConfigError("--text and --file were both given. Nothing was stored; give one of them.")
    if text is not None:
        return text
    if file is None and sys.stdin.isatty():
        raise ConfigError("there is no text. Nothing was stored; give --text, --file or standard input.")
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}. Nothing was stored.") from error
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{file or 'standard input'} is not UTF-8: {error}. Nothing was stored; convert it first."
        ) from error
