"""A store's server that is killed or cut off: no promise is broken, and the same command goes on afterwards."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from evaluation.reliability.wire import Action, Proxy, Toxic

from fakes import Crash
from outside import ChromaServer, MilvusLiteServer, PostgresServer, RedisServer, Server
from revector import crash
from revector.errors import StoreUnavailable
from revector.indexing.keeping import StoreKeeper
from revector.interfaces import Document
from revector.registry import intents
from revector.registry.lanes import lane_of
from worlds import World, document

GATE = "gate = Gate(max_drop=1.0, min_overlap=None, min_queries=1)"


SERVERS = {"chroma": ChromaServer, "redis": RedisServer, "pgvector": PostgresServer, "milvus-lite": MilvusLiteServer}


@pytest.fixture(params=SERVERS)
def store_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own."""
    server = SERVERS[request.param]()
    yield server
    server.remove()


@pytest.fixture
def stored(world: World, store_server: Server) -> World:
    """120 documents are served from it, and b200 may follow."""
    file = world.root / "revector.toml"
    table = f'\n[stores.vectors]\nkind = "{store_server.kind}"\nurl = {json.dumps(store_server.url)}\ntimeout_s = 5\n'
    file.write_text(file.read_text() + table)
    world.__dict__.pop("project", None)
    for name, parent, encoder in (("a100", None, "hashing"), ("b200", "a100", "hashing:seed2")):
        model = f'model = ModelSpec(name="{encoder}", dim=64)'
        world.revision(name, parent, model, 'index = IndexSpec(store="vectors")', GATE)
    world.put(120)
    world.upgrade("a100")
    return world


def at(point: str, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Have something happen when ``point`` is passed for the first time."""

    def watch(passed: str) -> None:
        if passed == point:
            patch.setattr(crash, "watcher", None)
            act()

    patch.setattr(crash, "watcher", watch)


def killed_at(point: str, server: Server, patch: pytest.MonkeyPatch) -> None:
    """Have the server killed when ``point`` is passed for the first time."""
    at(point, server.kill, patch)


def check(world: World, revision: str, count: int) -> None:
    """What is served equals the documents: by verification, by the invariants, and as a search shows it."""
    world.settle()
    assert world.generation().revision == revision
    report = world.project.verify("docs")
    assert report.passed, report
    for view in ("i1_lost", "i2_ahead", "i5_slots", "i9_intent"):
        assert world.sql(f"SELECT * FROM {view}") == [], view
    texts = {hit.id: hit.text for hit in world.project.searcher("docs").search("apple pear some words", 1_000).hits}
    assert texts == dict(world.sql("SELECT doc_id, content FROM document WHERE NOT deleted"))
    assert len(texts) == count


@pytest.mark.parametrize("point", ["stage.after_intent", "stage.after_put", "reveal.after_cas"])
def test_a_backfill_whose_store_is_killed_in_the_middle_goes_on_where_it_was(
    stored: World, store_server: Server, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    killed_at(point, store_server, monkeypatch)
    with pytest.raises(StoreUnavailable, match="the store 'vectors'"):
        stored.upgrade("b200")
    assert stored.generation().revision == "a100"
    stored.documents.put_many([document(n, turn=1) for n in range(5)])  # writes do not wait for a store
    stored.documents.delete("d00009")
    with pytest.raises(StoreUnavailable):
        stored.search("apple7 pear7", 3)
    assert stored.project.worker().drain() == 0
    store_server.start()
    assert stored.search("apple7 pear7", 1) == ["d00007"]
    stored.upgrade("b200")
    check(stored, "b200", 119)


@pytest.mark.slow
def test_each_of_eight_kills_under_writes_leaves_every_answer_right(
    stored: World, store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ("stage.after_intent", "stage.after_put", "reveal.after_cas", "worker.after_embed")
    for turn in range(8):
        with pytest.MonkeyPatch.context() as patch:
            killed_at(points[turn % 4], store_server, patch)
            stored.documents.put_many([Document(f"d{n:05d}", f"apple{n} turn{turn}") for n in range(turn, turn + 4)])
            stored.documents.delete(f"d{100 + turn:05d}")
            for _ in range(2):
                with suppress(StoreUnavailable):
                    stored.project.worker().drain()
        store_server.kill()
        store_server.start()
        stored.sql("UPDATE pending SET lease_until = NULL")  # a minute later
        stored.settle()
        assert stored.search(f"apple{turn} turn{turn}", 1) == [f"d{turn:05d}"]
        assert f"d{100 + turn:05d}" not in stored.search(f"apple{100 + turn} pear{100 + turn}", 100)
    check(stored, "a100", 112)


def test_a_server_whose_data_is_gone_is_noticed_and_filled_again(stored: World, store_server: Server) -> None:
    store_server.kill()
    store_server.forget()
    store_server.start()
    stored.put(3, 500)
    stored.project.worker().drain()
    assert stored.events("store_lost")[0]["detail"]["documents"] == 120
    check(stored, "a100", 123)
    assert lane_of(stored.generation()).index.describe().points >= 123


def test_a_server_that_was_put_back_to_a_snapshot_is_noticed_and_filled_again(
    stored: World, store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "CANARY_S", 0.0)  # a minute passes between looks
    store_server.kill()
    with store_server.snapshot():
        store_server.start()
        stored.put(3, 500)
        stored.documents.put("d00007", "quince")
        stored.documents.delete("d00008")
        stored.settle()
        StoreKeeper(stored.engine).look(stored.generation())
        store_server.kill()
    store_server.start()
    assert "d00501" not in stored.search("apple501 pear501", 100)
    StoreKeeper(stored.engine).look(stored.generation())
    assert stored.events("store_lost")[0]["detail"]["documents"] == 122
    check(stored, "a100", 122)


CUTS: tuple[Action, ...] = ("close", "reset", "answer", "stall", "drop", "refuse")


@pytest.mark.slow
def test_each_of_twelve_cuts_of_the_network_under_writes_leaves_every_answer_right(
    stored: World, store_server: Server
) -> None:
    """Among them half-open connections: what was sent may be done, and no answer comes, until a limit."""
    file, drawn = stored.root / "revector.toml", random.Random(7)
    with Proxy(store_server.url) as wire:
        file.write_text(file.read_text().replace(store_server.url, wire.url).replace("timeout_s = 5", "timeout_s = 2"))
        stored.__dict__.pop("project", None)
        stored.settle()
        for turn, action in enumerate(2 * CUTS):
            stored.documents.put_many([Document(f"d{n:05d}", f"apple{n} turn{turn}") for n in range(turn, turn + 4)])
            stored.documents.delete(f"d{100 + turn:05d}")
            wire.arm(Toxic(action=action, skip=drawn.randrange(2)))
            began = time.monotonic()
            stored.project.worker().drain()
            with suppress(StoreUnavailable):
                stored.search("apple1 pear1", 3)
            assert time.monotonic() - began < 20, "what does not answer is given up"
            assert wire.clear().fired, action
            stored.sql("UPDATE pending SET lease_until = NULL")  # a minute later
            stored.settle()
            assert stored.search(f"apple{turn} turn{turn}", 1) == [f"d{turn:05d}"]
            assert f"d{100 + turn:05d}" not in stored.search(f"apple{100 + turn} pear{100 + turn}", 100)
        check(stored, "a100", 108)


def end_process() -> None:
    """End what runs as SIGKILL would: nothing of the library catches it."""
    raise Crash("killed")


@pytest.mark.long
def test_twenty_migrations_under_kills_of_the_server_and_of_the_process_lose_nothing(
    stored: World, store_server: Server, record_property: Callable[[str, object], None]
) -> None:
    points = ("stage.after_intent", "stage.after_put", "reveal.after_cas", "publish.after_commit", "control.after_move")
    drawn, parent, struck = random.Random(5), "b200", 0
    names = ["b200", *(f"c{n:03d}" for n in range(1, 20))]
    for n, name in enumerate(names[1:]):
        model = f'model = ModelSpec(name="hashing:seed{3 + n % 3}", dim=64)'
        stored.revision(name, parent, model, 'index = IndexSpec(store="vectors")', GATE)
        parent = name
    for turn, name in enumerate(names):
        with pytest.MonkeyPatch.context() as patch:
            ends = turn % 2 == 0
            at(drawn.choice(points), store_server.kill if ends else end_process, patch)
            changed = drawn.sample(range(120), 4)
            stored.documents.put_many([Document(f"d{n:05d}", f"quince{n} turn{turn}") for n in changed])
            stored.documents.delete(f"d{drawn.randrange(120):05d}")
            with suppress(StoreUnavailable, Crash):
                stored.upgrade(name)
            if crash.watcher is None:
                struck += 1
                if ends:
                    store_server.start()
        stored.sql("UPDATE pending SET lease_until = NULL")  # a minute later
        stored.upgrade(name)
        count = stored.value("SELECT count(*) FROM document WHERE NOT deleted")
        check(stored, name, count)
        stored.migrator.run("retire", reason="done", now=True)
    assert struck >= 12
    record_property("migrations, each with writes and a deletion under way", len(names))
    record_property("kills of the server or of the process that struck in them", struck)
    record_property("documents lost, stale, resurrected or of another model after them", 0)  # or check had raised
