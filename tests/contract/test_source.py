"""What every source of records promises, whatever its format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revector.errors import SourceError
from revector.interfaces import Document, Source
from revector.sources import open_source

Records = list[dict[str, Any]]
Make = Callable[[Path, Records], tuple[str, str | None]]

RECORDS: Records = [
    {"_id": "a", "title": "First", "text": 'Körper, "quoted"\nsecond line', "lang": "de", "stamp": 7},
    {"_id": "B", "title": "", "text": "漢字 🙂", "lang": "ja", "stamp": 8},
    {"_id": "3", "title": None, "text": None, "lang": "", "stamp": 9},
    {"_id": "e\u0301", "title": "Only a title", "text": None, "lang": "fr", "stamp": 10},
]
EXPECTED = [
    Document("a", 'First\nKörper, "quoted"\nsecond line', {"lang": "de", "stamp": 7}),
    Document("B", "漢字 🙂", {"lang": "ja", "stamp": 8}),
    Document("3", None, {"lang": "", "stamp": 9}),
    Document("e\u0301", "Only a title", {"lang": "fr", "stamp": 10}),
]


def jsonl_bytes(records: Records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def csv_bytes(records: Records) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def written(path: Path, data: bytes) -> tuple[str, None]:
    path.write_bytes(data)
    return str(path), None


def beir(folder: Path, records: Records) -> tuple[str, None]:
    keys = ("_id", "title", "text")
    nested = [
        {k: r[k] for k in keys if k in r} | {"metadata": {k: v for k, v in r.items() if k not in keys}} for r in records
    ]
    written(folder / "corpus.jsonl", jsonl_bytes(nested))
    return str(folder), None


def parquet(folder: Path, records: Records) -> tuple[str, None]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    pq.write_table(pa.Table.from_pylist(records), folder / "data.parquet")
    return str(folder / "data.parquet"), None


def sql(folder: Path, records: Records) -> tuple[str, str]:
    names = list(records[0])
    with sqlite3.connect(folder / "data.db") as connection:
        connection.execute(f"CREATE TABLE documents ({', '.join(names)})")
        connection.executemany(
            f"INSERT INTO documents VALUES ({', '.join('?' * len(names))})",
            [[record.get(name) for name in names] for record in records],
        )
    connection.close()
    return "sql:SELECT * FROM documents WHERE '%' <> ':x'", f"sqlite:///{folder / 'data.db'}"


FORMATS: dict[str, Make] = {
    "jsonl": lambda folder, records: written(folder / "data.jsonl", jsonl_bytes(records)),
    "ndjson.gz": lambda folder, records: written(folder / "data.ndjson.gz", gzip.compress(jsonl_bytes(records))),
    "csv": lambda folder, records: written(folder / "data.csv", csv_bytes(records)),
    "csv.gz": lambda folder, records: written(folder / "DATA.CSV.GZ", gzip.compress(csv_bytes(records))),
    "beir": beir,
    "parquet": parquet,
    "sql": sql,
}


@pytest.fixture(params=list(FORMATS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Source]:
    def build(records: Records, **options: Any) -> Source:
        spec, url = FORMATS[request.param](tmp_path, records)
        return open_source(spec, url=url, **options)

    return build


def test_the_same_records_are_the_same_documents(opened: Callable[..., Source]) -> None:
    assert list(opened(RECORDS)) == EXPECTED


def test_a_source_can_be_read_again(opened: Callable[..., Source]) -> None:
    source = opened(RECORDS)
    next(iter(source))
    assert list(source) == EXPECTED


def test_a_source_has_a_name(opened: Callable[..., Source]) -> None:
    assert opened(RECORDS).name


def test_fields_are_chosen_by_name(opened: Callable[..., Source]) -> None:
    source = opened(RECORDS, id_field="_id", text_fields=["text"], meta_fields=["lang"], version_field="stamp")
    first = next(iter(source))
    assert first == Document("a", 'Körper, "quoted"\nsecond line', {"lang": "de"}, version=7)


def test_meta_can_be_stored_as_json(opened: Callable[..., Source]) -> None:
    for document in opened(RECORDS):
        json.dumps(document.meta, allow_nan=False)


def test_a_missing_id_field_names_the_fields_there(opened: Callable[..., Source]) -> None:
    with pytest.raises(SourceError, match=r"(line|row) \d.*'key' is missing.*title"):
        list(opened(RECORDS, id_field="key"))


def test_an_id_that_is_null_is_refused_with_its_place(opened: Callable[..., Source]) -> None:
    with pytest.raises(SourceError, match=r"(line|row) \d.*'_id' is null"):
        list(opened([RECORDS[1], {**RECORDS[0], "_id": None}]))


def test_a_source_without_text_is_refused_naming_the_fields(opened: Callable[..., Source]) -> None:
    with pytest.raises(SourceError, match=r"source without text.*body.*(lang|title)"):
        list(opened(RECORDS, text_fields=["body"]))


def test_it_streams(opened: Callable[..., Source]) -> None:
    """The first document comes before the last record is looked at."""
    bad = {**RECORDS[0], "_id": None}
    assert next(iter(opened([*RECORDS, bad]))) == EXPECTED[0]
