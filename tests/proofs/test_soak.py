"""The short form of evaluation/reliability/soak.py: real processes, moves and kills for 15 seconds, and bugs found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from evaluation.reliability.arena import database
from evaluation.reliability.bugs import plant
from evaluation.reliability.checker import check
from evaluation.reliability.history import load
from evaluation.reliability.soak import soak
from evaluation.reliability.soak_report import Plan, figures, piece_of
from evaluation.reliability.soak_site import (
    Content,
    Judge,
    chunks_of,
    model_of,
    query_of,
    query_vector,
    truth_of,
    vectors_of,
)

from revector.database.engine import make_engine
from revector.serving.searcher import Answer, Hit

SHORT = Plan(
    seconds=15,
    seed=7,
    documents=300,
    window_s=15,
    writes_per_s=40,
    sessions=2,
    query_processes=1,
    query_sessions=1,
    queries_per_s=15,
    move_every_s=0.5,
    chaos=("kill", "pause", "backend"),
    chaos_every_s=5,
    swaps=1,
    rollbacks=1,
    workers_killed=1,
)


@pytest.mark.slow
def test_fifteen_seconds_of_moves_and_kills_break_no_promise(server: sa.URL) -> None:
    with database(server) as url:
        outcome = soak(url, SHORT)
    assert outcome.sound, (outcome.findings, outcome.problems)
    assert outcome.counts["queries checked"] > 50
    assert outcome.counts["put ok"] > 100
    shown = {one.name: one for one in figures([piece_of(SHORT.seed, outcome)])}
    assert shown["queries encoded by the wrong encoder"].holds
    assert not shown[
        "queries whose scores were computed again"
    ].holds  # a short soak does not claim the long one's goal


@pytest.mark.slow
def test_a_standby_that_is_not_fed_is_found(server: sa.URL, tmp_path: Path) -> None:
    with database(server) as url:
        engine = make_engine(url)
        with plant("standby_not_fed", engine):
            outcome = soak(url, replace(SHORT, seconds=8, window_s=8, chaos=(), workers_killed=0, keep=tmp_path))
        engine.dispose()
    assert {one.promise for one in outcome.findings} & {"window", "stale", "lost", "resurrected"}, outcome
    [first, *_] = sorted(tmp_path.glob("*.jsonl"))
    assert check(load(first)) != []


def judged(asked: str, answered: str) -> tuple[str, str]:
    """Have an answer of revision r00001 judged whose query ``asked`` encoded, over vectors by ``answered``."""
    tokens = [str(Content(n, 0, 0)) for n in range(5)]
    query = query_of(3)
    hits = tuple(
        Hit(f"d{n:06d}", float(vectors_of(answered, token)[0] @ query_vector(asked, query)), 0, 0, 0, text, n + 1, {})
        for n, token in enumerate(tokens)
        for text in [chunks_of(token)[0].text]
    )
    right = truth_of(model_of("r00001")).fingerprint
    answer = Answer(hits, 1, "r00001", right, exact=False, encode_ms=0, search_ms=0, asked=1)
    _, encoder, own = Judge({}).judged(query, answer)
    return encoder, own


def test_the_judge_names_the_encoder_that_really_encoded_a_query() -> None:
    own = model_of("r00001")
    assert judged(own, own) == (own, own)
    assert judged("hashing:seed3", own) == ("hashing:seed3", own)
    assert judged(own, "hashing:seed3")[0].startswith("none that explains")
