"""Parts survive the way to disk and back, and nothing else passes for one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revector.archive import (
    LAYOUTS,
    Layout,
    OpenPart,
    Part,
    Size,
    read_attributes,
    read_part,
    remove_temporary,
    storage,
    write_part,
    writing_part,
)
from revector.errors import ArchiveError

ATTRIBUTES: dict[str, str | int] = {"fingerprint": "f" * 64, "shard": 3}


def part(documents: int = 50, dim: int = 8) -> Part:
    rng = np.random.default_rng(documents)
    counts = rng.integers(0, 4, documents).astype(np.int32)
    chunks = int(counts.sum())
    return Part(
        doc_ids=sorted(f"日本/{n:05d}" if n % 2 else f"doc-{n:05d}" for n in range(documents)),
        versions=np.arange(documents, dtype=np.int64) + 2**40,
        content_hashes=[hashlib.sha256(str(n).encode()).hexdigest() for n in range(documents)],
        starts=np.cumsum(counts, dtype=np.int64) - counts,
        counts=counts,
        chunk_starts=np.arange(chunks, dtype=np.int32),
        chunk_ends=np.arange(chunks, dtype=np.int32) + 7,
        embeddings=rng.normal(size=(chunks, dim)).astype(np.float32),
    )


def assert_equal(one: Part, other: Part) -> None:
    for name in Part.__slots__:
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(left, right)
        assert type(left) is type(right)
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None)


@pytest.mark.parametrize("documents", [0, 1, 50])
def test_a_part_comes_back_as_it_was_written(tmp_path: Path, documents: int) -> None:
    path, written = tmp_path / "part.h5", part(documents)
    sha256 = write_part(path, written, attributes=ATTRIBUTES)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_equal(read_part(path, sha256, attributes=ATTRIBUTES), written)
    assert read_attributes(path) == ATTRIBUTES
    assert [file.name for file in tmp_path.iterdir()] == ["part.h5"]


def test_float16_halves_the_vectors_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    write_part(tmp_path / "half.h5", part(), attributes={}, dtype="float16")
    found = read_part(tmp_path / "half.h5")
    assert found.embeddings.dtype == np.float16
    np.testing.assert_allclose(found.embeddings, part().embeddings, atol=2e-3)
    huge = replace(part(), embeddings=part().embeddings * np.float32(1e6))
    with pytest.raises(ArchiveError, match="range of float16"):
        write_part(tmp_path / "huge.h5", huge, attributes={}, dtype="float16")
    assert not (tmp_path / "huge.h5").exists()


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    import h5py

    write_part(tmp_path / "part.h5", part(), attributes=ATTRIBUTES)
    columns = {
        "documents": {"doc_id", "version", "content_hash", "start", "count"},
        "chunks": {"start", "end"},
    }
    with h5py.File(tmp_path / "part.h5") as file:
        assert set(file) == {"embeddings", *columns}
        assert {name: set(file[name]) for name in columns} == columns
        for one in (file["embeddings"], *file["documents"].values(), *file["chunks"].values()):
            assert (one.chunks, one.compression) == (None, None)
            assert one.id.get_offset() is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same(tmp_path: Path, layout: Layout) -> None:
    sha256 = write_part(tmp_path / "part.h5", part(300), attributes=ATTRIBUTES, layout=layout)
    assert_equal(read_part(tmp_path / "part.h5", sha256), part(300))


def test_zstd_without_its_package_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part(tmp_path / "part.h5", part(300), attributes={}, layout="zstd")
    monkeypatch.setattr(storage, "find_spec", lambda _: None)
    with pytest.raises(ArchiveError, match=r"pip install 'revector\[zstd\]'"):
        write_part(tmp_path / "other.h5", part(300), attributes={}, layout="zstd")
    with pytest.raises(ArchiveError, match=r"part.h5: zstd needs .* pip install 'revector\[zstd\]'"):
        read_part(tmp_path / "part.h5")
    assert [file.name for file in tmp_path.iterdir()] == ["part.h5"]


def write_pieces(path: Path, size: Size, pieces: list[Part]) -> str:
    with writing_part(path, size, attributes=ATTRIBUTES) as (writer, written):
        for piece in pieces:
            writer.append(piece)
    return written.sha256


def test_a_part_written_in_pieces_is_the_part_written_at_once(tmp_path: Path) -> None:
    whole = part(300)
    write_part(tmp_path / "once.h5", whole, attributes=ATTRIBUTES)
    shard = OpenPart(tmp_path / "once.h5")
    pieces = [shard.part(first, first + 70) for first in range(0, 300, 70)]
    sha256 = write_pieces(tmp_path / "pieces.h5", Size.of(whole), pieces)
    assert_equal(read_part(tmp_path / "pieces.h5", sha256, attributes=ATTRIBUTES), whole)
    for wrong in ([pieces[0]], [pieces[1], pieces[0]], [*pieces, replace(part(1), doc_ids=["日本/9"])]):
        with pytest.raises(ArchiveError, match="Nothing was written"):
            write_pieces(tmp_path / "wrong.h5", Size.of(whole), wrong)
    assert not (tmp_path / "wrong.h5").exists()


def test_ids_that_fixed_bytes_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="without NUL"):
        write_part(tmp_path / "part.h5", replace(part(1), doc_ids=["a\0"]), attributes={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99, 1.0])
def test_a_torn_part_is_refused_with_and_without_its_hash(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "part.h5"
    sha256 = write_part(path, part(), attributes=ATTRIBUTES)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(len(whole) * kept), len(whole) - 1)])
    with pytest.raises(ArchiveError, match=f"{path}: expected a whole part, found .* bytes"):
        read_part(path)
    with pytest.raises(ArchiveError, match=f"{path}: recorded was SHA-256 {sha256}, found"):
        read_part(path, sha256)


@pytest.mark.parametrize("place", [0.02, 0.5, 0.95])
def test_one_changed_byte_is_refused_by_the_hash(tmp_path: Path, place: float) -> None:
    path = tmp_path / "part.h5"
    sha256 = write_part(path, part(), attributes=ATTRIBUTES)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="recorded was"):
        read_part(path, sha256)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["embeddings"] = np.zeros((2, 2))
    with pytest.raises(ArchiveError, match="expected format"):
        read_part(tmp_path / "foreign.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ArchiveError, match="found 5 bytes"):
        read_part(tmp_path / "text.h5")
    with pytest.raises(ArchiveError, match="found no file"):
        read_part(tmp_path / "absent.h5", "0" * 64)


def test_a_part_whose_columns_are_of_another_type_is_not_opened(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "part.h5"
    write_part(path, part(), attributes=ATTRIBUTES)
    with h5py.File(path, "a") as file:
        versions = file["documents/version"][:]
        del file["documents/version"]
        file["documents/version"] = versions.astype(np.float64)
    with pytest.raises(ArchiveError, match="documents/version should be int64, found float64"):
        OpenPart(path)


def test_a_part_of_another_encoder_or_another_format_version_is_refused(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "part.h5"
    write_part(path, part(), attributes=ATTRIBUTES)
    with pytest.raises(ArchiveError, match=r"attribute fingerprint should be 'e+', found 'f+'"):
        read_part(path, attributes={"fingerprint": "e" * 64})
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(ArchiveError, match=r"expected format .*2.*99"):
        read_part(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"doc_ids": ["b", "a"]}, "sorted and without duplicates"),
        ({"doc_ids": ["a", "a"]}, "sorted and without duplicates"),
        ({"doc_ids": [1, 2]}, "strings"),
        ({"content_hashes": [b"a", b"b"]}, "strings"),
        ({"content_hashes": ["a"]}, "content_hashes"),
        ({"starts": np.array([0, 2])}, "without gaps"),
        ({"counts": np.array([1, 3], dtype=np.int32)}, "without gaps"),
        ({"chunk_ends": np.array([1], dtype=np.int32)}, "chunk_ends"),
        ({"embeddings": np.full((2, 3), np.nan, dtype=np.float32)}, "finite"),
    ],
)
def test_inconsistent_parts_are_refused(change: dict[str, Any], reason: str) -> None:
    good: dict[str, Any] = {
        "doc_ids": ["a", "b"],
        "versions": np.array([1, 2]),
        "content_hashes": ["x", "y"],
        "starts": np.array([0, 1]),
        "counts": np.array([1, 1], dtype=np.int32),
        "chunk_starts": np.array([0, 0], dtype=np.int32),
        "chunk_ends": np.array([1, 1], dtype=np.int32),
        "embeddings": np.ones((2, 3), dtype=np.float32),
    }
    assert Part(**good)
    with pytest.raises(ArchiveError, match=reason):
        Part(**{**good, **change})


WRITER = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_archive import part
from revector.archive import write_part
parts = [part(n, dim=384) for n in (2000, 2001)]
for n in itertools.count():
    write_part(Path(sys.argv[1]), parts[n % 2], attributes={"n": n})
    print(n, flush=True)
"""


@pytest.mark.parametrize("kills", range(3))
def test_a_writer_killed_at_any_time_leaves_a_whole_part(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "part.h5"
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(kills + 2):
            assert writer.stdout.readline()
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob(".*.tmp")) and time.monotonic() < deadline:
            pass
        writer.send_signal(signal.SIGKILL)
    found = read_part(path)
    assert len(found.doc_ids) in (2000, 2001)
    assert_equal(found, part(len(found.doc_ids), dim=384))
    remove_temporary(tmp_path, older_than_s=0)
    assert [file.name for file in tmp_path.iterdir()] == ["part.h5"]


def test_temporary_files_of_running_writers_are_kept(tmp_path: Path) -> None:
    young, old = tmp_path / ".a.h5.1.tmp", tmp_path / ".b.h5.2.tmp"
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert remove_temporary(tmp_path) == 1
    assert young.exists()
    assert not old.exists()
