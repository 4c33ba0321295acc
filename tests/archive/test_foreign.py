"""Vectors of foreign files: compared by enough of them, and files that were made to do harm."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_archive import part

from revector.archive import open_columns
from revector.archive.comparing import COMPARED, RowSample, found_with
from revector.archive.part import write_part
from revector.errors import ArchiveError, EncoderMismatch, SourceError
from revector.formats import unpacking
from revector.interfaces import Piece, Side, whole_texts
from revector.sources import open_source

# How much is compared -------------------------------------------------------------------------------------------------


class ByNumber:
    """An encoder whose texts are numbers: each is a vector that is like no other."""

    def encode(self, side: Side, pieces: Sequence[Piece]) -> np.ndarray[Any, Any]:
        angles = np.array([int(piece.text) for piece in pieces]) * 2.39996
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def compare(vectors: np.ndarray[Any, Any], rows: Sequence[int], seed: int, *, lengths: bool = False) -> Any:
    sample = RowSample(len(vectors), seed=seed)
    for row in rows:
        sample.offer(f"d{row}", np.array([row]), whole_texts([str(row)]))
    return sample.compare(Path("x.npz"), vectors, ByNumber(), "a100", lengths=lengths)


def test_a_shift_of_any_block_of_one_percent_is_found_in_99_of_100() -> None:
    count, block, missed = 2_000, 20, 0
    every = ByNumber().encode("document", whole_texts([str(n) for n in range(count)]))
    for seed in range(100):
        at = (seed * 997) % (count - block)
        shifted = every.copy()
        shifted[at : at + block] = np.roll(every[at : at + block], 1, axis=0)
        try:
            compare(shifted, range(count), seed)
        except EncoderMismatch:
            continue
        missed += 1
    assert missed <= 3
    assert found_with(COMPARED, 10**9) >= 0.99


def test_vectors_of_another_length_than_the_model_gives_are_refused_where_lengths_count() -> None:
    every = ByNumber().encode("document", whole_texts([str(n) for n in range(100)]))
    compare(1.02 * every, range(100), seed=1, lengths=True)
    compare(1.1 * every, range(100), seed=1)
    with pytest.raises(EncoderMismatch, match=r"of its length, found 1\.1000"):
        compare(1.1 * every, range(100), seed=1, lengths=True)


def test_what_is_left_out_takes_nothing_from_the_comparison() -> None:
    every = ByNumber().encode("document", whole_texts([str(n) for n in range(3_000)]))
    found = compare(every, range(0, 3_000, 5), seed=1)
    assert (found.compared, found.rows, round(found.lowest, 6)) == (COMPARED, 600, 1.0)


def test_every_chunk_of_a_long_document_takes_part() -> None:
    every = ByNumber().encode("document", whole_texts([str(n) for n in range(100)]))
    every[51:] = np.roll(every[51:], 1, axis=0)
    sample = RowSample(100, seed=1)
    sample.offer("long", np.arange(100), whole_texts(str(n) for n in range(100)))
    with pytest.raises(EncoderMismatch, match="so are 49 of 100"):
        sample.compare(Path("x.npz"), every, ByNumber(), "a100")


# What was made to do harm ---------------------------------------------------------------------------------------------


def header(path: Path, shape: tuple[int, ...], descr: str = "<f4", body: bytes = bytes(512)) -> Path:
    with path.open("wb") as file:
        said = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, said)
        file.write(body)
    return path


@pytest.mark.parametrize("shape", [(-1, 64), (2, -64), (10**12, 64), (2**62, 2**62), (3, 64)])
def test_an_npy_that_promises_what_it_does_not_hold_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.ids.npy", np.array(["a", "b"]))
    path = header(tmp_path / "x.npy", shape)
    with pytest.raises(SourceError, match="its header promises shape"):
        open_columns(path, tmp_path)
    header(tmp_path / "x.ids.npy", (10**12,), "<U8")
    np.save(path, np.ones((2, 64), np.float32))
    with pytest.raises(SourceError, match="its header promises shape"):
        open_columns(path, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, b"\x93NUMPY\x01\x00\xf0\x20" + b"[" * 8_432]
)
def test_an_npy_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    np.save(tmp_path / "x.ids.npy", np.array(["a", "b"]))
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        open_columns(tmp_path / "x.npy", tmp_path)


def bombed(path: Path, size: int, name: str = "vector.npy") -> Path:
    """An archive whose member unpacks to ``size`` zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return path


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(SourceError, match="unpack to 67,108,864"):
        open_columns(bombed(tmp_path / "x.npz", 64 << 20), scratch)
    assert list(scratch.iterdir()) == []


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", id=np.array(["a"]), vector=np.ones((1, 64), np.float32))
    monkeypatch.setattr(unpacking, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(SourceError, match="are free in"):
        open_columns(tmp_path / "x.npz", tmp_path)


def damage_deflate(path: Path) -> None:
    np.savez_compressed(path, id=np.array(["a"]), vector=np.arange(64_000, dtype=np.float32).reshape(1_000, 64))
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("vector.npy").header_offset + 60
    content = bytearray(path.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    np.savez(path, id=np.array(["a"]), vector=np.ones((1, 64), np.float32))
    content = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(sign)
        while place >= 0:
            content[place + at] |= 1
            place = content.find(sign, place + 1)
    path.write_bytes(content)


def unlike_provenance(path: Path) -> None:
    np.savez(path, id=np.array(["a"]), vector=np.ones((1, 64), np.float32), provenance=np.array(json.dumps([1, 2])))


def objects(path: Path) -> None:
    np.savez(path, id=np.array(["a", None], object), vector=np.ones((2, 64), np.float32))


@pytest.mark.parametrize("make", [damage_deflate, encrypted, unlike_provenance, objects])
def test_a_damaged_or_deceiving_npz_is_a_proper_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.npz")
    with pytest.raises(SourceError, match="cannot be read"):
        open_columns(tmp_path / "x.npz", tmp_path)


def outside(path: Path, replace: str, how: str) -> Path:
    """A part with one of its datasets in another file."""
    import h5py

    write_part(path, part(5, 8), attributes={})
    other = path.with_name("other.h5")
    write_part(other, part(5, 8), attributes={})
    with h5py.File(path, "r+") as file:
        if how == "external link":
            del file[replace]
            file[replace] = h5py.ExternalLink("other.h5", replace)
            return path
        shape, dtype = file[replace].shape, file[replace].dtype
        del file[replace]
        if how == "soft link":
            file["elsewhere"] = h5py.ExternalLink("other.h5", "/")
            file[replace] = h5py.SoftLink(f"/elsewhere/{replace}")
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource("other.h5", replace, shape, dtype)
            file.create_virtual_dataset(replace, layout)
        else:
            file.create_dataset(replace, shape, dtype, external=[(str(path.with_name("secret")), 0, 10**6)])
    path.with_name("secret").write_bytes(b"s" * 10**6)
    return path


@pytest.mark.parametrize("how", ["external link", "soft link", "virtual", "external storage"])
@pytest.mark.parametrize("name", ["embeddings", "documents/content_hash", "chunks/end"])
def test_hdf5_that_points_to_other_files_is_refused(tmp_path: Path, name: str, how: str) -> None:
    with pytest.raises(ArchiveError, match=r"which (is|are) not (followed|read)"):
        open_columns(outside(tmp_path / "x.h5", name, how), tmp_path)


def test_hdf5_of_a_group_that_is_linked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is a link to elsewhere"):
        open_columns(outside(tmp_path / "x.h5", "documents", "external link"), tmp_path)


def test_compressed_hdf5_of_nothing_but_zeros_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    write_part(tmp_path / "x.h5", part(5, 8), attributes={})
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["embeddings"], file["chunks/start"], file["chunks/end"]
        file.create_dataset("embeddings", (10**9, 384), "<f4", chunks=(64, 384), compression="gzip")
        for name in ("start", "end"):
            file.create_dataset(f"chunks/{name}", (10**9,), "<i4", chunks=(64,))
    with pytest.raises((SourceError, ArchiveError)):
        open_columns(tmp_path / "x.h5", tmp_path)
    assert not (tmp_path / "vector.npy").exists()


@pytest.mark.slow
def test_a_parquet_bomb_is_refused_at_import_and_at_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    zeros = pa.table({"_id": ["a"], "id": ["a"], "text": ["x" * (64 << 20)], "vector": [[0.0]]})
    pq.write_table(zeros, tmp_path / "x.parquet", compression="zstd")
    for read in (lambda path: open_columns(path, tmp_path), lambda path: list(open_source(str(path)))):
        with pytest.raises(SourceError, match="allowed are 100 times as many"):
            read(tmp_path / "x.parquet")
    ones = pa.FixedSizeListArray.from_arrays(np.ones(64 * 10**6, np.float32), 64)
    runs = pa.table({"id": pa.array(["a"] * 10**6), "vector": ones})
    pq.write_table(runs, tmp_path / "y.parquet", compression="zstd")
    with pytest.raises(SourceError, match="allowed are 100 times as many"):
        open_columns(tmp_path / "y.parquet", tmp_path)


@pytest.mark.slow
def test_a_large_value_in_every_row_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    large = rng.integers(97, 123, 8 << 20, dtype=np.uint8).tobytes().decode()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array([large]))  # in memory only once
    table = pa.table({"_id": [str(n) for n in range(300)], "text": texts})
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    with pq.ParquetFile(tmp_path / "x.parquet") as file:
        assert 1 <= unpacking.check_parquet(tmp_path / "x.parquet", file) <= 128
    assert len(next(iter(open_source(str(tmp_path / "x.parquet")))).text or "") == len(large)


def test_a_gzip_bomb_of_lines_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    with gzip.open(tmp_path / "x.jsonl.gz", "wb") as file:
        for _ in range(20_000):
            file.write(b'{"_id": "1", "text": "%s"}\n' % (b"x" * 500))
    with pytest.raises(SourceError, match="allowed are 100 times as many"):
        list(open_source(str(tmp_path / "x.jsonl.gz")))
