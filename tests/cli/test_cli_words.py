"""The command line: its history, exit codes, messages, help, JSON, and what a pipe or a signal does to it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import HEAVY, Cli, commands, started, write_source
from rich.console import Console
from typer.testing import CliRunner

import revector.errors
from revector.cli import exits
from revector.cli.app import app
from revector.cli.progress import BarProgress, LineProgress
from revector.cli.renamed import RENAMED
from worlds import World

# History --------------------------------------------------------------------------------------------------------------


def test_history_is_written_as_csv_json_and_parquet(served: World, at: Any, cli: Cli) -> None:
    from pyarrow import parquet

    at(served)
    events = cli("history", "--events", "--json").json
    assert [event["kind"] for event in reversed(events)][:4] == ["plan", "provision", "backfill", "index"]
    assert cli("history", "--events", "--format", "csv").out.count("\n") == len(events) + 1
    assert cli("history", "--events", "--format", "parquet", "--output", "events.parquet").code == 0
    table = parquet.read_table("events.parquet")
    assert table.column("kind").to_pylist() == [event["kind"] for event in events]
    assert cli("history", "--format", "parquet").code == 2
    assert len(cli("history", "--events", "--limit", "2", "--json").json) == 2


def test_history_shows_the_events_that_are_asked_for(served: World, at: Any, cli: Cli) -> None:
    at(served)
    whole = cli("history", "--events", "--json").json
    swaps = cli("history", "--kind", "swap", "--kind", "gate", "--json").json
    assert swaps == [one for one in whole if one["kind"] in ("swap", "gate")]
    since = whole[3]["at"]
    assert [one["seq"] for one in cli("history", "--since", since, "--json").json] == [one["seq"] for one in whole[:4]]
    assert cli("history", "--text", "no such words", "--json").json == []
    assert cli("history", "--since", "yesterday").code == 2
    assert cli("history", "--events", "--format", "csv", "--output", "events.csv").code == 0
    assert Path("events.csv").read_text().count("\n") == len(whole) + 1


def test_a_tampered_history_is_found(served: World, at: Any, cli: Cli) -> None:
    at(served).unguarded("UPDATE revector.event SET actor = 'someone else' WHERE seq = 2")
    ended = cli("history", "--check", "--json")
    assert ended.code == exits.CHECK_FAILED
    assert ended.json["broken"] == [2]


def test_a_head_that_was_noted_elsewhere_is_looked_for_in_the_history(served: World, at: Any, cli: Cli) -> None:
    at(served)
    noted = cli("history", "--check", "--json").json["head"]
    assert "noted elsewhere is among them" in cli("history", "--check", "--head", noted).out
    ended = cli("history", "--check", "--head", "0" * 64)
    assert ended.code == exits.CHECK_FAILED
    assert "was rewritten, or its end was cut off" in ended.out
    assert (cli("history", "--check", "--head", "abc").code, cli("history", "--head", noted).code) == (2, 2)


def test_the_rights_of_an_application_are_printed_for_its_role(cli: Cli) -> None:
    printed = cli("db", "grants", 'odd"role').out
    assert 'ON SCHEMA revector TO "odd""role";' in printed
    assert cli("db", "grants", "x" * 64).code == 2


def test_history_marks_a_file_that_was_edited_after_it_was_used(served: World, at: Any, cli: Cli) -> None:
    at(served).revision("a100", None, 'model = ModelSpec(name="hashing", dim=32)')
    assert "active, file edited since" in cli("history").out
    assert cli("plan", "a100").code == 2


# Exit codes and messages ----------------------------------------------------------------------------------------------


def test_every_error_has_an_exit_code_of_the_table_and_help_shows_the_table() -> None:
    def tree(kind: type[revector.errors.RevectorError]) -> Iterator[type[revector.errors.RevectorError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from tree(below)

    assert {kind.exit_code for kind in tree(revector.errors.RevectorError)} <= exits.EXITS.keys()
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"TERMINAL_WIDTH": "200"}).output.split())
    for code, meaning in exits.EXITS.items():
        assert f"{code} {meaning}" in shown


REFUSED = [
    (2, "upgrade nope", "revision 'nope' was asked for"),
    (2, "status -c wrong", "collection 'wrong' is not in revector.toml"),
    (2, "status --project nowhere", "there is no revector.toml"),
    (2, "search x --where [1]", "--where must be a JSON object"),
    (2, "search x --where {", "--where must be a JSON object"),
    (2, 'search x --where {"n":1,"n":2}', "the key 'n' stands twice"),
    (2, 'document put d1 --text x --meta {"n":1,"n":2}', "the key 'n' stands twice"),
    (2, 'meta set author --value {"n":1,"n":2}', "the key 'n' stands twice"),
    (2, "document put a --text x --file y", "both given"),
    (2, "document put a --file absent", "cannot be read"),
    (2, "revision -m x --model hashing:seed3", "no width of its own"),
    (2, "revision -m x --dim 4001", "an HNSW index over vector takes at most 2,000 dimensions"),
    (2, "retire --now", "needs a --reason"),
    (2, "db start", "no embedded PostgreSQL"),
    (2, "db remove", "add --yes"),
    (2, "upgrade --window-hours 0", "must be above 0"),
    (2, "history --output x", "json, csv or parquet"),
    (2, "train lsa models/x --dim 5000", "documents"),
    (4, "upgrade --to nowhere", "the forward steps are plan"),
    (4, "rollback --reason x", "nothing to go back to"),
    (4, "abort --reason x", "no migration to abort"),
    (4, "search x --generation 99", "is in no slot"),
    (8, "ingest absent.jsonl", "does not exist"),
    (2, "ingest absent.csv --column-type year=str", "must be NAME=TYPE"),
    (2, "ingest absent.jsonl --column-type year=text", "has types of its own"),
    (8, "document put a --text=", "no visible characters"),
]


def test_what_is_wrong_is_said_in_one_message_ends_with_its_code_and_changes_nothing(
    served: World, at: Any, cli: Cli
) -> None:
    before = at(served).state()
    for code, words, says in REFUSED:
        ended = cli(*words.split())
        assert (ended.code, says in ended.err) == (code, True), f"{words}: {ended}"
        assert re.fullmatch(r"revector: .*\n(More: revector docs runbook/[\w-]+\n)?", ended.err), words
        assert ended.out == "", words
    assert served.state() == before


def test_a_gate_that_fails_ends_with_its_code_and_moves_nothing(served: World, at: Any, cli: Cli) -> None:
    at(served).revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=1)')
    ended = cli("upgrade", "--json")
    assert ended.code == 5
    assert ended.json["steps"][-1]["step"] == "verify"
    assert "recall@10 falls by" in ended.err
    assert "gate failed" in cli("status").out
    assert cli("current", "--json").json[0]["active"] == "a100"


def test_too_few_labels_are_a_warning_of_the_plan_and_an_error_of_the_gate(served: World, at: Any, cli: Cli) -> None:
    at(served).labels([("d00001", "apple1")])
    assert cli("plan").code == exits.CHECK_FAILED
    assert cli("upgrade").code == 9


def test_a_model_that_cannot_be_loaded_ends_with_its_code(served: World, at: Any, cli: Cli) -> None:
    at(served).revision("b200", "a100", 'model = ModelSpec(name="./models/broken", dim=8)')
    (served.root / "models" / "broken").mkdir(parents=True)
    (served.root / "models" / "broken" / "config.json").write_text("{}")
    assert cli("plan").code == 7


def test_a_database_that_is_down_and_one_without_tables_are_told_apart(
    served: World, empty_database_url: str, at: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(served)
    monkeypatch.setenv("REVECTOR_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    down = cli("status")
    assert (down.code, "cannot be reached" in down.err) == (3, True)
    monkeypatch.setenv("REVECTOR_DATABASE_URL", empty_database_url)
    empty = cli("status")
    assert (empty.code, "run `revector init`" in empty.err) == (3, True)


def test_doctor_says_what_to_do(served: World, at: Any, cli: Cli) -> None:
    at(served)
    assert cli("doctor").code == 0
    served.revision("c300", "a100", 'model = ModelSpec(name="hashing", dim=8)')
    (served.root / "labels" / "queries.jsonl").unlink()
    ended = cli("doctor", "--json")
    assert ended.code == exits.CHECK_FAILED
    assert {check["name"] for check in ended.json if not check["ok"]} == {"docs, migration files", "docs, labels"}


def test_the_collection_must_be_named_where_there_are_several(served: World, at: Any, cli: Cli) -> None:
    at(served)
    with (served.root / "revector.toml").open("a") as file:
        file.write("\n[collections.more]\n")
    assert "there are 2 (docs, more)" in cli("status").err
    assert cli("status", "-c", "docs").code == 0
    assert "run `revector init`" in cli("status", "-c", "more").err


def test_an_unforeseen_error_is_one_line_unless_debugging(
    served: World, at: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    at(served)
    monkeypatch.setattr("revector.history.audit.check_chain", broken)
    short = cli("history", "--check")
    assert (short.code, short.err.count("\n")) == (exits.UNEXPECTED, 1)
    assert "REVECTOR_DEBUG=1" in short.err
    monkeypatch.setenv("REVECTOR_DEBUG", "1")
    assert "Traceback" in cli("history", "--check").err


def test_wrong_usage_ends_with_2(cli: Cli) -> None:
    assert cli("upgrade", "--nonsense").code == 2
    assert cli("nonsense").code == 2


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_answers_and_says_the_new_one(old: str, cli: Cli) -> None:
    shown, now = cli(old, "--help"), RENAMED[old].split(" --")[0]
    assert f"revector {now}" in " ".join(shown.out.split())
    said = f"revector: `{old}` is called `{RENAMED[old]}` now; the old name goes with version 0.3."
    assert shown.err.splitlines() == [said]


# Help, JSON and terminals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in commands()])
def test_every_command_has_help_with_an_example(path: str) -> None:
    shown = CliRunner().invoke(app, [*path.split(), "--help"], env={"TERMINAL_WIDTH": "160"})
    assert shown.exit_code == 0
    assert re.search(rf"For example:\s+(?:.* && )?revector {path}", shown.output)


def test_json_of_every_command_parses(swapped: World, at: Any, cli: Cli) -> None:
    at(swapped)
    asked = [
        "init", "revision -m more --dim 32", "history", "history --events", "history --check", "current",
        "plan b200", "status", "ingest docs.jsonl --id-field id --text-field body", "document put a --text x",
        "document get a", "document get nothing", "document delete a", "dlq list", "dlq retry", "search apple", "eval",
        "cutoffs set a=0.4", "cutoffs list", "cutoffs drop a",
        "docs", "docs gate", "doctor", "db status", "db stop",
        "rollback --reason x", "upgrade b200", "retire --now --reason x",
    ]  # fmt: skip
    write_source(swapped.root)
    for words in asked:
        ended = cli(*words.split(), "--json")
        assert ended.code in (0, exits.NOTHING_TO_DO), f"{words}: {ended.err}"
        assert ended.err == "", words
        json.loads(ended.out)
    with_json = [path for path, command in commands() if any("--json" in one.opts for one in command.params)]
    elsewhere = {"demo", "db start", "db remove", "dlq waive", "approve", "abort", "train lsa", "rehearse", "verify"}
    elsewhere |= {"convert", "finetune", "vectors export", "vectors import", "train adapter", "train pca"}
    elsewhere |= {"canary", "compare", "gate", "override", "stale", "meta set"}
    elsewhere |= {
        "throttle",
        "labels add",
        "labels check",
        "labels from-clicks",
        "labels next",
        "labels pool",
        "labels proxy",
        "labels sample",
    }
    elsewhere |= {"adopt", "unadopt", "db grants", "capacity", "keys create", "keys list", "keys revoke"}
    left = {" ".join(path) for path in with_json if not any(words.split()[: len(path)] == path for words in asked)}
    assert left == elsewhere


def test_output_into_a_pipe_holds_no_escape_codes_and_is_not_wrapped(served: World) -> None:
    served.put(1, start=800, note="x" * 300)
    for words in (["history", "--events"], ["search", "apple800", "--explain"], ["upgrade"]):
        process = started(*words, cwd=served.root)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "\x1b" not in out + err
    assert sum(line.startswith("✓") for line in out.splitlines()) == 8


def test_ctrl_c_ends_with_130(served: World) -> None:
    process = started("status", "--watch", "--json", cwd=served.root)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["collection"] == "docs"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (exits.INTERRUPTED, "")


def test_a_reader_that_went_away_is_no_error_message(served: World) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = started("history", "--events", "--json", cwd=served.root, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (exits.BROKEN_PIPE, "")


def test_commands_start_without_heavy_libraries(served: World) -> None:
    asked = [["plan", "--help"], ["status"], ["history"], ["search", "apple7"]]
    code = f"import sys; from revector.cli import run; print(*map(run, {asked!r}), *sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=served.root, capture_output=True, text=True, check=True)
    assert ended.stderr.startswith("0 0 0 0 ")
    assert not HEAVY & {name.partition(".")[0] for name in ended.stderr.split()}


def test_lines_of_progress_come_at_most_every_five_seconds() -> None:
    seconds, stream = iter(range(100)), io.StringIO()
    progress = LineProgress(stream, clock=lambda: next(seconds))
    progress.start("short", 10)
    progress.done()
    progress.start("long", 100)
    for _ in range(12):
        progress.advance(5)
    progress.done("well")
    assert stream.getvalue().splitlines() == [
        "long: 25 of 100 documents, 5.0/s, 15 s left",
        "long: 50 of 100 documents, 5.0/s, 10 s left",
        "long: 60 documents in 13 s; well",
    ]


def test_a_bar_shows_count_and_rate_and_gives_the_terminal_back() -> None:
    stream = io.StringIO()
    bar = BarProgress(Console(file=stream, force_terminal=True, width=120))
    bar.start("embed", 10)
    bar.advance(4)
    bar.stop()
    assert "4/10 documents" in stream.getvalue()
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1


# Init -----------------------------------------------------------------------------------------------------------------


def test_init_makes_an_embedded_project_in_an_empty_folder_and_db_removes_it(
    tmp_path_factory: pytest.TempPathFactory, cli: Cli
) -> None:
    folder = tmp_path_factory.mktemp("new")
    try:
        made = cli("init", "--project", str(folder), "--json")
        assert made.code == 0, made.err
        assert made.json["database"] == "embedded"
        assert (folder / "migrations" / "docs").is_dir()
        assert (folder / ".revector" / ".gitignore").read_text() == "*\n"
        assert cli("db", "status", "--project", str(folder), "--json").json["running"] is True
        assert cli("db", "stop", "--project", str(folder), "--json").json == {"stopped": True}
        assert cli("status", "--project", str(folder)).code == 0  # starts it again
    finally:
        removed = cli("db", "remove", "--yes", "--project", str(folder))
    assert removed.code == 0
    assert cli("db", "status", "--project", str(folder), "--json").json["running"] is False


def test_init_refuses_a_name_that_no_collection_can_have(tmp_path: Path, cli: Cli) -> None:
    assert cli("init", "--project", str(tmp_path), "-c", "My-Docs").code == 2
    assert not list(tmp_path.iterdir())
