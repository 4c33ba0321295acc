"""Keys of the HTTP service: what each opens, how they are kept, how often they may ask, and that no log holds one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from revector.cli import exits, run
from revector.config import Project, load_project
from revector.errors import ConfigError, StateError
from revector.history.audit import check_chain
from revector.registry.collections import ensure_collection
from revector.service import access
from revector.service import run as run_service
from revector.service.access import Buckets
from revector.serving import keys
from revector.settings import Settings
from services import DOCUMENT, SEARCH, UPLOAD, key_for, refused, serve
from worlds import World

TOKEN = "a-long-random-value"
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read before every request."""
    monkeypatch.setattr(access, "FRESH_S", -1.0)


@pytest.fixture
def client(served: World, at_once: None) -> Iterator[TestClient]:
    with serve(served.project) as client:
        yield client


def calls(client: TestClient, collection: str, headers: dict[str, str]) -> dict[str, int]:
    """The status of every route of a collection, by what it is for."""
    base = f"/collections/{collection}"
    answers = {
        "search": client.post(f"{base}/search", json={"query": "apple7"}, headers=headers),
        "get": client.get(f"{base}/documents/d00007", headers=headers),
        "put": client.put(f"{base}/documents/new", json={"text": "new"}, headers=headers),
        "upload": client.post(f"{base}/documents", content=b"", headers={**headers, **NDJSON}),
        "delete": client.delete(f"{base}/documents/new", headers=headers),
        "status": client.get(base, headers=headers),
        "shadow": client.get(f"{base}/shadow", headers=headers),
    }
    return {name: answer.status_code for name, answer in answers.items()}


# Without a key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:8700", "127.0.0.1:8700", "[::1]:8700", "127.8.0.1"])
def test_an_open_service_answers_to_this_machines_own_names(client: TestClient, host: str) -> None:
    assert client.get(DOCUMENT, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8700", "localhost.attacker.example", "10.0.0.1", "["]
)
def test_a_page_of_another_site_reads_and_writes_nothing_at_an_open_service(
    served: World, client: TestClient, host: str
) -> None:
    """A site may let its own name mean 127.0.0.1 and send its visitors' browsers here (DNS rebinding)."""
    said = refused(client.get(DOCUMENT, headers={"host": host}), 403, "Forbidden")
    assert "localhost" in said
    refused(client.put(DOCUMENT, json={"text": "defaced"}, headers={"host": host}), 403, "Forbidden")
    assert served.documents.get("d00007").text.startswith("apple7")
    _, header = key_for(served, "admin")
    assert client.get(DOCUMENT, headers={"host": host, **header}).status_code == 200


# Scopes ---------------------------------------------------------------------------------------------------------------

READS, WRITES, ADMINS = {"search", "get"}, {"put", "upload", "delete"}, {"status", "shadow"}


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["read"], READS),
        (["write"], WRITES),
        (["read", "write"], READS | WRITES),
        (["admin"], READS | WRITES | ADMINS),
    ],
)
def test_a_key_opens_what_its_scopes_name_and_nothing_else(
    served: World, client: TestClient, scopes: list[str], allowed: set[str]
) -> None:
    _, header = key_for(served, *scopes)
    found = calls(client, "docs", header)
    assert {name for name, status in found.items() if status != 403} == allowed
    assert {found[name] for name in allowed - {"shadow"}} == {200}
    assert client.get("/ready", headers=header).status_code != 403


def test_a_key_for_one_collection_opens_no_other_and_does_not_learn_which_there_are(
    served: World, client: TestClient
) -> None:
    _, header = key_for(served, "admin", collections=["docs"])
    assert 403 not in calls(client, "docs", header).values()
    assert set(calls(client, "nope", header).values()) == {403}
    _, header = key_for(served, "admin", collections=["other"])
    before = served.state()
    assert set(calls(client, "docs", header).values()) == {403}
    assert "docs" not in refused(client.get(DOCUMENT, headers=header), 403, "Forbidden")
    assert served.state() == before


def test_a_refused_key_is_refused_before_the_body_is_read(served: World, client: TestClient) -> None:
    _, header = key_for(served, "read")
    too_large = b" " * (14 << 20)
    assert "scope write" in refused(client.put(DOCUMENT, content=too_large, headers=header), 403, "Forbidden")
    refused(client.put(DOCUMENT, content=too_large, headers={"Authorization": "Bearer wrong"}), 401, "Unauthorized")


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(served: World, at_once: None) -> Iterator[TestClient]:
    """A service as it is without ``--open``."""
    with serve(served.project, is_open=False) as client:
        yield client


def test_without_a_key_and_without_open_nobody_is_let_in_and_is_told_what_to_do(
    served: World, closed: TestClient
) -> None:
    before = served.state()
    for path in ("/ready", "/openapi.json", "/metrics", "/nothing", DOCUMENT, "/health/", "/collections/docs"):
        said = refused(closed.get(path), 401, "Unauthorized")
        assert ("has no key yet" in said, "revector keys create" in said, "--open" in said) == (True, True, True)
    refused(closed.put(DOCUMENT, json={"text": "defaced"}), 401, "Unauthorized")
    assert served.state() == before
    assert closed.get("/health").status_code == 200


def test_revoking_the_last_key_lets_nobody_in(served: World, closed: TestClient) -> None:
    key_id, header = key_for(served, "read")
    assert closed.get(DOCUMENT, headers=header).status_code == 200
    with served.engine.begin() as connection:
        keys.revoke(connection, key_id, actor="tester")
    before = served.state()
    for headers in ({}, header):
        assert set(calls(closed, "docs", headers).values()) == {401}
    assert served.state() == before


def test_a_wrong_key_is_refused_whatever_is_wrong_with_it(served: World, closed: TestClient) -> None:
    key_id, header = key_for(served, "read")
    assert closed.get(DOCUMENT, headers=header).status_code == 200
    for path in ("/ready", "/openapi.json", "/nothing", DOCUMENT, "/health/", "/collections/docs"):
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {header['Authorization'][7:]}"}):
            answer = closed.get(path, headers=wrong)
            assert "no key yet" not in refused(answer, 401, "Unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    other = header["Authorization"][:-1] + ("A" if header["Authorization"][-1] != "A" else "B")
    refused(closed.get(DOCUMENT, headers={"Authorization": other}), 401, "Unauthorized")
    refused(closed.get(DOCUMENT, headers={"Authorization": f"Bearer rv_{key_id}_"}), 401, "Unauthorized")
    refused(closed.get(DOCUMENT, headers=[(b"Authorization", b"Bearer \xff")]), 401, "Unauthorized")
    assert closed.get("/health").status_code == 200


def test_a_key_that_is_sent_counts_at_an_open_service_too(served: World, client: TestClient) -> None:
    key_id, header = key_for(served, "read")
    refused(client.put(DOCUMENT, json={"text": "x"}, headers=header), 403, "Forbidden")
    with served.engine.begin() as connection:
        keys.revoke(connection, key_id, actor="tester")
    refused(client.get(DOCUMENT, headers=header), 401, "Unauthorized")
    assert client.get(DOCUMENT).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "search.example"])
def test_an_open_service_is_refused_on_an_address_that_others_reach(tmp_path: Path, host: str) -> None:
    project = Project(tmp_path, Settings(toml_file=tmp_path / "none"))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"--open .* Nothing was started"):
        run_service(project, host, 8700, is_open=True)


def test_the_key_of_the_environment_may_do_everything_beside_those_of_the_database(
    served: World, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVECTOR_SERVE_TOKEN", TOKEN)
    with serve(served.project, is_open=False) as client:
        refused(client.get(DOCUMENT), 401, "Unauthorized")
        assert client.get(DOCUMENT, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
        assert client.get("/collections/docs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get(DOCUMENT, headers=key_for(served, "read")[1]).status_code == 200


def test_a_revoked_key_opens_nothing_within_seconds(served: World, client: TestClient) -> None:
    key_id, header = key_for(served, "read")
    assert client.get(DOCUMENT, headers=header).status_code == 200
    with served.engine.begin() as connection:
        assert keys.revoke(connection, key_id, actor="tester")
        assert not keys.revoke(connection, key_id, actor="someone else")
    refused(client.get(DOCUMENT, headers=header), 401, "Unauthorized")
    assert served.value("SELECT revoked_by FROM api_key WHERE key_id = :key_id", key_id=key_id) == "tester"


def test_what_is_known_of_the_keys_is_never_older_than_two_seconds(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("revector.service.access.time.monotonic", lambda: now[0])
    found = access.Access(lambda: served.engine, token=None, is_open=False)
    key_id, header = key_for(served, "read")
    secret = header["Authorization"].removeprefix("Bearer ")
    found.read()
    with served.engine.begin() as connection:
        keys.revoke(connection, key_id, actor="tester")
    now[0] += 2.0
    assert (found.is_stale, found.find(secret) is None) == (False, False)
    now[0] += 0.1
    assert found.is_stale
    found.read()
    assert found.find(secret) is None


def test_the_database_holds_no_key(served: World) -> None:
    _, header = key_for(served, "read")
    secret = header["Authorization"].removeprefix("Bearer ")
    row = served.sql("SELECT * FROM api_key")[0]
    assert bytes(row.digest) == keys.digest_of(secret)
    assert secret[20:] not in str(tuple(row))
    assert len(secret) == len("rv_") + 16 + 1 + 43


def test_while_the_database_is_down_nobody_is_let_in(tmp_path: Path) -> None:
    (tmp_path / "revector.toml").write_text(
        'database_url = "postgresql+psycopg://me@127.0.0.1:1/none"\n[collections.docs]\n'
    )
    with serve(load_project(tmp_path), is_open=False) as client:
        for path in ("/openapi.json", DOCUMENT, "/ready"):
            refused(client.get(path), 503, "DatabaseUnavailable")


def test_keys_that_make_no_sense_are_not_made(served: World) -> None:
    with served.engine.begin() as connection:
        for name, scopes in ((" ", ["read"]), ("shop", []), ("shop", ["read", "everything"])):
            with pytest.raises(ConfigError, match="Nothing was made"):
                keys.create(connection, name, scopes, None, actor="tester")
        with pytest.raises(StateError, match="there is no key"):
            keys.revoke(connection, "0" * 16, actor="tester")
        assert keys.read_keys(connection, revoked=True) == []


def test_keys_are_made_listed_and_revoked_by_the_command_line(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_once: None
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["keys", "create", "shop", "--scope", "read", "--scope", "write", "-c", "docs"]) == 0
    secret = capsys.readouterr().out.splitlines()[0]
    with serve(served.project) as client:
        header = {"Authorization": f"Bearer {secret}"}
        assert client.get(DOCUMENT, headers=header).status_code == 200
        assert run(["keys", "list"]) == 0
        listed = capsys.readouterr().out
        assert ("shop" in listed, "read, write" in listed, secret in listed) == (True, True, False)
        key_id = keys.id_of(secret)
        assert run(["keys", "create", "spare", "--scope", "admin", "--json"]) == 0
        assert '"key": "rv_' in capsys.readouterr().out
        assert run(["keys", "revoke", key_id]) == 0
        assert run(["keys", "revoke", key_id]) == exits.NOTHING_TO_DO
        refused(client.get(DOCUMENT, headers=header), 401, "Unauthorized")
    assert run(["keys", "create", "shop", "--scope", "read", "-c", "nope"]) == 2
    assert run(["keys", "revoke", "nothing"]) == 4


def test_making_and_revoking_a_key_is_in_the_history_of_the_collections_that_it_opens(served: World) -> None:
    with served.engine.begin() as connection:
        ensure_collection(connection, "other")
    everywhere, _ = key_for(served, "read", "write")
    here, _ = key_for(served, "read", collections=["docs"])
    elsewhere, _ = key_for(served, "admin", collections=["other"])
    with served.engine.begin() as connection:
        for key_id in (here, elsewhere, here):
            keys.revoke(connection, key_id, actor="maria")
    made, revoked = served.events("key_created"), served.events("key_revoked")
    assert {one["detail"]["key_id"] for one in made} == {everywhere, here}
    assert [(one["actor"], one["detail"]["key_id"], one["detail"]["scopes"]) for one in revoked] == [
        ("maria", here, ["read"])
    ]
    assert served.value("SELECT count(*) FROM event e JOIN collection c USING (cid) WHERE c.name = 'other'") == 3
    with served.engine.connect() as connection:
        assert check_chain(connection, "docs").broken == ()


def test_ready_tells_a_key_of_its_own_collections_only(
    served: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, service = "the model's folder is gone.", client.app.state.service
    monkeypatch.setattr(service, "_load", lambda _: gone)  # it is tried again in the background
    monkeypatch.setattr(service, "_warm", {served.generation().gen: gone})
    docs, other = (key_for(served, "read", collections=[name])[1] for name in ("docs", "other"))
    assert "docs" in refused(client.get("/ready", headers=docs), 503, "NotReady")
    answer = client.get("/ready", headers=other)
    assert (answer.status_code, "docs" in answer.text) == (200, False)


# Rates ----------------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_at_its_rate_and_holds_one_second() -> None:
    now = [0.0]
    buckets = Buckets(2.0, now=lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] += 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    now[0] += 100
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0.5]
    slow = Buckets(0.1, now=lambda: now[0])
    assert [slow.take("a"), slow.take("a")] == [0, 10]


def test_a_key_that_asks_too_often_is_told_when_to_ask_again_and_others_are_not_held_up(
    served: World, at_once: None
) -> None:
    served.project.settings.serve.requests_per_s = 0.01
    first, second = key_for(served, "write")[1], key_for(served, "read")[1]
    with serve(served.project) as client:
        assert client.put(DOCUMENT, json={"text": "once"}, headers=first).status_code == 200
        before = served.state()
        answer = client.put(DOCUMENT, json={"text": "twice"}, headers=first)
        refused(answer, 429, "TooManyRequests")
        assert answer.json()["retryable"]
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        assert served.state() == before
        assert client.get(DOCUMENT, headers=second).status_code == 200
        assert {client.get("/health").status_code for _ in range(5)} == {200}


# Logs -----------------------------------------------------------------------------------------------------------------


def test_no_log_holds_a_key_or_what_was_sent(
    served: World, at_once: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("REVECTOR_SERVE_TOKEN", TOKEN)
    key_id, good = key_for(served, "admin")
    wrong = {"Authorization": f"Bearer rv_{key_id}_{'x' * 43}"}
    with serve(served.project) as client:
        for header in (good, wrong, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Basic c2VjcmV0"}):
            calls(client, "docs", header)
            client.get("/ready", headers=header)
            client.get("/openapi.json", headers=header)
            client.put(DOCUMENT, json={"text": "confidential\0", "meta": {"a": "confidential"}}, headers=header)
            client.post(UPLOAD, content=b'{"id": "confidential"', headers={**header, **NDJSON})
            client.post(SEARCH, json={"query": "confidential", "where": {"a": []}}, headers=header)
    said: Any = caplog.text
    assert said
    for secret in (good["Authorization"][7:], wrong["Authorization"][7:], TOKEN, "c2VjcmV0", "confidential"):
        assert secret not in said
