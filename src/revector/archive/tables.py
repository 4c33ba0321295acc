"""Owns vectors in the files of other tools, written: ``.npy``, ``.npz``, Parquet and HDF5, all with the same columns.

One row per vector, in id order, then chunk order: ``id``, ``chunk``, ``start``, ``end``, ``version``, ``content_hash``
and ``vector``. Beside ``OUT`` lies ``OUT.json`` with provenance, width, dtype, counts and the SHA-256 of the vectors'
bytes (little-endian, row by row), equal for all formats. An ``.npy`` holds the vectors alone; ``OUT.rows.parquet`` has
the other columns, row for row. In ``.npz`` texts are UTF-8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from revector.archive.part import Part, Size, converted, writing_part
from revector.archive.storage import Dtype, as_bytes, fsync, working_folder
from revector.errors import ConfigError

FORMATS = (".npy", ".npz", ".parquet", ".h5")
ROWS_SUFFIX, NOTE_SUFFIX = ".rows.parquet", ".json"
PROVENANCE = "provenance"
"""Where a file says itself what its vectors are: Parquet's metadata, and a member of ``.npz``, both JSON."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: ``files`` in full, the checksum of the vectors, and how much they are."""

    files: tuple[str, ...]
    vectors_sha256: str
    documents: int
    chunks: int
    dim: int
    dtype: str
    provenance: Mapping[str, str | int]


def write_vectors(
    path: Path, parts: Iterable[Part], size: Size, *, provenance: Mapping[str, str | int], dtype: Dtype = "float32"
) -> ExportReport:
    """Write ``parts``, ``size`` in all, to ``path``, whose ending names the format; memory is that of one part.

    Everything is written under other names, flushed, and only then given its own. Raises ``ConfigError`` for another
    ending, ``ArchiveError`` where ``dtype`` cannot hold a value; nothing is left then.
    """
    check_format(path)
    kinds: dict[str, type[_Npy | _Npz | _Parquet | _Hdf5]] = {
        ".npy": _Npy,
        ".npz": _Npz,
        ".parquet": _Parquet,
        ".h5": _Hdf5,
    }
    digest = hashlib.sha256()
    with working_folder(path.parent, path.name) as folder:
        with kinds[path.suffix](folder / path.name, size, dtype, provenance) as sink:
            for part in parts:
                vectors = np.ascontiguousarray(converted(part.embeddings, dtype, path))
                digest.update(vectors.data)
                sink.append(part, vectors)
        names = sorted(one.name for one in folder.iterdir() if one.is_file())
        files = tuple(str(path.with_name(name)) for name in (*names, path.name + NOTE_SUFFIX))
        sha256 = digest.hexdigest()
        exported = ExportReport(files, sha256, size.documents, size.chunks, size.dim, dtype, dict(provenance))
        note = {**asdict(exported), "files": [*names, path.name + NOTE_SUFFIX]}
        (folder / f"{path.name}{NOTE_SUFFIX}").write_text(
            json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        # The note last: with a file of another export it does not fit, and importing says so.
        for name in note["files"]:
            fsync(folder / name)
        for name in note["files"]:
            (folder / name).replace(path.with_name(name))
    fsync(path.parent)
    return exported


def check_format(path: Path) -> None:
    """Raise ``ConfigError`` unless the ending of ``path`` is one of ``FORMATS``."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: the file's ending must be {', '.join(FORMATS)}. Nothing has run; rename it.")


def row_columns(part: Part) -> dict[str, npt.NDArray[np.generic]]:
    """Return the columns of one row per vector but the vectors; texts as fixed bytes."""
    repeat = part.counts
    firsts = np.repeat(part.starts, repeat)
    return {
        "id": np.repeat(as_bytes(part.doc_ids), repeat),
        "chunk": (np.arange(len(firsts)) - firsts).astype(np.int32),
        "start": part.chunk_starts,
        "end": part.chunk_ends,
        "version": np.repeat(part.versions, repeat),
        "content_hash": np.repeat(as_bytes(part.content_hashes), repeat),
    }


class _Sink(ABC):
    """A file that takes parts one after the other; a context that is whole when it ends."""

    def __init__(self, path: Path, size: Size, dtype: Dtype, provenance: Mapping[str, str | int]) -> None:
        self._path, self._size, self._dtype, self._provenance = path, size, dtype, provenance
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            self._finish()

    @abstractmethod
    def _begin(self, stack: ExitStack) -> None: ...

    @abstractmethod
    def append(self, part: Part, vectors: npt.NDArray[np.generic]) -> None:
        """Write ``part``, whose vectors in the file's dtype are ``vectors``."""

    def _finish(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what remains once everything is closed."""


class _Hdf5(_Sink):
    def _begin(self, stack: ExitStack) -> None:
        written = writing_part(self._path, self._size, attributes=self._provenance, dtype=self._dtype)
        self._writer, _ = stack.enter_context(written)

    def append(self, part: Part, vectors: npt.NDArray[np.generic]) -> None:  # noqa: ARG002 - the writer converts itself
        self._writer.append(part)


class _Parquet(_Sink):
    vectors = True

    def _begin(self, stack: ExitStack) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [("id", pa.string()), *((name, pa.int32()) for name in ("chunk", "start", "end"))]
        fields += [("version", pa.int64()), ("content_hash", pa.string())]
        if self.vectors:
            number = pa.float16() if self._dtype == "float16" else pa.float32()
            fields.append(("vector", pa.list_(number, self._size.dim)))
        noted = {PROVENANCE: json.dumps(dict(self._provenance))}
        self._schema = pa.schema(fields, metadata=noted)
        self._writer = stack.enter_context(
            # Vectors hardly compress, and dictionaries of them are lost work.
            pq.ParquetWriter(self._path, self._schema, compression="zstd", use_dictionary=["id", "content_hash"])
        )

    def append(self, part: Part, vectors: npt.NDArray[np.generic]) -> None:
        import pyarrow as pa

        columns = [pa.array(column) for column in row_columns(part).values()]
        if self.vectors:
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._size.dim))
        casted = [column.cast(field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.table(casted, schema=self._schema))


class _Rows(_Parquet):
    vectors = False


class _Npy(_Sink):
    def _begin(self, stack: ExitStack) -> None:
        self._file = stack.enter_context(NpyWriter(self._path, self._dtype, (self._size.chunks, self._size.dim)))
        rows = _Rows(self._path.with_name(self._path.name + ROWS_SUFFIX), self._size, self._dtype, self._provenance)
        self._rows = stack.enter_context(rows)

    def append(self, part: Part, vectors: npt.NDArray[np.generic]) -> None:
        self._file.append(vectors)
        self._rows.append(part, vectors)


class _Npz(_Sink):
    """Columns as ``.npy`` files first: a zip archive takes one member at a time."""

    def _begin(self, stack: ExitStack) -> None:
        self._folder = self._path.with_suffix(".columns")
        self._folder.mkdir()
        kinds = {"id": f"S{max(1, self._size.id_bytes)}", "chunk": "<i4", "start": "<i4", "end": "<i4"}
        kinds |= {"version": "<i8", "content_hash": f"S{self._size.hash_bytes}"}
        rows = (self._size.chunks,)
        columns = {name: (kind, rows) for name, kind in kinds.items()} | {
            "vector": (self._dtype, (*rows, self._size.dim))
        }
        self._files = {
            name: stack.enter_context(NpyWriter(self._folder / f"{name}.npy", kind, shape))
            for name, (kind, shape) in columns.items()
        }

    def append(self, part: Part, vectors: npt.NDArray[np.generic]) -> None:
        for name, column in {**row_columns(part), "vector": vectors}.items():
            self._files[name].append(column)

    def _finish(self) -> None:
        np.save(self._folder / f"{PROVENANCE}.npy", np.array(json.dumps(dict(self._provenance))))
        with zipfile.ZipFile(self._path, "w", allowZip64=True) as archive:
            for member in sorted(self._folder.iterdir()):
                archive.write(member, member.name)
                member.unlink()
        self._folder.rmdir()


class NpyWriter:
    """An ``.npy`` file of known shape, written front to back, so that no page of it stays in memory."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: npt.NDArray[np.generic]) -> None:
        """Write the next rows."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
