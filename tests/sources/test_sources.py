"""Input that cannot be ingested is refused with the place, what was found, and what to do."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revector.errors import ConfigError, SourceError
from revector.interfaces import Document
from revector.sources import open_source, parse_types


def read(path: Path, data: bytes | str, **options: Any) -> list[Document]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(open_source(str(path), **options))


GOOD_LINE = '{"_id": "1", "text": "one"}\n'

BAD_JSONL = [
    (GOOD_LINE + "{oops}\n", r"line 2: not JSON .*\{oops\}"),
    (GOOD_LINE + '\n["a"]\n', r"line 3: found a JSON list"),
    ('[\n{"_id": 1}\n]', r"line 1: not JSON.*one JSON object"),
    ("[" * 100_000, r"line 1: not JSON"),
    (
        GOOD_LINE.encode() + '{"_id": "2", "text": "é"}\n'.encode("latin-1"),
        r"line 2: not UTF-8.*0xe9.*byte 50 .*WINDOWS-1252",
    ),
    (GOOD_LINE.encode("utf-16"), r"line 1: not UTF-8.*0xff.*byte 0 .*UTF-16"),
    (GOOD_LINE.encode("utf-16-le"), r"line 1: not UTF-8.*0x00.*byte 1 .*UTF-16"),
    ('{"_id": null, "text": "x"}', r"line 1: the id field '_id' is null"),
    ('{"_id": 1.5, "text": "x"}', r"'_id' is 1.5 \(float\)"),
    ('{"_id": true, "text": "x"}', r"'_id' is True \(bool\)"),
    ('{"_id": "", "text": "x"}', r"'_id' is null or empty"),
    ('{"id": "1", "text": "x"}', r"'_id' is missing, the fields are id, text"),
    ('{"_id": "1", "body": "x"}', r"without text.*title, text.*_id, body"),
    ('{"_id": "1", "text": ["x"]}', r"text field 'text' holds list"),
    (GOOD_LINE + '{"_id": "2", "text": "x", "lang": "de", "lang": "en"}', r"line 2: the key 'lang' stands twice"),
    ('{"_id": "1", "text": "x", "author": [{"name": "Ann", "name": "Bo"}]}', r"line 1: the key 'name' stands twice"),
    ('{"_id": "1", "_id": "1", "text": "x"}', r"line 1: the key '_id' stands twice"),
    ('{"_id": "1", "text": "x", "lang": "de", "metadata": {"lang": "en"}}', r"line 1: lang is named in the object"),
    ('{"_id": "1", "text": "x", "a": 1, "a\\u0000": 2}', r"line 1: the field 'a' .* twice"),
]


@pytest.mark.parametrize(("data", "message"), BAD_JSONL)
def test_bad_json_lines_are_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.jsonl", data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("_id,text\n1,one\n2,two,three\n", r"line 3: the row has 3 fields, the header names 2 \(_id, text\)"),
        ("_id,text,text\n1,a,b\n", r"line 1: the field 'text' is named twice"),
        ('_id,text\n1,"open\n', r"line 2: not CSV \(unexpected end of data\)"),
        ("_id;text\n1;one\n", r"line 2: a source without text.*_id;text"),
        ("_id,text\n1,caf\xe9\n".encode("latin-1"), r"line 2: not UTF-8.*byte 14 "),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.csv", data)


def test_metadata_that_says_the_same_as_the_record_is_read_and_may_be_kept_as_an_object(tmp_path: Path) -> None:
    same = '{"_id": "1", "text": "x", "lang": "de", "metadata": {"lang": "de", "n": 1}}'
    assert read(tmp_path / "x.jsonl", same)[0].meta == {"lang": "de", "n": 1}
    differs = '{"_id": "1", "text": "x", "lang": "de", "metadata": {"lang": "en"}}'
    assert read(tmp_path / "x.jsonl", differs, meta_fields=["metadata"])[0].meta == {"metadata": {"lang": "en"}}


def test_a_doubled_column_of_a_join_is_refused_with_its_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    (tmp_path / "x.db").touch()
    query = "SELECT 1 AS _id, 'x' AS text, a.name, b.name FROM (SELECT 'Ann' AS name) a, (SELECT 'Bo' AS name) b"
    with pytest.raises(SourceError, match=r"two columns named 'name'"):
        list(open_source(f"sql:{query}", url=url))
    (document,) = open_source(f"sql:{query.replace('b.name', 'b.name AS other')}", url=url)
    assert document.meta == {"name": "Ann", "other": "Bo"}


def test_a_doubled_column_of_a_parquet_file_is_refused_with_its_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(*columns: tuple[str, Any]) -> Path:
        names = ["_id", "text", *(name for name, _ in columns)]
        values = [pa.array(["1"]), pa.array(["x"]), *(value for _, value in columns)]
        pq.write_table(pa.Table.from_arrays(values, names=names), tmp_path / "x.parquet")
        return tmp_path / "x.parquet"

    ann, bo = pa.array(["Ann"]), pa.array(["Bo"])
    author = pa.StructArray.from_arrays([ann, bo], names=["name", "name"])
    listed = pa.ListArray.from_arrays([0, 1], author)
    for columns in ([("name", ann), ("name", bo)], [("author", author)], [("authors", listed)]):
        with pytest.raises(SourceError, match=r"column 'name' is there twice"):
            list(open_source(str(table(*columns))))
    assert len(list(open_source(str(table(("name", ann), ("other", bo)))))) == 1


def test_torn_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path / "x.jsonl.gz", gzip.compress(GOOD_LINE.encode() * 100)[:-12])
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path / "y.jsonl.gz", GOOD_LINE)
    with pytest.raises(SourceError, match="not readable as Parquet"):
        read(tmp_path / "x.parquet", b"PAR1 and no more")


def test_what_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").touch()
    with pytest.raises(SourceError, match=r"does not exist.*\.parquet"):
        open_source(str(tmp_path / "absent.jsonl"))
    with pytest.raises(SourceError, match=r"no source.*Accepted are .*\.csv.*sql:SELECT"):
        open_source(str(tmp_path / "notes.docx"))
    with pytest.raises(SourceError, match=r"no corpus\.jsonl, it holds notes\.docx"):
        open_source(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"it holds \(none\)"):
        open_source(str(tmp_path / "empty"))
    with pytest.raises(SourceError, match="needs a url"):
        open_source("sql:SELECT 1")


@pytest.mark.parametrize(
    ("query", "url", "message"),
    [
        ("SELECT * FROM absent", "sqlite://", "no such table: absent"),
        ("CREATE TABLE t (a)", "sqlite://", "returns no rows"),
        ("SELECT 1", "not a url", "no SQLAlchemy URL"),
        ("SELECT 1", "nodialect://user:secret@host/db", "nodialect"),
        ("SELECT 1 AS a", "sqlite://", "without text"),
        ("SELECT 1", "sqlite:////nowhere/x.db", "there is no file /nowhere/x.db"),
    ],
)
def test_bad_queries_are_refused_without_the_password(query: str, url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as refusal:
        list(open_source(f"sql:{query}", url=url))
    assert "secret" not in str(refusal.value)


def test_a_query_cannot_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    import sqlite3

    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (_id, text)")
        connection.execute("INSERT INTO t VALUES (1, 'one')")
    connection.close()
    list(open_source("sql:UPDATE t SET text = 'changed' RETURNING _id, text", url=url))
    assert [d.text for d in open_source("sql:SELECT * FROM t", url=url)] == ["one"]


def test_an_absent_meta_field_of_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="meta fields lnag are missing, the fields are _id, text, lang"):
        read(tmp_path / "x.csv", "_id,text,lang\n1,one,en\n", meta_fields=["lnag"])


COLUMNS = [
    (["2024", "2019", ""], [2024, 2019, None]),
    (["-3", "0.5", "0"], [-3, 0.5, 0]),
    (["9.50", "10.25", "11.00"], [9.5, 10.25, 11.0]),
    (["true", "False", "TRUE"], [True, False, True]),
    (["true", "", "false"], [True, None, False]),
    (["true", "1", "0"], None),
    (["yes", "no", "yes"], None),
    (["007", "8", "9"], None),
    (["90210", "01234", "10001"], None),
    (["NaN", "1", "2"], None),
    (["1e5", "2e5", "3e5"], None),
    (["inf", "1", "2"], None),
    (["+49", "+41", "+1"], None),
    (["1.9", "1.10", "1.11"], None),
    (["1.50", "2", "3"], None),
    (["1,5", "2", "3"], None),
    (["1_000", "2", "3"], None),
    (["-0", "1", "2"], None),
    ([" 1", "2", "3"], None),
    (["1234567890123456", "2", "3"], None),
    (["0.12345678901234567", "2", "3"], None),
    (["١٢", "2", "3"], None),
    (["2024-01-01", "2024-01-02", ""], None),
    (["", "", ""], None),
    (["1", "2", "x"], None),
]


@pytest.mark.parametrize(("cells", "typed"), COLUMNS, ids=str)
def test_a_csv_column_is_typed_by_all_of_its_cells_and_only_where_nothing_is_lost(
    tmp_path: Path, cells: list[str], typed: list[Any] | None
) -> None:
    rows = "".join(f'{n},text,"{cell}"\n' for n, cell in enumerate(cells))
    documents = read(tmp_path / "x.csv", f"_id,text,c\n{rows}")
    found = [document.meta["c"] for document in documents]
    assert found == (typed or cells)
    assert list(map(type, found)) == list(map(type, typed or cells))


def test_ids_texts_and_versions_of_a_csv_are_no_numbers(tmp_path: Path) -> None:
    (document,) = read(tmp_path / "x.csv", "_id,text,v\n7,9.50,3\n", version_field="v", meta_fields=["text"])
    assert document == Document("7", "9.50", {"text": 9.5}, 3)


def test_types_of_csv_columns_may_be_chosen(tmp_path: Path) -> None:
    data = "_id,text,zip,n,flag\n1,x,007,1,yes\n2,x,12,1e3,no\n"
    chosen = {"zip": "number", "n": "number", "flag": "bool"}
    assert [one.meta for one in read(tmp_path / "x.csv", data, column_types=chosen)] == [
        {"zip": 7, "n": 1, "flag": True},
        {"zip": 12, "n": 1000.0, "flag": False},
    ]
    data = "_id,text,year,n\n1,x,2024,1\n"
    assert read(tmp_path / "x.csv", data, column_types={"*": "text", "n": "number"})[0].meta == {"year": "2024", "n": 1}
    for types, says in (
        ({"text": "number", "nope": "text"}, "columns nope that types are given for are missing"),
        ({"year": "bool"}, r"line 2: the field 'year' holds '2024', which is not true or false"),
    ):
        with pytest.raises(SourceError, match=says):
            read(tmp_path / "x.csv", data, column_types=types)


@pytest.mark.parametrize("option", ["year", "year=str", "=text", "year=text,number"])
def test_a_column_type_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="must be NAME=TYPE"):
        parse_types([option])


def test_whole_number_ids_become_strings_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    documents = read(tmp_path / "x.jsonl", '\ufeff{"_id": 7, "text": "x"}\n\n{"_id": 8}\n')
    assert documents == [Document("7", "x"), Document("8", None)]


def test_a_csv_field_may_be_longer_than_the_standard_limit(tmp_path: Path) -> None:
    assert len(read(tmp_path / "x.csv", "_id,text\n1," + "x" * 200_000)[0].text or "") == 200_000


def test_meta_values_become_json(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    row = {
        "_id": 1,
        "text": "one",
        "day": date(2024, 2, 29),
        "at": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "price": Decimal("1.50"),
        "fine": Decimal("0.1234567890123456789012"),
        "score": float("nan"),
        "tags": ["a", "b"],
        "inner": {"n": 1},
        "size": np.int64(3),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    (document,) = open_source(str(tmp_path / "x.parquet"))
    assert dict(document.meta) == {
        "day": "2024-02-29",
        "at": "2024-02-29T12:00:00+00:00",
        "price": 1.5,
        "fine": "0.1234567890123456789012",
        "score": None,
        "tags": ["a", "b"],
        "inner": {"n": 1},
        "size": 3,
    }


def test_zoned_times_of_tables_are_stored_in_utc_and_naive_ones_as_they_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = datetime(2026, 3, 29, 1, 30, tzinfo=timezone(timedelta(hours=1)))
    columns = {
        "_id": ["1"],
        "text": ["x"],
        "paris": pa.array([moment], pa.timestamp("us", "Europe/Paris")),
        "utc": pa.array([moment], pa.timestamp("ns", "UTC")),
        "fine": pa.array([moment.replace(microsecond=250_000)], pa.timestamp("ms", "+05:30")),
        "naive": pa.array([moment.replace(tzinfo=None)], pa.timestamp("us")),
        "log": [[{"at": moment}]],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    (document,) = open_source(str(tmp_path / "x.parquet"))
    assert document.meta == {
        "paris": "2026-03-29T00:30:00+00:00",
        "utc": "2026-03-29T00:30:00+00:00",
        "fine": "2026-03-29T00:30:00.250000+00:00",
        "naive": "2026-03-29T01:30:00",
        "log": [{"at": "2026-03-29T00:30:00+00:00"}],
    }


def test_zoned_times_of_a_query_are_stored_in_utc(database_url: str) -> None:
    query = "SELECT 1 AS _id, 'x' AS text, timestamptz '2026-03-29 01:30+01' AS at, timestamp '2026-03-29 01:30' AS day"
    for zone in ("Asia/Kolkata", "UTC"):
        url = f"{database_url}{'&' if '?' in database_url else '?'}options=-ctimezone%3D{zone}"
        (document,) = open_source(f"sql:{query}", url=url)
        assert document.meta == {"at": "2026-03-29T00:30:00+00:00", "day": "2026-03-29T01:30:00"}


def test_meta_strings_can_be_stored_by_postgres(tmp_path: Path) -> None:
    (document,) = read(tmp_path / "x.jsonl", '{"_id": "1", "text": "x", "a\\u0000": "b\\u0000\\ud800", "n": NaN}')
    assert json.dumps(document.meta, allow_nan=False).count("\\u0000") == 0
    assert document.meta == {"a": "b?", "n": None}


def test_bytes_in_meta_are_refused_naming_the_field(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"_id": "1", "text": "x", "image": b"\x89"}]), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="'image' holds bytes"):
        list(open_source(str(tmp_path / "x.parquet")))
    assert len(list(open_source(str(tmp_path / "x.parquet"), meta_fields=[]))) == 1


@pytest.mark.parametrize(
    ("value", "version"),
    [("12", 12), ('"12"', 12), ("3.0", 3), ('"1970-01-01T00:00:01Z"', 1_000_000), ('"1970-01-01"', 0)],
)
def test_versions_are_whole_numbers_or_times(tmp_path: Path, value: str, version: int) -> None:
    (document,) = read(tmp_path / "x.jsonl", f'{{"_id": "1", "text": "x", "v": {value}}}', version_field="v")
    assert document.version == version
    assert document.meta == {}


@pytest.mark.parametrize("value", ["null", "1.5", '"new"', "true", "NaN", "Infinity", "[1]"])
def test_other_versions_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SourceError, match="version field 'v'"):
        read(tmp_path / "x.jsonl", f'{{"_id": "1", "text": "x", "v": {value}}}', version_field="v")


def test_docstrings_are_a_source() -> None:
    assert "numpy" in open_source("docstrings:numpy").name
