"""What the manual says to type can be typed: every command exists, and the blocks with a prompt do what they show."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
import typer
import yaml
from consoles import BLOCK, ROOT, SETTLED, Command, commands, missing, play
from forked import forking

from revector.cli.app import app
from revector.encoders.hashing import HashingEncoder
from revector.errors import RevectorError
from revector.interfaces import whole_texts
from revector.spec import ModelSpec
from worlds import World

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STANDS_FOR = {
    "sentence-transformers/all-MiniLM-L6-v2": "hashing --dim 64",
    "BAAI/bge-small-en-v1.5": "hashing:seed2 --dim 64",
    "4c1d08a7e2f5": "b200",
}
"""Models of the hub, and what is run in their place: nothing is downloaded, and a command takes a second."""

ROOT_COMMAND = typer.main.get_command(app)

# Every command exists -------------------------------------------------------------------------------------------------


def said(page: Path) -> Iterator[list[str]]:
    """What follows ``revector`` wherever a page says it, in a block or in a sentence."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in BLOCK.finditer(text) if block[1] in {"", "console"} for line in block[2].splitlines()]
    lines += [one.replace("\n", " ") for one in re.findall(r"`(revector [^`]*)`", BLOCK.sub("", text))]
    for line in lines:
        for part in re.split(r"&&|\||;|&$|\s#", line):
            typed = re.fullmatch(r"(?:\$ )?(?:\w+=\S+ )*revector ([a-z].*)", part.strip())
            if typed and typed[1].count("'") % 2 == typed[1].count('"') % 2 == 0:
                yield shlex.split(typed[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_that_the_manual_names_is_there(page: Path) -> None:
    wrong = []
    for typed in said(page):
        command, rest = ROOT_COMMAND, list(typed)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
        named = {match[0] for one in rest if (match := re.match(r"--?[a-z][\w-]*", one))}
        if named - options or (hasattr(command, "commands") and rest and not named):
            wrong.append(" ".join(typed))
    assert wrong == []


# The blocks are run ---------------------------------------------------------------------------------------------------


def corpus(folder: Path, _: str) -> None:
    """Articles, and a labelled query for each."""
    articles = [
        {"_id": f"faq-{n}", "title": f"Widget{n}", "text": f"How to reset password{n} of it.", "lang": "en"}
        for n in range(1, 81)
    ]
    (folder / "articles.jsonl").write_text("".join(json.dumps(one) + "\n" for one in articles))
    labels = folder / "labels"
    (labels / "qrels").mkdir(parents=True)
    asked = [{"_id": f"q{n}", "text": f"reset password{n} widget{n}"} for n in range(1, 81)]
    (labels / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    judged = "".join(f"q{n}\tfaq-{n}\t1\n" for n in range(1, 81))
    (labels / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def table(folder: Path, url: str) -> None:
    """A table of the application with its vectors, labelled queries, and a project on its database."""
    corpus(folder, url)
    (folder / "revector.toml").write_text('[collections.articles]\nqrels = "labels"\n')
    encoder = HashingEncoder(ModelSpec(name="hashing", dim=64))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
        connection.exec_driver_sql(
            "CREATE TABLE public.articles (id text PRIMARY KEY, title text, body text, lang text, embedding vector(64))"
        )
        for line in (folder / "articles.jsonl").read_text().splitlines():
            one = json.loads(line)
            vector = encoder.encode("document", whole_texts([f"{one['title']}\n{one['text']}"]))[0].tolist()
            connection.execute(
                sa.text("INSERT INTO public.articles VALUES (:_id, :title, :text, :lang, CAST(:v AS vector))"),
                one | {"v": json.dumps(vector)},
            )
    engine.dispose()


def served(folder: Path, url: str) -> None:
    """A collection that serves revision a100, while b200 is built and can be measured; documents to send."""
    world = World(folder, url)
    asked = [{"_id": f"u{n}", "text": f"some words number {n}"} for n in range(120)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    world.settings(queries="asked.jsonl")
    world.put(120, lang="en")
    world.upgrade("a100")
    world.upgrade("b200", to="index")
    world.close()
    sent = [{"id": f"faq-{n}", "text": f"I forgot my password{n}", "meta": {"lang": "en"}} for n in range(3)]
    (folder / "docs.ndjson").write_text("".join(json.dumps(one) + "\n" for one in sent))


GIVEN: dict[str, Callable[[Path, str], None]] = {
    "start": corpus,
    "adopt": table,
    "cutoffs": served,
    "labels": served,
    "http": served,
}
"""By the name of the page: what its reader has already."""


FIRST = (
    "revector init",
    "echo 'qrels = \"labels\"' >> revector.toml",
    "revector ingest articles.jsonl",
    "revector revision -m first --model hashing --dim 64",
    "revector upgrade",
)
"""A project whose first revision is served, with labels."""

RUNBOOK = {
    "work-waits": "",
    "dead-letters": "",
    "wrong-rows": "",
    "gate-failed": "revector revision -m narrow --model hashing --dim 2 --max-drop 0.05",
    "go-back": """rm migrations/docs/*_narrow.py
        revector revision -m wide --model hashing --dim 96 --max-drop 0.05 && revector upgrade""",
    "upgrade-refused": "revector revision -m third --model hashing --dim 72",
}
"""Pages of the runbook in an order in which one project comes to each symptom, and what leads there."""


def shows(wanted: list[Command], played: list[tuple[int, str]]) -> None:
    """Each command ended with its exit code and showed what the manual shows."""
    for command, (code, output) in zip(wanted, played, strict=False):
        assert code == command.exit_code, f"$ {command.typed}\n{output}"
        assert missing(command.shown, output) is None, f"$ {command.typed}\n{output}"
    assert len(played) == len(wanted)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with TemporaryDirectory() as folder, forking(Path(folder), SETTLED) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
def test_the_blocks_of_a_page_do_what_they_show(
    name: str, tmp_path: Path, programs: Path, empty_database_url: str
) -> None:
    GIVEN[name](tmp_path, empty_database_url)
    wanted = commands(ROOT / "docs" / f"{name}.md")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    typed = [one.typed.replace("8700", port) for one in wanted]
    typed = [re.sub("|".join(STANDS_FOR), lambda model: STANDS_FOR[model[0]], one) for one in typed]
    typed = [one.replace(" --dim 64", "") if "revector adopt" in one else one for one in typed]
    environment = {"REVECTOR_DATABASE_URL": empty_database_url, "REVECTOR_DRAIN_S": "0"}
    codes = [one.exit_code for one in wanted]
    shows(wanted, play(list(zip(typed, codes, strict=True)), tmp_path, programs, environment))


@pytest.mark.slow
def test_one_project_comes_to_each_symptom_of_the_runbook_and_out_of_it(
    tmp_path: Path, programs: Path, empty_database_url: str
) -> None:
    corpus(tmp_path, empty_database_url)
    wanted = [Command(typed, ()) for typed in FIRST]
    for name, before in RUNBOOK.items():
        wanted += [Command(before, ())] if before else []
        wanted += commands(ROOT / "docs" / "runbook" / f"{name}.md")
    environment = {"REVECTOR_DATABASE_URL": empty_database_url, "REVECTOR_DRAIN_S": "0"}
    shows(wanted, play([(one.typed, one.exit_code) for one in wanted], tmp_path, programs, environment))


def test_errors_and_alerts_name_pages_of_the_runbook_that_are_there_and_the_index_has_each() -> None:
    pages = {f"runbook/{page.name}" for page in (ROOT / "docs" / "runbook").glob("*.md")}
    alerts = yaml.safe_load((ROOT / "src" / "revector" / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))
    named = {f"runbook/{name}.md" for name in runbooks(RevectorError)}
    rules = alerts["groups"][0]["rules"]
    named |= {rule["annotations"]["runbook"].removeprefix("revector docs ") + ".md" for rule in rules}
    assert named <= pages
    index = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert [page for page in pages if f"({page})" not in index] == []


def runbooks(error: type[RevectorError]) -> set[str]:
    """The pages that this error and all below it name."""
    below = (runbooks(one) for one in error.__subclasses__())
    return set().union(*below, {error.runbook} - {""})
