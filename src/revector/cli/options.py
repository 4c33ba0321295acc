"""Options that many commands share, and what they open: the project, one of its collections, and the output."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from revector.cli.output import Output
from revector.errors import ConfigError
from revector.formats.strict_json import parse

if TYPE_CHECKING:
    from revector.config import Project

Collection = Annotated[
    str | None,
    typer.Option("--collection", "-c", metavar="NAME", help="Collection; may be left out where there is only one."),
]
ProjectPath = Annotated[
    Path | None,
    typer.Option(
        "--project", metavar="PATH", help="Project folder or its revector.toml; default: $REVECTOR_CONFIG, or upwards."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with: project, name of the collection and output."""

    project: Project
    collection: str
    out: Output


def open_project(path: Path | None) -> Project:
    """Return the project of ``--project``, of ``$REVECTOR_CONFIG``, or of the folder one is in."""
    from revector.config import load_project
    from revector.settings import FILE

    if path is not None and not (path / FILE if path.is_dir() else path).is_file():
        raise ConfigError(f"--project {path}: there is no {FILE}. Nothing has run; correct it, or run `revector init`.")
    return load_project(path)


def open_session(path: Path | None, collection: str | None, *, as_json: bool = False) -> Session:
    """Open the project and choose the collection. Raises ``ConfigError`` when it is not plain which one is meant."""
    project = open_project(path)
    if collection is None:
        known = sorted(project.settings.collections)
        if len(known) != 1:
            found = f"there are {len(known)} ({', '.join(known)})" if known else "there is none in revector.toml"
            raise ConfigError(
                f"no collection was named and {found}. Nothing has run; "
                + ("name one with -c." if known else "add a [collections.<name>] table and run `revector init`.")
            )
        collection = known[0]
    project.collection(collection)
    return Session(project, collection, Output(as_json=as_json))


def model_reference(session: Session, folder: Path) -> str:
    """Return what a migration file of the project calls the model in ``folder``."""
    root = session.project.root
    return f"./{folder.relative_to(root)}" if folder.is_relative_to(root) else str(folder)


def json_object(option: str, text: str | None) -> dict[str, object]:
    """Return the JSON object that an option holds; empty if it was not given. Raises ``ConfigError`` for others."""
    if text is None:
        return {}
    try:
        found = parse(text)
    except (ValueError, RecursionError) as error:  # also numbers beyond any number of digits, and lists without end
        raise ConfigError(
            f'{option} must be a JSON object such as \'{{"lang": "en"}}\', found {text[:200]!r} ({error}). Nothing has '
            "run."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{option} must be a JSON object, found {text[:200]!r}, which is a {type(found).__name__}. Nothing has run."
        )
    return found


def optional(name: str, extra: str) -> ModuleType:
    """Import what only some installations have. Raises ``ConfigError`` naming the extra that brings it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this command needs {error.name}, which is not installed. Nothing was started; run: "
            f"pip install 'revector[{extra}]'"
        ) from error


def query_of(text: str | None, image: Path | None) -> str | bytes:
    """Return what a search asks for: a text, or the image in a file. Raises ``ConfigError`` unless one is given."""
    if text is not None and image is None:
        return text
    if image is not None and text is None:
        return read_image(image)
    raise ConfigError("a search is by a text or by --image FILE. Nothing was searched; give one of the two.")


def read_image(file: Path) -> bytes:
    """Return the bytes of a file that an option names. Raises ``ConfigError``."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the image {file} cannot be read: {error.strerror}. Nothing was done.") from error
