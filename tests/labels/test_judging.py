"""People judge a batch: each score is kept as it is given, several judges are one result, only this page is let in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from revector.errors import LabelError
from revector.labels.batch import JudgedBatch, ScoreChange
from revector.labels.opinions import AGREED, agreement
from revector.labels.pool import read_pool, write_pool
from revector.service import judging

KEY = "a-key"


def write_batch(path: Path, queries: int = 2, documents: int = 3, text: str = "the text") -> Path:
    rows = [
        {
            "query_id": f"u{q}",
            "query": f"query {q}",
            "doc_id": f"d{d}",
            "text": f"{text} {d}",
            "judged": "no",
            "score": "",
        }
        for q in range(queries)
        for d in range(documents)
    ]
    write_pool(path, rows)
    return path


@contextmanager
def opened(path: Path) -> Iterator[JudgedBatch]:
    batch = JudgedBatch(path)
    try:
        yield batch
    finally:
        batch.close()


def give(batch: JudgedBatch, judge: str, query: str, scores: list[int | None], was: int | None = None) -> None:
    batch.save(judge, query, [ScoreChange(f"d{n}", score, was) for n, score in enumerate(scores)])


# Judges ---------------------------------------------------------------------------------------------------------------


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    """Computing Krippendorff's Alpha-Reliability (2011), section A: binary data, two observers, ten units."""
    said = {
        "A": {("q", str(unit)): score for unit, score in enumerate((0, 1, 0, 0, 0, 0, 0, 0, 1, 0))},
        "B": {("q", str(unit)): score for unit, score in enumerate((1, 1, 1, 0, 0, 1, 0, 0, 0, 0))},
    }
    found = agreement(said)
    assert (found.judges, found.pairs, found.alike) == (2, 10, 6)
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    alone = agreement({"A": said["A"], "B": {("q", "99"): 1}})
    assert (alone.pairs, alone.alpha) == (0, None)


def test_only_queries_that_are_judged_whole_and_agreed_on_are_added(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "next.jsonl")
    with opened(path) as batch:
        give(batch, "ada", "u0", [1, 0, 2])
        give(batch, "bo", "u0", [1, 1, 2])
        give(batch, "ada", "u1", [0, 0])
        assert (batch.progress.disputed, batch.progress.whole) == (1, 0)
        with pytest.raises(LabelError, match="1 without a score, 1 disputed, 4 of queries"):
            read_pool(path)
        [row] = batch.documents("u0", AGREED)
        assert (row.document, batch.others(row)) == ("d1", {"ada": 0, "bo": 1})
        batch.save(AGREED, "u0", [ScoreChange("d1", 0, None)])
        assert (batch.progress.disputed, batch.progress.whole) == (0, 1)
    pool = read_pool(path)
    assert {(row.query, row.document): row.score for row in pool.rows} == {
        ("u0", "d0"): 1,
        ("u0", "d1"): 0,
        ("u0", "d2"): 2,
    }
    assert (pool.empty, pool.disputed, pool.held_back) == (1, 0, 2)
    assert pool.agreement is not None
    assert (pool.agreement.judges, pool.agreement.pairs, pool.agreement.alike) == (2, 3, 2)


def test_a_third_judge_decides_by_more_than_half(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "next.jsonl", queries=1, documents=1)
    with opened(path) as batch:
        for judge, score in (("ada", 1), ("bo", 0), ("cy", 0)):
            give(batch, judge, "u0", [score])
    assert [row.score for row in read_pool(path).rows] == [0]


# The file -------------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_there_when_the_file_is_opened_again_and_a_torn_line_is_not(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "next.jsonl")
    before = path.read_bytes()
    with opened(path) as batch:
        give(batch, "ada", "u0", [1, 0])
        give(batch, "ada", "u0", [None], was=1)  # undone
    saved = path.read_bytes()
    assert saved.startswith(before), "what was there is never rewritten"
    path.write_bytes(saved + b'{"query_id": "u1", "score"')
    with opened(path) as batch:
        assert batch.dropped.startswith('{"query_id": "u1"')
        assert [batch.score(row, "ada") for row in batch.documents("u0", "ada")] == [None, 0, None]
    assert path.read_bytes() == saved


def test_a_second_tab_that_shows_what_is_no_more_changes_nothing(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "next.jsonl")
    with opened(path) as batch:
        give(batch, "ada", "u0", [1])
        before = path.read_bytes()
        with pytest.raises(LabelError, match="'d0' has the score 1 by now, and had none here"):
            batch.save("ada", "u0", [ScoreChange("d1", 0, None), ScoreChange("d0", 0, None)])
        assert path.read_bytes() == before, "all or none"
        give(batch, "bo", "u0", [0])  # another judge is no conflict


def test_a_file_that_others_have_or_change_is_left_alone(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "next.jsonl")
    with opened(path) as batch:
        with pytest.raises(LabelError, match="judged by another"):
            JudgedBatch(path)
        changed = path.read_bytes().replace(b"query 1", b"another")
        path.write_bytes(changed)
        with pytest.raises(LabelError, match="changed or replaced by another program"):
            give(batch, "ada", "u0", [1])
        assert path.read_bytes() == changed
    for name, content, finding in (
        ("next.csv", "", "appends judgements to a .jsonl file"),
        ("absent.jsonl", None, "cannot be opened"),
        (
            "done.jsonl",
            '{"query_id":"q","query":"t","doc_id":"d","text":"x","judged":"yes","score":""}\n',
            "no row left",
        ),
        ("bare.jsonl", '{"query_id":"q","query":"t","doc_id":"d","score":""}\n', "1 rows have no text"),
        ("other.jsonl", '{"query_id":"q","query":"t","doc_id":"d","score":"1","judge":"ada"}\n', "one of the pairs"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(LabelError, match=finding):
            JudgedBatch(tmp_path / name)


# The door -------------------------------------------------------------------------------------------------------------


def client(batch: JudgedBatch) -> TestClient:
    return TestClient(judging.create_page(batch, key=KEY, notes=[], finish=dict), base_url="http://127.0.0.1:8710")


def test_only_its_own_page_under_its_own_name_and_with_the_key_is_let_in(tmp_path: Path) -> None:
    with opened(write_batch(tmp_path / "next.jsonl")) as batch, client(batch) as page:
        right = {"Authorization": f"Bearer {KEY}"}
        asked = "/data/batch?judge=ada"
        for headers, status in (
            (right, 200),
            (right | {"Origin": "http://127.0.0.1:8710"}, 200),
            ({}, 401),
            ({"Authorization": "Bearer another"}, 401),
            (right | {"Host": "evil.example"}, 403),
            (right | {"Host": "127.0.0.1.evil.example:8710"}, 403),
            (right | {"Origin": "http://evil.example"}, 403),
            (right | {"Origin": "http://127.0.0.1:9999"}, 403),
            (right | {"Origin": "null"}, 403),
        ):
            assert page.get(asked, headers=headers).status_code == status, headers
        body = {"judge": "ada", "query": "u0", "changes": [{"document": "d0", "score": 1, "was": None}]}
        assert page.post("/data/judgements", json=body, headers={"Origin": "http://evil.example"}).status_code == 403
        assert page.post("/data/judgements", json=body).status_code == 401
        assert not batch.progress.judges
        assert page.post("/data/judgements", json=body, headers=right).json() == {"saved": 1}
        assert page.post("/data/judgements", json=body, headers=right).status_code == 409
        answer = page.get("/")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert page.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_nothing_that_the_page_is_sent_says_who_else_judged_what(tmp_path: Path) -> None:
    with opened(write_batch(tmp_path / "next.jsonl")) as batch, client(batch) as page:
        give(batch, "ada", "u0", [1, 0, 2])
        found = page.get("/data/query?query=u0&judge=bo", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert found["documents"] == [{"id": f"d{n}", "text": f"the text {n}", "score": None} for n in range(3)]
