"""Migration files: read as data without running them, checked to form one line of history, and written.

A migration file holds a docstring, at most ``from revector import …``, and the assignments ``revision``,
``down_revision``, ``model`` and, where the defaults do not fit, ``chunking``, ``index`` and ``gate``; all of literals.
Files whose name starts with ``.`` or ``_`` are not migration files.
"""

from __future__ import annotations

import ast
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from pydantic import TypeAdapter, ValidationError

from revector.errors import GraphError, SpecError, StateError, UnknownRevision
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
_SHORTEST_PREFIX = 4
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


def write_revision(
    folder: Path,
    *,
    message: str,
    model: ModelSpec,
    chunking: Chunking,
    index: IndexSpec,
    gate: Gate,
    down_revision: str | None,
) -> Path:
    """Write a migration file ``<id>_<slug>.py`` with a new random id and return its path.

    The folder is created if absent. White space in ``message`` is folded to single spaces.

    Raises:
        SpecError: If the message is empty, or the parts do not fit each other.
        GraphError: If the new file would not continue the one line of history in ``folder``.

    """
    message = " ".join(message.split())
    if not message or any(unicodedata.category(character) in ("Cc", "Cs") for character in message):
        raise SpecError(
            f"a migration file needs a message of one printable line, found {message!r}. Nothing was written."
        )
    revision = secrets.token_hex(6)
    slug = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_")[:40].strip("_")
    path = Path(folder) / f"{revision}_{slug or 'revision'}.py"
    parts: dict[str, _Part] = {"model": model, "chunking": chunking, "index": index, "gate": gate}
    source = _TEMPLATE.format(
        message=message.replace("\\", "\\\\").replace('"""', r"\"\"\""),
        revision=_literal(revision),
        down_revision=_literal(down_revision),
        **{name: _call(part, _LINE_LENGTH - len(f"{name} = ")) for name, part in parts.items()},
    ).encode()
    wanted = Revision(revision, down_revision, model, chunking, index, gate, message, str(path))
    if _parse(source, path) != wanted:
        raise SpecError(f"the migration file for {message!r} would not read back equal. Nothing was written.")
    RevisionGraph([*map(load_revision, _files(path.parent)), wanted])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(source)
    except FileExistsError as error:
        raise SpecError(f"{path} exists. Nothing was written; ask again for another id.") from error
    return path


class RevisionGraph:
    """The revisions of one collection: one line from base to head, checked when built.

    Raises:
        GraphError: If there is no revision, an id appears twice, a parent is missing, or the revisions form a cycle or
            more than one line. The message names ids and files, and what to set.

    """

    def __init__(self, revisions: Iterable[Revision]) -> None:
        self._by_id = _unique(revisions)
        if not self._by_id:
            raise GraphError("no migration files. Nothing was changed; write the first with `revector revision`.")
        self._line = [self._by_id[revision] for revision in _ordered(self._by_id)]
        _check_ends(self._by_id)

    @classmethod
    def from_folder(cls, folder: Path) -> RevisionGraph:
        """Read every migration file in ``folder``. Raises ``SpecError`` for a bad file, ``GraphError`` as the class."""
        if not (files := _files(Path(folder))):
            raise GraphError(
                f"no migration files in {folder}. Nothing was changed; write the first with `revector revision`, or "
                "check the name of the collection."
            )
        return cls(map(load_revision, files))

    @property
    def head(self) -> Revision:
        """The newest revision."""
        return self._line[-1]

    @property
    def base(self) -> Revision:
        """The first revision."""
        return self._line[0]

    def __iter__(self) -> Iterator[Revision]:
        """Yield the revisions from base to head."""
        return iter(self._line)

    def __len__(self) -> int:
        """Return how many revisions there are, at least 1."""
        return len(self._line)

    def __getitem__(self, revision: str) -> Revision:
        """Return a revision by id, unique prefix of at least 4 characters, or ``head``. Raises ``UnknownRevision``."""
        if revision == "head":
            return self.head
        if revision in self._by_id:
            return self._by_id[revision]
        matching = [r for r in self._line if len(revision) >= _SHORTEST_PREFIX and r.revision.startswith(revision)]
        if len(matching) == 1:
            return matching[0]
        found = f"{len(matching)} revisions start like that" if matching else "there is none"
        raise UnknownRevision(
            f"revision {revision!r} was asked for; {found}. Known, from base to head: "
            f"{', '.join(r.revision for r in matching or self._line)}. Nothing was changed; give an id, a unique "
            f"prefix of at least {_SHORTEST_PREFIX} characters, or head."
        )

    def parent(self, revision: str) -> Revision | None:
        """Return the revision before ``revision``; None for the base. Raises ``UnknownRevision``."""
        down = self[revision].down_revision
        return None if down is None else self._by_id[down]

    def path_between(self, current: str | None, target: str) -> list[Revision]:
        """Return the revisions after ``current`` up to and including ``target``, in order; empty if they are the same.

        Raises:
            UnknownRevision: If either is not in the files.
            StateError: If ``target`` lies before ``current``: migrations only go forward.

        """
        start = 0 if current is None else self._line.index(self[current]) + 1
        end = self._line.index(self[target]) + 1
        if end < start:
            raise StateError(
                f"revision {self[target].revision} was asked for, and the collection is at "
                f"{self._line[start - 1].revision}, which comes after it. Nothing was changed; use "
                "`revector rollback` while its window is open, or write a new revision with the old settings."
            )
        return self._line[start:end]


# Reading -------------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith((".", "_")))


def _refuse(path: Path, line: int, found: str, allowed: str = _ALLOWED) -> SpecError:
    return SpecError(f"{path}:{line}: found {found}; allowed: {allowed}. Nothing was changed; mend the migration file.")


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
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _shown(node: ast.AST) -> str:
    """Return the first line of the node as source, shortened."""
    try:
        line, *more = ast.unparse(node).splitlines()
    except RecursionError:
        return f"a very deep {type(node).__name__}"
    return line[:60] + ("…" if more or len(line) > 60 else "")


# Writing -------------------------------------------------------------------------------------------------------------


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


# The line ------------------------------------------------------------------------------------------------------------


def _named(revision: Revision) -> str:
    return f"{revision.revision} ({Path(revision.path).name})"


def _unique(revisions: Iterable[Revision]) -> dict[str, Revision]:
    by_id: dict[str, Revision] = {}
    for revision in revisions:
        if (other := by_id.setdefault(revision.revision, revision)) is not revision:
            raise GraphError(
                f"revision {_named(revision)} has the id of {_named(other)}. Nothing was changed; give the newer file "
                "an id of its own."
            )
    return by_id


def _ordered(by_id: dict[str, Revision]) -> list[str]:
    """Return the ids, parents first; checks that every parent exists and that there is no cycle."""
    for revision in by_id.values():
        if revision.down_revision is not None and revision.down_revision not in by_id:
            others = ", ".join(sorted(by_id.keys() - {revision.revision})) or None
            raise GraphError(
                f"revision {_named(revision)} follows {revision.down_revision}, which no file carries. Nothing was "
                f"changed; restore that file, or set down_revision to one of: {others}."
            )
    parents = {r.revision: [r.down_revision] if r.down_revision else [] for r in by_id.values()}
    try:
        return list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        cycle = " → ".join(_named(by_id[revision]) for revision in error.args[1])
        raise GraphError(
            f"revisions follow each other in a cycle: {cycle}. Nothing was changed; set down_revision of the first "
            "migration to None, and that of each other one to the migration before it."
        ) from error


def _check_ends(by_id: dict[str, Revision]) -> None:
    """Check that there is one base and one head: without cycles, that makes a line."""
    bases = [r for r in by_id.values() if r.down_revision is None]
    if len(bases) > 1:
        raise GraphError(
            f"{len(bases)} migration files have no parent: {', '.join(map(_named, bases))}. Nothing was changed; only "
            "the first migration has down_revision = None, set that of the other to the migration before it."
        )
    heads = [by_id[id_] for id_ in sorted(by_id.keys() - {r.down_revision for r in by_id.values()})]
    if len(heads) > 1:
        first, second = (_ancestry(by_id, head) for head in heads[:2])
        branch = next(revision for revision in reversed(second) if revision not in first)
        raise GraphError(
            f"{len(heads)} heads: {', '.join(map(_named, heads))}. Nothing was changed; make one line of them: set "
            f'down_revision of {_named(branch)} to "{heads[0].revision}", or the other way round.'
        )


def _ancestry(by_id: dict[str, Revision], revision: Revision) -> list[Revision]:
    line = [revision]
    while (down := line[-1].down_revision) is not None:
        line.append(by_id[down])
    return line
