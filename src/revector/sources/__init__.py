"""Where documents come from: files, SQL queries, folders of images and docstrings, each as a stream of documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from uuid import UUID

from revector.errors import SourceError
from revector.formats.images import ImageLimits
from revector.formats.values import as_id, plain, storable
from revector.interfaces import Document, Source
from revector.sources.columns import ALL, ColumnType, column_types, parse_types, typed
from revector.sources.files import Record, read_csv, read_jsonl, read_parquet
from revector.sources.images import ImageFolder, ImageReader
from revector.sources.sql import read_sql

__all__ = [
    "ACCEPTED",
    "ALL",
    "ColumnType",
    "Fields",
    "FirstDocuments",
    "RecordSource",
    "file_records",
    "is_csv",
    "located",
    "open_source",
    "parse_types",
]

ACCEPTED = (
    "a folder with corpus.jsonl (BEIR), .jsonl, .ndjson, .csv (these also as .gz), .parquet, "
    "sql:SELECT ... with a url, images:FOLDER, docstrings: or docstrings:numpy,json"
)

_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".ndjson": read_jsonl,
    ".ndjson.gz": read_jsonl,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".parquet": read_parquet,
}


def open_source(
    spec: str,
    *,
    id_field: str = "_id",
    text_fields: Sequence[str] = ("title", "text"),
    meta_fields: Sequence[str] | None = None,
    version_field: str | None = None,
    image_field: str | None = None,
    url: str | None = None,
    column_types: Mapping[str, ColumnType] | None = None,
    images: ImageLimits | None = None,
) -> Source:
    """Return the source that ``spec`` names (``ACCEPTED``); it may be iterated again from the start.

    The text of a document is that of ``text_fields``, joined by a line break, empty ones left out; it is None when all
    are. ``meta_fields`` None takes every other field, the entries of a BEIR ``metadata`` object as fields of their own.
    In JSON lines a record may lack any of them but the id and the version. ``version_field`` holds whole numbers or
    times (ISO 8601; taken as microseconds since 1970, UTC where no zone is given). ``image_field`` holds a path below
    the folder of the source, an http or https address, or bytes; ``images`` bounds what is read of one.
    The meta fields of a CSV file are typed by their contents (see ``columns``) or as ``column_types`` says; all other
    sources have types of their own. ``images:`` and ``docstrings:`` have their own fields and ignore all of these.
    Raises ``SourceError`` here for what cannot be opened, and
    while iterating, with the place, for what cannot be read.
    """
    metas = None if meta_fields is None else tuple(meta_fields)
    fields = Fields((id_field,), tuple(text_fields), metas, version_field, image=image_field)
    limits = images or ImageLimits()
    kind, _, rest = spec.partition(":")
    if kind == "images":
        return ImageFolder(Path(rest).expanduser(), limits)
    if kind == "docstrings":
        from revector.sources.docstrings import DocstringSource

        packages = [name.strip() for name in rest.split(",") if name.strip()]
        return DocstringSource(packages or None)
    if kind == "sql":
        if not url:
            raise SourceError(f"{spec!r} needs a url, the SQLAlchemy URL of its database. Nothing was read.")
        read = partial(read_sql, url, rest.strip())
        return RecordSource("the SQL query", read, fields, images=ImageReader(None, limits))
    return file_records(Path(spec).expanduser(), fields, column_types, limits)


@dataclass(slots=True)
class FirstDocuments:
    """The first ``count`` documents of a source, for a quick run; a Source itself."""

    source: Source
    count: int
    name: str = ""

    def __post_init__(self) -> None:
        self.name = f"the first {self.count:,} of {self.source.name}"

    def __iter__(self) -> Iterator[Document]:
        return islice(iter(self.source), self.count)


def located(spec: str, root: Path) -> str:
    """Return what ``open_source`` takes for a source of the settings, whose paths are below ``root``."""
    kind, _, rest = spec.partition(":")
    if kind in ("sql", "docstrings"):
        return spec
    head, place = ("images:", rest) if kind == "images" else ("", spec)
    return f"{head}{root / Path(place).expanduser()}"


def file_records(
    path: Path,
    fields: Fields,
    column_types: Mapping[str, ColumnType] | None = None,
    images: ImageLimits | None = None,
) -> RecordSource:
    """Return a file of records as a source of documents. Raises as ``open_source``."""
    path = _file(path)
    read = _READERS[_extension(path)]
    cells = column_types or {} if is_csv(str(path)) else None
    reader = ImageReader(path.parent, images or ImageLimits())
    has_columns = read is not read_jsonl
    return RecordSource(str(path), partial(read, path), fields, has_columns=has_columns, cells=cells, images=reader)


def is_csv(spec: str) -> bool:
    """Whether ``spec`` names a CSV file, whose columns have no types of their own."""
    return spec.partition(":")[0] != "sql" and _extension(Path(spec)).startswith(".csv")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a record are what. ``metas`` None: all others.

    Of one, the ``id`` is its value; of several their values, joined by ``/``, as an adopted table has them.
    """

    id: tuple[str, ...]
    texts: tuple[str, ...]
    metas: tuple[str, ...] | None
    version: str | None = None
    separator: str = "\n"
    aside: tuple[str, ...] = ()
    """Fields that belong to no document."""
    image: str | None = None

    @property
    def all(self) -> set[str]:
        """Every field that is named."""
        named = {*self.id, *self.texts, *(self.metas or ()), *self.aside}
        return named | {name for name in (self.version, self.image) if name}


@dataclass(slots=True)
class RecordSource:
    """A Source made of records: turns each into a document by its fields."""

    name: str
    read: Callable[[], Iterator[Record]]
    fields: Fields
    has_columns: bool = True
    cells: Mapping[str, ColumnType] | None = None
    """Types that were chosen for columns whose cells are all text; None where values have types."""
    images: ImageReader | None = None

    def __iter__(self) -> Iterator[Document]:
        return (document for document, _ in self.rows())

    def rows(self) -> Iterator[tuple[Document, Mapping[str, object]]]:
        """Yield each document with the record that it was made of."""
        types: Mapping[str, ColumnType] = {}
        for number, (place, nested) in enumerate(self.read()):
            try:
                record = _flat(nested, self.fields)
                if number == 0:
                    self._check_first(record)
                    types = self._types(record)
                document = self._document(record, types)
            except _Refused as refused:
                raise SourceError(
                    f"{self.name}, {place}: {refused} Nothing was stored; fix it and read it again."
                ) from refused
            yield document, record

    def _check_first(self, record: Mapping[str, object]) -> None:
        if not any(name in record for name in (*self.fields.texts, self.fields.image)):
            raise _Refused(
                f"a source without text: none of the text fields {_names(self.fields.texts)} is there, the fields are "
                f"{_names(record)}. Name the right ones as text fields."
            )
        absent = [name for name in self.fields.metas or () if name not in record]
        if absent and self.has_columns:
            raise _Refused(f"the meta fields {_names(absent)} are missing, the fields are {_names(record)}.")
        if self.has_columns and self.fields.image and self.fields.image not in record:
            raise _Refused(f"the image field {self.fields.image!r} is missing, the fields are {_names(record)}.")
        absent = [name for name in self.cells or () if name not in record and name != ALL]
        if absent:
            raise _Refused(
                f"the columns {_names(absent)} that types are given for are missing, the fields are {_names(record)}."
            )

    def _types(self, first: Mapping[str, object]) -> Mapping[str, ColumnType]:
        """Return the types of the meta fields where cells are text: the source is read once more for them."""
        if self.cells is None:
            return {}
        return column_types((row for _, row in self.read()), list(self._meta_names(first)), self.cells)

    def _document(self, record: Mapping[str, object], types: Mapping[str, ColumnType]) -> Document:
        fields = self.fields
        if absent := [name for name in fields.id if name not in record]:
            raise _Refused(
                f"the id field {_names(map(repr, absent))} is missing, the fields are {_names(record)}; name the "
                "one that holds ids by --id-field."
            )
        texts = [_text(name, record.get(name)) for name in fields.texts]
        return Document(
            id=_identity(fields.id, record),
            text=fields.separator.join(text for text in texts if text) or None,
            meta=self._meta(record, types),
            version=None if fields.version is None else _version(fields.version, record.get(fields.version)),
            image=self._image(record),
        )

    def _image(self, record: Mapping[str, object]) -> bytes | Callable[[], bytes] | None:
        name = self.fields.image
        if name is None or self.images is None:
            return None
        try:
            return self.images.of(record.get(name))
        except ValueError as error:
            raise _Refused(f"the image field {name!r} {error}.") from error

    def _meta_names(self, record: Mapping[str, object]) -> Iterable[str]:
        return record.keys() - self.fields.all if self.fields.metas is None else self.fields.metas

    def _meta(self, record: Mapping[str, object], types: Mapping[str, ColumnType]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in sorted(self._meta_names(record)):
            stored = storable(name)
            if stored in found:
                raise _Refused(f"the field {stored!r} would be stored twice, and one would be lost; rename one.")
            try:
                value = typed(str(record[name]), types[name]) if name in types else record.get(name)
                found[stored] = plain(value, forgiving=True)
            except ValueError as error:
                raise _Refused(f"the field {name!r} {error}; leave it out by meta fields.") from error
        return found


def _flat(record: Mapping[str, object], fields: Fields) -> Mapping[str, object]:
    """Return ``record`` with the entries of a BEIR ``metadata`` object beside its own.

    Raises ``_Refused`` where the two say different things about one name.
    """
    inner = record.get("metadata")
    if "metadata" in fields.all or not isinstance(inner, Mapping):
        return record
    if differing := [name for name, value in inner.items() if name in record and record[name] != value]:
        raise _Refused(
            f"{_names(differing)} is named in the object `metadata` and beside it, with different values; one would be "
            "lost. Rename one, or name `metadata` as a meta field to keep it as an object."
        )
    return dict(inner) | {name: value for name, value in record.items() if name != "metadata"}


class _Refused(ValueError):
    """Why a record cannot be a document; becomes a SourceError with its place."""


def _identity(names: Sequence[str], record: Mapping[str, object]) -> str:
    parts = [_part(name, record[name]) for name in names]
    if len(parts) == 1:
        return parts[0]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def _part(name: str, value: object) -> str:
    found_id = str(value) if isinstance(value, UUID) else as_id(value)
    if isinstance(found_id, str) and found_id:
        return found_id
    found = "null or empty" if value is None or value == "" else f"{value!r:.40} ({type(value).__name__})"
    raise _Refused(f"the id field {name!r} is {found}, it must be a string or a whole number.")


def _text(name: str, value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (bool, int, float, Decimal)):
        return str(value)
    raise _Refused(f"the text field {name!r} holds {type(value).__name__}, it must be a string.")


def _version(name: str, value: object) -> int:
    read = _number_or_time(value) if isinstance(value, str) else value
    if isinstance(read, datetime):
        moment = read if read.tzinfo else read.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(read, (int, float, Decimal)) and not isinstance(read, bool) and math.isfinite(read) and read % 1 == 0:
        return int(read)
    raise _Refused(f"the version field {name!r} is {value!r:.40}, it must be a whole number or a time.")


def _number_or_time(text: str) -> int | datetime | None:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return None


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "(none)"


def _extension(path: Path) -> str:
    name = path.name.lower()
    return next((ending for ending in _READERS if name.endswith(ending)), "")


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in ("corpus.jsonl", "corpus.jsonl.gz"):
            if (path / name).is_file():
                return path / name
        found = _names(sorted(child.name for child in path.iterdir())[:10])
        raise SourceError(f"The folder {path} has no corpus.jsonl, it holds {found}. Nothing was read; name a file.")
    if not _extension(path):
        raise SourceError(f"{path} is no source that revector reads. Nothing was read. Accepted are {ACCEPTED}.")
    if not path.is_file():
        raise SourceError(f"The file {path} does not exist. Nothing was read. Accepted are {ACCEPTED}.")
    return path
