"""Promises of label files: the BEIR layout as found in the wild is read, everything doubtful is refused by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from revector.errors import LabelError
from revector.labels import check_against, load_labels

QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "zweite, größer"}, {"_id": "q3", "text": "unused"}]
QRELS = "query-id\tcorpus-id\tscore\nq2\tb\t2\nq1\ta\t1\nq1\tc\t0\n"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
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
        ('["q1", "x"]', r"queries\.jsonl:1: found .*expected a JSON object"),
        ('{"_id": 1, "text": "x"}', r"queries\.jsonl:1: found"),
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
