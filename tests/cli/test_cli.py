"""The command line: the whole story, documents, searches and measurements."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, started, write_source

from revector.cli import exits
from worlds import World

# The story ------------------------------------------------------------------------------------------------------------


def test_a_collection_is_made_migrated_rolled_back_and_retired_by_the_command_line_alone(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVECTOR_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("REVECTOR_DRAIN_S", "0")
    made = cli("init", "-c", "notes")
    assert made.code == 0
    assert "revector.toml" in made.out
    assert "database tables" in made.out
    assert "Everything was there" in cli("init").out
    assert cli("upgrade").code == 2  # no migration file yet

    write_source(tmp_path)
    fields = ("--id-field", "id", "--text-field", "body")
    report = cli("ingest", "docs.jsonl", *fields, "--json").json
    assert (report["read"], report["written"], report["rejected"]) == (81, 80, 1)
    assert "80 unchanged" in cli("ingest", "docs.jsonl", *fields).out
    assert cli("dlq", "list", "--json").json[0]["doc_id"] == "none"

    first = cli("revision", "-m", "first", "--model", "hashing", "--dim", "64", "--json").json
    assert re.search(r"\+ +model.dim +64", cli("plan").out)
    ended = cli("upgrade")
    assert ended.code == 0
    assert re.findall(r"✓ (\w+)", ended.out) == [
        "plan",
        "provision",
        "backfill",
        "index",
        "verify",
        "gate",
        "approve",
        "swap",
    ]
    assert cli("search", "apple7 pear7", "-k", "3", "--json").json["hits"][0]["id"] == "d00007"
    assert cli("plan").code == exits.NOTHING_TO_DO

    (tmp_path / "labels" / "qrels").mkdir(parents=True)
    (tmp_path / "labels" / "queries.jsonl").write_text('{"_id": "q", "text": "apple7 pear7"}\n')
    (tmp_path / "labels" / "qrels" / "test.tsv").write_text("q\td00007\t1\n")
    with (tmp_path / "revector.toml").open("a") as file:
        file.write('qrels = "labels"\n')
    lenient = ("--min-queries", "1", "--max-drop", "1")
    second = cli("revision", "-m", "wider", "--dim", "128", *lenient, "--json").json
    assert (second["down_revision"], second["model"]["name"]) == (first["revision"], "hashing")
    assert cli("upgrade", "--approval").code == 6
    assert cli("approve", "--reason", "looked at it").code == 0
    assert cli("upgrade", second["revision"][:6]).code == 0
    assert cli("current", "--json").json == [
        {
            "collection": "notes",
            "active": second["revision"],
            "standby": first["revision"],
            "building": None,
            "head": second["revision"],
            "message": "wider",
            "edited": [],
        }
    ]

    assert "is served again" in cli("rollback", "--reason", "worse").out
    assert cli("current", "--json").json[0]["active"] == first["revision"]
    assert cli("upgrade").code == 0
    assert cli("retire").code == 4  # its window is open
    assert cli("retire", "--now", "--reason", "disk").code == 0
    states = [row["state"] for row in cli("history", "--json").json]
    assert states == ["retired", "active"]
    assert cli("history", "--check").code == 0


def test_upgrade_stops_after_the_step_named_and_resumes(served: World, at: Any, cli: Cli) -> None:
    at(served)
    assert [step["step"] for step in cli("upgrade", "--to", "index", "--json").json["steps"]][-1] == "index"
    assert cli("status", "--json").json["migration"]["phase"] == "indexed"
    assert "▸ verify" in cli("status").out
    again = cli("upgrade", "--json").json["steps"]
    assert [step["step"] for step in again if step["changed"]] == ["verify", "gate", "approve", "swap"]


def test_an_upgrade_to_an_index_that_would_end_with_the_command_is_refused(served: World, at: Any, cli: Cli) -> None:
    at(served)
    served.revision(
        "b200", "a100", 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(kind="exact", store="memory")'
    )
    before = served.state()
    refused = cli("upgrade")
    assert (refused.code, "ends with the process that made it" in refused.err) == (2, True)
    assert served.state() == before


def test_abort_ends_an_open_migration(served: World, at: Any, cli: Cli) -> None:
    at(served)
    assert cli("upgrade", "--to", "backfill").code == 0
    assert cli("abort", "--reason", "wrong model").code == 0
    assert [row["state"] for row in cli("history", "--json").json] == ["active", "aborted"]


# Documents ------------------------------------------------------------------------------------------------------------


def test_a_document_is_put_from_text_file_and_standard_input(
    served: World, at: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(served)
    assert cli("document", "put", "a", "--text", "one", "--meta", '{"n": 1}', "--version", "7").code == 0
    Path("two.txt").write_text("two")
    assert cli("document", "put", "b", "--file", "two.txt").code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"three")))
    assert cli("document", "put", "c").code == 0
    assert [cli("document", "get", name, "--json").json["text"] for name in "abc"] == ["one", "two", "three"]
    assert cli("document", "put", "a", "--text", "older", "--version", "6", "--json").json["changed"] is False
    gone = cli("document", "delete", "a", "b", "never", "--json").json
    assert gone == {"deleted": ["a", "b"], "ignored": ["never"], "older": {}}
    assert cli("document", "get", "a").code == exits.NOTHING_TO_DO


def test_put_waits_until_a_running_worker_serves_it_and_sigterm_ends_the_worker_in_order(
    served: World, at: Any, cli: Cli
) -> None:
    at(served)
    worker = started("worker", "--threads", "2", cwd=served.root)
    assert worker.stderr is not None
    assert "working for docs, 2 batches of each index at a time" in worker.stderr.readline()
    assert cli("document", "put", "new", "--text", "zebra quagga", "--wait").code == 0
    assert cli("search", "zebra quagga", "--json").json["hits"][0]["id"] == "new"
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "published 1 documents" in err
    assert "stopped" in err


def test_worker_once_drains_what_is_due_and_ends(served: World, at: Any, cli: Cli) -> None:
    at(served).put(40, start=500)
    assert cli("worker", "--once").code == 0
    assert cli("status", "--json").json["slots"]["active"]["waiting"]["live"] == 0
    assert served.search("apple510 pear510")[0] == "d00510"


def test_a_dead_letter_is_listed_retried_and_waived(served: World, at: Any, cli: Cli) -> None:
    at(served).put(1, start=900)
    served.sql(
        "UPDATE pending SET state = 'dead', attempts = 8, last_error = 'the encoder choked' WHERE doc_id = 'd00900'"
    )
    assert "the encoder choked" in cli("dlq", "list").out
    assert cli("dlq", "waive", "d00900", "--why", "a dump", "--json").json == {"documents": 1, "generations": 1}
    assert cli("dlq", "list", "--json").json[0]["waived_by"]
    assert cli("dlq", "waive", "d00900", "--why", "again").code == 4
    assert cli("dlq", "retry", "--json").json == {"retried": 1}
    assert "No dead letters" in cli("dlq", "list").out


def test_many_dead_letters_are_waived_by_their_reason_and_none_where_one_has_none(
    served: World, at: Any, cli: Cli
) -> None:
    at(served).put(3, start=900)
    for doc_id, error in (
        ("d00900", "unknown tokens: 71%"),
        ("d00901", "unknown tokens: 80%"),
        ("d00902", "it choked"),
    ):
        served.sql(f"UPDATE pending SET state = 'dead', last_error = '{error}' WHERE doc_id = '{doc_id}'")
    assert cli("dlq", "waive", "--why", "nothing named").code == 2
    assert cli("dlq", "waive", "d00900", "--all", "--why", "both named").code == 2
    assert cli("dlq", "waive", "d00900", "d00001", "--why", "one has none").code == 4
    assert cli("dlq", "waive", "--all", "--reason", "no such reason", "--why", "x").code == 4
    assert not any(one["waived_by"] for one in cli("dlq", "list", "--json").json)
    waived = cli("dlq", "waive", "--all", "--reason", "unknown tokens", "--why", "Thai", "--json").json
    assert waived == {"documents": 2, "generations": 2}
    assert {one["doc_id"] for one in cli("dlq", "list", "--json").json if one["waived_by"]} == {"d00900", "d00901"}
    assert served.events("dlq_waive")[0]["detail"]["doc_ids"] == ["d00900", "d00901"]


# Search and measure ---------------------------------------------------------------------------------------------------


def test_search_filters_explains_and_asks_a_named_generation(swapped: World, at: Any, cli: Cli) -> None:
    at(swapped)
    standby = swapped.generation("standby").gen
    found = cli(
        "search", "apple7", "-k", "2", "--where", '{"n": {"gte": 7, "lt": 9}}', "--generation", str(standby), "--json"
    )
    assert {hit["id"] for hit in found.json["hits"]} == {"d00007", "d00008"}
    assert found.json["generation"] == standby
    page = cli("search", "apple7 pear7", "--explain", "--by", "chunk", "--exact").out
    assert "exact: every vector" in page
    assert "revision b200" in page


def test_eval_prints_metrics_with_intervals_and_the_worst_queries(served: World, at: Any, cli: Cli) -> None:
    at(served).labels([("d00001", "apple1 pear1"), ("d00002", "apple90 pear90"), ("gone", "apple3")])
    found = cli("eval", "-k", "1", "--exact", "--json").json
    assert found["metrics"]["recall"]["mean"] == 0.5
    assert found["queries"] == 2
    assert [(row["text"], row["relevant"], row["found"]) for row in found["worst"]] == [
        ("apple90 pear90", ["d00002"], ["d00090"])
    ]
    assert "The worst queries:" in cli("eval", "-k", "1").out


def test_eval_writes_a_page_with_the_active_generation_beside_the_asked_one(swapped: World, at: Any, cli: Cli) -> None:
    hostile = "apple7 and <script>alert(1)</script>"
    at(swapped).labels([(f"d{n:05d}", f"apple{n} pear{n}") for n in range(40)] + [("d00007", hostile)])
    standby, page = swapped.generation("standby").gen, swapped.root / "report.html"
    asked = ("eval", "-k", "5", "--html", str(page))
    assert cli(*asked, "--generation", str(standby), "--json").json["html"] == str(page)
    both = page.read_text(encoding="utf-8")
    assert "Gate of revision a100 against b200 (docs)" in both
    assert "<script" not in both
    assert "length: " in both
    assert "How many queries changed, and by how much?" in both
    assert f"Wrote {page}" in cli(*asked).out
    assert "How much does revision b200 find?" in page.read_text(encoding="utf-8")
    refused = cli("eval", "--html", str(swapped.root / "nowhere" / "report.html"))
    assert (refused.code, "Nothing was measured" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_model_trained_on_the_collection_gives_the_next_revision_its_width(served: World, at: Any, cli: Cli) -> None:
    at(served)
    trained = cli("train", "lsa", "models/lsa", "--dim", "16", "--json")
    assert trained.json["model"] == "./models/lsa"
    assert cli("train", "lsa", "models/lsa", "--dim", "16").code == 2  # it is there already
    written = cli("revision", "-m", "lsa", "--model", "./models/lsa", "--chunk-tokens", "64", "--json").json
    assert (written["model"]["dim"], written["chunking"]["max_tokens"], written["chunking"]["overlap_tokens"]) == (
        16,
        64,
        8,
    )
    assert "lsa" in cli("current").out


def test_a_revision_can_change_the_index_alone(served: World, cli: Cli) -> None:
    before = cli("revision", "-m", "halves", "--storage", "halfvec", "--json", "--project", str(served.root)).json
    after = cli("revision", "-m", "bits", "--quantize", "bit", "--json", "--project", str(served.root)).json
    assert after["index"] == before["index"] | {"quantize": "bit"}
    assert (after["model"], after["index"]["storage"]) == (before["model"], "halfvec")
