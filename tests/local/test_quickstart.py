"""The quickstart's corpus and labels: complete, stable, and labelled by meaning rather than by shared words."""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from revector.errors import SourceError
from revector.interfaces import Document
from revector.sources.docstrings import MIN_CHARACTERS, MODULES, DocstringSource

LABELS = Path(__file__).parents[2] / "evaluation" / "quickstart"
FINGERPRINT = """
import hashlib, sys
from revector.sources.docstrings import DocstringSource
digest = hashlib.sha256()
for document in DocstringSource():
    digest.update(f"{document.id}\\0{document.text}\\0".encode())
print(digest.hexdigest(), "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def corpus() -> dict[str, Document]:
    documents = list(DocstringSource())
    assert len(documents) == len({document.id for document in documents})
    return {document.id: document for document in documents}


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    lines = [json.loads(line) for line in (LABELS / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len({line["_id"] for line in lines}) == len({line["text"] for line in lines})
    return {line["_id"]: line["text"] for line in lines}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    with (LABELS / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["score"] for row in rows} == {"1"}
    return [(row["query-id"], row["corpus-id"]) for row in rows]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def test_corpus_has_the_promised_size_from_every_package(
    corpus: dict[str, Document],
) -> None:
    counts = Counter(document.meta["package"] for document in corpus.values())
    assert set(counts) == set(MODULES)
    assert min(counts.values()) >= 50
    assert 3_500 <= len(corpus) <= 5_000
    assert sum(len(document.text or "") for document in corpus.values()) < 3_600_000


def test_every_document_says_what_it_is(corpus: dict[str, Document]) -> None:
    for document in corpus.values():
        assert set(document.meta) == {"package", "module", "kind", "name"}
        assert document.meta["kind"] in {
            "module",
            "class",
            "function",
            "method",
            "property",
        }
        assert document.id.endswith(document.meta["name"])
        assert document.text
        assert len(document.text) >= MIN_CHARACTERS


@pytest.mark.slow
def test_corpus_is_the_same_in_another_process_and_needs_no_torch() -> None:
    """Fresh processes, for packages that a test run imports do change some docstrings."""
    printed = [
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.split()
        for seed in ("7", "8")
    ]
    assert printed[0] == printed[1]
    assert printed[0][1] == "False"


def test_iterating_twice_gives_the_same_documents() -> None:
    source = DocstringSource(["h5py"])
    assert list(source) == list(source)


def test_unknown_package_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SourceError, match="antigravity"):
        DocstringSource(["antigravity"])


def test_every_label_is_a_document_and_every_query_has_one(
    corpus: dict[str, Document], queries: dict[str, str], pairs: list[tuple[str, str]]
) -> None:
    assert len(queries) >= 300
    assert len(pairs) == len(set(pairs))
    assert {query for query, _ in pairs} == set(queries)
    assert [doc_id for _, doc_id in pairs if doc_id not in corpus] == []


def test_no_query_quotes_its_answer(
    corpus: dict[str, Document], queries: dict[str, str], pairs: list[tuple[str, str]]
) -> None:
    for query, doc_id in pairs:
        text = queries[query].lower()
        sentences = [s.strip().lower() for s in re.split(r"[.\n]", corpus[doc_id].text or "") if len(s.strip()) >= 20]
        assert ".".join(doc_id.lower().split(".")[-2:]) not in text
        assert not [sentence for sentence in sentences if sentence in text]


def test_queries_share_few_words_with_their_answers(
    corpus: dict[str, Document], queries: dict[str, str], pairs: list[tuple[str, str]]
) -> None:
    shares = [
        len(words(queries[query]) & words((corpus[doc_id].text or "")[:300])) / max(1, len(words(queries[query])))
        for query, doc_id in pairs
    ]
    assert statistics.mean(shares) < 0.3
