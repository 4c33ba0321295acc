"""Promises of migration files: data that is never run, one line of history, and messages that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector import Chunking, Gate, IndexSpec, ModelSpec
from revector.errors import GraphError, SpecError, StateError, UnknownRevision
from revector.migration_files import _call, load_revision
from revector.revisions import RevisionGraph, write_revision

MODEL = ModelSpec("hashing", 64, max_tokens=512)
GOOD = {
    "docstring": '"""Move to e5.\n\nWhy: longer documents.\n"""',
    "import": "from revector import Chunking, Gate, IndexSpec, ModelSpec",
    "revision": 'revision = "7c41d2e09b3a"',
    "down_revision": 'down_revision = "4f0a9d1c2b77"',
    "model": 'model = ModelSpec(name="intfloat/e5-small-v2", dim=384, max_tokens=512, query_prompt="query: ")',
    "chunking": "chunking = Chunking(max_tokens=400, overlap_tokens=40)",
    "index": "index = IndexSpec(m=16, ef_construction=128)",
    "gate": "gate = Gate(min_recall=0.9, max_drop=0.01, k=10, min_queries=500)",
}


def migration(folder: Path, /, name: str = "x.py", **changes: str) -> Path:
    path = folder / name
    path.write_text("\n".join(line for line in (GOOD | changes).values() if line), encoding="utf-8")
    return path


def write(folder: Path, parent: str | None = None, message: str = "a change") -> str:
    """Write a migration file and return its id."""
    path = write_revision(
        folder,
        message=message,
        model=MODEL,
        chunking=Chunking(),
        index=IndexSpec(),
        gate=Gate(),
        down_revision=parent,
    )
    return load_revision(path).revision


def line(folder: Path, *ids: str) -> RevisionGraph:
    """Write one line of history with these ids and return its graph."""
    for parent, id_ in zip((None, *ids), ids, strict=False):
        migration(folder, f"{id_}.py", revision=f"revision = {id_!r}", down_revision=f"down_revision = {parent!r}")
    return RevisionGraph.from_folder(folder)


def test_a_file_is_read_with_every_part(tmp_path: Path) -> None:
    revision = load_revision(migration(tmp_path))
    assert (revision.revision, revision.down_revision) == ("7c41d2e09b3a", "4f0a9d1c2b77")
    assert revision.model == ModelSpec("intfloat/e5-small-v2", 384, max_tokens=512, query_prompt="query: ")
    assert revision.chunking == Chunking(max_tokens=400, overlap_tokens=40)
    assert revision.index == IndexSpec(m=16, ef_construction=128)
    assert revision.gate == Gate(min_recall=0.9, max_drop=0.01, k=10, min_queries=500)
    assert (revision.message, revision.path) == ("Move to e5.", str(tmp_path / "x.py"))


def test_parts_with_defaults_and_the_import_may_be_left_out(tmp_path: Path) -> None:
    revision = load_revision(migration(tmp_path, **{"import": "", "chunking": "", "index": "", "gate": ""}))
    assert (revision.chunking, revision.index, revision.gate) == (Chunking(), IndexSpec(), Gate())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    call = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    for field, source in {"model": f"model = {call}", "revision": f"revision = {call}", "extra": call}.items():
        with pytest.raises(SpecError):
            load_revision(migration(tmp_path, **{field: source}))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("field", "source", "finding"),
    [
        ("extra", "import os", r"x\.py:11: found `import os`; allowed: a docstring"),
        ("extra", "def upgrade():\n    pass", r"x\.py:11: found `def upgrade\(\):…`"),
        ("extra", "from os import path", r"x\.py:11: found `from os import path`; allowed: from revector import"),
        ("extra", "from revector import ModelSpec as M", r"found `from revector import ModelSpec as M`"),
        ("extra", "from revector import *", r"found `from revector import \*`"),
        ("extra", "color = 'red'", r"x\.py:11: found `color = 'red'`"),
        ("extra", "revision = 'abcd'", r"x\.py:11: found revision a second time"),
        ("extra", "revision: str = 'abcd'", r"found `revision: str = 'abcd'`"),
        ("extra", "'a second docstring'", r"x\.py:11"),
        ("extra", "x = " + "+".join("1" * 500), r"a very deep Assign|not Python"),
        ("docstring", "", r"no docstring"),
        ("docstring", '""" """', r"no docstring"),
        ("revision", "", r"found no revision"),
        ("down_revision", "", r"found no down_revision"),
        ("model", "", r"found no model"),
        ("revision", "revision = 'abc'", r"x\.py:6: found revision = 'abc'; allowed: revision of 4 to 32"),
        ("revision", "revision = 'head'", r"found revision = 'head'"),
        ("revision", "revision = 'ABCD'", r"found revision = 'ABCD'"),
        ("revision", "revision = 1234", r"found revision = 1234"),
        ("revision", "revision = None", r"found revision = None"),
        ("revision", "revision = 'abc' + 'def'", r"found revision = `'abc' \+ 'def'`; allowed: a literal"),
        (
            "index",
            "index = IndexSpec(quantize='int8')",
            r"none or bit: pgvector.* no int8 type",
        ),
        ("model", "model = Model(name='x', dim=3)", r"found model = `Model\(.*`; allowed: ModelSpec\("),
        ("model", "model = ModelSpec('x', 3)", r"found model = `ModelSpec\('x', 3\)`"),
        ("model", "model = ModelSpec(name='x')", r"found model without dim"),
        ("model", "model = ModelSpec(name='x', dim='384')", r"x\.py:8: found model\.dim = '384'; allowed: a valid int"),
        ("model", "model = ModelSpec(name='x', dim=True)", r"found model\.dim = True; allowed: a valid integer"),
        ("model", "model = ModelSpec(name='x', dim=-1)", r"x\.py:8: model\.dim must be 1 to 16000, found -1"),
        ("model", "model = ModelSpec(name='x', dim=8, dim=9)", r"(model\.dim a second time|repeated)"),
        ("model", "model = ModelSpec(name='x', dim=N)", r"found model\.dim = `N`; allowed: a literal"),
        ("model", "model = ModelSpec(name=f'{x}', dim=8)", r"found model\.name = `f'\{x\}'`"),
        ("model", "model = ModelSpec(name='x', dim=8, dtype='int4')", r"model\.dtype = 'int4'; allowed: 'float32', "),
        ("model", "model = ModelSpec(name='x', dim=8, size=3)", r"found `size=3` in model; allowed: name, dim"),
        ("model", "model = ModelSpec(**{'name': 'x', 'dim': 8})", r"found `\*\*\{.*` in model"),
        ("gate", "gate = Gate(min_recall=1.5)", r"x\.py:11: .*gate\.min_recall must be 0 to 1, found 1\.5"),
        ("gate", "gate = Gate(min_recall=1e999)", r"gate\.min_recall"),
        ("chunking", "chunking = Chunking(max_tokens=900)", r"x\.py: chunking\.max_tokens must be at most model"),
        ("extra", "model = = 3", r"x\.py:11: found text that is not Python"),
        ("extra", "\0", r"found text that is not Python"),
        ("extra", "(" * 400 + ")" * 400, r"found text that is not Python"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_finding(tmp_path: Path, field: str, source: str, finding: str) -> None:
    changes = {field: source} if field in GOOD else {"gate": "", "extra": source}
    with pytest.raises(SpecError, match=finding) as refused:
        load_revision(migration(tmp_path, **changes))
    assert "x.py" in str(refused.value)
    assert "Nothing was changed" in str(refused.value)


def test_bytes_that_are_not_text_and_absent_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    with pytest.raises(SpecError, match=r"x\.py cannot be read"):
        load_revision(path)
    path.write_bytes(b'revision = "\xff\xfe"')
    with pytest.raises(SpecError, match=r"not Python"):
        load_revision(path)


def test_a_written_file_reads_back_and_continues_the_line(tmp_path: Path) -> None:
    folder = tmp_path / "migrations" / "docs"
    first = write(folder)
    second = write(folder, first, 'Say "hi" to C:\\new, """quotes""" and\n  Zürich {x}"')
    graph = RevisionGraph.from_folder(folder)
    assert [r.revision for r in graph] == [first, second]
    assert graph.head.message == 'Say "hi" to C:\\new, """quotes""" and Zürich {x}"'
    assert graph.head.model == MODEL
    assert Path(graph.head.path).name == f"{second}_say_hi_to_c_new_quotes_and_z_rich_x.py"


def test_a_written_file_is_short_enough_to_review(tmp_path: Path) -> None:
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 52
    assert max(map(len, lines)) <= 120


@given(prompt=st.text(), dim=st.integers(1, 2000), drop=st.floats(0, 1))
def test_any_value_survives_writing(prompt: str, dim: int, drop: float) -> None:
    model, gate = ModelSpec("hashing", dim, query_prompt=prompt), Gate(max_drop=drop)
    for part in (model, gate):
        assert eval(_call(part, 100), {"ModelSpec": ModelSpec, "Gate": Gate}) == part


@pytest.mark.parametrize("message", ["", " \n ", "a\0b", "\ud800"])
def test_a_message_that_no_file_can_carry_is_refused(tmp_path: Path, message: str) -> None:
    with pytest.raises(SpecError, match="one printable line"):
        write(tmp_path, message=message)
    assert not list(tmp_path.iterdir())


def test_a_file_that_would_break_the_line_is_not_written(tmp_path: Path) -> None:
    write(tmp_path)
    for parent in (None, "unknown_id"):
        with pytest.raises(GraphError):
            write(tmp_path, parent)
    assert len(list(tmp_path.iterdir())) == 1


def test_writing_never_replaces_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random id is fixed, because a clash cannot be waited for."""
    monkeypatch.setattr("revector.revisions.secrets.token_hex", lambda _: "0123456789ab")
    taken = tmp_path / f"{write(tmp_path)}_a_change.py"
    before = taken.read_bytes()
    with pytest.raises(SpecError, match="0123456789ab"):
        write(tmp_path, "0123456789ab")
    assert taken.read_bytes() == before


def test_a_graph_runs_from_base_to_head_whatever_the_file_names(tmp_path: Path) -> None:
    graph = line(tmp_path, "zzzz", "mmmm", "aaaa")
    assert [r.revision for r in graph] == ["zzzz", "mmmm", "aaaa"]
    assert (graph.base.revision, graph.head.revision, len(graph)) == ("zzzz", "aaaa", 3)
    assert graph.parent("zzzz") is None
    assert graph.parent("head") == graph["mmmm"]


def test_files_that_are_no_migrations_are_left_alone(tmp_path: Path) -> None:
    for name in ("__init__.py", ".#lock.py", "notes.txt"):
        (tmp_path / name).write_text("not = data()")
    assert len(line(tmp_path, "aaaa")) == 1


def test_a_revision_is_found_by_id_unique_prefix_or_head(tmp_path: Path) -> None:
    graph = line(tmp_path, "abcd", "abcdef01", "abcdef02")
    assert graph["abcd"].revision == "abcd"
    assert graph["abcdef02"] is graph["head"]
    assert graph["abcdef01"].revision == "abcdef01"
    with pytest.raises(UnknownRevision, match="2 revisions start like that"):
        graph["abcde"]
    for asked in ("abc", "", "zzzz", "abcdef011"):
        with pytest.raises(UnknownRevision, match=r"there is none.*abcd, abcdef01, abcdef02"):
            graph[asked]


def test_a_unique_prefix_of_four_is_enough(tmp_path: Path) -> None:
    assert line(tmp_path, "abcdef01", "bcdef012")["abcd"].revision == "abcdef01"


def test_the_path_runs_forward_only(tmp_path: Path) -> None:
    graph = line(tmp_path, "aaaa", "bbbb", "cccc")
    assert [r.revision for r in graph.path_between(None, "head")] == ["aaaa", "bbbb", "cccc"]
    assert [r.revision for r in graph.path_between("aaaa", "cccc")] == ["bbbb", "cccc"]
    assert graph.path_between("bbbb", "bbbb") == []
    with pytest.raises(StateError, match="aaaa was asked for, and the collection is at cccc"):
        graph.path_between("cccc", "aaaa")
    with pytest.raises(UnknownRevision):
        graph.path_between("gone", "head")


def forest(folder: Path, **parents: str | None) -> None:
    for id_, parent in parents.items():
        migration(folder, f"{id_}.py", revision=f"revision = {id_!r}", down_revision=f"down_revision = {parent!r}")


@pytest.mark.parametrize(
    ("parents", "finding"),
    [
        ({}, "no migration files"),
        ({"aaaa": None, "bbbb": "gone"}, r"bbbb \(bbbb\.py\) follows gone, which no file carries.* one of: aaaa"),
        ({"aaaa": "gone"}, r"set down_revision to one of: None"),
        ({"aaaa": None, "bbbb": None}, r"2 migration files have no parent: aaaa \(aaaa\.py\), bbbb \(bbbb\.py\)"),
        ({"aaaa": "bbbb", "bbbb": "aaaa"}, r"cycle: .*aaaa \(aaaa\.py\)"),
        ({"aaaa": "aaaa"}, r"cycle: aaaa \(aaaa\.py\) → aaaa"),
        ({"aaaa": None, "bbbb": "cccc", "cccc": "bbbb"}, r"cycle: .*bbbb"),
        (
            {"aaaa": None, "bbbb": "aaaa", "cccc": "aaaa"},
            r'2 heads: bbbb \(bbbb\.py\), cccc \(cccc\.py\).*set down_revision of cccc \(cccc\.py\) to "bbbb"',
        ),
        (
            {"aaaa": None, "bbbb": "aaaa", "cccc": "aaaa", "dddd": "cccc"},
            r'2 heads: bbbb .*, dddd .*set down_revision of cccc \(cccc\.py\) to "bbbb"',
        ),
    ],
)
def test_files_that_form_no_line_are_refused(tmp_path: Path, parents: dict[str, str | None], finding: str) -> None:
    forest(tmp_path, **parents)
    with pytest.raises(GraphError, match=finding):
        RevisionGraph.from_folder(tmp_path)


def test_the_advice_for_two_heads_makes_one_line(tmp_path: Path) -> None:
    forest(tmp_path, aaaa=None, bbbb="aaaa", cccc="aaaa", dddd="cccc")
    forest(tmp_path, cccc="bbbb")
    assert [r.revision for r in RevisionGraph.from_folder(tmp_path)] == ["aaaa", "bbbb", "cccc", "dddd"]


def test_an_id_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("one.py", "two.py"):
        migration(tmp_path, name, down_revision="down_revision = None")
    with pytest.raises(GraphError, match=r"7c41d2e09b3a \(two\.py\) has the id of 7c41d2e09b3a \(one\.py\)"):
        RevisionGraph.from_folder(tmp_path)


def test_importing_the_package_stays_light() -> None:
    heavy = "{'numpy', 'pydantic', 'sqlalchemy', 'torch'} & set(sys.modules)"
    code = f"import sys, revector; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
