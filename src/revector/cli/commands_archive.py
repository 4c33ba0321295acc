"""Commands for vectors in files: out of a generation, into the archive, and from one format to another."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.output import Output
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from revector.archive import Part
    from revector.archive.importing import ImportReport, Target
    from revector.interfaces import Encoder, Progress
    from revector.registry.collections import Generation
    from revector.spec import Revision

_PANEL = "Documents"


class Dtype(StrEnum):
    """Numbers of a vector."""

    float32 = "float32"
    float16 = "float16"


class ImportProblem(StrEnum):
    """What may be wrong with a document of an imported file."""

    unknown = "unknown"
    changed = "changed"
    unreadable = "unreadable"
    cut = "cut"


Skip = Annotated[
    list[ImportProblem] | None, typer.Option(help="Leave such documents out instead of refusing; may be repeated.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    vectors = typer.Typer(help="Vectors as files: out of a live index, and into the archive.", no_args_is_help=True)
    vectors.command("export")(export_vectors)
    vectors.command("import")(import_vectors)
    app.add_typer(vectors, name="vectors", rich_help_panel=_PANEL)
    app.command(rich_help_panel=_PANEL)(convert)


def export_vectors(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .npy, .npz, .parquet or .h5.")],
    *,
    generation: Annotated[
        str, typer.Option("--generation", metavar="N|active", help="A live generation, by number or as active.")
    ] = "active",
    dtype: Annotated[Dtype, typer.Option(help="float16 halves the file.")] = Dtype.float32,
    force: Annotated[bool, typer.Option("--force", help="Replace files of that name.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Write the vectors that a generation shows, with ids, chunk offsets, versions and content hashes; needs no model.

    Beside OUT lies OUT.json with fingerprint, counts and checksum; beside an .npy, OUT.rows.parquet, row for row.

    For example:
      revector vectors export vectors.npy --dtype float16
      revector vectors export -c docs --generation 3 vectors.parquet
    """
    from revector.archive import check_format, write_vectors
    from revector.serving.exporting import reading_vectors

    session = open_session(project, collection, as_json=json)
    check_format(out)
    if out.exists() and not force:
        raise ConfigError(f"{out} exists. Nothing has run; name another file, or replace it with --force.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}. Nothing has run; make it.")
    chosen = session.project.searcher(session.collection).resolve(_number(generation))
    with reporting(quiet=json) as progress, reading_vectors(session.project.engine, chosen) as (size, parts):
        progress.start(f"export generation {chosen.gen}", size.chunks, unit="vectors")
        provenance = _provenance(session.collection, chosen)
        found = write_vectors(out, _reported(parts, progress), size, provenance=provenance, dtype=dtype.value)
        progress.done()

    def page(console: Console) -> None:
        console.print(
            f"Exported {found.chunks:,} vectors of {found.documents:,} documents, {found.dim} × {found.dtype}, of "
            f"generation {chosen.gen} (revision {chosen.revision}):",
            soft_wrap=True,
        )
        for file in found.files:
            console.print(f"  {file}", soft_wrap=True)
        console.print(f"SHA-256 of the vectors: {found.vectors_sha256}", soft_wrap=True)

    session.out.show(found, page)


def import_vectors(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".npy, .npz, .parquet or .h5.")],
    *,
    revision: Annotated[str, typer.Option("--revision", "-r", metavar="REV", help="Whose model made the vectors.")],
    skip: Skip = None,
    dtype: Annotated[Dtype, typer.Option(help="How to keep them; float16 halves the archive.")] = Dtype.float32,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Bring precomputed vectors into the archive, so that the backfill of a revision need not embed their documents.

    FILE is an export, or your own: X.npy with X.ids.npy, X.npz or X.parquet with id and vector, and chunk, start, end
    and content_hash where there are some. Every vector must belong to a chunk as the revision cuts it, and 500 rows of
    each file (0.1 % of larger ones), drawn at random, are embedded and compared. All files, or nothing. --skip unknown:
    not among the documents; changed: made from another text; cut: other chunks; unreadable: too many unknown tokens.

    For example:
      revector vectors import vectors.npy -r a1b2 --skip unknown
    """
    from revector.archive import Importer
    from revector.indexing.chunking import make_chunker
    from revector.registry.work import read_items
    from revector.revisions import RevisionGraph

    session = open_session(project, collection, as_json=json)
    found = RevisionGraph.from_folder(session.project.migrations(session.collection))[revision]
    cid, engine = session.project.cid(session.collection), session.project.engine
    encoder = session.project.encoders.fresh(found.model)
    target = _target(found, encoder)
    with reporting(quiet=json) as progress:
        importer = Importer(
            session.project.archive,
            target,
            look=lambda doc_ids: read_items(engine, cid, doc_ids),
            chunker=make_chunker(found.chunking, encoder.tokenizer, encoder.kinds),
            encoder=encoder,
            progress=progress,
        )
        done = importer.run(
            files,
            skip=[one.value for one in skip or ()],
            dtype=dtype.value,
            register=partial(_record, engine, cid, found, encoder),
        )
    session.out.show(
        {**asdict(done), "revision": found.revision}, lambda console: _import_page(done, found.revision, console)
    )


def convert(
    files: Annotated[list[Path], typer.Argument(metavar="FILE... OUT", help="Files to read, then the one to write.")],
    *,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress the vectors of an .h5, in level 4.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first N ids, for a quick run.")] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Each of its values becomes a group of .h5; default: group.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Leave a column out; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of that name.")] = False,
    json: Json = False,
) -> None:
    """Write ids, vectors and other columns to a file of another format: .npy, .npz, .h5 or .parquet; several into one.

    FILE is what `vectors import` takes, or an array of rows with fields. An id that several files have, alike, counts
    once. Pickles, dicts in .npy among them, are refused, with the line that makes arrays of them. What was written is
    read back and compared before it gets its name. Needs no project.

    For example:
      revector convert embeddings.npy embeddings.parquet
      revector convert rank0.h5 rank1.h5 rank2.h5 all.h5 --gzip
    """
    from revector.archive import convert_vectors

    if len(files) < 2:
        raise ConfigError(f"files to read and one to write are needed, found {files[0]}. Nothing was written.")
    *sources, out = files
    done = convert_vectors(sources, out, gzip=gzip, limit=limit, group=group, drop=drop or (), force=force)

    def page(console: Console) -> None:
        also = f", with {', '.join(done.columns)}" if done.columns else ""
        console.print(
            f"Wrote {done.vectors:,} vectors of {done.ids:,} ids, {done.dim} × {done.dtype}{also}:", soft_wrap=True
        )
        for file in done.files:
            console.print(f"  {file}", soft_wrap=True)
        if done.repeated:
            console.print(f"{done.repeated:,} ids were in several files, alike, and taken once.", soft_wrap=True)
        console.print(f"SHA-256 of the vectors: {done.vectors_sha256}", soft_wrap=True)

    Output(as_json=json).show(done, page)


def _number(generation: str) -> int | None:
    if generation == "active":
        return None
    if not generation.isdecimal():
        raise ConfigError(f"--generation {generation!r}: a number or active. Nothing has run; see `revector status`.")
    return int(generation)


def _provenance(collection: str, generation: Generation) -> dict[str, str | int]:
    return {
        "encoder_fp": generation.encoder_fp,
        "chunker_fp": generation.chunker_fp,
        "revision": generation.revision,
        "model": generation.spec.model.name,
        "dim": generation.spec.model.dim,
        "collection": collection,
        "generation": generation.gen,
    }


def _target(revision: Revision, encoder: Encoder) -> Target:
    from revector.archive import Target

    model = revision.model
    identity = {"encoder_fp": encoder.fingerprint, "chunker_fp": revision.chunker_fp, "revision": revision.revision}
    return Target(
        revision.revision,
        model.dim,
        model.normalize,
        revision.lengths_count,
        model.max_unknown_tokens,
        {**identity, "model": model.name, "dim": model.dim},
    )


def _record(engine: sa.Engine, cid: int, revision: Revision, encoder: Encoder, done: ImportReport) -> None:
    """Make sealed files known to whatever looks for vectors of this model and chunker, and keep what was compared."""
    from revector.config import current_actor
    from revector.encoders.check import vectors_fp
    from revector.registry import archived
    from revector.registry.control import add_event

    worth = vectors_fp(encoder.components)
    with engine.begin() as connection:
        dim = revision.model.dim
        archived.add_imported(connection, cid, done.sealed, vectors_fp=worth, chunker_fp=revision.chunker_fp, dim=dim)
        told = {"revision": revision.revision, "documents": done.documents, "skipped": done.skipped}
        compared = {Path(path).name: asdict(one) for path, one in done.compared.items()}
        add_event(connection, cid, current_actor(), "import", None, {**told, "compared": compared})


def _reported(parts: Iterator[Part], progress: Progress) -> Iterator[Part]:
    for part in parts:
        yield part
        progress.advance(len(part.embeddings))


def _import_page(done: ImportReport, revision: str, console: Console) -> None:
    console.print(
        f"Imported {done.chunks:,} vectors of {done.documents:,} documents for revision {revision}, in "
        f"{len(done.sealed)} parts.",
        soft_wrap=True,
    )
    for path, one in done.compared.items():
        lowest = "" if one.lowest is None else f", lowest cosine {one.lowest:.4f}"
        console.print(
            f"  {path}: {one.compared:,} of {one.rows:,} rows compared with what the revision embeds{lowest}; a "
            f"shift of any 1 % of the rows is found with {one.finds:.1%} probability",
            soft_wrap=True,
        )
    for problem, count in done.skipped.items():
        named = ", ".join(done.first[problem])
        console.print(f"  left out, {problem}: {count:,}, such as {named}", style="yellow", soft_wrap=True)
