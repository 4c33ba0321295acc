"""Named stores of revector.toml: what is wrong with one is refused before anything changes, and no secret is shown."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from revector.cli.doctor import examine
from revector.config import load_project
from revector.errors import ConfigError, RevectorError, SpecError, StoreRefused, StoreUnavailable
from worlds import GATE, World

KEY = "a-key-that-nobody-may-read"


class _Server(BaseHTTPRequestHandler):
    """Answers as Chroma does where the key is right, and 401 otherwise."""

    def do_GET(self) -> None:
        allowed = self.path.endswith("/version") or self.headers.get("X-Chroma-Token") == KEY
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps("1.0.0" if allowed else {"message": "no"}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def store(world: World, **table: object) -> None:
    """Have the project know a store named vectors, and the migration b200 name it."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    file = world.root / "revector.toml"
    file.write_text(file.read_text() + "\n[stores.vectors]\n" + "\n".join(lines) + "\n")
    world.__dict__.pop("project", None)
    in_store(world, "vectors")


def in_store(world: World, name: str, kind: str = "hnsw") -> None:
    where = f'index = IndexSpec(kind="{kind}", store="{name}")'
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', where, GATE)


def refused(served: World, error: type[RevectorError]) -> str:
    """Return how plan, upgrade and the step provision alone refuse b200; nothing is changed by any."""
    said = set()
    for act in (
        lambda: served.migrator.plan("b200"),
        lambda: served.upgrade("b200"),
        lambda: served.migrator.run("provision", "b200"),
    ):
        with pytest.raises(error) as raised:
            act()
        assert type(raised.value) is error
        said.add(str(raised.value))
    assert served.collection.live == (served.collection.active_gen,)
    [message] = said
    assert KEY not in message
    return message


def test_a_store_that_no_table_names_is_refused_with_those_there_are(served: World) -> None:
    store(served, kind="memory")
    in_store(served, "vektors")
    assert "pgvector, memory, vectors" in refused(served, SpecError)


def test_a_server_that_does_not_answer_is_named(served: World) -> None:
    store(served, kind="chroma", url="http://127.0.0.1:9", timeout_s=1)
    assert "Chroma at http://127.0.0.1:9" in refused(served, StoreUnavailable)


def test_a_key_that_is_refused_is_not_shown(served: World, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store(served, kind="chroma", url=address, api_key_env="VECTORS_KEY")
    assert "VECTORS_KEY, and that variable is not set" in refused(served, StoreRefused)
    monkeypatch.setenv("VECTORS_KEY", f"{KEY}-but-wrong")
    served.__dict__.pop("project", None)
    assert "401. It refuses the key" in refused(served, StoreRefused)
    monkeypatch.setenv("VECTORS_KEY", KEY)
    served.__dict__.pop("project", None)
    assert "1.0.0" in served.project.stores.ask("vectors")


def test_a_client_library_that_is_not_installed_is_named_with_its_extra(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    store(served, kind="milvus", url="http://127.0.0.1:9")
    assert "pip install 'revector[milvus]'" in refused(served, StoreRefused)


def test_an_address_of_another_kind_is_refused(served: World) -> None:
    store(served, kind="chroma", url="./vectors.db")
    assert "http:// or https://" in refused(served, StoreRefused).replace("host[:port]", "")


def test_what_a_store_of_that_kind_does_not_have_is_refused_before_it_is_asked(served: World) -> None:
    store(served, kind="chroma", url="http://127.0.0.1:9", timeout_s=1)
    in_store(served, "vectors", kind="exact")
    assert "has index.kind hnsw, found 'exact'" in refused(served, SpecError)


def test_aliases_are_refused_where_a_store_of_that_kind_has_none(served: World) -> None:
    store(served, kind="chroma", url="http://127.0.0.1:9", native_alias=True)
    assert "the kind chroma has no aliases of its own" in refused(served, StoreRefused)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[stores.pgvector]\nkind = "memory"', "every project has a store 'pgvector'"),
        ('[stores.x]\nkind = "qdrnt"', "chroma, memory, milvus, pgvector, qdrant, redis, found 'qdrnt'"),
        ('[stores.x]\nkind = "chroma"\nurl = "http://me:sesame@host"', "api_key_env"),
        ('[stores.x]\nkind = "chroma"\nurl = "http://host?key=sesame"', "api_key_env"),
        ('[stores.x]\nkind = "chroma"\nkey = "sesame"', "Extra inputs"),
    ],
)
def test_a_table_that_is_wrong_is_refused_when_it_is_read(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "revector.toml").write_text(table)
    with pytest.raises(ConfigError, match=said) as raised:
        _ = load_project(tmp_path).stores
    assert "sesame" not in str(raised.value)


def test_doctor_asks_each_store(served: World, address: str) -> None:
    store(served, kind="chroma", url=address)
    [found] = [check for check in examine(served.project) if check.name == "store vectors"]
    assert not found.ok
    assert "401" in found.detail


def test_a_store_by_name_serves_and_a_change_of_store_alone_embeds_nothing(served: World) -> None:
    store(served, kind="memory")
    served.revision(
        "b200", "a100", 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact", store="vectors")'
    )
    plan = served.migrator.plan("b200")
    [change] = [one for one in plan.changes if one.field == "index.store"]
    assert change.means == "copied vectors in another store"
    [*_, there] = plan.disks
    assert (there.holds, there.needed_bytes) == ("store vectors", plan.documents * (45 + 4 * 64))
    served.upgrade("b200")
    [last, *_] = [event["detail"] for event in served.events("backfill")]
    assert last["embedded"] == 0
    assert served.search("apple7 pear7", 1) == ["d00007"]


def test_a_rehearsal_leaves_nothing_in_a_store(served: World) -> None:
    store(served, kind="memory")
    in_store(served, "vectors", kind="exact")
    report = served.project.rehearsal("docs").run("b200")
    assert report.index_bytes.value > 0
    assert report.chunks.value == pytest.approx(served.value("SELECT count(*) FROM document WHERE NOT deleted"))
    assert served.project.stores._store("vectors").names() == []


def test_two_projects_of_one_process_may_name_their_stores_alike(served: World, tmp_path: Path) -> None:
    store(served, kind="memory")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "revector.toml").write_text('[stores.vectors]\nkind = "chroma"\nurl = "http://127.0.0.1:9"')
    other = load_project(tmp_path / "other")
    assert other.stores.traits("vectors").kinds == {"hnsw"}
    assert served.project.stores.traits("vectors").kinds == {"exact"}
