"""Owns an archive as users know it: a folder of sealed shards with one manifest, read by id, whole, or in batches."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from revector.archive.merge import write_merged
from revector.archive.part import Part, write_part
from revector.archive.shard import OpenPart
from revector.archive.storage import LAYOUTS, Dtype, Layout, as_bytes, remove_temporary, sealing
from revector.errors import ArchiveError

MANIFEST = "archive.json"
_FORMAT, _VERSION = "revector-archive", 1
_GROUP = re.compile(r"[a-z0-9][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A sealed file: where, what it hashes to (SHA-256, hex), how large, its id range, and how much it holds.

    ``path`` is relative to the archive's folder in a manifest.
    """

    path: str
    sha256: str
    size_bytes: int
    first_id: str
    last_id: str
    documents: int
    chunks: int

    @classmethod
    def of(cls, path: Path, sha256: str, part: Part) -> SealedFile:
        """Return what to remember of a part just written; the part holds at least one document."""
        ids = part.doc_ids
        return cls(str(path), sha256, path.stat().st_size, ids[0], ids[-1], len(ids), len(part.embeddings))


@dataclass(frozen=True, slots=True, eq=False)
class ArchivedVectors:
    """Vectors of the ids that were asked for, in that order.

    Those of id ``i`` are ``embeddings[starts[i] : starts[i] + counts[i]]``, in the order of the document's chunks;
    ``starts`` and ``counts`` int64 ``(ids,)``, ``embeddings`` float32 or float16 ``(chunks, dim)``.
    """

    embeddings: npt.NDArray[np.generic]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Archive:
    """Embeddings of documents in a folder, in shards that are sealed one by one; safe against kills and torn files.

    A **group** holds one kind of vector of the documents (``text``, ``title``, ``image``, ``de`` …), each of its own
    width; a shard belongs to one group, and an id is in a group once. One process appends at a time, others wait; any
    number read. What is not in the manifest is not in the archive: a kill loses at most the shard that was being
    written, and the next ``append`` to its group replaces what it left.

    Opening reads the manifest alone. A shard is looked at when it is first needed: its size and attributes always, and
    unless ``verify`` is false its SHA-256, once, which reads it whole.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        """Open the archive in ``folder``. Raises ``ArchiveError`` where there is none, or a manifest that is torn."""
        self.folder, self._verify = Path(folder), verify
        self._opened: dict[str, OpenPart] = {}
        self._groups: dict[str, list[SealedFile]] = {}
        self._settings: dict[str, Any] = {}
        self._read_manifest()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        attributes: Mapping[str, str | int] | None = None,
        dtype: Dtype = "float32",
        layout: Layout = "contiguous",
    ) -> Archive:
        """Open the archive in ``folder``, or make one. Raises ``ArchiveError`` if one is there with other settings.

        ``attributes`` (fingerprint, model …) are written into every shard and compared when it is read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if layout not in LAYOUTS or dtype not in ("float32", "float16"):
            raise ArchiveError(
                f"{folder}: dtype {dtype!r}, layout {layout!r}: one does not exist. Nothing was written."
            )
        wanted = {"attributes": dict(attributes or {}), "dtype": dtype, "layout": layout}
        with _locked(folder):
            if not (folder / MANIFEST).exists():
                _write_manifest(folder, {**wanted, "groups": {}})
        found = cls(folder)
        if different := [name for name, value in wanted.items() if found._settings[name] != value]:
            raise ArchiveError(
                f"{folder}: {', '.join(different)} should be {[wanted[name] for name in different]}, found "
                f"{[found._settings[name] for name in different]}. Nothing was changed; name another folder."
            )
        return found

    @property
    def attributes(self) -> dict[str, str | int]:
        """What the archive was made with."""
        return dict(self._settings["attributes"])

    @property
    def groups(self) -> list[str]:
        """Names of the groups that hold something."""
        return sorted(self._groups)

    def shards(self, group: str = "text") -> list[SealedFile]:
        """Return the shards of a group in the order they were appended; empty for a group that holds nothing."""
        return list(self._groups.get(group, ()))

    def append(self, part: Part, *, group: str = "text") -> SealedFile:
        """Seal ``part`` as a new shard of ``group`` and return it.

        Raises ``ArchiveError``, and writes nothing, for an empty part, ids that the group has already, another width
        than the group's, and values that the archive's dtype cannot hold.
        """
        if not _GROUP.fullmatch(group) or not part.doc_ids:
            raise ArchiveError(
                f"{self.folder}: expected a group named by a-z, 0-9 and _ and at least one document, found group "
                f"{group!r} and {len(part.doc_ids)} documents. Nothing was written."
            )
        with _locked(self.folder):
            self._read_manifest()
            remove_temporary(self.folder, older_than_s=0)  # under the lock: nobody else is writing
            self._check_new(part, group)
            # A shard that a kill left out of the manifest has just this name: it is replaced.
            name = f"{group}-{len(self.shards(group)):05d}.h5"
            path = self.folder / name
            sha256 = write_part(
                path,
                part,
                attributes={**self.attributes, "group": group},
                dtype=self._settings["dtype"],
                layout=self._settings["layout"],
            )
            sealed = SealedFile.of(path, sha256, part)
            sealed = SealedFile(**{**asdict(sealed), "path": name})
            groups = {**self._groups, group: [*self.shards(group), sealed]}
            _write_manifest(self.folder, {**self._settings, "groups": groups})
            self._groups = groups
        return sealed

    def contains(self, doc_ids: Sequence[str], *, group: str = "text") -> npt.NDArray[np.bool_]:
        """Return which of the ids the group holds: bool ``(len(doc_ids),)``."""
        found = np.zeros(len(doc_ids), bool)
        for _, at, _ in self._located(doc_ids, group):
            found[at] = True
        return found

    def read(self, doc_id: str, *, group: str = "text") -> npt.NDArray[np.generic]:
        """Return the vectors of one document: ``(count, dim)``. Raises ``ArchiveError`` if it is not there."""
        return self.read_many([doc_id], group=group).embeddings

    def read_many(self, doc_ids: Sequence[str], *, group: str = "text") -> ArchivedVectors:
        """Return the vectors of many documents, in the order of ``doc_ids``, which may hold repeats.

        Raises ``ArchiveError`` naming ids that are not there.
        """
        counts = np.full(len(doc_ids), -1, np.int64)
        located = list(self._located(doc_ids, group))
        for shard, at, places in located:
            counts[at] = shard.counts[places]
        if (missing := np.flatnonzero(counts < 0)).size:
            raise ArchiveError(
                f"{self.folder}: {missing.size:,} of {len(doc_ids):,} ids are not in group {group!r}, such as "
                f"{', '.join(repr(doc_ids[n]) for n in missing[:5])}. Nothing was read; ask `contains` first."
            )
        starts = np.cumsum(counts) - counts
        dim = located[0][0].dim if located else 0
        embeddings = np.empty((int(counts.sum()), dim), self._settings["dtype"])
        for shard, at, places in located:
            rows = _expanded(shard.starts[places], counts[at])
            embeddings[_expanded(starts[at], counts[at])] = shard.embeddings(rows)
        return ArchivedVectors(embeddings, starts, counts)

    def ids(self, *, group: str = "text") -> Iterator[str]:
        """Yield every id of the group, shard by shard, in id order within each."""
        for shard in self._shards(group):
            for first in range(0, len(shard.doc_ids), 65_536):
                yield from shard.ids(first, first + 65_536)

    def batches(self, n: int, *, group: str = "text") -> Iterator[Part]:
        """Yield everything of the group as parts of at most ``n`` documents, in the order of ``ids``."""
        for shard in self._shards(group):
            for first in range(0, len(shard.doc_ids), n):
                yield shard.part(first, first + n)

    def verify(self) -> int:
        """Read every shard whole; return how many. Raises ``ArchiveError`` naming the first that is not as recorded."""
        for name in self.groups:
            for sealed in self._groups[name]:
                self._open(name, sealed, verify=True)
        return sum(map(len, self._groups.values()))

    def merge(self, path: Path, *, virtual: bool = False) -> Path:
        """Make one HDF5 file of everything, for tools that read HDF5; see ``merge.write_merged``. Returns ``path``.

        With ``virtual`` it holds no vectors but shows those of the shards: it is small, and needs this folder.
        """
        groups = {
            name: [(self.folder / sealed.path, self._open(name, sealed)) for sealed in self._groups[name]]
            for name in self.groups
        }
        write_merged(Path(path), groups, attributes=self.attributes, virtual=virtual)
        return Path(path)

    def _located(
        self, doc_ids: Sequence[str], group: str
    ) -> Iterator[tuple[OpenPart, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield shards that hold some of the ids: which of the ids, and their places in the shard."""
        # Texts in order of code points are in order of their UTF-8 bytes, too.
        first, last = min(doc_ids, default=""), max(doc_ids, default="")
        overlapping = [sealed for sealed in self.shards(group) if sealed.first_id <= last and sealed.last_id >= first]
        if not overlapping:
            return
        wanted = as_bytes(list(doc_ids))
        order = np.argsort(wanted)
        in_order = wanted[order]
        for sealed in overlapping:
            low = int(np.searchsorted(in_order, sealed.first_id.encode()))
            high = int(np.searchsorted(in_order, sealed.last_id.encode(), side="right"))
            if low < high:
                shard = self._open(group, sealed)
                places = shard.find(in_order[low:high])
                yield shard, order[low:high][places >= 0], places[places >= 0]

    def _shards(self, group: str) -> Iterator[OpenPart]:
        return (self._open(group, sealed) for sealed in self.shards(group))

    def _open(self, group: str, sealed: SealedFile, *, verify: bool = False) -> OpenPart:
        if sealed.sha256 not in self._opened or verify:
            path = self.folder / sealed.path
            size = path.stat().st_size if path.is_file() else -1
            if size >= 0 and size != sealed.size_bytes:
                raise ArchiveError(
                    f"{path}: recorded were {sealed.size_bytes:,} bytes, found {size:,}. It was left as it is and not "
                    "used; bring it back from a copy, or make the archive again."
                )
            sha256 = sealed.sha256 if verify or self._verify else None
            self._opened[sealed.sha256] = OpenPart(path, sha256, attributes={**self.attributes, "group": group})
        return self._opened[sealed.sha256]

    def _check_new(self, part: Part, group: str) -> None:
        if self.shards(group):
            dim = self._open(group, self.shards(group)[0]).dim
            if part.embeddings.shape[1] != dim:
                raise ArchiveError(
                    f"{self.folder}: group {group!r} holds vectors of {dim} numbers, found {part.embeddings.shape[1]}. "
                    "Nothing was written; append them to a group of their own."
                )
        if (known := np.flatnonzero(self.contains(part.doc_ids, group=group))).size:
            raise ArchiveError(
                f"{self.folder}: group {group!r} holds {known.size:,} of these ids already, such as "
                f"{', '.join(repr(part.doc_ids[n]) for n in known[:5])}. Nothing was written; an id is in a group once."
            )

    def _read_manifest(self) -> None:
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            groups = {name: [SealedFile(**one) for one in shards] for name, shards in found["groups"].items()}
            settings = {name: found[name] for name in ("attributes", "dtype", "layout")}
            version = (found["format"], found["version"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(
                f"{path} is no manifest of an archive ({error}). Nothing was changed; name a folder that "
                "`Archive.create` made, or bring the manifest back from a copy."
            ) from error
        if version != (_FORMAT, _VERSION):
            raise ArchiveError(f"{path}: expected format {(_FORMAT, _VERSION)}, found {version}. Nothing was changed.")
        self._groups, self._settings = groups, settings


def _write_manifest(folder: Path, data: Mapping[str, object]) -> None:
    with sealing(folder / MANIFEST) as temporary:
        text = json.dumps(
            {"format": _FORMAT, "version": _VERSION, **data}, default=asdict, indent=1, ensure_ascii=False
        )
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when its holder dies."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _expanded(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows ``starts[i]`` to ``starts[i] + counts[i]`` of all ``i``, one after the other."""
    if (counts == 1).all():
        return starts
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
