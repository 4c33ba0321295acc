"""Vectors leave a live index as they are, come back as they were, and nothing else gets into the archive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revector.archive import FORMATS, open_columns, read_part, vectors_sha256
from revector.cli import run
from revector.config import Project
from revector.errors import DatabaseUnavailable, SourceError, VerificationFailed
from revector.interfaces import Document, whole_texts
from revector.registry import archived
from revector.serving import exporting
from revector.serving.exporting import reading_vectors
from worlds import World

LONG = "\n\n".join(f"A paragraph about subject{n} with a few more words in it." for n in range(120))

Call = Callable[..., Any]


@pytest.fixture
def call(served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in the project; its JSON, or its exit code and what it said."""
    monkeypatch.chdir(served.root)
    served.documents.put_many([Document("long", LONG), Document("日本/1", "こんにちは世界 and more")])
    served.settle()
    capsys.readouterr()

    def go(*words: str, fails: bool = False) -> Any:
        code = run([*words, "--json"])
        seen = capsys.readouterr()
        assert fails == (code != 0), seen.err
        return (code, seen.err) if fails else json.loads(seen.out)

    return go


def shown(world: World, role: str = "active") -> dict[tuple[str, int], tuple[int, int, list[float]]]:
    name = world.generation(role).physical_name
    rows = world.sql(f"SELECT doc_id, chunk, start, stop, CAST(embedding AS text) AS v FROM {name}")
    return {
        (row.doc_id, row.chunk): (row.start, row.stop, np.array(json.loads(row.v), np.float32).tolist()) for row in rows
    }


def read_back(path: Path, scratch: Path) -> dict[tuple[str, int], tuple[int, int, list[float]]]:
    scratch.mkdir(parents=True)
    columns = open_columns(path, scratch)
    assert columns.chunk is not None
    assert columns.start is not None
    assert columns.end is not None
    keys = zip(columns.ids.tolist(), columns.chunk.tolist(), strict=True)
    values = zip(columns.start.tolist(), columns.end.tolist(), columns.vectors.tolist(), strict=True)
    return {(doc_id.decode(), chunk): value for (doc_id, chunk), value in zip(keys, values, strict=True)}


# Round trips ----------------------------------------------------------------------------------------------------------


def test_every_format_holds_exactly_what_the_index_shows(served: World, call: Call, tmp_path: Path) -> None:
    wanted = shown(served)
    assert len(wanted) > 122  # one of several chunks
    sums = set()
    for ending in FORMATS:
        said = call("vectors", "export", f"out{ending}")
        assert said["documents"] == 122
        assert sorted(path.name for path in served.root.glob(f"out{ending}*")) == [
            Path(one).name for one in sorted(said["files"])
        ]
        assert read_back(served.root / f"out{ending}", tmp_path / ending) == wanted
        sums.add(said["vectors_sha256"])
    assert len(sums) == 1
    assert not list(served.root.glob(".out*"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_checksums_are_equal_before_and_after_a_round_trip_through_the_archive(
    served: World, call: Call, dtype: str
) -> None:
    for ending in FORMATS:
        exported = call("vectors", "export", f"out{ending}", "--dtype", dtype)
        imported = call("vectors", "import", f"out{ending}", "-r", "a100", "--dtype", dtype)
        assert imported["vectors_sha256"] == {f"out{ending}": exported["vectors_sha256"]}
        (sealed,) = imported["sealed"]
        part = read_part(Path(sealed["path"]), sealed["sha256"], attributes={"dim": 64, "revision": "a100"})
        assert vectors_sha256(part.embeddings) == exported["vectors_sha256"]
        assert part.embeddings.dtype == dtype
        hashes = dict(served.sql("SELECT doc_id, content_hash FROM document"))
        assert dict(zip(part.doc_ids, part.content_hashes, strict=True)) == hashes
        assert [(len(part.doc_ids), len(part.embeddings))] == [(sealed["documents"], sealed["chunks"])]
        assert [part.doc_ids[0], part.doc_ids[-1]] == [sealed["first_id"], sealed["last_id"]]


def test_an_npy_is_what_numpy_maps_and_its_rows_and_note_name_it(served: World, call: Call) -> None:
    import pyarrow.parquet as pq

    said = call("vectors", "export", "v.npy", "--dtype", "float16")
    vectors = np.load(served.root / "v.npy", mmap_mode="r")
    assert (vectors.dtype, vectors.shape) == (np.float16, (said["chunks"], 64))
    rows = pq.read_table(served.root / "v.npy.rows.parquet")
    assert rows.column_names == ["id", "chunk", "start", "end", "version", "content_hash"]
    assert len(rows) == len(vectors)
    note = json.loads((served.root / "v.npy.json").read_text())
    assert note["files"] == ["v.npy", "v.npy.rows.parquet", "v.npy.json"]
    assert note["provenance"]["encoder_fp"] == served.generation().encoder_fp
    assert note["vectors_sha256"] == said["vectors_sha256"] == vectors_sha256(np.asarray(vectors))


def test_halfvec_indexes_are_exported_as_they_are(world: World, tmp_path: Path) -> None:
    world.revision(
        "a100", None, 'model = ModelSpec(name="hashing", dim=64)\nindex = IndexSpec(kind="exact", storage="halfvec")'
    )
    world.put(60)
    world.upgrade("a100")
    with reading_vectors(world.engine, world.generation()) as (_, parts):
        found = [row for part in parts for row in part.embeddings.tolist()]
    assert found == [vector for *_, vector in dict(sorted(shown(world).items())).values()]


# What is exported -----------------------------------------------------------------------------------------------------


def test_an_export_is_one_snapshot_page_by_page_while_others_write(
    served: World, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_DOCUMENTS", 10)
    monkeypatch.setattr(exporting, "PAGE_CHUNKS", 5)
    before = shown(served)
    found: dict[tuple[str, int], list[float]] = {}
    pages = 0
    with reading_vectors(served.engine, served.generation()) as (size, parts):
        for part in parts:
            if pages == 0:
                served.documents.delete("d00050")
                served.documents.put("d00060", "quite another text")
                served.put(5, start=500)
                served.settle()
            pages += 1
            assert len(part.embeddings) <= max(5, int(part.counts.max()) + 4)
            for doc_id, start, count in zip(part.doc_ids, part.starts, part.counts, strict=True):
                for chunk in range(count):
                    found[doc_id, chunk] = part.embeddings[start + chunk].tolist()
    assert pages > 20
    assert found == {key: vector for key, (_, _, vector) in before.items()}
    assert (size.documents, size.chunks) == (122, len(found))


def test_what_waits_is_exported_as_searches_see_it_and_deleted_documents_are_not(
    served: World, call: Call, tmp_path: Path
) -> None:
    wanted = {key: value for key, value in shown(served).items() if key[0] != "d00007"}
    served.documents.delete("d00007")
    served.documents.put("d00008", "a text that is not embedded yet")
    call("vectors", "export", "out.parquet")
    assert read_back(served.root / "out.parquet", tmp_path / "scratch") == wanted


def test_a_damaged_index_is_not_exported_and_leaves_nothing(served: World, call: Call) -> None:
    served.unguarded(f"DELETE FROM revector.{served.generation().physical_name} WHERE doc_id = 'd00007'")
    code, said = call("vectors", "export", "out.npy", fails=True)
    assert (code, "0 chunks of document 'd00007'" in said) == (VerificationFailed.exit_code, True)
    assert not [path for path in served.root.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("out.csv",), 2, "ending must be .npy, .npz, .parquet, .h5"),
        (("none/out.npy",), 2, "there is no folder"),
        (("out.npy", "--generation", "first"), 2, "a number or active"),
        (("out.npy", "--generation", "999"), 4, "generation 999 of 'docs' is in no slot"),
        (("revector.toml.npy",), 2, "exists"),
    ],
)
def test_exports_that_cannot_be_are_refused_and_leave_nothing(
    served: World, call: Call, words: tuple[str, ...], code: int, reason: str
) -> None:
    (served.root / "revector.toml.npy").touch()
    before = sorted(served.root.iterdir())
    found = call("vectors", "export", *words, fails=True)
    assert (found[0], reason in found[1]) == (code, True), found
    assert sorted(served.root.iterdir()) == before


def test_an_export_loads_no_model(served: World, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Project, "load_encoder", load)
    assert call("vectors", "export", "out.h5")["documents"] == 122


# What is imported -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(served: World, call: Call) -> dict[str, np.ndarray[Any, Any]]:
    """A team's own vectors of the short documents, in no order: ids and vectors alone."""
    encoder = served.loader["hashing"]._inner
    texts = dict(served.sql("SELECT doc_id, content FROM document WHERE doc_id LIKE 'd%'"))
    ids = np.array(sorted(texts, key=lambda one: texts[one][::-1]), "U16")
    return {"id": ids, "vector": encoder.encode("document", whole_texts([texts[one] for one in ids.tolist()]))}


def imports(world: World) -> list[Path]:
    folder = world.project.archive / "imports"
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_a_teams_own_arrays_are_imported_in_any_order_and_any_form(
    served: World, call: Call, own: dict[str, np.ndarray[Any, Any]]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.save(served.root / "one.npy", own["vector"].astype(np.float64))
    np.save(served.root / "one.ids.npy", own["id"])
    np.savez(served.root / "two.npz", **own)
    lists = pa.table({"id": own["id"].tolist(), "vector": own["vector"].tolist()})
    pq.write_table(lists, served.root / "three.parquet", row_group_size=50)
    found = call("vectors", "import", "one.npy", "two.npz", "three.parquet", "-r", "a100")
    assert [sealed["documents"] for sealed in found["sealed"]] == [120] * 3
    wanted = {key: vector for key, (_, _, vector) in shown(served).items()}
    for sealed in found["sealed"]:
        part = read_part(Path(sealed["path"]), sealed["sha256"])
        for n, doc_id in enumerate(part.doc_ids):
            np.testing.assert_allclose(part.embeddings[n], wanted[doc_id, 0], atol=1e-6)
        assert (part.chunk_starts == 0).all()
    assert len(imports(served)) == 3


def spoil_number(value: float) -> Callable[[dict[str, Any]], None]:
    def spoil(own: dict[str, Any]) -> None:
        own["vector"][17, 3] = value

    return spoil


def spoil_ids(own: dict[str, Any]) -> None:
    own["id"][:3] = ["nobody1", "nobody2", "nobody3"]


def swap_two(own: dict[str, Any]) -> None:
    own["vector"][[0, -1, 1]] = own["vector"][[-1, 1, 0]]
    own["vector"] = np.roll(own["vector"], 1, axis=0)


SPOILT = {
    "NaN": (spoil_number(np.nan), 8, "1 of 120 vectors looked at are not length 1"),
    "infinite": (spoil_number(np.inf), 8, "not length 1"),
    "not normalised": (lambda own: own.update(vector=own["vector"] * 3), 8, "120 of 120 vectors"),
    "too narrow": (lambda own: own.update(vector=own["vector"][:, :32]), 8, "vectors of 32 numbers"),
    "unknown ids": (spoil_ids, 8, "3 are not among the documents, or deleted, such as 'nobody1', 'nobody2', 'nobody3'"),
    "reordered": (swap_two, 7, "another model, prompt or text"),
    "repeated ids": (lambda own: own.update(id=own["id"][[1, 1, *range(2, 120)]]), 8, "1 are not the chunks that"),
    "fewer ids": (lambda own: own.update(id=own["id"][1:]), 8, "beside 120 vectors"),
    "other texts": (
        lambda own: own.update(content_hash=np.array(["0" * 64] * 120)), 8, "120 are made from another text",
    ),
    "other offsets": (
        lambda own: own.update(start=np.ones(120, int), end=np.full(120, 9)), 8, "120 are not the chunks",
    ),
    "no ids": (lambda own: own.pop("id"), 8, "'id'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_refused_whole_before_anything_is_changed(
    served: World, call: Call, own: dict[str, np.ndarray[Any, Any]], name: str
) -> None:
    spoil, code, reason = SPOILT[name]
    np.savez(served.root / "good.npz", **own)
    spoil(own)
    np.savez(served.root / "bad.npz", **own)
    before = served.state()
    found = call("vectors", "import", "good.npz", "bad.npz", "-r", "a100", fails=True)
    said = re.search("Nothing was (imported|changed)", found[1])
    assert (found[0], reason in found[1], bool(said)) == (code, True, True), found
    assert imports(served) == []
    assert served.value("SELECT count(*) FROM archived") == 0
    assert served.state() == before


def test_a_doubled_column_of_foreign_vectors_is_refused_with_its_name(tmp_path: Path) -> None:
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, vectors = pa.array(["a"]), pa.array([[1.0, 0.0]])
    pq.write_table(pa.Table.from_arrays([ids, ids, vectors], names=["id", "id", "vector"]), tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", id=["a"], vector=[[1.0, 0.0]])
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("id.npy", b"another")
    for name in ("x.parquet", "x.npz"):
        with pytest.raises(SourceError, match=r"'id(\.npy)?' is there twice"):
            open_columns(tmp_path / name, tmp_path / "scratch")


@pytest.mark.parametrize("rows", [2, 30])
def test_a_block_of_shifted_rows_is_found_and_what_was_compared_is_said(
    served: World, call: Call, own: dict[str, np.ndarray[Any, Any]], rows: int
) -> None:
    np.savez(served.root / "good.npz", **own)
    found = call("vectors", "import", "good.npz", "-r", "a100")
    said = found["compared"]["good.npz"]
    assert (said["compared"], said["rows"], said["finds"]) == (120, 120, 1.0)
    assert served.events("import")[0]["detail"]["compared"] == {"good.npz": said}
    own["vector"][40 : 40 + rows] = np.roll(own["vector"][40 : 40 + rows], 1, axis=0)
    np.savez(served.root / "bad.npz", **own)
    code, message = call("vectors", "import", "bad.npz", "-r", "a100", fails=True)
    assert (code, f"so are {rows} of 120 that were compared" in message) == (7, True), message
    assert len(served.events("import")) == 1


def test_skipped_documents_are_counted_and_named_and_the_rest_is_imported(
    served: World, call: Call, own: dict[str, np.ndarray[Any, Any]]
) -> None:
    spoil_ids(own)
    np.savez(served.root / "own.npz", **own)
    served.documents.delete(str(own["id"][5]))
    found = call("vectors", "import", "own.npz", "-r", "a100", "--skip", "unknown")
    assert found["skipped"] == {"unknown": 4}
    assert set(found["first"]["unknown"]) == {"nobody1", "nobody2", "nobody3", own["id"][5]}
    assert found["documents"] == 116


def test_documents_that_changed_since_the_export_are_refused_or_skipped(served: World, call: Call) -> None:
    call("vectors", "export", "out.npz")
    served.documents.put("d00003", "another text since")
    assert "1 are made from another text" in call("vectors", "import", "out.npz", "-r", "a100", fails=True)[1]
    found = call("vectors", "import", "out.npz", "-r", "a100", "--skip", "changed")
    assert (found["skipped"], found["documents"]) == ({"changed": 1}, 121)


def test_numbers_beyond_float16_are_refused(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(world.root)
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64, normalize=False)')
    world.put(3)
    vectors = world.loader["hashing"]._inner.encode(
        "document", whole_texts([f"apple{n} pear{n} some words here number {n}" for n in range(3)])
    )
    np.savez(world.root / "own.npz", id=["d00000", "d00001", "d00002"], vector=vectors * 1e7)
    assert run(["vectors", "import", "own.npz", "-r", "a100", "--dtype", "float16"]) == 7
    assert "exceed the range of float16" in capsys.readouterr().err
    assert imports(world) == []


def test_vectors_of_another_model_are_refused_by_fingerprint_and_by_a_sample(served: World, call: Call) -> None:
    served.revision("c300", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)')
    (served.root / "migrations" / "docs" / "b200.py").unlink()
    for ending in FORMATS:
        call("vectors", "export", f"out{ending}")
        code, said = call("vectors", "import", f"out{ending}", "-r", "c300", fails=True)
        assert (code, "holds vectors of the encoder" in said) == (7, True), said
    (served.root / "out.npy.json").unlink()
    code, said = call("vectors", "import", "out.npy", "-r", "c300", fails=True)
    assert (code, "another model, prompt or text made it" in said) == (7, True), said
    assert imports(served) == []


@pytest.mark.parametrize("ending", FORMATS)
def test_a_changed_vector_is_found_by_the_note(served: World, call: Call, ending: str) -> None:
    said = call("vectors", "export", f"out{ending}")
    path = served.root / f"out{ending}"
    note = json.loads((served.root / f"out{ending}.json").read_text())
    assert note["vectors_sha256"] == said["vectors_sha256"]
    if ending == ".npy":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        note["vectors_sha256"] = "0" * 64
        (served.root / f"out{ending}.json").write_text(json.dumps(note))
    code, message = call("vectors", "import", f"out{ending}", "-r", "a100", fails=True)
    assert (code, "its note records vectors of SHA-256" in message) == (7, True)


@pytest.mark.parametrize("ending", FORMATS)
def test_torn_and_absent_files_are_refused_with_their_name(served: World, call: Call, ending: str) -> None:
    call("vectors", "export", f"out{ending}")
    path = served.root / f"out{ending}"
    whole = path.read_bytes()
    for share in (0.0, 0.4, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        code, message = call("vectors", "import", f"out{ending}", "-r", "a100", fails=True)
        assert (code in (7, 8), f"out{ending}" in message) == (True, True), message
    path.unlink()
    assert call("vectors", "import", f"out{ending}", "-r", "a100", fails=True)[0] in (7, 8)
    assert imports(served) == []


# What an import is for ------------------------------------------------------------------------------------------------


def test_a_backfill_uses_what_was_imported_and_embeds_only_the_rest(served: World, call: Call) -> None:
    encoder = served.loader["hashing:seed2"]._inner
    texts = dict(served.sql("SELECT doc_id, content FROM document WHERE doc_id LIKE 'd%'"))
    np.savez(
        served.root / "own.npz", id=list(texts), vector=encoder.encode("document", whole_texts(list(texts.values())))
    )
    assert call("vectors", "import", "own.npz", "-r", "b200")["documents"] == 120
    served.upgrade("b200", to="provision")
    before = served.loader.embedded
    served.upgrade("b200", to="backfill")
    embedded = served.loader["hashing:seed2"].embedded[before - served.loader.embedded :]
    assert {text for text in embedded if text in texts.values()} == set()
    assert any("subject7 " in text for text in embedded)  # of the long document, which was not imported
    assert served.differences(served.generation("building")) == []


def test_an_import_that_cannot_be_recorded_leaves_nothing(
    served: World, call: Call, own: dict[str, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("the database went away")

    np.savez(served.root / "own.npz", **own)
    monkeypatch.setattr(archived, "add_imported", fail)
    assert call("vectors", "import", "own.npz", "-r", "a100", fails=True)[0] == DatabaseUnavailable.exit_code
    assert imports(served) == []
