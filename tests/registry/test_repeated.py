"""What PostgreSQL asks to repeat (40001: an old snapshot, 40P01: a deadlock) is repeated, and nobody hears of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from revector.archive import Part
from revector.documents.documents import Documents
from revector.indexing.rearm import rearm
from revector.registry import intents, sharding, work
from worlds import World

PART = Part(
    doc_ids=["d00001"],
    versions=np.array([1]),
    content_hashes=["0" * 64],
    starts=np.array([0]),
    counts=np.array([1], np.int32),
    chunk_starts=np.array([0], np.int32),
    chunk_ends=np.array([9], np.int32),
    embeddings=np.ones((1, 4), np.float32),
)


@dataclass(frozen=True)
class Given:
    """A generation that is being built, and its first shard."""

    engine: sa.Engine
    cid: int
    gen: int
    shard: sharding.Shard
    documents: Documents


CALLS: dict[str, Callable[[Given], object]] = {
    "seed_page": lambda it: sharding.seed_page(it.engine, it.cid, it.shard),
    "open_all": lambda it: intents.open_all(it.engine, it.gen, PART, {"d00001": uuid.uuid4()}),
    "open_canary": lambda it: intents.open_canary(it.engine, it.gen),
    "publish_canary": lambda it: intents.publish_canary(it.engine, it.gen, uuid.uuid4()),
    "give_up_canary": lambda it: intents.give_up_canary(it.engine, it.gen),
    "doom": lambda it: intents.doom(it.engine, it.gen, 10),
    "removed": lambda it: intents.removed(it.engine, it.gen, [intents.DoomedAttempt(uuid.uuid4(), 1, again=False)]),
    "claim": lambda it: work.claim(it.engine, it.gen, rows=5),
    "count_attempt": lambda it: work.count_attempt(it.engine, it.gen, ["d00001"]),
    "release": lambda it: work.release(it.engine, it.gen, ["d00001"]),
    "fail": lambda it: work.fail(it.engine, it.gen, "d00001", 1, "a trial", final=False),
    "rearm": lambda it: rearm(it.engine, it.cid, it.gen, {"lost": ["d00001"]}, actor="a trial"),
    "put": lambda it: it.documents.put("d00001", "another text"),
}


@contextmanager
def asked_once(engine: sa.Engine, sqlstate: str) -> Iterator[list[str]]:
    """Have PostgreSQL itself end the first transaction of the block with this error; yields what it was asked then."""
    ended: list[str] = []

    def end(_: object, __: object, statement: str, parameters: Any, *___: object) -> tuple[str, Any]:
        if ended:
            return statement, parameters
        ended.append(statement)
        return f"DO $$ BEGIN RAISE EXCEPTION 'once more' USING ERRCODE = '{sqlstate}'; END $$", ()

    sa.event.listen(engine, "before_cursor_execute", end, retval=True)
    try:
        yield ended
    finally:
        sa.event.remove(engine, "before_cursor_execute", end)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_every_transaction_of_the_protocol_that_may_be_repeated_is(served: World, sqlstate: str) -> None:
    served.upgrade("b200", to="provision")
    gen = served.generation("building").gen
    with served.engine.begin() as connection:
        intents.create(connection, gen)
        shard = sharding.read_shards(connection, gen)[0]
    given = Given(served.engine, served.collection.cid, gen, shard, served.documents)
    for name, call in CALLS.items():
        with asked_once(served.engine, sqlstate) as ended:
            call(given)
        assert len(ended) == 1, name


def test_what_postgresql_refuses_for_another_reason_is_not_repeated(served: World) -> None:
    gen = served.generation().gen
    with asked_once(served.engine, "23505") as ended, pytest.raises(sa.exc.IntegrityError):
        work.release(served.engine, gen, ["d00001"])
    assert len(ended) == 1
