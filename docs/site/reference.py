"""Makes the pages of the reference from the code: commands, migration file, HTTP, Python, and codes."""

from __future__ import annotations

import html
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

import revector
from revector.adapters.serving import guard
from revector.archive.folder import Archive
from revector.cli.app import app
from revector.cli.exits import EXITS
from revector.config import Project, load_project
from revector.documents.documents import Documents, StoredDocument, WriteResult
from revector.history.sentences import SENTENCES
from revector.interfaces import Document
from revector.migration.migrator import Migrator
from revector.service.app import create_app
from revector.serving.searcher import Answer, Hit, Searcher

PYTHON = (
    load_project, Project, Documents, Document, StoredDocument, WriteResult, Searcher, Answer, Hit, guard, Migrator,
    Archive,
)  # fmt: skip
"""What an application imports."""


def cell(text: object) -> str:
    """A text in one cell of a table; what stands in backquotes is code."""
    parts = html.escape(" ".join(str(text or "").split()), quote=False).replace("|", "&#124;").split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def table(head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    """A table, or nothing where it has no rows."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, ""]) if lines else ""


def described(text: str | None) -> str:
    """A docstring as Markdown: RST's literals are code, and what is indented below a colon is a block of code."""
    return inspect.cleandoc(text or "").replace("``", "`").replace("\nFor example:\n", "\nFor example:\n\n    ").strip()


TYPES = {"str": "TEXT", "int": "N", "float": "NUMBER", "path": "PATH"}
TYPED = re.compile(r"<(?:list\[)?(str|int|float|path)(?: range)?\]?>")
"""What typer calls a value, and what people do."""

# Commands -------------------------------------------------------------------------------------------------------------


def commands(group: TyperGroup, name: str) -> Iterator[tuple[str, str, Any]]:
    """Each command with its panel and its name as it is typed."""
    for one in group.commands.values():
        if isinstance(one, TyperGroup):
            yield from commands(one, f"{name} {one.name}")
        elif not one.hidden:
            yield str(getattr(one, "rich_help_panel", None) or ""), f"{name} {one.name}", one


def command(name: str, one: Any) -> str:
    """One command: what it does, an example, its arguments and options."""
    context = typer.Context(one, info_name=name)
    text, _, example = inspect.cleandoc(one.help or "").partition("For example:\n")
    shown = "\n".join(f"    {line}" for line in inspect.cleandoc("\n" + example).splitlines())
    records = filter(None, (param.get_help_record(context) for param in one.params))
    rows = ((f"`{TYPED.sub(lambda kind: TYPES[kind[1]], said)}`", meaning) for said, meaning in records)
    head = f"`{' '.join([name, *one.collect_usage_pieces(context)])}`"
    parts = (f"## {name}", head, text.strip(), shown, table(("argument or option", ""), rows))
    return "\n\n".join(part for part in parts if part)


def cli() -> str:
    """All commands with their help."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    pages = [command(name, one) for _, name, one in commands(root, "revector")]
    return "\n\n".join(["# Commands", "Made of the commands themselves, as `--help` prints them.", *pages])


# Migration file -------------------------------------------------------------------------------------------------------


def default_of(one: Field[Any]) -> str:
    """The default of a field as it is written in a file."""
    return "required" if one.default is MISSING and one.default_factory is MISSING else f"`{one.default!r}`"


def migration_file() -> str:
    """What a migration file may say."""
    parts = ["# Migration file", "A file of `migrations/<collection>/` is data: it is parsed, and never run."]
    for name in ("ModelSpec", "Chunking", "IndexSpec", "Gate"):
        spec = getattr(revector, name)
        rows = (
            (f"`{one.name}`", default_of(one), one.metadata.get("allowed", f"`{one.type}`")) for one in fields(spec)
        )
        parts += [f"## {name}", described(spec.__doc__), table(("field", "default", "allowed"), rows)]
    return "\n\n".join(parts)


# HTTP -----------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Every route, from what `/openapi.json` answers."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "revector.toml").write_text('database_url = "postgresql://nowhere/none"\n')
        schema = create_app(load_project(Path(folder))).openapi()
    parts = [
        "# HTTP routes",
        "Made of `/openapi.json`, which `revector serve` answers. How they are used: [over HTTP](../docs/http.md).",
    ]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts += [f"## `{method.upper()} {path}`", described(route.get("description") or route.get("summary"))]
            query = route.get("parameters", [])
            parts.append(
                table(
                    ("parameter", "in", ""),
                    ((f"`{one['name']}`", one["in"], one.get("description", "")) for one in query),
                )
            )
            answers = ((f"{code}", one.get("description", "")) for code, one in route["responses"].items())
            parts.append(table(("status", ""), answers))
    return "\n\n".join(filter(None, parts))


# Python ---------------------------------------------------------------------------------------------------------------


class _Said(str):
    """An annotation as it is written: Python shows one that is a string within quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(name: str, one: Any) -> str:
    """A function's head."""
    head = inspect.signature(one)
    taken = [part.replace(annotation=_Said(part.annotation)) for part in head.parameters.values()]
    head = head.replace(parameters=taken, return_annotation=_Said(head.return_annotation))
    return f"```python\n{name}{head}\n```"


def members(one: type) -> Iterator[str]:
    """The public methods and properties of a class that say what they do."""
    for name, member in vars(one).items():
        code = getattr(member, "__func__", None) or getattr(member, "func", None) or getattr(member, "fget", None)
        code = code or member
        if name.startswith("_") or not inspect.isfunction(code) or not code.__doc__:
            continue
        head = signature(name, code) if code is member or hasattr(member, "__func__") else f"`{name}`"
        yield f"### {one.__name__}.{name}\n\n{head}\n\n{described(code.__doc__)}"


def python() -> str:
    """What an application calls, from signatures and docstrings."""
    parts = ["# Python"]
    for one in PYTHON:
        parts += [f"## {one.__name__}", f"`from {one.__module__} import {one.__name__}`", signature(one.__name__, one)]
        parts += [described(one.__doc__), *(members(one) if inspect.isclass(one) else ())]
    return "\n\n".join(parts)


# Codes ----------------------------------------------------------------------------------------------------------------


def codes() -> str:
    """Exit codes, and kinds of events."""
    return "\n\n".join(
        [
            "# Exit codes and events",
            "## Exit codes of the command line",
            table(("code", "when"), ((code, meaning) for code, meaning in EXITS.items())),
            "SQLSTATEs of the functions in SQL: [from SQL](../docs/sql.md).",
            "## Kinds of events in the history",
            "`revector history --kind KIND` lists them, and `alerts.webhook` posts some of them.",
            ", ".join(f"`{kind}`" for kind in sorted(SENTENCES)),
        ]
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "migration-file.md": migration_file,
    "http.md": http,
    "python.md": python,
    "codes.md": codes,
}
"""By the name of the page."""
