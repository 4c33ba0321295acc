"""The capacity model: its bytes are those of PostgreSQL, its constants those of the files that it cites."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from revector.cli import run
from revector.errors import ConfigError
from revector.planning.capacity import CapacityInput, capacity
from revector.planning.constants import (
    CONSTANTS,
    build_cpu_s,
    build_processes,
    constants,
    graph_bytes,
    publish_cpu_s,
    row_bytes,
    search_cpu_s,
    wal_bytes,
)
from revector.planning.costs import Costs
from revector.spec import IndexSpec
from revector.stores.redis import TRAITS as REDIS
from worlds import World

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "evaluation" / "scale" / "results"
MOST_ERROR = 0.2


def figures(corpus: CapacityInput, **overrides: float) -> dict[str, float]:
    return {line.key: line.value for line in capacity(corpus, Costs(), constants(overrides)).lines}


def test_a_billion_documents_need_what_a_back_of_an_envelope_says() -> None:
    """3 TB of float32, 28 hours of one GPU at 10,000 documents a second, 6 to 15 TB with an index."""
    corpus = CapacityInput(1e9, 768, tokens_per_chunk=100)
    found = {line.key: line.value for line in capacity(corpus, Costs(gpu_tokens_per_minute=10_000 * 100 * 60)).lines}
    assert found["raw_gb"] == 3_072
    assert found["wall_hours"] == pytest.approx(27.8, abs=0.1)
    assert 6_000 < found["index_gb"] < 15_000


def test_more_gpus_take_less_time_and_a_wanted_time_takes_more_gpus() -> None:
    hours = [figures(CapacityInput(1e9, 768, gpus=gpus))["wall_hours"] for gpus in (1, 8, 64)]
    assert hours == sorted(hours, reverse=True)
    wanted = [figures(CapacityInput(1e9, 768, hours=hours))["gpus_wanted"] for hours in (12.0, 24.0, 48.0)]
    assert wanted == sorted(wanted, reverse=True)
    corpus = CapacityInput(1e9, 768, gpus=int(wanted[1]))
    assert figures(corpus)["wall_hours"] <= 24


def test_more_searches_a_second_take_replicas_and_more_candidates_fewer_searches() -> None:
    one = figures(CapacityInput(1e7, 384))
    asked = figures(CapacityInput(1e7, 384, qps=2.5 * one["searches_per_s"]))
    assert (asked["servers"], asked["replicas"]) == (3, 2)
    assert asked["servers_usd_month"] == pytest.approx(3 * one["server_usd_month"])
    assert "servers" not in one
    rates = [figures(CapacityInput(1e7, 384, index=IndexSpec(ef_search=ef)))["searches_per_s"] for ef in (20, 100, 800)]
    assert rates == sorted(rates, reverse=True)
    with pytest.raises(ConfigError, match="was not measured"):
        CapacityInput(1e7, 384, index=IndexSpec(store="redis"), store="redis", qps=100)


def test_the_example_of_the_manual_is_what_the_model_says() -> None:
    found = figures(CapacityInput(5e8, 256, index=IndexSpec(m=32), qps=5_000))
    said = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    for key, wording in {
        "gpu_hours": "{:,.0f} GPU-hours",
        "raw_gb": "{:,.0f} GB",
        "graph_gb": "{:,.0f} GB",
        "server_gb": "{:,.0f} GB",
        "server_while_built_gb": "{:,.0f} GB",
        "index_gb": "{:,.0f} GB, two",
        "archive_gb": "{:,.0f} GB, $",
        "archive_usd_month": "${:,.0f} a month",
        "search_ms": "{:,.1f} ms of processor",
        "searches_per_s": "{:,.0f} a second on 32 cores",
        "servers": "{:,.0f} servers",
        "replicas": "{:,.0f} of them replicas",
        "servers_usd_month": "${:,.0f} a month",
    }.items():
        assert wording.format(found[key]) in said, key


def test_a_candidate_costs_what_its_file_measured() -> None:
    found = json.loads((ROOT / "evaluation" / "bench" / "results" / "ef_search.json").read_text(encoding="utf-8"))
    measured = next(one["value"] for one in found["figures"] if one["name"] == "per candidate of ef_search")
    assert CONSTANTS["search_candidate_cpu_s"].value == pytest.approx(measured * 1e-6, rel=MOST_ERROR)


def test_half_precision_and_bits_shrink_the_graph() -> None:
    sizes = [
        graph_bytes(768, IndexSpec()),
        graph_bytes(768, IndexSpec(storage="halfvec")),
        graph_bytes(768, IndexSpec(quantize="bit")),
    ]
    assert sizes[0] / sizes[1] == 2
    assert sizes[1] / sizes[2] > 3
    assert graph_bytes(768, IndexSpec(kind="exact")) == 0


@pytest.mark.parametrize(
    ("dim", "index"),
    [
        (64, IndexSpec()),
        (384, IndexSpec()),
        (384, IndexSpec(storage="halfvec", m=32)),
        (1_000, IndexSpec()),
        (1_536, IndexSpec(storage="halfvec")),
        (768, IndexSpec(quantize="bit")),
    ],
)
def test_bytes_are_those_of_postgresql(world: World, dim: int, index: IndexSpec) -> None:
    kind = f'IndexSpec(storage="{index.storage}", m={index.m}, quantize="{index.quantize}")'
    world.revision("a100", None, f'model = ModelSpec(name="hashing", dim={dim})', f"index = {kind}")
    world.put(1_500)
    world.upgrade("a100", to="index")
    name = world.generation("building").physical_name
    relation = "SELECT pg_relation_size('{}')"
    graph = world.value(relation.format(f"{name}_hnsw")) / 1_500
    rows = (world.value(relation.format(name)) + world.value(relation.format(f"{name}_pkey"))) / 1_500
    assert graph_bytes(dim, index) == pytest.approx(graph, rel=0.1)
    assert row_bytes(dim, index.storage, 6) == pytest.approx(rows, rel=0.1)


def test_builds_are_parallel_only_from_a_size_on_and_never_beyond_the_cores() -> None:
    assert [build_processes(size * 2**20, 64) for size in (1, 7.9, 8, 10_000_000)] == [1, 1, 8, 8]
    assert (build_processes(10**13, 2), build_processes(10**13, 2, most=0)) == (2, 1)


def test_a_constant_of_ones_own_replaces_ours_and_says_so() -> None:
    known = constants({"server_cores": 64})
    assert (known["server_cores"].value, known["server_cores"].source) == (64, "your own")
    corpus = CapacityInput(1e9, 768)
    assert figures(corpus, server_cores=64)["searches_per_s"] == 2 * figures(corpus)["searches_per_s"]
    with pytest.raises(ConfigError, match="not known"):
        constants({"magic": 1})
    with pytest.raises(ConfigError, match="above 0"):
        constants({"server_cores": 0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"documents": 0},
        {"dim": 0},
        {"gpus": 0},
        {"hours": 0.0},
        {"tokens_per_chunk": 0},
        {"store": "nowhere"},
        {"store": "chroma", "index": IndexSpec(storage="halfvec")},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Nothing was computed"):
        CapacityInput(**{"documents": 1e6, "dim": 64, **wrong})


def test_an_index_is_on_one_server_and_one_that_nobody_has_is_said() -> None:
    corpus = CapacityInput(1e9, 768)
    found = capacity(corpus, Costs())
    lines = {line.key: line for line in found.lines}
    assert "servers" not in lines
    graph = lines["graph_gb"].value
    assert lines["server_gb"].value == math.ceil(graph / 0.75)
    assert lines["server_gb"].name == f"one server of {math.ceil(graph / 0.75):,} GB"
    assert not any("shard" in f"{line.key} {line.name}" for line in found.lines)
    assert found.warning == ""
    assert "is not spread over several" in capacity(corpus, Costs(), constants({"server_memory_gb": 512})).warning
    assert lines["server_while_built_gb"].value > lines["server_gb"].value


def test_an_index_in_another_store_takes_what_a_point_was_measured_to_take_there() -> None:
    here = figures(CapacityInput(1e6, 384))
    costs = REDIS.costs
    there = figures(CapacityInput(1e6, 384, store="redis"))
    point = costs.point_bytes + 384 * costs.number_bytes + 2 * 16 * costs.link_bytes
    assert there["index_gb"] == pytest.approx(point * 1e6 / 1e9)
    assert there["store_gb"] == 2 * there["index_gb"]
    assert there["postgresql_gb"] == pytest.approx(here["documents_gb"] + 2 * 1e6 * 423 / 1e9)
    assert there["publish_cpu_hours"] == pytest.approx(here["publish_cpu_hours"] + 1e6 * costs.put_cpu_s / 3_600)
    assert there["wal_gb"] < here["wal_gb"] - here["index_gb"] / 2
    assert there["server_gb"] == math.ceil(there["index_gb"] / 0.75)
    assert there["build_hours"] == 0
    assert figures(CapacityInput(1e6, 384, store="milvus"))["build_hours"] > 0
    assert "search_ms" not in there  # not measured there
    assert there["raw_gb"] == here["raw_gb"]
    assert "by means of milvus" in capacity(CapacityInput(1e11, 768, store="milvus"), Costs()).warning


def test_searches_cost_what_their_server_costs() -> None:
    found = figures(CapacityInput(1e7, 384))
    month = found["searches_per_s"] * 730 * 3_600
    assert found["usd_per_million_searches"] == pytest.approx(found["server_usd_month"] / month * 1e6)
    assert found["server_usd_month"] == pytest.approx(max(found["server_gb"], 32 * 8) * 0.008 * 730)
    assert figures(CapacityInput(1e8, 384))["searches_per_s"] < found["searches_per_s"]


# Against what was measured --------------------------------------------------------------------------------------------


def measured(name: str = "measure") -> dict[str, float]:
    kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return {one["name"]: one["value"] for one in kept["figures"]}


def sizes(found: dict[str, float]) -> list[int]:
    return sorted({int(name.split(" ")[0].replace(",", "")) for name in found if " documents: " in name})


RUNS = [(name, documents) for name in ("measure", "large") for documents in sizes(measured(name))]


def test_every_file_that_a_constant_cites_is_there() -> None:
    cited = {
        one.source.split(",")[0].split(":")[0] for one in CONSTANTS.values() if one.source.startswith("evaluation/")
    }
    assert cited
    assert [path for path in cited if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(("name", "documents"), RUNS)
def test_the_model_is_within_a_fifth_of_each_run(name: str, documents: int) -> None:
    found = measured(name)
    index = IndexSpec()
    at = lambda name: found.get(f"{documents:,} documents: {name}", math.nan)  # noqa: E731
    value = {name: one.value for name, one in CONSTANTS.items()}
    pairs = {
        "publish": (publish_cpu_s(documents), at("publish, processor at the best pace")),
        "copy": (documents * value["copy_cpu_s"], at("copy: backfill, processor at the best pace")),
        "search": (300 * search_cpu_s(documents, 64), at("search, processor at the best pace")),
        "vectors": (documents * row_bytes(64, "vector", 10), at("size of vectors") + at("size of their key")),
        "ledger": (documents * value["ledger_bytes"], at("size of ledger")),
        "archive": (documents * (256 + value["archive_bytes"]), at("size of archive")),
        "wal": (
            wal_bytes(documents) + documents * row_bytes(64, "vector", 10),
            at("seed, WAL") + at("backfill, WAL"),
        ),
    }
    if not math.isnan(at("size of HNSW")):
        pairs["HNSW"] = (documents * graph_bytes(64, index), at("size of HNSW"))
        pairs["index"] = (build_cpu_s(documents, 64, index), at("index, processor at the best pace"))
    errors = {name: model / run - 1 for name, (model, run) in pairs.items() if not math.isnan(run)}
    assert len(errors) >= 5
    assert {name: round(error, 3) for name, error in errors.items() if abs(error) > MOST_ERROR} == {}


# Command line ---------------------------------------------------------------------------------------------------------


def test_the_page_names_figures_constants_and_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no project is needed
    asked = ["capacity", "--documents", "1e9", "--dim", "768", "--gpus", "8", "--hours", "48"]
    assert run(asked) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in CONSTANTS)
    assert "evaluation/scale/results/measure.json" in page
    assert "one server of" in page
    assert run([*asked, "--set", "server_memory_gb=512", "--tokens-per-minute", "1e6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["constants"]["server_memory_gb"]["source"] == "your own"
    assert found["figures"]["gpu_hours"]["value"] == pytest.approx(200e9 / 60e6)
    assert all(math.isfinite(one["value"]) for one in found["figures"].values())


@pytest.mark.parametrize(
    "wrong",
    [
        ["--documents", "0"],
        ["--storage", "int8"],
        ["--set", "magic=1"],
        ["--set", "server_cores"],
        ["--store", "nowhere"],
    ],
)
def test_wrong_options_end_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["capacity", "--documents", "1e6", "--dim", "64", *wrong]) == 2
    assert capsys.readouterr().err.startswith("revector: ")
