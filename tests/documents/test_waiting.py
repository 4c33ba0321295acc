"""Waiting for workers: until what was due is done, or with the reason why it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import BadVectors, ConfigError, WorkUnfinished
from revector.indexing import waiting
from revector.indexing.waiting import wait_until_done
from worlds import World, document, working

AT_ONCE = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)


def wait(world: World, **options: Any) -> int:
    return wait_until_done(world.engine, world.collection.cid, "docs", **{"patience_s": 60.0, **options})


def seen(world: World, seconds_ago: float) -> None:
    world.sql(
        "INSERT INTO load_sample (cid, minute, queued, lag_s, dead, documents) SELECT cid, clock_timestamp() - "
        "interval '1 minute' - :ago * interval '1 s', 0, 0, 0, 0 FROM collection",
        ago=seconds_ago,
    )


def test_nothing_due_is_nothing_to_wait_for(served: World) -> None:
    assert wait(served, patience_s=AT_ONCE) == 0


def test_what_is_due_is_waited_for_until_a_worker_has_done_it(swapped: World) -> None:
    swapped.put(70, start=500)
    with working(swapped):
        assert wait(swapped) == 140
    assert swapped.value("SELECT count(*) FROM pending") == 0


def test_what_is_written_meanwhile_is_not_waited_for(served: World) -> None:
    served.put(1, start=500)

    class Writing:
        def start(self, *_: Any) -> None:
            served.settle()
            served.put(5, start=600)

        def advance(self, n: int = 1) -> None:
            assert n == 1

        def done(self, note: str = "") -> None: ...

    assert wait(served, patience_s=AT_ONCE, progress=Writing()) == 1
    assert served.value("SELECT count(*) FROM pending") == 5


def test_a_worker_that_was_never_there_is_the_reason(served: World) -> None:
    served.put(3, start=500)
    with pytest.raises(
        WorkUnfinished, match=r"3 index entries .* 3 in generation 1 \(active\): no worker was ever seen"
    ):
        wait(served, patience_s=AT_ONCE)
    assert served.value("SELECT count(*) FROM pending WHERE state = 'due'") == 3


def test_a_worker_that_is_gone_is_the_reason(served: World) -> None:
    seen(served, 3_600)
    served.put(1, start=500)
    with pytest.raises(WorkUnfinished, match="no worker was seen for 60 min"):
        wait(served, patience_s=AT_ONCE)


def test_a_worker_that_works_for_others_is_the_reason(served: World) -> None:
    seen(served, 20)
    served.put(1, start=500)
    with pytest.raises(WorkUnfinished, match="takes none of this collection"):
        wait(served, patience_s=AT_ONCE)


def test_an_encoder_that_fails_is_the_reason(served: World) -> None:
    served.put(1, start=500)

    def lost(*_: Any) -> None:
        raise RuntimeError("device lost")

    served.loader["hashing"].hook = lost
    served.loader["hashing"]._inner.encode = lost
    served.settle()
    with pytest.raises(WorkUnfinished, match=r"its encoder fails: .*device lost"):
        wait(served, patience_s=AT_ONCE)


def test_a_worker_that_hangs_is_the_reason(served: World) -> None:
    served.put(2, start=500)
    served.sql("UPDATE pending SET lease_until = clock_timestamp() + interval '60 s', attempts = 1")
    with pytest.raises(WorkUnfinished, match="a worker has 2 in hand"):
        wait(served, patience_s=AT_ONCE)


@pytest.fixture
def poisoned(served: World) -> World:
    """One of two documents that are due becomes a dead letter once a worker tries it; a third one is dead already."""
    served.put(1, start=600)
    served.sql("UPDATE pending SET state = 'dead'")

    def refuse(texts: Any, vectors: Any) -> Any:
        if any("pear500" in text for text in texts):
            raise BadVectors("zero vector")
        return vectors

    served.loader["hashing"].hook = refuse
    served.documents.put_many([document(500), document(501)])
    return served


def test_what_becomes_a_dead_letter_is_not_done(poisoned: World) -> None:
    with working(poisoned), pytest.raises(WorkUnfinished, match=r"of 2 index entries .* 1 became .*zero vector"):
        wait(poisoned)


def test_unless_to_try_was_all_that_was_wanted(poisoned: World) -> None:
    with working(poisoned):
        assert wait(poisoned, deaths=False) == 2


def test_a_patience_that_cannot_be_is_refused(served: World) -> None:
    with pytest.raises(ConfigError):
        wait(served, patience_s=0)


def test_the_command_says_that_no_worker_runs_and_fails_where_it_is_to_wait(served: World) -> None:
    served.sql("UPDATE ledger SET applied_at = now() - interval '40 days' WHERE doc_id = 'd00003'")
    words = ["stale", "--project", str(served.root), "--max-age-days", "30"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "no worker was ever seen" in done.output
    done = CliRunner().invoke(app, [*words, "--json", "--wait", "--patience", str(AT_ONCE)])
    assert done.exit_code == WorkUnfinished.exit_code
    found = json.loads(done.stdout)
    assert (found["due"], found["waiting"]) == (0, 1)
    assert "no worker" in found["no_worker"]
    with working(served):
        assert CliRunner().invoke(app, [*words, "--wait"]).exit_code == 0
    assert served.value("SELECT count(*) FROM pending") == 0
