"""A Redis that is full, read-only, set up to lose points, or not ready: each is said, and no promise is broken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from outside import RedisServer, of_kind, shared
from revector.errors import EncoderMismatch, IndexGone, StoreRefused, StoreUnavailable
from revector.spec import IndexSpec
from revector.stores.seam import Index, Points
from worlds import GATE, World

WIDE = 16


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Shared, with nothing in it and its own settings."""
    server = shared(RedisServer)
    client = client_of(server)
    client.flushall()
    yield server
    client.replicaof("NO", "ONE")
    for name, value in {"maxmemory": 0, "maxmemory-policy": "noeviction", "appendonly": "yes"}.items():
        client.config_set(name, value)
    client.close()


def client_of(server: RedisServer) -> Any:
    import redis

    return redis.Redis(port=server.port, protocol=3)


def created(server: RedisServer, kind: Any = "hnsw") -> Index:
    index = of_kind("redis", server.url).open(f"idx_docs_g1_{uuid4().hex[:8]}", WIDE, IndexSpec(kind=kind))
    index.create("fp1")
    return index


def some_points(count: int = 1, wide: int = WIDE) -> Points:
    numbers = np.arange(count, dtype=np.int32)
    vectors = np.random.default_rng(1).standard_normal((count, wide)).astype(np.float32)
    return Points([uuid4() for _ in numbers], [uuid4() for _ in numbers], numbers, numbers, numbers + 1, vectors)


def full(client: Any) -> None:
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000)


def read_only(client: Any) -> None:
    client.replicaof("127.0.0.1", 9)  # of a primary that is away: what is there stays


@pytest.fixture
def stored(world: World, redis_server: RedisServer) -> World:
    """60 documents are served from it, and b200 may follow."""
    file = world.root / "revector.toml"
    table = f'\n[stores.vectors]\nkind = "redis"\nurl = {json.dumps(redis_server.url)}\ntimeout_s = 5\n'
    file.write_text(file.read_text() + table)
    world.__dict__.pop("project", None)
    for name, parent, encoder in (("a100", None, "hashing"), ("b200", "a100", "hashing:seed2")):
        model = f'model = ModelSpec(name="{encoder}", dim=64)'
        world.revision(name, parent, model, 'index = IndexSpec(store="vectors")', GATE)
    world.put(60)
    world.upgrade("a100")
    return world


@pytest.mark.parametrize(("spoil", "said"), [(full, "OutOfMemoryError"), (read_only, "name the primary")])
def test_a_store_that_takes_no_writes_answers_as_before_and_goes_on_when_it_does(
    stored: World, redis_server: RedisServer, spoil: Callable[[Any], None], said: str
) -> None:
    client = client_of(redis_server)
    spoil(client)
    stored.documents.put("d00007", "quince melon")
    stored.documents.delete("d00009")
    stored.project.worker().drain()
    assert stored.value("SELECT count(*) FROM pending WHERE doc_id = 'd00007'") == 1
    assert stored.search("apple7 pear7", 1) == ["d00007"]  # by its points of before, as long as they are shown
    assert "d00009" not in stored.search("apple9 pear9", 60)
    with pytest.raises(StoreUnavailable, match=said):
        stored.upgrade("b200")
    assert stored.generation().revision == "a100"
    client.config_set("maxmemory", 0)
    client.replicaof("NO", "ONE")
    stored.upgrade("b200")
    stored.settle()
    assert stored.search("quince melon", 1) == ["d00007"]
    assert stored.project.verify("docs").passed


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "removes any key .*allkeys-lru.*noeviction"),
        ({"appendonly": "no"}, "no append-only file"),
        ({}, "a replica, which takes no writes"),
    ],
)
def test_a_server_that_would_lose_points_is_refused_before_it_gets_any(
    redis_server: RedisServer, setting: dict[str, str], said: str
) -> None:
    client = client_of(redis_server)
    for name, value in setting.items():
        client.config_set(name, value)
    if not setting:
        read_only(client)
    with pytest.raises(StoreRefused, match=said):
        of_kind("redis", redis_server.url).ask()


def test_a_server_that_still_loads_its_data_is_not_ready_and_nothing_else(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers by then, and says that it has no append-only file: seen after kills, for some milliseconds."""
    import redis

    about = {**client_of(redis_server).info("everything"), "loading": 1, "aof_enabled": 0}
    monkeypatch.setattr(redis.Redis, "info", lambda *_: about)
    with pytest.raises(StoreUnavailable, match="still loads its data") as raised:
        of_kind("redis", redis_server.url).ask()
    assert raised.value.retryable


def test_a_key_that_is_refused_is_said_and_not_shown(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(redis_server)
    client.acl_setuser("reader", enabled=True, passwords=["+a-key-that-nobody-may-read"], commands=["+ping"])
    url = redis_server.url.replace("//", "//reader@")
    monkeypatch.setenv("VECTORS_KEY", "another-key")
    with pytest.raises(StoreRefused, match="AuthenticationError") as raised:
        of_kind("redis", url, api_key_env="VECTORS_KEY").ask()
    assert "another-key" not in str(raised.value)
    monkeypatch.setenv("VECTORS_KEY", "a-key-that-nobody-may-read")
    with pytest.raises(StoreRefused, match="NoPermission"):
        of_kind("redis", url, api_key_env="VECTORS_KEY").ask()


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_search_that_redis_would_cut_short_at_its_time_limit_is_whole(redis_server: RedisServer, kind: str) -> None:
    index, client, put = created(redis_server, kind), client_of(redis_server), some_points(3_000)
    index.put(put)
    client.execute_command("FT.CONFIG", "SET", "TIMEOUT", 1)
    try:
        assert len(index.near(put.vectors[7], 3_000, exact=False)) == 3_000
    finally:
        client.execute_command("FT.CONFIG", "SET", "TIMEOUT", 500)


def test_a_request_that_comes_after_its_index_was_dropped_leaves_nothing(redis_server: RedisServer) -> None:
    index, client = created(redis_server), client_of(redis_server)
    index.put(some_points(300))
    assert client.dbsize() == 301
    index.drop()
    with pytest.raises(IndexGone):
        index.put(some_points(3))
    assert client.dbsize() == 0


def test_points_of_another_width_which_redis_would_keep_and_never_find_are_refused(redis_server: RedisServer) -> None:
    index = created(redis_server)
    with pytest.raises(StoreRefused, match=r"width 17 .* 16 wide"):
        index.put(some_points(wide=WIDE + 1))
    assert client_of(redis_server).dbsize() == 1


def test_an_index_of_somebody_else_is_neither_used_nor_dropped(redis_server: RedisServer) -> None:
    index, client = created(redis_server), client_of(redis_server)
    client.delete(index.name)
    with pytest.raises(StoreRefused, match="left alone"):
        index.drop()
    with pytest.raises(EncoderMismatch, match="encoder ''"):
        index.create("fp1")
    assert client.execute_command("FT.INFO", index.name)


def test_a_database_that_redis_does_not_search_is_refused(redis_server: RedisServer) -> None:
    for url, database in ((redis_server.url, "1"), (f"{redis_server.url}/1", None)):
        with pytest.raises(StoreRefused, match=r"names database 1; .* database 0 only"):
            of_kind("redis", url, database=database).ask()
    assert of_kind("redis", f"{redis_server.url}/0").ask()


def test_a_search_after_a_start_finds_everything(redis_server: RedisServer) -> None:
    """The search module keeps no index: at a start it makes it from the hashes, here those of a rewritten file."""
    index, client, put = created(redis_server), client_of(redis_server), some_points(2_000)
    index.put(put)
    client.bgrewriteaof()
    while client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)
    index.put(some_points(10))
    client.close()
    redis_server.kill()
    redis_server.start()
    assert len(index.near(put.vectors[7], 2_010, exact=False)) == 2_010
    assert index.describe().ready
