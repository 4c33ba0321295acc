"""`revector docs` shows the manual that comes with the package."""

from __future__ import annotations

import os
import re
import sys
import webbrowser
from pathlib import Path

import pytest
from commands import Cli

from revector.pages.manual import sections

DOCS = Path(__file__).parents[2] / "docs"


def test_all_pages_are_listed_and_each_is_printed_as_it_is_written(cli: Cli) -> None:
    found = cli("docs", "--json").json["found"]
    assert sorted(found) == sorted(page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md"))
    assert cli("docs", "gate").out == (DOCS / "gate.md").read_text(encoding="utf-8")


def test_a_section_is_printed_up_to_the_next_of_its_level(cli: Cli) -> None:
    text = cli("docs", "airflow#your-own-airflow").out
    assert text.startswith("## Your own Airflow")
    assert "### Paused DAGs" in text
    assert "## Several GPUs" not in text


def test_words_are_found_in_headings_then_in_texts_and_what_is_nowhere_is_said(cli: Cli) -> None:
    assert "gate#every-look-is-counted" in cli("docs", "look is counted", "--json").json["found"]
    assert "runbook" in cli("docs", "someone changed tables by hand", "--json").json["found"]
    nowhere = cli("docs", "zebra crossing")
    assert nowhere.code == 10
    assert "zebra crossing" in nowhere.out


def test_a_comment_in_a_block_is_no_heading() -> None:
    assert all(re.match(r"#+ ", one.text) for one in sections().values() if "#" in one.name)
    assert not [name for name in sections() if "revectortoml-migrations" in name]


def test_a_browser_is_opened_from_a_terminal_alone_and_every_link_of_its_pages_leads_somewhere(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = list[str]()

    class Browser:
        def open(self, uri: str) -> bool:
            opened.append(uri)
            return True

    monkeypatch.setattr(webbrowser, "get", Browser)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "# The canary" in cli("docs", "canary").out
    assert opened == []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli("docs", "gate#what-users-see").out == ""
    assert opened == [(tmp_path / "revector/manual/gate.html").as_uri() + "#what-users-see"]
    manual = tmp_path / "revector" / "manual"
    pages = {str(page): page.read_text(encoding="utf-8") for page in manual.rglob("*.html")}
    there = {(name, place) for name, text in pages.items() for place in ["", *re.findall(r'id="([^"]+)"', text)]}
    links = [
        (os.path.normpath(Path(name, "..", file)) if file else name, place)
        for name, text in pages.items()
        for file, place in re.findall(r'href="(?!https:)([^"#]*)#?([^"]*)"', text)
    ]
    assert [link for link in links if link not in there] == []
    assert len(pages) > 20
    assert len(links) > 50


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(cli: Cli, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_REVECTOR_COMPLETE", f"source_{shell}")
    assert f"_REVECTOR_COMPLETE=complete_{shell}" in cli().out
    monkeypatch.setenv("_REVECTOR_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "revector cuto")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("COMP_WORDS", "revector cuto")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert "cutoffs" in cli().out
