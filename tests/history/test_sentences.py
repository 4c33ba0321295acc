"""What the history says: every kind of event is a sentence, and one that cannot be told still gives its plain facts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from revector.history.sentences import LONGEST, SENTENCES, sentence
from worlds import World

SOURCE = Path(__file__).parents[2] / "src" / "revector"
INTERVAL = {"mean": 0.5321, "low": 0.48, "high": 0.57}
GATE = {"k": 10, "queries": 425, "new": {"recall": INTERVAL}}


@pytest.mark.parametrize(
    ("kind", "detail", "said"),
    [
        ("gate", GATE, "Recall@10 0.5321 on 425 labelled queries"),
        (
            "gate",
            GATE | {"old": {"recall": INTERVAL}, "difference": {"mean": -0.01, "low": -0.03, "high": 0.01}},
            "Recall@10 0.5321 against 0.5321 now served: -0.0100 (-0.0300 to +0.0100) on 425 labelled queries",
        ),
        ("gate_failed", {"reasons": ["too few queries"]}, "Too few queries"),
        (
            "swap",
            {"revision": "b200", "pause_ms": 7.2, "rollback_deadline": "2026-11-20T10:30:59+01:00"},
            "Revision b200 answers; writers waited 7 ms; the way back is open until 2026-11-20 09:30 UTC",
        ),
        (
            "retire",
            {"revision": "a100", "window_given_up": True},
            "Revision a100 gets no more writes; there is no way back, given up before its window was over",
        ),
        ("ingest", {"source": "docs.jsonl", "written": 1200, "rejected": 0}, "1,200 written, from docs.jsonl"),
        ("clock_jump", {"jump_s": -3600.0}, "The database's clock jumped by -3600 s"),
        ("dlq_retry", {"items": 1}, "1 dead letter made due again"),
        ("dlq_waive", {"doc_id": "d1", "why": "a dump"}, "Document d1 may stay out: a dump"),
        ("dlq_waive", {"documents": 1, "doc_ids": ["d1"], "why": "a dump"}, "Document d1 may stay out: a dump"),
        ("dlq_waive", {"documents": 2, "doc_ids": ["d1", "d2"], "why": "dumps"}, "2 documents may stay out: dumps"),
        ("never_heard_of", {"a_b": 3, "list": [1], "reason": "shown elsewhere", "ok": True}, "A b 3, ok yes"),
        ("swap", {"made_by": "an older release"}, "Made by an older release"),
        ("encoder_restored", None, "The encoder works again"),
        ("never_heard_of", {"text": "x" * 999}, None),
    ],
)
def test_an_event_is_told_as_a_sentence(kind: str, detail: Any, said: str | None) -> None:
    found = sentence(kind, detail)
    assert found == said if said is not None else (len(found), found[-1]) == (LONGEST, "…")


def test_every_kind_that_a_real_migration_writes_has_a_sentence_of_its_own(served: World) -> None:
    served.upgrade("b200")
    served.migrator.rollback("a test wants it")
    served.migrator.retire("a test wants it", now=True)
    events = served.project.events("docs", 1_000)
    assert {one["kind"] for one in events} >= {"provision", "backfill", "index", "verify", "gate", "swap", "rollback"}
    for one in events:
        said = sentence(one["kind"], one["detail"])
        assert one["kind"] in SENTENCES, one
        assert re.match(r"[A-Z0-9]", said), one
        assert SENTENCES[one["kind"]](one["detail"])[1:] == said[1:], "told by its kind, not as plain facts"
