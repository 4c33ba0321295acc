"""How much a packed file may become: asked before it is unpacked, so that a small file fills no disk and no memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from revector.errors import SourceError

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData, ParquetFile

MAX_RATIO = 100
"""Text shrinks to a tenth and vectors hardly; what becomes so much larger was made to fill a disk."""

FREE_BYTES = 256 << 20
"""Up to here no ratio counts."""

RESERVE_BYTES = 256 << 20
"""What stays free on a disk."""

BATCH_ROWS, BATCH_BYTES = 256, 1 << 30


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise ``SourceError`` where the file would become ``unpacked`` bytes, and that is out of all proportion."""
    packed = path.stat().st_size
    if unpacked > FREE_BYTES + MAX_RATIO * packed:
        raise SourceError(
            f"{path}: its {packed:,} bytes unpack to {unpacked:,}, allowed are {MAX_RATIO} times as many and "
            f"{FREE_BYTES >> 20} MiB. It was not read and nothing was stored; hand it over unpacked if it is right."
        )


def check_room(folder: Path, path: Path, wanted: int) -> None:
    """Raise ``SourceError`` where ``wanted`` bytes of ``path`` do not fit on the disk of ``folder``."""
    if (free := shutil.disk_usage(folder).free) < wanted + RESERVE_BYTES:
        raise SourceError(
            f"{path} unpacks to {wanted:,} bytes, and {free:,} are free in {folder}. Nothing was stored; free space, "
            "or set archive_folder to a larger disk."
        )


def check_parquet(path: Path, file: ParquetFile) -> int:
    """Return how many rows of an open ``ParquetFile`` fit in memory at once, by what it says of itself.

    One value of a dictionary may stand in every row, so a batch is as large as the largest dictionary allows. Raises
    ``SourceError`` where pages, or rows, are out of all proportion to the file.
    """
    meta = file.metadata
    columns = [meta.row_group(at).column(n) for at in range(meta.num_row_groups) for n in range(meta.num_columns)]
    check_unpacked(path, max(sum(one.total_uncompressed_size for one in columns), meta.num_rows))
    largest = max((_dictionary_bytes(one) for one in columns if one.has_dictionary_page), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, largest)))


def _dictionary_bytes(column: ColumnChunkMetaData) -> int:
    """Return the most that a column's dictionary can take."""
    packed = column.data_page_offset - (column.dictionary_page_offset or 0)
    whole = int(column.total_uncompressed_size)
    return min(whole, MAX_RATIO * packed) if packed > 0 else whole
