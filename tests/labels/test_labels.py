"""Promises of label sources: every form means the same labels, everything doubtful is refused by line."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from revector.documents.text import clean
from revector.errors import LabelError
from revector.labels import (
    Labels,
    LabelSource,
    Span,
    check_against,
    label_source,
    load_labels,
    placed,
    read_labels,
    read_queries,
    write_beir,
)
from revector.labels.checking import check_labels

QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "zweite, größer"}, {"_id": "q3", "text": "unused"}]
QRELS = "query-id\tcorpus-id\tscore\nq2\tb\t2\nq1\ta\t1\nq1\tc\t0\n"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = sorted(path.parent for path in DATA.glob("*/queries.jsonl"))


def beir(folder: Path, queries: str | None = None, qrels: str = QRELS, split: str = "test") -> Path:
    (folder / "qrels").mkdir(exist_ok=True)
    text = "\n".join(map(json.dumps, QUERIES)) if queries is None else queries
    (folder / "queries.jsonl").write_text(text, encoding="utf-8")
    (folder / "qrels" / f"{split}.tsv").write_text(qrels, encoding="utf-8")
    return folder


def test_judged_queries_are_read_and_the_others_listed(tmp_path: Path) -> None:
    labels = load_labels(beir(tmp_path))
    assert labels.name == f"{tmp_path.name}/test"
    assert labels.queries == {"q1": "first", "q2": "zweite, größer"}
    assert labels.qrels == {"q1": {"a": 1, "c": 0}, "q2": {"b": 2}}
    assert list(labels.qrels) == list(labels.queries)
    assert labels.unjudged == ("q3",)


@pytest.mark.parametrize(
    "same",
    [
        "q1\ta\t1\nq1\tc\t0\nq2\tb\t2",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\ta\t1\r\nq1\tc\t0\r\nq2\tb\t2\r\n",
        QRELS + "\nq1\ta\t1\n\n",
    ],
    ids=["no header", "BOM and CRLF", "repeated pair and blank lines"],
)
def test_the_fingerprint_depends_on_content_not_on_layout(tmp_path: Path, same: str) -> None:
    fingerprint = load_labels(beir(tmp_path)).fingerprint
    reordered = "\n".join(json.dumps(query) for query in reversed(QUERIES[:2]))
    assert load_labels(beir(tmp_path, reordered, same)).fingerprint == fingerprint


@pytest.mark.parametrize(("old", "new"), [("q2\tb\t2", "q2\tb\t1"), ("q1\tc\t0", "q1\td\t0")])
def test_the_fingerprint_changes_with_a_judgement(tmp_path: Path, old: str, new: str) -> None:
    fingerprint = load_labels(beir(tmp_path)).fingerprint
    assert load_labels(beir(tmp_path, qrels=QRELS.replace(old, new))).fingerprint != fingerprint


def test_the_fingerprint_changes_with_a_judged_text(tmp_path: Path) -> None:
    fingerprint = load_labels(beir(tmp_path)).fingerprint
    changed = "\n".join(map(json.dumps, QUERIES)).replace("first", "First")
    assert load_labels(beir(tmp_path, changed)).fingerprint != fingerprint


def test_gzipped_files_are_read(tmp_path: Path) -> None:
    plain = load_labels(beir(tmp_path))
    for path in (tmp_path / "queries.jsonl", tmp_path / "qrels" / "test.tsv"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_labels(tmp_path) == plain


def test_a_torn_gzip_file_is_refused(tmp_path: Path) -> None:
    path = beir(tmp_path) / "qrels" / "test.tsv"
    path.with_name("torn.tsv.gz").write_bytes(gzip.compress(path.read_bytes())[:-10])
    with pytest.raises(LabelError, match=r"torn\.tsv\.gz cannot be read"):
        load_labels(tmp_path, "torn")


def test_a_missing_file_says_what_is_expected_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"queries\.jsonl or queries\.jsonl\.gz is not there"):
        load_labels(tmp_path)
    beir(tmp_path, split="dev")
    with pytest.raises(LabelError, match=r"qrels/test\.tsv .* is not there.*splits found: dev"):
        load_labels(tmp_path)


@pytest.mark.parametrize(
    ("queries", "finding"),
    [
        ("", r"queries\.jsonl holds no query"),
        ('{"_id": "q1", "text": "x"}\n{"_id": ', r"queries\.jsonl:2: found"),
        ('{"_id": "q1", "text": "x", "text": "y"}', r"queries\.jsonl:1: found the key 'text' stands twice"),
        ('{"_id": "q1", "text": "x", "a": 1, "metadata": {"a": 2}}', r"queries\.jsonl:1: found 'a' in `metadata` and"),
        ('["q1", "x"]', r"queries\.jsonl:1: found .*expected a JSON object"),
        ('{"_id": 1.5, "text": "x"}', r"queries\.jsonl:1: found"),
        ('{"_id": "", "text": "x"}', r"queries\.jsonl:1: found"),
        ('{"_id": "q1", "text": ["x"]}', r"queries\.jsonl:1: found"),
        ('{"_id": "q1", "text": "\\ud800"}', r"queries\.jsonl:1: found half of a surrogate pair"),
        (
            '{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "x"}',
            r"queries\.jsonl:2: found query id 'q1' a second time",
        ),
        ('{"_id": "q1", "text": "x"}', r"judges query 'q2', without text"),
        ('{"_id": "q1", "text": " "}\n{"_id": "q2"}', r"judges query 'q2', 'q1', without text"),
    ],
)
def test_bad_queries_are_refused(tmp_path: Path, queries: str, finding: str) -> None:
    with pytest.raises(LabelError, match=finding):
        load_labels(beir(tmp_path, queries))


@pytest.mark.parametrize(
    ("qrels", "finding"),
    [
        ("", r"test\.tsv holds no judgement"),
        ("query-id\tcorpus-id\tscore\n", r"test\.tsv holds no judgement"),
        ("q1\ta\t1\nq1 b 1", r"test\.tsv:2: found 'q1 b 1'; expected query id, document id and an integer score"),
        ("q1\t0\ta\t1", r"test\.tsv:1"),
        ("q1\t\t1", r"test\.tsv:1"),
        ("q1\ta\t0.5", r"test\.tsv:1"),
        ("q1\ta\t1_0", r"test\.tsv:1"),
        ("q1\ta\tmany", r"test\.tsv:1"),
        ("q1\ta\t1\nquery-id\tcorpus-id\tscore", r"test\.tsv:2"),
        ("q1\ta\t1\nq1\ta\t2", r"test\.tsv:2: found \('q1', 'a'\) judged 1 and 2"),
        ("q1\ta\t0\nq2\tb\t-1", r"judges 2 queries but no document relevant"),
    ],
)
def test_bad_judgements_are_refused(tmp_path: Path, qrels: str, finding: str) -> None:
    with pytest.raises(LabelError, match=finding):
        load_labels(beir(tmp_path, qrels=qrels))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (beir(tmp_path) / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "gr\xf6\xdfer"}')
    with pytest.raises(LabelError, match=r"queries\.jsonl cannot be read.*UTF-8"):
        load_labels(tmp_path)


def test_labels_are_matched_with_the_documents_there_are(tmp_path: Path) -> None:
    qrels = "q1\ta\t1\nq1\tb\t1\nq1\tz\t0\nq2\tc\t1\nq3\tz\t0"
    check = check_against(load_labels(beir(tmp_path, qrels=qrels)), lambda asked: {"a", "z"} & set(asked))
    assert (check.pairs, check.known_pairs, check.unknown_ids) == (3, 1, ("b", "c"))
    assert (check.queries_left, check.queries_lost) == (("q1",), ("q2",))


def test_labels_of_another_collection_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LabelError, match=r"name 2 relevant documents, document 'a', 'b', and the collection holds none"
    ):
        check_against(load_labels(beir(tmp_path)), lambda asked: {"elsewhere"})


# Other forms ----------------------------------------------------------------------------------------------------------


def trec(folder: Path, labels: Labels, *, topics: bool) -> Path:
    folder.mkdir()
    rows = [f"{q} 0 {d} {score}" for q, judged in labels.qrels.items() for d, score in judged.items()]
    (folder / "qrels.txt").write_text("\n".join(rows) + "\n", "utf-8")
    if topics:
        blocks = (
            f"<top>\n<num> Number: {q}\n<title> {t}\n\n<desc> Description:\nlonger\n</top>"
            for q, t in labels.queries.items()
        )
        (folder / "topics.txt").write_text("\n\n".join(blocks), "utf-8")
    else:
        (folder / "queries.tsv").write_text("".join(f"{q}\t{text}\n" for q, text in labels.queries.items()), "utf-8")
    return folder


def table(path: Path, labels: Labels) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["doc_id", "query", "query_id", "score"])
        for query, judged in labels.qrels.items():
            writer.writerows([doc, labels.queries[query], query, score] for doc, score in judged.items())
    return path


def database(path: Path, labels: Labels) -> LabelSource:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE judged (query_id, query, doc_id, score)")
        rows = ((q, labels.queries[q], d, float(s)) for q, judged in labels.qrels.items() for d, s in judged.items())
        connection.executemany("INSERT INTO judged VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return label_source("sql:SELECT * FROM judged", path.parent, lambda: f"sqlite:///{path}")


FORMS: dict[str, Callable[[Path, Labels], LabelSource]] = {
    "TREC with a table": lambda folder, labels: trec(folder / "t", labels, topics=False),
    "TREC with topics": lambda folder, labels: trec(folder / "t", labels, topics=True),
    "CSV": lambda folder, labels: table(folder / "labels.csv", labels),
    "SQL": lambda folder, labels: database(folder / "labels.db", labels),
    "BEIR": lambda folder, labels: write_beir(folder / "written", labels),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same_labels(tmp_path: Path, form: str) -> None:
    (tmp_path / "beir").mkdir()
    labels = load_labels(beir(tmp_path / "beir"))
    again = load_labels(FORMS[form](tmp_path, labels))
    assert (again.queries, again.qrels, again.fingerprint) == (labels.queries, labels.qrels, labels.fingerprint)


def test_the_setting_chooses_the_form(tmp_path: Path) -> None:
    asked: list[str] = []
    source = label_source("sql: SELECT 1 ", tmp_path, lambda: asked.append("url") or "sqlite://:secret@/x")
    assert (source.name, source.query, asked) == ("sql", "SELECT 1", ["url"])
    assert "secret" not in repr(source)
    assert label_source("labels", tmp_path, lambda: pytest.fail("no url is needed")) == tmp_path / "labels"
    (tmp_path / "labels.txt").write_text("q1 0 a 1\n")
    with pytest.raises(LabelError, match=r"from the file .*labels\.txt; accepted are \.csv"):
        load_labels(tmp_path / "labels.txt")


def test_metadata_of_queries_is_kept_and_changes_no_fingerprint(tmp_path: Path) -> None:
    plain = load_labels(beir(tmp_path))
    told = [{**QUERIES[0], "metadata": {"lang": "en", "n": 1}}, {**QUERIES[1], "tenant": "acme"}, QUERIES[2]]
    labels = load_labels(beir(tmp_path, "\n".join(map(json.dumps, told))))
    assert labels.meta == {"q1": {"lang": "en", "n": 1}, "q2": {"tenant": "acme"}}
    assert labels.fingerprint == plain.fingerprint
    assert load_labels(write_beir(tmp_path / "again", labels)).meta == labels.meta
    rows = "query_id,query,doc_id,score,lang,type\nq1,first,a,1,en,\nq1,first,c,0,en,\nq2,second,b,2,de,faq\n"
    (tmp_path / "labels.csv").write_text(rows)
    assert load_labels(tmp_path / "labels.csv").meta == {"q1": {"lang": "en"}, "q2": {"lang": "de", "type": "faq"}}


def test_spans_are_judged_and_their_documents_with_them(tmp_path: Path) -> None:
    rows = "q1,first,a,1,10,20\nq1,first,a,2,40,90\nq1,first,b,1,,\nq2,other,b,1,,\n"
    (tmp_path / "labels.csv").write_text("query_id,query,doc_id,score,start,end\n" + rows)
    labels = load_labels(tmp_path / "labels.csv")
    assert labels.qrels == {"q1": {"a": 2, "b": 1}, "q2": {"b": 1}}
    assert labels.spans == {"q1": {Span("a", 10, 20): 1, Span("a", 40, 90): 2}}
    again = load_labels(write_beir(tmp_path / "again", labels))
    assert (again.spans, again.qrels, again.fingerprint) == (labels.spans, labels.qrels, labels.fingerprint)
    (tmp_path / "labels.csv").write_text("query_id,query,doc_id,score,start,end\n" + rows.replace("40,90", "40,91"))
    assert load_labels(tmp_path / "labels.csv").fingerprint != labels.fingerprint


ORIGINAL = "Seals &amp; belts\r\nharden in winter.\r\nBelts slip \u201cwhen wet\u201d.\r\nBelts squeal when cold."
CLEANED = clean(ORIGINAL)


def quoted(tmp_path: Path, *quotes: str) -> Labels:
    """Labels of one query whose spans quote ``quotes``, by their offsets in the text as it was handed over."""
    starts = [ORIGINAL.index(quote) for quote in quotes]
    rows = "".join(f'q1,first,a,1,{at},{at + len(quote)},"{quote}"\n' for at, quote in zip(starts, quotes, strict=True))
    (tmp_path / "labels.csv").write_bytes(("query_id,query,doc_id,score,start,end,quote\n" + rows).encode())
    return load_labels(tmp_path / "labels.csv")


def texts(ids: Sequence[str]) -> dict[str, str]:
    return {doc_id: CLEANED for doc_id in ids if doc_id == "a"}


def test_a_span_of_the_text_as_it_was_handed_over_is_found_in_the_cleaned_text(tmp_path: Path) -> None:
    quotes = ["Seals &amp; belts", "winter.\r\nBelts slip", "harden", "squeal when cold."]
    labels = placed(quoted(tmp_path, *quotes), texts)
    found = {CLEANED[span.start : span.end] for span in labels.spans["q1"]}
    assert found == {"Seals & belts", "winter.\nBelts slip", "harden", "squeal when cold."}
    again = load_labels(write_beir(tmp_path / "again", labels))
    assert placed(again, texts).spans["q1"].keys() == {
        span._replace(quote=" ".join(span.quote.split())) for span in labels.spans["q1"]
    }
    exact = quoted(tmp_path, "Seals")
    assert placed(exact, texts).spans == exact.spans
    assert placed(exact, lambda _: {}).spans == exact.spans


def test_a_quote_that_is_not_in_its_document_or_at_several_places_is_refused_by_name(tmp_path: Path) -> None:
    for labels, says in (
        (quoted(tmp_path, "Belts"), "'Belts' stands 2 times in the document, and not at"),
        (load_labels(rows(tmp_path, "q1,first,a,1,3,9,absent\n")), "'absent' does not stand in the document"),
    ):
        with pytest.raises(LabelError, match=says):
            placed(labels, texts)
    checked = check_labels(read_labels(tmp_path / "labels.csv"), lambda ids: dict.fromkeys(ids, 9), texts)
    assert checked.findings["spans whose quoted text is not at one place"].count == 1
    with pytest.raises(LabelError, match="the quoted text 'x' without start and end"):
        load_labels(rows(tmp_path, "q1,first,a,1,,,x\n"))


def rows(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text("query_id,query,doc_id,score,start,end,quote\n" + text)
    return tmp_path / "labels.csv"


def test_a_quote_is_read_from_a_sixth_column_of_a_beir_folder(tmp_path: Path) -> None:
    folder = beir(tmp_path, qrels="query-id\tcorpus-id\tscore\tstart\tend\tquote\nq1\ta\t1\t15\t21\tharden\n")
    assert load_labels(folder).spans == {"q1": {Span("a", 15, 21, "harden"): 1}}


HEAD = "query_id,query,doc_id,score,start,end,lang\n"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", r"labels\.csv:1: found no column query_id, query, doc_id, score .*such as 'q1,how do I begin,d7,1'"),
        ("query_id;query;doc_id;score\n", r"labels\.csv:1: found no column"),
        (HEAD, r"labels\.csv holds no judgement; expected are rows such as"),
        (HEAD + "q1,first,a,1,,,en\nq1,first,b\n", r"labels\.csv:3: found 3 fields under 7 columns"),
        (HEAD + "q1,first,a,good,,,en\n", r"labels\.csv:2: found .*score 'good'; expected two ids and an integer"),
        (HEAD + ",first,a,1,,,en\n", r"labels\.csv:2: found query_id ''"),
        (HEAD + ",,,,,,\n", r"labels\.csv:2: found query_id ''"),
        (HEAD + '"q\t1",first,a,1,,,en\n', r"labels\.csv:2: found query_id 'q\\t1'"),
        (HEAD + "q1,first,a,1,5,,en\n", r"labels\.csv:2: found start '5' and end ''"),
        (HEAD + "q1,first,a,1,5,5,en\n", r"labels\.csv:2: found start '5' and end '5'.*such as 120 and 340"),
        (HEAD + "q1,first,a,1,,,en\nq1,last,b,1,,,en\n", r"labels\.csv:3: found query 'q1' with the text 'last'"),
        (HEAD + "q1,first,a,1,,,en\nq1,first,b,1,,,de\n", r"labels\.csv:3: found lang 'de' for query 'q1', and 'en'"),
        (HEAD + "q1,first,a,1,,,en\nq1,first,a,1,0,9,en\n", r":3: found .*0-9\) judged as a whole and by spans"),
        (HEAD + "q1,first,a,1,0,9,\nq1,first,a,2,0,9,\n", r":3: found \('q1', 'a', 0-9\) judged 1 and 2"),
        (HEAD + 'q1,"first,a,1,,,en\n', r"labels\.csv:2: found no CSV"),
        (HEAD + "q1,,a,1,,,en\n", r"judges query 'q1', without text"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path: Path, text: str, finding: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LabelError, match=finding):
        load_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("files", "finding"),
    [
        ({"qrels.txt": "q1 0 a 1\n"}, r"neither queries\.tsv nor topics\.txt"),
        ({"qrels.txt": "q1 0 a 1\nq1 a 1\n", "queries.tsv": "q1\tx\n"}, r"qrels\.txt:2: found 'q1 a 1'.*'301 0 FBIS"),
        ({"qrels.txt": "\n", "queries.tsv": "q1\tx\n"}, r"qrels\.txt holds no judgement"),
        ({"qrels.txt": "q1 0 a 1\n", "queries.tsv": "q1 x\n"}, r"queries\.tsv:1: found 'q1 x'"),
        ({"qrels.txt": "q1 0 a 1\n", "queries.tsv": ""}, r"queries\.tsv holds no query"),
        ({"qrels.txt": "q1 0 a 1\n", "topics.txt": "<top>\n<num> 1\n</top>\n"}, r"topics\.txt:1: .*without number or"),
        ({"qrels.txt": "q1 0 a 1\n", "topics.txt": "<top>\n<num> 1\n<title> x\n"}, r"topics\.txt:1: .*without </top>"),
        ({"qrels.txt": "q1 0 a 1\n", "topics.txt": "\n"}, r"topics\.txt holds no topic"),
    ],
)
def test_bad_trec_files_are_refused_by_line(tmp_path: Path, files: dict[str, str], finding: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=finding):
        load_labels(tmp_path)


@pytest.mark.parametrize(
    ("query", "finding"),
    [
        ("SELECT 1 AS query_id", r"sql, row 1: found no column query, doc_id, score"),
        ("SELECT * FROM absent", r"the labels of 'SELECT \* FROM absent'.*no such table"),
        ("SELECT 'q' AS query_id, 't' AS query, 'd' AS doc_id, 1 AS score WHERE 0", r"holds no judgement"),
        ("SELECT 'q' AS query_id, 't' AS query, 'd' AS doc_id, 0.5 AS score", r"sql, row 1: .*score 0\.5"),
        ("SELECT NULL AS query_id, 't' AS query, 'd' AS doc_id, 1 AS score", r"sql, row 1: found query_id ''"),
    ],
)
def test_bad_queries_for_labels_are_refused(tmp_path: Path, query: str, finding: str) -> None:
    with pytest.raises(LabelError, match=finding):
        load_labels(label_source(f"sql:{query}", tmp_path, lambda: "sqlite://"))


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    labels = load_labels(beir(tmp_path))
    with pytest.raises(LabelError, match="is there already and not empty"):
        write_beir(tmp_path, labels)
    (tmp_path / "empty").mkdir()
    assert load_labels(write_beir(tmp_path / "empty", labels, ["q2"])).queries == {"q2": labels.queries["q2"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "qrels", "queries.jsonl"]


def test_queries_alone_are_read_once_each_and_with_text(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q1\tfirst\nq2\tsecond\n")
    (tmp_path / "q.jsonl").write_text('{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n')
    for name in ("q.tsv", "q.jsonl"):
        assert [(q.id, q.text) for q in read_queries(tmp_path / name)] == [("q1", "first"), ("q2", "second")]
    for text, finding in (("q1\ta\nq1\tb\n", r"q\.tsv:2: query id 'q1' a second time"), ("q1\t \n", "without text")):
        (tmp_path / "q.tsv").write_text(text)
        with pytest.raises(LabelError, match=finding):
            read_queries(tmp_path / "q.tsv")


# Sets in the wild -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SETS, reason="the labelled sets are not in ../shared/data")
@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_every_shared_set_is_read_and_fits_its_corpus(folder: Path) -> None:
    (corpus,) = folder.glob("corpus.jsonl*")
    with gzip.open(corpus, "rt") if corpus.suffix == ".gz" else corpus.open(encoding="utf-8") as lines:
        ids = {json.loads(line)["_id"] for line in lines}
    for split in sorted(folder.glob("qrels/*.tsv")):
        labels = load_labels(folder, split.stem)
        check = check_against(labels, lambda asked: ids & set(asked))
        assert check.unknown_ids == check.queries_lost == ()
        assert check.queries_left


@pytest.mark.skipif(not SETS, reason="the labelled sets are not in ../shared/data")
@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_every_shared_set_is_checked_and_means_the_same_as_a_table(folder: Path, tmp_path: Path) -> None:
    (corpus,) = folder.glob("corpus.jsonl*")
    with gzip.open(corpus, "rt") if corpus.suffix == ".gz" else corpus.open(encoding="utf-8") as lines:
        lengths = {(record := json.loads(line))["_id"]: len(record["text"]) for line in lines}
    labels = load_labels(folder)
    assert {**load_labels(table(tmp_path / "labels.csv", labels)).queries} == labels.queries
    assert load_labels(tmp_path / "labels.csv").fingerprint == labels.fingerprint
    gone = next(iter(next(iter(labels.qrels.values()))))
    found = check_labels(
        read_labels(folder), lambda ids: {i: lengths[i] for i in ids if i in lengths and i != gone}, lambda ids: {}
    )
    rows = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]]
    alive = {query for query, doc, score in rows if int(score) > 0 and doc != gone}
    relevant = {query for query, _, score in rows if int(score) > 0}
    assert (found.judgements, found.queries, found.usable) == (len(rows), len({row[0] for row in rows}), len(alive))
    assert found.findings["unknown documents"].first == (gone,)
    assert found.findings["queries whose relevant documents are all gone"].count == len(relevant - alive)
    assert found.findings["conflicting judgements"].count == found.findings["judged queries without text"].count == 0
    assert found.refusal is None
    wild = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    told = {
        query["_id"]: query["metadata"] for query in wild if query.get("metadata") and query["_id"] in labels.queries
    }
    assert told.items() <= labels.meta.items()
