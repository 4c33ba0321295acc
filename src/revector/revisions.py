"""The revisions of a collection: one line of history, checked when it is read and before it is written to."""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from revector.errors import GraphError, SpecError, StateError, UnknownRevision
from revector.migration_files import load_revision, migration_files, source_of
from revector.spec import Chunking, Gate, IndexSpec, ModelSpec, Revision

_SHORTEST_PREFIX = 4


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
    wanted = Revision(revision, down_revision, model, chunking, index, gate, message, str(path))
    source = source_of(wanted)
    RevisionGraph([*map(load_revision, migration_files(path.parent)), wanted])
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
        if not (files := migration_files(Path(folder))):
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


# The line -------------------------------------------------------------------------------------------------------------


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
