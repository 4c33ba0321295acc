"""Migration files: read as data without running them, and written.

A migration file holds a docstring, at most ``from revector import …``, and the assignments ``revision``,
``down_revision``, ``model`` and, where the defaults do not fit, ``chunking``, ``index`` and ``gate``; all of literals.
Files whose name starts with ``.`` or ``_`` are not migration files.
"""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from pydantic import TypeAdapter, ValidationError

from revector.errors import SpecError
from revector.spec import NO_INT8, Chunking, Gate, IndexSpec, ModelSpec, Revision

_Part: TypeAlias = ModelSpec | Chunking | IndexSpec | Gate

PARTS: dict[str, type[_Part]] = {
    "model": ModelSpec,
    "chunking": Chunking,
    "index": IndexSpec,
    "gate": Gate,
}
"""What a migration file builds, and by which call."""

_IDS = ("revision", "down_revision")
_ALLOWED = (
    "a docstring, `from revector import …`, and assignments of literals to revision, down_revision, "
    + ", ".join(f"{name} = {kind.__name__}(…)" for name, kind in PARTS.items())
)
_ID = re.compile(r"[a-z0-9_]{4,32}")
_RESERVED = {"head", "heads", "base"}
_LINE_LENGTH = 120

_TEMPLATE = '''"""{message}

Read as data, never run. Once its migration has started, only this text and the gate may still be edited.
"""

from revector import Chunking, Gate, IndexSpec, ModelSpec

revision = {revision}
down_revision = {down_revision}

model = {model}
chunking = {chunking}
index = {index}
gate = {gate}
'''


def migration_files(folder: Path) -> list[Path]:
    """Return the migration files of a folder, by name."""
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith((".", "_")))


def load_revision(path: Path) -> Revision:
    """Read one migration file; nothing in it is executed.

    Raises:
        SpecError: If the file cannot be read or holds anything but what the module's docstring lists; the message
            names file, line, field and finding.

    """
    path = Path(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SpecError(f"migration file {path} cannot be read: {error}. Nothing was changed.") from error
    return _parse(source, path)


def source_of(revision: Revision) -> bytes:
    """Return the migration file that reads back as ``revision``. Raises ``SpecError`` where none would."""
    parts: dict[str, _Part] = {name: getattr(revision, name) for name in PARTS}
    source = _TEMPLATE.format(
        message=revision.message.replace("\\", "\\\\").replace('"""', r"\"\"\""),
        revision=_literal(revision.revision),
        down_revision=_literal(revision.down_revision),
        **{name: _call(part, _LINE_LENGTH - len(f"{name} = ")) for name, part in parts.items()},
    ).encode()
    if _parse(source, Path(revision.path)) != revision:
        raise SpecError(f"the migration file for {revision.message!r} would not read back equal. Nothing was written.")
    return source


# Reading --------------------------------------------------------------------------------------------------------------


def _refuse(path: Path, line: int, found: str, allowed: str = _ALLOWED) -> SpecError:
    return SpecError(f"{path}:{line}: found {found}; allowed: {allowed}. Nothing was changed; fix the migration file.")


def _parse(source: bytes, path: Path) -> Revision:
    try:
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise _refuse(path, line or 1, f"text that is not Python ({error})") from error
    values: dict[str, Any] = {}
    for position, statement in enumerate(tree.body):
        if position == 0 and ast.get_docstring(tree) is not None:
            continue
        if isinstance(statement, ast.ImportFrom):
            _check_import(statement, path)
            continue
        name, value = _assignment(statement, path)
        if name in values:
            raise _refuse(path, statement.lineno, f"{name} a second time", "each name once")
        values[name] = _id_value(name, value, path) if name in _IDS else _part(name, value, path)
    if missing := [name for name in (*_IDS, "model") if name not in values]:
        raise _refuse(path, 1, f"no {', no '.join(missing)}")
    message = (ast.get_docstring(tree) or "").strip()
    if not message:
        raise _refuse(path, 1, "no docstring", "a docstring whose first line says what the migration does")
    try:
        return Revision(**values, message=message.splitlines()[0].strip(), path=str(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _check_import(statement: ast.ImportFrom, path: Path) -> None:
    names = {kind.__name__ for kind in PARTS.values()}
    plain = all(alias.name in names and alias.asname is None for alias in statement.names)
    if statement.module != "revector" or statement.level or not plain:
        allowed = f"from revector import {', '.join(sorted(names))}"
        raise _refuse(path, statement.lineno, f"`{_shown(statement)}`", allowed)


def _assignment(statement: ast.stmt, path: Path) -> tuple[str, ast.expr]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in _IDS or name in PARTS:
            return name, value
    raise _refuse(path, statement.lineno, f"`{_shown(statement)}`")


def _id_value(name: str, node: ast.expr, path: Path) -> str | None:
    value = _literal_value(node, name, path)
    if value is None and name == "down_revision":
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value) or value in _RESERVED:
        none = " or None" if name == "down_revision" else ""
        allowed = f"{name} of 4 to 32 characters a-z, 0-9 and _, but not {', '.join(sorted(_RESERVED))}{none}"
        raise _refuse(path, node.lineno, f"{name} = {value!r}", allowed)
    return value


def _part(name: str, node: ast.expr, path: Path) -> object:
    kind = PARTS[name]
    match node:
        case ast.Call(func=ast.Name(id=called), args=[], keywords=keywords) if called == kind.__name__:
            pass
        case _:
            raise _refuse(path, node.lineno, f"{name} = `{_shown(node)}`", f"{kind.__name__}(keyword=literal, …)")
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for keyword in keywords:
        field = f"{name}.{keyword.arg}"
        if keyword.arg not in types:
            raise _refuse(path, keyword.value.lineno, f"`{_shown(keyword)}` in {name}", ", ".join(types))
        if keyword.arg in values:
            raise _refuse(path, keyword.value.lineno, f"{field} a second time", "each argument once")
        value = _literal_value(keyword.value, field, path)
        try:
            values[keyword.arg] = _adapter(types[keyword.arg]).validate_python(value, strict=True)
        except ValidationError as error:
            allowed = f"{error.errors()[0]['msg'].removeprefix('Input should be ')} for {field}"
            if name == "index" and value == "int8":
                allowed += f"; {NO_INT8}"
            raise _refuse(path, keyword.value.lineno, f"{field} = {value!r}", allowed) from error
    if missing := [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]:
        raise _refuse(path, node.lineno, f"{name} without {', '.join(missing)}", ", ".join(types))
    try:
        return kind(**values)
    except SpecError as error:
        raise SpecError(f"{path}:{node.lineno}: {error}") from error


def _literal_value(node: ast.expr, field: str, path: Path) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _refuse(path, node.lineno, f"{field} = `{_shown(node)}`", "a literal; nothing is run") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def _shown(node: ast.AST) -> str:
    """Return the first line of the node as source, shortened."""
    try:
        line, *more = ast.unparse(node).splitlines()
    except RecursionError:
        return f"a very deep {type(node).__name__}"
    return line[:60] + ("…" if more or len(line) > 60 else "")


# Writing --------------------------------------------------------------------------------------------------------------


def _literal(value: object) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set('"\\')
    return f'"{value}"' if plain else repr(value)


def _call(part: _Part, width: int) -> str:
    """Return the call that builds ``part``, every field spelled out so that a later default cannot change it."""
    arguments = [f"{field.name}={_literal(getattr(part, field.name))}" for field in fields(part)]
    line = f"{type(part).__name__}({', '.join(arguments)})"
    if len(line) <= width:
        return line
    return "\n".join([f"{type(part).__name__}(", *(f"    {argument}," for argument in arguments), ")"])
