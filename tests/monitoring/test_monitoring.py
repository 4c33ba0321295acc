"""Metrics: what a scrape says is what the database holds, and rules and dashboard name only what there is."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from revector import counts
from revector.cli import run as cli
from revector.encoders.api import Provider, ProviderSettings, load_api_encoder
from revector.encoders.api.fake import FakeServer, status
from revector.encoders.api.limits import Clock
from revector.encoders.hashing import HashingEncoder
from revector.errors import ConfigError
from revector.indexing import loads, watch
from revector.interfaces import whole_texts
from revector.monitoring import FILES, Metrics
from revector.registry.spending import SpendingMeter
from revector.service import create_app
from revector.spec import ModelSpec
from services import HERE
from worlds import World

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(metrics: Metrics) -> Samples:
    return parsed(generate_latest(metrics.registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"revector_{name}", frozenset(labels.items())]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_scrape_says_what_the_database_holds(swapped: World) -> None:
    swapped.put(7, start=900)
    swapped.sql("UPDATE pending SET since = clock_timestamp() - interval '90 s' WHERE doc_id = 'd00900'")
    swapped.sql("UPDATE pending SET state = 'dead' WHERE doc_id = 'd00901'")
    swapped.sql("INSERT INTO rejected VALUES ((SELECT cid FROM collection), 'none', 'x.jsonl', 'no text')")
    with swapped.engine.begin() as connection:
        loads.add(connection)
    found = scraped(swapped.project.metrics())
    for role in ("active", "standby"):
        slot = {"collection": "docs", "role": role}
        generation = swapped.generation(role)
        assert value(found, "queue_documents", **slot) == 6
        assert 90 <= value(found, "indexing_lag_seconds", **slot) < 120
        assert value(found, "dead_letters", **slot) == 1
        assert value(found, "waived_dead_letters", **slot) == 0
        size = "SELECT pg_relation_size(:name), pg_total_relation_size(:table)"
        graph, table = swapped.sql(size, name=f"{generation.physical_name}_hnsw", table=generation.physical_name)[0]
        assert value(found, "index_bytes", **slot) == graph > 0
        assert value(found, "storage_bytes", **slot) == table > graph
        named = {"generation": str(generation.gen), "revision": generation.revision, "phase": generation.phase}
        assert value(found, "generation_info", **slot, **named, model=generation.spec.model.name) == 1
        assert value(found, "backfill_planned_documents", **slot) == 120
        assert value(found, "backfill_published_documents", **slot) == 120
    gate = swapped.value(
        "SELECT detail->'new'->'recall'->>'mean' FROM gate_result WHERE kind = 'recall' ORDER BY id DESC"
    )
    assert value(found, "gate_recall", collection="docs", role="active") == float(gate)
    verdict = {"collection": "docs", "role": "active", "kind": "recall"}
    assert [value(found, "gate_verdict", **verdict, verdict=one) for one in ("pass", "fail", "inconclusive")] == [
        1,
        0,
        0,
    ]
    left = swapped.value("SELECT extract(epoch FROM rollback_deadline - clock_timestamp())::float8 FROM collection")
    assert left <= value(found, "rollback_seconds_left", collection="docs") <= 48 * 3600
    assert value(found, "documents", collection="docs") == 127
    assert value(found, "rejected_records", collection="docs") == 1
    cache = swapped.value("SELECT pg_size_bytes(current_setting('effective_cache_size'))")
    assert value(found, "index_memory_limit_bytes") == cache
    assert value(found, "database_up") == 1


def test_no_series_stands_for_what_is_not_there(served: World) -> None:
    names = {name for name, _ in scraped(served.project.metrics())}
    assert not names & {"revector_rollback_seconds_left", "revector_canary_recall", "revector_documents"}


def test_the_canary_of_the_active_index_is_told(swapped: World) -> None:
    swapped.project.canary("docs", actor="tester")
    found = scraped(swapped.project.metrics())
    recall, baseline = swapped.sql("SELECT recall, baseline FROM canary")[0]
    assert value(found, "canary_recall", collection="docs") == recall
    assert value(found, "canary_baseline_recall", collection="docs") == baseline
    assert value(found, "canary_alerts", collection="docs") == 0
    assert 0 <= value(found, "canary_age_seconds", collection="docs") < 60


def test_the_limit_of_index_memory_is_a_setting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVECTOR_METRICS__INDEX_MEMORY_GIB", "1.5")
    del world.project
    assert value(scraped(world.project.metrics()), "index_memory_limit_bytes") == 1.5 * 2**30


def test_the_database_is_read_once_for_scrapes_at_the_same_time(served: World) -> None:
    metrics, seen = served.project.metrics(), []
    sa.event.listen(served.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    for _ in range(3):
        scraped(metrics)
    assert sum("FROM slot s" in statement and "pg_total_relation_size" in statement for statement in seen) == 1


def test_without_a_database_the_scrape_says_so_and_what_was_counted_stays(world: World) -> None:
    def lost() -> sa.Engine:
        return sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    counts.add("errors", 1, "DatabaseUnavailable")
    found = scraped(Metrics(lost, {}))
    assert value(found, "database_up") == 0
    assert value(found, "errors_total", error="DatabaseUnavailable") >= 1
    assert not any(name == "revector_queue_documents" for name, _ in found)


class NoWaiting(Clock):
    def sleep(self, seconds: float, unless: threading.Event) -> None:
        del seconds, unless


def test_429_is_told_apart_from_5xx_and_what_was_paid_is_told(world: World, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the api extra is not installed")
    model = ModelSpec("api:paid/words", dim=64, max_tokens=32)
    file = tmp_path / "tokenizer.json"
    HashingEncoder(model).tokenizer.save(str(file))
    with FakeServer() as server:
        server.script += [status(429), status(429), status(503)]
        chosen = ProviderSettings(base_url=server.base_url, tokenizer=str(file), price_per_million_tokens_usd=1e6)
        far = Provider("paid", chosen, meter=SpendingMeter(lambda: world.engine), clock=NoWaiting())
        load_api_encoder(model, {"paid": far}, tmp_path).encode("document", whole_texts(["three small words"]))
    found = scraped(Metrics(lambda: world.engine, {"paid": far}))
    assert value(found, "provider_requests_total", provider="paid") == 4
    assert value(found, "provider_failed_requests_total", provider="paid", kind="rate_limited") == 2
    assert value(found, "provider_failed_requests_total", provider="paid", kind="server_errors") == 1
    tokens = world.value("SELECT tokens FROM spending")
    assert value(found, "provider_paid_tokens", provider="paid") == tokens > 0
    assert value(found, "provider_spent_usd", provider="paid") == pytest.approx(tokens)
    assert value(found, "tokens_embedded_total", provider="paid") == tokens


def test_totals_count_what_workers_publish_and_what_fails(served: World) -> None:
    metrics = served.project.metrics()
    counts.add("chunks_embedded", 1, served.collection.cid)
    before = scraped(metrics)
    served.put(5, start=500)

    def refuse(texts: Any, vectors: Any) -> Any:
        if any("apple503" in text for text in texts):
            raise ValueError("poison")
        return vectors

    served.loader["hashing"].hook = refuse
    served.project.worker().drain()
    after = scraped(Metrics(lambda: served.engine, {}))

    def grown(name: str, **labels: str) -> float:
        key = f"revector_{name}", frozenset({"collection": "docs", **labels}.items())
        return after.get(key, 0) - before.get(key, 0)

    assert (grown("documents_published_total"), grown("chunks_embedded_total")) == (4, 4)
    assert (grown("documents_failed_total", outcome="retried"), grown("documents_failed_total", outcome="dead")) == (
        1,
        0,
    )


def test_an_unknown_total_or_label_is_refused() -> None:
    with pytest.raises(KeyError):
        counts.add("apples", 1)
    with pytest.raises(KeyError):
        counts.add("errors", 1)


# A real worker --------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(served: World) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [sys.executable, "-m", "revector", "worker", "--metrics-port", str(port)]
    process = subprocess.Popen(command, cwd=served.root, text=True, stderr=subprocess.PIPE)
    yield process, port
    process.kill()
    process.communicate()


def test_a_worker_serves_its_metrics_until_it_is_stopped(
    served: World, worker: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = worker
    served.put(3, start=700)
    url, deadline = f"http://127.0.0.1:{port}/metrics", time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = parsed(answer.read().decode())
        except OSError:
            found = {}
        published = found.get(("revector_documents_published_total", frozenset({("collection", "docs")})))
        if published == 3 and value(found, "queue_documents", collection="docs", role="active") == 0:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert found["process_resident_memory_bytes", frozenset()] > 0
    assert value(found, "documents", collection="docs") in (120, 123)  # its first sample may precede the three
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_a_port_that_is_taken_is_told_before_anything_starts(served: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ConfigError, match="Nothing was started"):
        served.project.metrics().listen("127.0.0.1", listener.getsockname()[1])


# Load over time -------------------------------------------------------------------------------------------------------


def test_the_load_is_kept_once_a_minute_and_old_load_is_forgotten(swapped: World) -> None:
    swapped.put(4, start=900)
    swapped.sql(
        "INSERT INTO load_sample SELECT cid, clock_timestamp() - interval '31 days', 1, 1, 1, 1 FROM collection"
    )
    with swapped.engine.begin() as connection:
        added = [loads.add(connection), loads.add(connection)]
        kept = loads.read(connection, swapped.collection.cid)
    assert added[0] == 1
    assert len(kept) == sum(added)  # a minute may end between the two
    assert (kept[0]["queued"], kept[0]["dead"], kept[0]["documents"]) == (4, 0, 124)
    assert 0 < kept[0]["lag_s"] < 60
    with swapped.engine.connect() as connection:
        assert loads.read(connection, swapped.collection.cid, since=kept[-1]["minute"]) == kept[-1:]


def test_large_collections_are_counted_once_an_hour(served: World) -> None:
    served.sql(
        "INSERT INTO load_sample SELECT cid, greatest(date_trunc('hour', clock_timestamp()), "
        "date_trunc('minute', clock_timestamp()) - interval '1 minute'), 0, 0, 0, 5000000 FROM collection"
    )
    with served.engine.begin() as connection:
        if loads.add(connection):  # not in the first minute of an hour, whose sample is there
            assert loads.read(connection, served.collection.cid)[-1]["documents"] == 5_000_000
        connection.execute(sa.text("UPDATE load_sample SET minute = minute - interval '1 hour'"))
        assert loads.add(connection) == 1
        assert loads.read(connection, served.collection.cid)[-1]["documents"] == 120


def test_a_worker_samples_the_load_once_a_minute(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(watch, "running_s", lambda: now_s)
    seen = watch.Watch(served.engine, served.project.encoders)
    seen.load()
    assert served.value("SELECT count(*) FROM load_sample") == 1
    served.sql("DELETE FROM load_sample")
    now_s += 59
    seen.load()
    assert served.value("SELECT count(*) FROM load_sample") == 0
    now_s += 1
    seen.load()
    assert served.value("SELECT count(*) FROM load_sample") == 1


# Rules and dashboard --------------------------------------------------------------------------------------------------


def exposed(metrics: Metrics) -> set[str]:
    return {family.name + ("_total" if family.type == "counter" else "") for family in metrics.collect()}


def named_in(expression: str) -> set[str]:
    """The metrics of an expression; of a histogram, its own name."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\brevector_\w+", expression)}


def expressions() -> Iterator[tuple[str, str]]:
    board = json.loads(FILES["dashboard"].read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for group in yaml.safe_load(FILES["alerts"].read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_rules_and_dashboard_name_only_metrics_that_there_are_and_the_dashboard_shows_all(world: World) -> None:
    there = exposed(world.project.metrics())
    named: set[str] = set()
    for where, expression in expressions():
        found = named_in(expression)
        assert found <= there, where
        named |= found
    assert named == there


def test_every_label_in_a_rule_or_panel_is_one_of_its_metric(swapped: World) -> None:
    counts.add("documents_failed", 1, swapped.collection.cid, "dead")
    counts.add("errors", 1, "EncoderError")
    swapped.project.canary("docs", actor="tester")
    labels: dict[str, set[str]] = {}
    for name, found in scraped(swapped.project.metrics()):
        labels.setdefault(name, set()).update(label for label, _ in found)
    for where, expression in expressions():
        for name, inside in re.findall(r"\b(revector_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=|!=|=~)", inside))
            assert used <= labels.get(name, used), (where, name)


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = json.loads(FILES["dashboard"].read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        area = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not area & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= area


def test_the_command_writes_metrics_rules_and_dashboard(
    served: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.root)
    assert cli(["metrics"]) == 0
    assert value(parsed(capsys.readouterr().out), "database_up") == 1
    assert cli(["metrics", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["uid"] == "revector"
    assert cli(["metrics", "alerts"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["groups"]


def test_names_follow_the_conventions_of_prometheus() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(lambda: sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"), {})
    registry.register(metrics)
    for family in registry.collect():
        assert family.name.startswith("revector_")
        assert family.documentation.endswith("."), family.name


# The service ----------------------------------------------------------------------------------------------------------


def test_the_service_tells_its_metrics_and_counts_answers_by_route_and_status(served: World) -> None:
    with TestClient(create_app(served.project, is_open=True), base_url=HERE, raise_server_exceptions=False) as client:
        assert client.get("/collections/docs/documents/d00001").status_code == 200
        assert client.get("/collections/docs/documents/nowhere").status_code == 404
        assert client.request("NONSENSE", "/nowhere").status_code == 404
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = parsed(answer.text)
    assert value(found, "http_request_seconds_count", route="get_document", status="200") == 1
    assert value(found, "http_request_seconds_count", route="get_document", status="404") == 1
    assert value(found, "http_request_seconds_count", route="none", status="404") == 1
    assert value(found, "queue_documents", collection="docs", role="active") == 0


def test_the_metrics_of_the_service_want_its_key(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVECTOR_SERVE_TOKEN", "k" * 40)
    with TestClient(create_app(served.project), base_url=HERE, raise_server_exceptions=False) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer " + "k" * 40}).status_code == 200


def test_asked_again_and_again_a_status_takes_a_large_count_from_the_last_hour(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "COUNTED_EACH_MINUTE", 100)
    served.sql("DELETE FROM load_sample")
    with served.engine.begin() as connection:
        loads.add(connection)
    served.put(5, 900)
    asked = {recount: served.project.status("docs", recount=recount).documents for recount in (False, True)}
    assert asked == {False: 120, True: 125}
    served.sql("UPDATE load_sample SET minute = minute - interval '61 minutes'")
    assert served.project.status("docs").documents == 125
