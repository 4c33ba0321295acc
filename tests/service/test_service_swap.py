"""Swaps and the processes that serve: the next encoder is loaded everywhere before the alias moves."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from revector.config import load_project
from revector.errors import ConfigError, ServersCold
from revector.indexing.encoding import Encoders
from revector.migration.migrator import Migrator
from revector.serving import servers
from services import key_for, revector_serve, serve, until
from worlds import World


def beat(world: World, *warm: int, problem: str | None = None, server_id: UUID | None = None) -> UUID:
    """A serving process that tells what it has loaded."""
    server_id = server_id or uuid4()
    with world.engine.begin() as connection:
        servers.beat(connection, server_id, "another process", warm=warm, problem=problem)
    return server_id


def names(world: World) -> list[str]:
    with world.engine.connect() as connection:
        return [one.name for one in servers.alive(connection)]


@pytest.fixture
def gated(approved: World) -> World:
    """``served``, with b200 ready to be swapped in by a migrator that does not wait."""
    return approved


def hurried(world: World) -> Migrator:
    migrator = world.migrator
    migrator._forward._settings = replace(migrator._settings, warm_wait_s=0.0)
    return migrator


def slots(world: World) -> tuple[int, int]:
    collection = world.collection
    assert collection.active_gen is not None
    assert collection.building_gen is not None
    return collection.active_gen, collection.building_gen


# The rule -------------------------------------------------------------------------------------------------------------


def test_a_swap_is_put_off_while_a_serving_process_has_not_loaded_the_next_encoder(gated: World) -> None:
    active, building = slots(gated)
    server_id = beat(gated, active, problem="the encoder of generation 2 cannot be used: no such folder.")
    before = gated.state()
    with pytest.raises(ServersCold, match=r"another process: .*no such folder") as caught:
        hurried(gated).upgrade("b200")
    assert caught.value.retryable
    assert gated.state() == before
    beat(gated, active, building, server_id=server_id)
    hurried(gated).upgrade("b200")
    assert gated.generation().revision == "b200"


def test_the_gate_is_free_while_a_swap_waits_and_it_goes_on_as_soon_as_the_encoder_is_loaded(gated: World) -> None:
    active, building = slots(gated)
    server_id, done = beat(gated, active), threading.Event()

    def load_later() -> None:
        # A write takes the gate shared; were it held by the swap, this would end in an error.
        gated.documents.put("meanwhile", "written while the swap waits")
        beat(gated, active, building, server_id=server_id)
        done.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers.time, "sleep", lambda _s: None if done.is_set() else load_later())
        gated.upgrade("b200")
    assert done.is_set()
    assert gated.generation().revision == "b200"
    assert gated.search("written while the swap waits", 1) == ["meanwhile"]


def test_nothing_waits_for_processes_that_are_gone_or_serve_something_else(gated: World) -> None:
    active, _ = slots(gated)
    for seen in ("clock_timestamp() - interval '16 s'", "clock_timestamp() + interval '1 day'"):
        beat(gated, active)
        gated.sql(f"UPDATE server SET seen_at = {seen}")  # silent, or from before the clock was set back
        assert names(gated) == []
    beat(gated, 4_711)  # of another collection
    beat(gated)  # has loaded nothing yet: it answers nothing
    hurried(gated).upgrade("b200")
    assert gated.generation().revision == "b200"


def test_a_first_swap_and_a_rollback_wait_for_nobody(world: World) -> None:
    world.put(120)
    beat(world)
    hurried(world).upgrade("a100")
    active = world.generation().gen
    server_id = beat(world, active)
    world.upgrade("b200", to="approve")
    beat(world, *slots(world), server_id=server_id)
    hurried(world).upgrade("b200")
    beat(world, world.generation().gen, server_id=server_id)
    world.migrator.rollback("search got worse")
    assert world.generation().gen == active


def test_rows_of_processes_that_are_gone_are_removed_by_the_others(gated: World) -> None:
    gone = beat(gated, 1)
    gated.sql("UPDATE server SET seen_at = clock_timestamp() - interval '16 s'")
    kept = beat(gated, 1)
    assert gated.sql("SELECT server_id FROM server") == [(kept,)]
    assert gone != kept
    with gated.engine.begin() as connection:
        servers.leave(connection, kept)
    assert names(gated) == []


# The service ----------------------------------------------------------------------------------------------------------


def warm(world: World) -> set[int]:
    with world.engine.connect() as connection:
        return {gen for one in servers.alive(connection) for gen in one.warm}


def test_a_service_tells_what_it_has_loaded_and_takes_leave(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revector.service.state.BEAT_S", 0.02)
    with serve(served.project):
        until(lambda: warm(served) == {served.generation().gen})
        served.upgrade("b200", to="provision")
        until(lambda: warm(served) == set(slots(served)))
        assert "revector serve" in names(served)[0]
    assert names(served) == []


def test_a_service_that_cannot_load_the_next_encoder_says_why_and_goes_on_serving(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revector.service.state.BEAT_S", 0.02)
    opened = load_project(served.root)  # as another process has it

    def load(model: Any) -> Any:
        if model.name == "hashing:seed2":
            raise ConfigError("the model's folder is gone. Bring it back.")
        return served.loader(model)

    opened.__dict__["encoders"] = Encoders(load)
    with serve(opened) as client:
        until(lambda: warm(served) == {served.generation().gen})
        served.upgrade("b200", to="approve")

        def told() -> bool:
            with served.engine.connect() as connection:
                return "folder is gone" in str([one.problem for one in servers.alive(connection)])

        until(told)
        with pytest.raises(ServersCold, match="folder is gone"):
            hurried(served).upgrade("b200")
        assert client.get("/ready").status_code == 200
    opened.engine.dispose()


# A real process -------------------------------------------------------------------------------------------------------


def test_a_real_process_serves_writes_uploads_and_is_waited_for(served: World) -> None:
    _, header = key_for(served, "read", "write")
    # What is uploaded shares no word with the documents: no graph would lead a query through it to them.
    model, index = 'model = ModelSpec(name="hashing:seed2", dim=64)', 'index = IndexSpec(kind="exact")'
    served.revision("b200", "a100", model, index)
    with revector_serve(served) as (client, _):
        assert client.get("/health").json() == {"status": "alive"}
        assert client.get("/ready").status_code == 401
        client.headers.update(header)
        until(lambda: client.get("/ready").status_code == 200, 60)
        pieces = (f'{{"id": "up{n}", "text": "uploaded {n}"}}\n'.encode() for n in range(1_200))
        ndjson = {"content-type": "application/x-ndjson"}
        answer = client.post("/collections/docs/documents", content=pieces, headers=ndjson)
        assert (answer.status_code, answer.json()["written"]) == (200, 1_200)
        hits = client.post("/collections/docs/search", json={"query": "apple7 pear7", "k": 1}).json()["hits"]
        assert hits[0]["id"] == "d00007"
        assert client.get("/collections/docs").status_code == 403
        too_large = (b" " * (1 << 20) for _ in range(14))
        assert client.put("/collections/docs/documents/x", content=too_large).status_code == 413
        until(lambda: warm(served) == {served.generation().gen})
        served.upgrade("b200")  # waits until the process has loaded it
        assert warm(served) == {served.generation().gen, served.generation("standby").gen}
        answer = client.post("/collections/docs/search", json={"query": "apple7 pear7", "k": 1}).json()
        assert (answer["revision"], answer["hits"][0]["id"]) == ("b200", "d00007")
    until(lambda: names(served) == [])
