"""Plain ids and vectors in files of any format: what is written is read, by us and by the libraries themselves."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revector.archive import (
    convert_vectors,
    get_vector,
    get_vectors,
    list_ids,
    load_vectors,
    open_columns,
    save_vectors,
    vector_batches,
    vectors_sha256,
)
from revector.archive.tables import NpyWriter
from revector.cli import run
from revector.errors import ArchiveError, ConfigError, RevectorError, SourceError

h5py, pa, pq = (pytest.importorskip(name) for name in ("h5py", "pyarrow", "pyarrow.parquet"))
append = NpyWriter.append
ENDINGS = (".npy", ".npz", ".h5", ".parquet")
RNG = np.random.default_rng(3)
IDS = [f"d{n}" for n in range(19)] + ["日本/1"]
VECTORS = RNG.standard_normal((20, 8)).astype(np.float32)
WORDS = np.array([f"wort {n} ä" for n in range(20)])
NUMBERS = np.arange(20) * 3


def as_npz(path: Path, some: slice = slice(None), **more: Any) -> Path:
    own = {"asset_ids": np.array(IDS)[some], "embeddings": VECTORS[some], "title": WORDS[some], "year": NUMBERS[some]}
    np.savez(path, **{**own, **more})
    return path


def everything(path: Path, scratch: Path) -> dict[tuple[str, int], tuple[list[float], dict[str, object]]]:
    """Vector and columns by id and number."""
    scratch.mkdir()
    found = open_columns(path, scratch)
    numbers = np.zeros(len(found.ids), int) if found.chunk is None else found.chunk
    names = [one for one in found.fields if one not in ("id", "asset_id", "asset_ids", "chunk")]
    columns = {one: found.fields[one].read(0, found.fields[one].rows) for one in names}
    return {
        (one.decode(), int(number)): (found.vectors[n].tolist(), {name: columns[name][n] for name in names})
        for n, (one, number) in enumerate(zip(found.ids.tolist(), numbers, strict=True))
    }


# Helpers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_saved_is_loaded_looked_up_and_listed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"v{ending}"
    save_vectors(path, ["old"], VECTORS[:1])
    assert save_vectors(path, IDS, VECTORS).vectors_sha256 == vectors_sha256(VECTORS)
    found = load_vectors(path)
    assert (found.ids, found.vectors.tolist()) == (IDS, VECTORS.tolist())
    assert list_ids(path) == IDS
    assert get_vector(path, IDS[-1]).tolist() == VECTORS[-1].tolist()
    assert get_vectors(path, ["d7", "d3", "d7"]).tolist() == VECTORS[[7, 3, 7]].tolist()
    parts = list(vector_batches(path, 6))
    assert [len(one.ids) for one in parts] == [6, 6, 6, 2]
    assert np.concatenate([one.vectors for one in parts]).tolist() == VECTORS.tolist()
    with pytest.raises(SourceError, match="'absent' has 0"):
        get_vectors(path, ["d1", "absent"])
    with pytest.raises(SourceError, match="'d1' twice"):
        save_vectors(path, ["d1", "d1"], VECTORS[:2])
    for wrong in (VECTORS[:3], VECTORS[0], VECTORS.astype(int)):
        with pytest.raises(SourceError, match="ids came with"):
            save_vectors(path, IDS, wrong)
    assert load_vectors(path).ids == IDS


# Conversion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDINGS, ENDINGS)))
def test_every_format_becomes_every_other_and_keeps_each_column(tmp_path: Path, first: str, second: str) -> None:
    source = as_npz(tmp_path / "source.npz")
    a = convert_vectors([source], tmp_path / f"a{first}")
    b = convert_vectors([tmp_path / f"a{first}"], tmp_path / f"b{second}")
    assert (a.vectors_sha256, b.vectors_sha256) == (vectors_sha256(VECTORS),) * 2
    assert set(b.columns) == {"title", "year"}
    wanted = {
        (one, 0): (vector.tolist(), {"title": str(word), "year": int(number)})
        for one, vector, word, number in zip(IDS, VECTORS, WORDS, NUMBERS, strict=True)
    }
    assert everything(tmp_path / f"b{second}", tmp_path / "scratch") == wanted


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_numbers_keep_their_width(tmp_path: Path, dtype: str) -> None:
    given = VECTORS.astype(dtype)
    as_npz(tmp_path / "a.npz", embeddings=given)
    for ending in ENDINGS:
        done = convert_vectors([tmp_path / "a.npz"], tmp_path / f"b{ending}", gzip=ending == ".h5")
        assert done.dtype == np.dtype(dtype).newbyteorder("=").name
        assert load_vectors(tmp_path / f"b{ending}").vectors.tolist() == given.tolist()
    with h5py.File(tmp_path / "b.h5") as file:
        assert (file["embeddings"].compression, file["embeddings"].compression_opts) == ("gzip", 4)
    assert pq.read_table(tmp_path / "b.parquet").column("title").to_pylist() == WORDS.tolist()


def test_ids_with_several_vectors_keep_their_numbers_and_become_a_table(tmp_path: Path) -> None:
    table = np.array([(b"cat", 3, 2), (b"dog", 0, 3)], [("asset_id", "S3"), ("start_idx", "<i8"), ("count", "<i8")])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["embeddings"], file["metadata"], file["title"] = VECTORS[:5], table, ["a cat", "a dog"]
    wanted = {
        (name, n): (VECTORS[row + n].tolist(), {"title": f"a {name}"})
        for name, row, count in (("cat", 3, 2), ("dog", 0, 3))
        for n in range(count)
    }
    for ending in (".npz", ".npy", ".parquet"):
        convert_vectors([tmp_path / "a.h5"], tmp_path / f"b{ending}")
        assert everything(tmp_path / f"b{ending}", tmp_path / f"s{ending}") == wanted
        convert_vectors([tmp_path / f"b{ending}"], tmp_path / "c.h5", force=True)
        with h5py.File(tmp_path / "c.h5") as file:
            rows = {row["asset_id"]: (row["start_idx"], row["count"]) for row in file["metadata"][:]}
            first, count = rows[b"cat"]
            assert file["embeddings"][first : first + count].tolist() == VECTORS[3:5].tolist()
        assert everything(tmp_path / "c.h5", tmp_path / f"t{ending}") == wanted
    done = convert_vectors([tmp_path / "a.h5"], tmp_path / "one.npz", limit=1)
    assert (done.ids, done.vectors, list_ids(tmp_path / "one.npz")) == (1, 3, ["dog"])


def test_vectors_of_an_id_are_put_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    as_npz(tmp_path / "a.npz", slice(0, 4), asset_ids=np.array(["b", "a", "b", "a"]), chunk=np.array([1, 1, 0, 0]))
    convert_vectors([tmp_path / "a.npz"], tmp_path / "b.h5")
    assert load_vectors(tmp_path / "b.h5").ids == ["b", "b", "a", "a"]
    assert load_vectors(tmp_path / "b.h5").vectors.tolist() == VECTORS[[2, 0, 3, 1]].tolist()


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_what_a_disk_changes_while_it_is_written_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("revector.archive.plain_writing.NpyWriter.append", lambda self, rows: append(self, rows * 2))
    with pytest.raises(ArchiveError, match="SHA-256"):
        convert_vectors([as_npz(tmp_path / "a.npz")], tmp_path / f"b{ending}")
    assert [one.name for one in tmp_path.iterdir()] == ["a.npz"]


def test_a_group_for_each_language_comes_and_goes(tmp_path: Path) -> None:
    as_npz(tmp_path / "a.npz", lang=np.array(["de", "en"] * 10))
    convert_vectors([tmp_path / "a.npz"], tmp_path / "b.h5", group="lang")
    with h5py.File(tmp_path / "b.h5") as file:
        assert sorted(file) == ["de", "en"]
        assert file["en/embeddings"][:].tolist() == VECTORS[1::2].tolist()
        assert file["de/title"].asstr()[:].tolist() == WORDS[::2].tolist()
    convert_vectors([tmp_path / "b.h5"], tmp_path / "c.parquet")
    found = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert {one["id"]: one["group"] for one in found} == dict(zip(IDS, ["de", "en"] * 10, strict=True))
    convert_vectors([tmp_path / "c.parquet"], tmp_path / "d.h5")
    assert everything(tmp_path / "d.h5", tmp_path / "d") == everything(tmp_path / "b.h5", tmp_path / "b")
    with pytest.raises(ConfigError, match="'lang'"):
        convert_vectors([tmp_path / "a.npz"], tmp_path / "x.npz", group="lang")


def test_rows_with_fields_are_read(tmp_path: Path) -> None:
    rows = np.zeros(20, [("id", "U8"), ("embedding", "<f4", (8,)), ("year", "<i4")])
    rows["id"], rows["embedding"], rows["year"] = IDS, VECTORS, NUMBERS
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", rows)
    for name in ("a.npy", "a.npz"):
        convert_vectors([tmp_path / name], tmp_path / "b.parquet", force=True)
        assert pq.read_table(tmp_path / "b.parquet").column("year").to_pylist() == NUMBERS.tolist()
        assert load_vectors(tmp_path / "b.parquet").vectors.tolist() == VECTORS.tolist()


# Files of several ranks -----------------------------------------------------------------------------------------------


def test_files_of_ranks_become_one_and_what_a_sampler_repeats_counts_once(tmp_path: Path) -> None:
    parts = [slice(0, 8), slice(8, 16), slice(14, 20)]
    ranks = [as_npz(tmp_path / f"rank{n}.npz", some) for n, some in enumerate(parts)]
    done = convert_vectors(ranks, tmp_path / "all.h5")
    assert (done.vectors, done.ids, done.repeated) == (20, 20, 2)
    for one in ranks:
        one.unlink()
    assert load_vectors(tmp_path / "all.h5").ids == IDS
    assert load_vectors(tmp_path / "all.h5").vectors.tolist() == VECTORS.tolist()


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    a = as_npz(tmp_path / "a.npz")
    unlike = {
        "not the same": {"embeddings": VECTORS + 1},
        "differ in the columns year": {"year": WORDS},
        "vectors of 8 numbers": {"embeddings": VECTORS[:, :4]},
        "differ in the columns more": {"more": WORDS},
    }
    for said, changes in unlike.items():
        b = as_npz(tmp_path / "b.npz", **changes)
        with pytest.raises(SourceError, match=said):
            convert_vectors([a, b], tmp_path / "c.npz")
    b = as_npz(tmp_path / "b.npz", title=np.array(["other", *WORDS[1:]]))
    with pytest.raises(SourceError, match=r"'d0' is in .*a\.npz and in .*b\.npz"):
        convert_vectors([a, b], tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


# What is refused ------------------------------------------------------------------------------------------------------


def test_pickles_are_refused_with_the_line_that_makes_arrays_of_them(tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    given = dict(zip(IDS, VECTORS, strict=True))
    np.save(tmp_path / "a.npy", given)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(given))
    for name in ("a.npy", "a.pkl"):
        with pytest.raises(SourceError, match="can run code and are not opened") as refused:
            convert_vectors([tmp_path / name], tmp_path / "b.npz")
        line = str(refused.value).partition("becomes arrays by: ")[2].partition(" OLD NEW.npz")[0]
        words = [sys.executable, *shlex.split(line)[1:], str(tmp_path / name), str(tmp_path / "safe.npz")]
        subprocess.run(words, check=True)
        convert_vectors([tmp_path / "safe.npz"], tmp_path / "b.h5", force=True)
        assert load_vectors(tmp_path / "b.h5").vectors.tolist() == VECTORS.tolist()


def test_nothing_is_dropped_unless_it_is_named(tmp_path: Path) -> None:
    a = as_npz(tmp_path / "a.npz", square=VECTORS, few=np.arange(3), mixed=np.arange(20) * 1j)
    for name, said in (("square", "no columns"), ("few", "3 rows"), ("mixed", "complex")):
        others = [one for one in ("square", "few", "mixed") if one != name]
        with pytest.raises(SourceError, match=rf"{said}.*--drop {name}"):
            convert_vectors([a], tmp_path / "b.npz", drop=others)
    done = convert_vectors([a], tmp_path / "b.npz", drop=["square", "few", "mixed"])
    assert set(done.columns) == {"title", "year"}
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["embeddings"], file["asset_ids"], file["deep/er"] = VECTORS, IDS, [1]
    with pytest.raises(SourceError, match="--drop deep"):
        convert_vectors([tmp_path / "c.h5"], tmp_path / "d.npz")
    pq.write_table(pa.table({"id": IDS, "vector": list(VECTORS), "x": [None, *range(19)]}), tmp_path / "e.parquet")
    with pytest.raises(SourceError, match="null"):
        convert_vectors([tmp_path / "e.parquet"], tmp_path / "d.npz")


def test_a_target_that_cannot_be_is_refused_and_files_stay(tmp_path: Path) -> None:
    a = as_npz(tmp_path / "a.npz")
    before = a.read_bytes()
    np.save(tmp_path / "n.old.npy", NUMBERS)
    for target, options, said in (
        ("b.txt", {}, "ending"),
        ("a.npz", {}, "exists"),
        ("a.npz", {"force": True}, "cannot be written as well"),
        ("absent/b.npz", {}, "no folder"),
        ("b.npz", {"gzip": True}, "gzip is for"),
        ("b.npz", {"limit": 0}, "at least 1"),
        ("n.npy", {}, "n.old.npy"),
    ):
        with pytest.raises(ConfigError, match=said):
            convert_vectors([a], tmp_path / target, **options)
    twice = as_npz(tmp_path / "twice.npz", asset_ids=np.array(["same"] * 20))
    with pytest.raises(SourceError, match="'same' twice"):
        convert_vectors([twice], tmp_path / "b.npz")
    gaps = as_npz(tmp_path / "gaps.npz", asset_ids=np.array(["same"] * 20), chunk=NUMBERS)
    with pytest.raises(ArchiveError, match="not numbered from 0"):
        convert_vectors([gaps], tmp_path / "b.h5")
    as_npz(tmp_path / "slash.npz", lang=np.array(["a/b"] * 20))
    with pytest.raises(ArchiveError, match="name a group"):
        convert_vectors([tmp_path / "slash.npz"], tmp_path / "b.h5", group="lang")
    assert a.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(("b", ".b", "absent"))] == []


def test_the_command_says_what_it_wrote_and_a_changed_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_npz(tmp_path / "a.npz")
    assert run(["convert", "a.npz", "b.npy", "--limit", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["vectors"], said["dim"]) == (5, 8)
    assert sorted(said["files"]) == ["b.id.npy", "b.npy", "b.npy.json", "b.title.npy", "b.year.npy"]
    assert run(["convert", "a.npz", "b.npy"]) == 2
    assert run(["convert", "b.npy"]) == 2
    np.save("b.npy", np.load("b.npy") * 2)
    with pytest.raises(RevectorError, match="SHA-256"):
        load_vectors("b.npy")
