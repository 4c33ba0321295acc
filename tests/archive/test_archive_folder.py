"""An archive gives back what was appended, by id and in batches; after kills and damage that, or a refusal."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_archive import assert_equal, part

from revector import crash
from revector.archive import LAYOUTS, Archive, Dtype, Layout, OpenPart, Part, open_merged
from revector.archive.folder import MANIFEST
from revector.errors import ArchiveError

ATTRIBUTES: dict[str, str | int] = {"encoder_fp": "e" * 64, "dim": 8}


def named(prefix: str, documents: int = 50, dim: int = 8) -> Part:
    made = part(documents, dim)
    return replace(made, doc_ids=sorted(f"{prefix}{doc_id}" for doc_id in made.doc_ids))


def vectors_of(made: Part) -> dict[str, np.ndarray]:
    spans = zip(made.doc_ids, made.starts, made.counts, strict=True)
    return {doc_id: made.embeddings[start : start + count] for doc_id, start, count in spans}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive.create(tmp_path / "archive", attributes=ATTRIBUTES)
    for prefix in ("m", "a", "é"):
        made.append(named(prefix))
    return made


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_come_back_in_the_order_they_were_asked_for(tmp_path: Path, layout: Layout, dtype: Dtype) -> None:
    Archive.create(tmp_path, attributes=ATTRIBUTES, layout=layout, dtype=dtype)
    parts = [named("m", 300), named("a", 40), named("z", 1)]
    for one in parts:
        Archive.create(tmp_path, attributes=ATTRIBUTES, layout=layout, dtype=dtype).append(one)
    wanted = {doc_id: vectors for one in parts for doc_id, vectors in vectors_of(one).items()}
    asked = random.Random(1).choices(list(wanted), k=200)
    archive = Archive(tmp_path)
    found = archive.read_many(asked)
    assert found.embeddings.dtype == dtype
    for doc_id, start, count in zip(asked, found.starts, found.counts, strict=True):
        np.testing.assert_array_equal(found.embeddings[start : start + count], wanted[doc_id].astype(dtype))
        np.testing.assert_array_equal(archive.read(doc_id), wanted[doc_id].astype(dtype))
    assert list(archive.ids()) == [doc_id for one in parts for doc_id in one.doc_ids]


IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(IDS, min_size=1, max_size=8, unique=True), min_size=1, max_size=4), st.data())
def test_whatever_the_ids_are_each_is_found_and_others_are_not(
    tmp_path: Path, lists: list[list[str]], data: st.DataObject
) -> None:
    archive = Archive.create(tmp_path / str(time.monotonic_ns()))
    wanted: dict[str, np.ndarray] = {}
    for ids in lists:
        if fresh := sorted(set(ids) - set(wanted)):
            one = replace(part(len(fresh)), doc_ids=fresh)
            archive.append(one)
            wanted |= vectors_of(one)
    others = data.draw(st.lists(IDS, max_size=5))
    asked = data.draw(st.permutations([*wanted, *others]))
    assert archive.contains(asked).tolist() == [doc_id in wanted for doc_id in asked]
    known = [doc_id for doc_id in asked if doc_id in wanted]
    found = archive.read_many(known)
    for doc_id, start, count in zip(known, found.starts, found.counts, strict=True):
        np.testing.assert_array_equal(found.embeddings[start : start + count], wanted[doc_id])


def test_ids_that_are_not_there_are_named(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match=r"2 of 3 ids are not in group 'text', such as 'nobody', 'mdoc-00001'"):
        archive.read_many(["nobody", "mdoc-00000", "mdoc-00001"])
    assert archive.read_many([]).embeddings.shape == (0, 0)


@pytest.mark.parametrize("n", [1, 7, 50, 1000])
def test_batches_give_everything_in_the_order_of_ids(archive: Archive, n: int) -> None:
    batches = list(archive.batches(n))
    assert max(len(one.doc_ids) for one in batches) <= n
    assert [doc_id for one in batches for doc_id in one.doc_ids] == list(archive.ids())
    whole = list(archive.batches(50))
    for made, prefix in zip(whole, ("m", "a", "é"), strict=True):
        assert_equal(made, named(prefix))


def test_a_group_has_its_own_width_and_its_own_ids(archive: Archive) -> None:
    archive.append(named("m", dim=3), group="title")
    assert archive.groups == ["text", "title"]
    doc_id = named("m").doc_ids[0]
    assert archive.read(doc_id, group="title").shape[1] == 3
    assert archive.read(doc_id).shape[1] == 8
    assert list(archive.ids(group="image")) == []
    with pytest.raises(ArchiveError, match="group 'title' holds vectors of 3 numbers, found 8"):
        archive.append(named("x"), group="title")


@pytest.mark.parametrize("virtual", [False, True])
def test_the_merged_file_shows_everything(archive: Archive, *, virtual: bool) -> None:
    archive.append(named("t", dim=3), group="title")
    with open_merged(archive.merge(archive.folder / "all.h5", virtual=virtual)) as file:
        text, documents = file["text/embeddings"], file["text/documents"]
        assert (text.is_virtual, set(file)) == (virtual, {"text", "title"})
        assert [one.decode() for one in documents["doc_id"]] == list(archive.ids())
        for row in (0, 60, 149):
            doc_id, start, count = (documents[name][row] for name in ("doc_id", "start", "count"))
            np.testing.assert_array_equal(text[start : start + count], archive.read(doc_id.decode()))
        assert file["text/chunks/end"][0] == 7


def test_a_merged_file_copied_alone_is_whole(archive: Archive, tmp_path: Path) -> None:
    every = np.concatenate([part.embeddings for part in archive.batches(50)])
    alone = tmp_path / "alone.h5"
    shutil.move(archive.merge(archive.folder / "all.h5"), alone)
    shutil.rmtree(archive.folder)
    with open_merged(alone) as file:
        np.testing.assert_array_equal(file["text/embeddings"][:], every)
        assert (file["text/chunks/start"][:] >= 0).all()


def test_a_view_whose_shards_are_gone_or_torn_is_an_error(archive: Archive, tmp_path: Path) -> None:
    archive.merge(archive.folder / "all.h5", virtual=True)
    moved = tmp_path / "elsewhere"
    archive.folder.rename(moved)
    with open_merged(moved / "all.h5"):
        pass
    shard = moved / archive.shards()[1].path
    whole = shard.read_bytes()
    for content in (None, whole[:200], b""):
        shard.unlink() if content is None else shard.write_bytes(content)
        with pytest.raises(ArchiveError, match=shard.name), open_merged(moved / "all.h5"):
            pass
    shutil.copy(moved / archive.shards()[0].path, shard)  # of fewer rows, or another shard's
    shutil.copy(moved / "all.h5", tmp_path / "alone.h5")
    with pytest.raises(ArchiveError, match="is a view of"), open_merged(tmp_path / "alone.h5"):
        pass
    for foreign in (moved / "archive.json", shard, moved / "none.h5"):
        with pytest.raises(ArchiveError, match="merged archive"), open_merged(foreign):
            pass


# Writing --------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_appended_changes_nothing(archive: Archive) -> None:
    before = {path.name: path.read_bytes() for path in archive.folder.iterdir()}
    half = Archive.create(archive.folder.with_name("half"), dtype="float16")
    for change, reason in (
        (named("m"), "holds 50 of these ids already, such as 'mdoc-00000'"),
        (named("x", dim=3), "vectors of 8 numbers, found 3"),
        (part(0), "at least one document"),
    ):
        with pytest.raises(ArchiveError, match=reason):
            archive.append(change)
    with pytest.raises(ArchiveError, match="group"):
        archive.append(named("x"), group="../x")
    with pytest.raises(ArchiveError, match="range of float16"):
        half.append(replace(named("x"), embeddings=named("x").embeddings * np.float32(1e6)))
    with pytest.raises(ArchiveError, match=r"dtype should be \['float16'\], found \['float32'\]"):
        Archive.create(archive.folder, attributes=ATTRIBUTES, dtype="float16")
    assert {path.name: path.read_bytes() for path in archive.folder.iterdir()} == before
    assert (list(half.ids()), half.groups) == ([], [])


def test_appenders_wait_for_each_other_and_lose_nothing(tmp_path: Path) -> None:
    Archive.create(tmp_path)

    def append(worker: int) -> None:
        for n in range(5):
            Archive(tmp_path).append(named(f"{worker}-{n}-", 10))

    children = [started(lambda worker=worker: append(worker)) for worker in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    archive = Archive(tmp_path)
    assert archive.verify() == 20
    assert sorted(archive.ids()) == sorted(
        doc_id for worker in range(4) for n in range(5) for doc_id in named(f"{worker}-{n}-", 10).doc_ids
    )


# Kills and damage -----------------------------------------------------------------------------------------------------


PREFIXES = ("a", "b", "c")


def append_missing(folder: Path) -> None:
    archive = Archive.create(folder, attributes=ATTRIBUTES)
    for prefix in PREFIXES:
        if not archive.contains(named(prefix).doc_ids).all():
            archive.append(named(prefix))


def started(work: Callable[[], None]) -> int:
    """Do ``work`` in a process of its own and return its number."""
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def killed(work: Callable[[], None]) -> bool:
    """Do ``work`` in a process of its own; whether it died of SIGKILL."""
    status = os.waitpid(started(work), 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def assert_whole(folder: Path) -> int:
    """Return how many shards are there; all that is there is right."""
    if not (folder / MANIFEST).exists():
        return 0
    archive = Archive(folder)
    parts = list(archive.batches(50))
    for made, prefix in zip(parts, PREFIXES, strict=False):
        assert_equal(made, named(prefix))
    assert archive.verify() == len(parts)
    return len(parts)


@pytest.mark.parametrize("point", ["shard.after_write", "shard.after_fsync", "shard.after_rename"])
def test_a_writer_killed_at_any_point_leaves_an_archive_that_goes_on(tmp_path: Path, point: str) -> None:
    for passing in range(1, 2 + 2 * len(PREFIXES)):
        folder = tmp_path / str(passing)

        def work(folder: Path = folder, passing: int = passing) -> None:
            crash.arm(f"{point}:{passing}")
            append_missing(folder)

        assert killed(work)
        before = assert_whole(folder)
        assert before <= len(PREFIXES)
        append_missing(folder)
        assert assert_whole(folder) == len(PREFIXES)
        assert sorted(path.name for path in folder.iterdir()) == [
            ".lock",
            MANIFEST,
            *(f"text-0000{n}.h5" for n in range(3)),
        ]


@pytest.mark.parametrize("seed", range(6))
def test_a_writer_killed_at_any_moment_leaves_only_what_is_right(tmp_path: Path, seed: int) -> None:
    ours, theirs = os.pipe()

    def work() -> None:
        archive = Archive.create(tmp_path, attributes=ATTRIBUTES)
        for n in range(10_000):
            archive.append(named(f"{n:05d}-", 200))
            os.write(theirs, b".")

    child = started(work)
    os.read(ours, 1)
    time.sleep(random.Random(seed).uniform(0, 0.05))  # the promise holds for any moment
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    archive = Archive(tmp_path)
    for n, made in enumerate(archive.batches(200)):
        assert_equal(made, named(f"{n:05d}-", 200))
    assert archive.append(named("z")).documents == 50
    assert not list(tmp_path.glob(".*.tmp"))


def places(length: int) -> list[int]:
    """Return the first and last bytes of a file, and some between."""
    return sorted({*range(0, 40, 8), *range(0, length, length // 60), *range(length - 40, length)})


def test_a_shard_cut_anywhere_is_refused_by_name(archive: Archive) -> None:
    path = archive.folder / archive.shards()[1].path
    whole = path.read_bytes()
    for length in places(len(whole)):
        path.write_bytes(whole[:length])
        for verify in (True, False):
            with pytest.raises(ArchiveError, match=path.name):
                Archive(archive.folder, verify=verify).read_many(list(named("a").doc_ids))
        with pytest.raises(ArchiveError, match=path.name):
            OpenPart(path)
    np.testing.assert_array_equal(Archive(archive.folder).read("mdoc-00000"), vectors_of(named("m"))["mdoc-00000"])


def test_a_byte_changed_anywhere_is_refused_by_name(archive: Archive) -> None:
    path = archive.folder / archive.shards()[1].path
    whole = path.read_bytes()
    for place in places(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(
            ArchiveError, match=rf"{path.name}: recorded was SHA-256 {archive.shards()[1].sha256}, found"
        ):
            Archive(archive.folder).read("adoc-00000")


def test_foreign_and_absent_shards_are_refused_by_name(archive: Archive, tmp_path: Path) -> None:
    other = Archive.create(tmp_path / "other", attributes={**ATTRIBUTES, "encoder_fp": "f" * 64})
    other.append(named("m"))
    path = archive.folder / archive.shards()[0].path
    path.write_bytes((other.folder / other.shards()[0].path).read_bytes())
    manifest = json.loads((archive.folder / MANIFEST).read_text())
    manifest["groups"]["text"][0] = json.loads((other.folder / MANIFEST).read_text())["groups"]["text"][0]
    (archive.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArchiveError, match=rf"{path.name}: attribute encoder_fp should be 'e+', found 'f+'"):
        Archive(archive.folder).read("mdoc-00000")
    path.unlink()
    with pytest.raises(ArchiveError, match=rf"{path.name}: expected a whole part, found no file"):
        Archive(archive.folder).verify()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "revector-archive"}', "hello"])
def test_a_folder_without_a_whole_manifest_is_no_archive(archive: Archive, content: str) -> None:
    (archive.folder / MANIFEST).write_text(content)
    with pytest.raises(ArchiveError, match=f"{MANIFEST} is no manifest of an archive"):
        Archive(archive.folder)
    with pytest.raises(ArchiveError, match="no manifest"):
        Archive(archive.folder / "absent")
