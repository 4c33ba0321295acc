"""Records in files: JSON lines, CSV and Parquet, read as a stream with the place of each record.

A reader yields ``(place, record)``, ``place`` being such as ``line 3``. What cannot be read raises ``SourceError`` with
the file and the place.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from revector.errors import SourceError
from revector.formats.strict_json import DoubledName, doubled, parse
from revector.formats.unpacking import check_parquet, check_unpacked

if TYPE_CHECKING:
    from pyarrow import DataType, Schema

Record = tuple[str, Mapping[str, Any]]

MAX_LINE_BYTES = 64 << 20
"""Longest line that is read; a longer one is a file of another format."""

_RENAME = "Nothing was stored; rename one of the two and read it again."
_CHECKED_LINES = 1_024
_AGAIN = "Nothing was stored; fix the file and read it again."


def read_jsonl(path: Path) -> Iterator[Record]:
    """Yield one JSON object per line (UTF-8, plain or gzip); empty lines are skipped."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = parse(line)
        except DoubledName as error:
            raise SourceError(
                f"{path}, line {number}: {error}. Nothing was stored; keep one of the two and read it again."
            ) from error
        except ValueError as error:
            raise SourceError(
                f"{path}, line {number}: not JSON ({error}); the line begins with {line[:40]!r}. "
                f"Each line must be one JSON object. {_AGAIN}"
            ) from error
        if not isinstance(record, dict):
            raise SourceError(
                f"{path}, line {number}: found a JSON {type(record).__name__}, each line must be one JSON object. "
                f"{_AGAIN}"
            )
        yield f"line {number}", record


def read_csv(path: Path) -> Iterator[Record]:
    """Yield the rows of a CSV file (comma, double quotes, UTF-8, plain or gzip) whose first row names the fields."""
    csv.field_size_limit(MAX_LINE_BYTES)  # process-wide; the standard 128 KiB would refuse a long document
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if (twice := doubled(header)) is not None:
            raise SourceError(f"{path}, line 1: the field {twice!r} is named twice in {header}. {_RENAME}")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise SourceError(
                    f"{path}, line {rows.line_num}: the row has {len(row)} fields, the header names {len(header)} "
                    f"({', '.join(header)}). Quote fields that hold commas. {_AGAIN}"
                )
            yield f"line {rows.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise SourceError(f"{path}, line {rows.line_num}: not CSV ({error}). {_AGAIN}") from error


def read_parquet(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file, a few hundred in memory at a time, fewer where they may be large."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if (twice := _doubled_column(file.schema_arrow)) is not None:
                raise SourceError(f"{path}: the column {twice!r} is there twice. {_RENAME}")
            for batch in file.iter_batches(batch_size=check_parquet(path, file)):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}, after row {number}: not readable as Parquet ({error}). {_AGAIN}") from error


def _doubled_column(schema: Schema | DataType) -> str | None:
    """Return a column, or a field of a nested one, that an Arrow schema or type names twice."""
    fields = [schema.field(n) for n in range(len(schema.names) if hasattr(schema, "names") else schema.num_fields)]
    if (twice := doubled(field.name for field in fields)) is not None:
        return twice
    return next((inner for field in fields if (inner := _doubled_column(field.type)) is not None), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(number from 1, line)``; ends of line are kept, a byte order mark is not."""
    offset = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise SourceError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB, so this is not a file of one "
                        f"record per line. Nothing was stored; convert it and read it again."
                    )
                yield number, _decode(path, number, offset, line)
                offset += len(line)
                if number % _CHECKED_LINES == 0 and path.suffix.lower() == ".gz":
                    check_unpacked(path, offset)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}, after byte {offset:,}: cannot be read ({error}). {_AGAIN}") from error


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _decode(path: Path, number: int, offset: int, line: bytes) -> str:
    wide = b"\x00" in line
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        at, found = error.start, line[error.start : error.start + 1].hex()
    else:
        if not wide:
            return text
        at, found = line.index(b"\x00"), "00"
    likely = "UTF-16" if wide or line.startswith((b"\xff\xfe", b"\xfe\xff")) else "WINDOWS-1252"
    raise SourceError(
        f"{path}, line {number}: not UTF-8, found byte 0x{found} at byte {offset + at:,} of the file. "
        f"It may be {likely}: iconv -f {likely} -t UTF-8. {_AGAIN}"
    )
