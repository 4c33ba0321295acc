"""The short form of evaluation/reliability/soak.py: real processes, moves and kills for 15 seconds, and bugs found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from evaluation.reliability.arena import database
from evaluation.reliability.checker import check
from evaluation.reliability.history import load
from evaluation.reliability.soak import soak
from evaluation.reliability.soak_report import Plan, figures, piece_of

SHORT = Plan(
    seconds=15,
    seed=7,
    documents=100,
    window_s=40,
    writes_per_s=40,
    sessions=2,
    query_processes=1,
    query_sessions=1,
    queries_per_s=15,
    move_every_s=0.5,
    chaos=("kill", "pause", "backend"),
    chaos_every_s=8,
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


@pytest.mark.long
def test_a_standby_that_is_not_fed_is_found(server: sa.URL, tmp_path: Path) -> None:
    with database(server) as url:
        plan = replace(SHORT, seconds=8, window_s=8, chaos=(), workers_killed=0, keep=tmp_path)
        outcome = soak(url, plan, bug="standby_not_fed")
    assert {one.promise for one in outcome.findings} & {"window", "stale", "lost", "resurrected"}, outcome
    [first, *_] = sorted(tmp_path.glob("*.jsonl"))
    assert check(load(first)) != []
