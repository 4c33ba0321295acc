"""What goes into training and judges it: pairs, parts that do not leak, negatives that are none, what mixing costs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from toys import Documents, query

from extras import needs
from revector.encoders.hashing import HashingEncoder
from revector.errors import LabelError
from revector.interfaces import Vectors, whole_texts
from revector.labels import load_labels
from revector.spec import ModelSpec
from revector.training.corpus import TEXT, Corpus, gather
from revector.training.judging import ModelVectors, judge
from revector.training.negatives import mine
from revector.training.pairs import NamedPair, Pair, matched, of_labels, read_pairs
from revector.training.parts import near, part

needs("sklearn", "bm25s")

PAIRS = [Pair(f"{n * 7919} {n * 104729} {n}", f"d{n:03d}") for n in range(300)]
CORPUS = Corpus(tuple(f"d{n:03d}" for n in range(300)), tuple(f"answer {n} {n % 7} words" for n in range(300)), 300)


def test_a_query_is_held_out_whatever_pairs_come_later() -> None:
    first, more = part(PAIRS[:250], share=0.3), part(PAIRS, share=0.3)
    before = {pair.query for pair in first.held_out}
    assert len(before & {pair.query for pair in more.train + more.stop}) < 0.1 * len(before)
    assert {pair.query for pair in more.held_out} == {pair.query for pair in part(PAIRS[::-1], share=0.3).held_out}
    assert {pair.query for pair in more.held_out} != {pair.query for pair in part(PAIRS, share=0.3, seed=1).held_out}


def test_no_query_like_one_to_judge_by_is_trained_on() -> None:
    judged = "How do I reset my password on the website?"
    leaks = [Pair(text, "d000") for text in (judged, judged.upper(), "how do i reset my passwords on the website")]
    parts = part([*PAIRS, *leaks], share=0.2, keep_out=[judged])
    used = {pair.query for pair in parts.train + parts.stop}
    assert not used & {pair.query for pair in leaks}
    assert {"how do i reset my password on the website?", "how do i reset my passwords on the website"} <= set(
        parts.leaked
    )
    assert not {pair.query for pair in parts.held_out} & used


def test_near_queries_are_those_that_share_nearly_all_of_their_letters() -> None:
    assert near(["python read csv file", "python write json"], ["python read csv files"]) == {"python read csv file"}
    assert near([], ["a"]) == near(["a"], []) == set()


def test_texts_that_are_documents_are_those_and_others_become_some(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"query": "a", "doc_id": "d001"}\n{"query": "A ", "positive": "answer 1 1 words"}\n'
        '{"query": "b", "positive": "a text of its own"}\n{"query": "c", "doc_id": "gone"}\n'
    )
    found, corpus = matched(read_pairs("pairs.jsonl", tmp_path, None), CORPUS)
    assert (found.read, found.repeated, found.lost, found.unknown) == (4, 1, 1, ("gone",))
    assert found.pairs[0] == Pair("a", "d001")
    assert found.pairs[1].doc_id.startswith(TEXT)
    assert corpus.texts[corpus.ids.index(found.pairs[1].doc_id)] == "a text of its own"
    with pytest.raises(LabelError, match="the collection holds none of them"):
        matched([NamedPair("here", "a", "gone")], CORPUS)


def test_clicks_and_labels_name_pairs(tmp_path: Path) -> None:
    with (tmp_path / "clicks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "doc_id", "time"])
        rows.writerows([["begin", "d001", "2026-03-01"]] * 3 + [["begin", "d002", "2026-03-01"]])
    assert [(one.query, one.doc_id) for one in read_pairs("clicks:clicks.csv", tmp_path, None)] == [("begin", "d001")]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "how"}\n')
    (tmp_path / "qrels" / "dev.tsv").write_text("q1\td001\t1\nq1\td002\t0\n")
    by_split = read_pairs("qrels/dev.tsv", tmp_path, None)
    assert [(one.query, one.doc_id) for one in by_split] == [("how", "d001")]
    assert by_split == of_labels(load_labels(tmp_path, "dev"))


def test_of_a_large_collection_the_answers_and_a_drawn_part_are_looked_at() -> None:
    documents = Documents()
    corpus = gather(documents.each(), {"d007"}, 20, seed=3)
    assert (len(corpus.ids), corpus.of, "d007" in corpus.ids) == (20, 60, True)
    assert corpus == gather(documents.each(), {"d007"}, 20, seed=3)
    assert corpus.ids != gather(documents.each(), {"d007"}, 20, seed=4).ids
    assert corpus.sha256 != gather(documents.each(), {"d007"}, 21, seed=3).sha256


def test_negatives_share_words_with_the_query_and_are_no_answers_of_it() -> None:
    texts = ("red apple pie", "red apple tart", "red apple pie", "green pear", "blue sky", "red apple cake")
    corpus = Corpus(tuple("abcdef"), texts, 6)
    encoder = HashingEncoder(ModelSpec("hashing", dim=64))
    vectors = encoder.encode("document", whole_texts(texts))
    asked = encoder.encode("query", whole_texts(["red apple"]))
    answers = {"red apple": {"a", "f"}}
    found = mine([Pair("red apple", "a")], answers, corpus, encoder, vectors, asked, negatives=1, margin=2.0)
    assert [corpus.ids[row] for row in found.rows[0]] == ["b"]
    strict = mine([Pair("red apple", "a")], answers, corpus, encoder, vectors, asked, negatives=2, margin=-2.0)
    assert strict.drawn == 2
    assert strict.false > 0
    assert not {corpus.ids[row] for row in strict.rows[0]} & {"a", "f"}
    with pytest.raises(LabelError, match="5 negatives of each query were asked for, and 3 documents are no answers"):
        mine([Pair("red apple", "a")], answers, corpus, encoder, vectors, asked, negatives=5, margin=0.0)


def test_a_rotated_space_loses_nothing_by_itself_and_everything_where_it_is_mixed() -> None:
    rng = np.random.default_rng(0)

    def unit(rows: int) -> Vectors:
        made = rng.standard_normal((rows, 16)).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    documents = unit(300)
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    base = ModelVectors(documents, documents[:100])
    tuned = ModelVectors(documents @ turn, documents[:100] @ turn)
    found = judge([Pair(query(n), f"d{n:03d}") for n in range(100)], CORPUS, base, tuned, "cosine")
    assert (found.recall.new.mean, found.verdict) == (1.0, "no detectable gain")
    assert max(found.new_queries_old_index, found.old_queries_new_index) < 0.15
    assert judge([Pair(query(n), f"d{n:03d}") for n in range(100)], CORPUS, tuned, base, "cosine").k == 10
