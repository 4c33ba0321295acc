"""The command that shows the manual, which comes with the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from revector.cli.exits import NOTHING_TO_DO
from revector.cli.options import Json
from revector.cli.output import Output, pairs


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Start")(docs)


def docs(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="A page, a section of it (gate#what-users-see), or words.")
    ] = None,
    *,
    print_: Annotated[bool, typer.Option("--print", help="Print it, also where there is a browser.")] = False,
    json: Json = False,
) -> None:
    """Open a page of the manual in a browser, or print it where there is none; without a topic, list the pages.

    Anything else is looked for in headings, then in the text; exit code 10 if nothing has it.

    For example:
      revector docs
      revector docs runbook/gate-failed
      revector docs "dead letters" --print
    """
    from revector.pages.manual import sections

    out, known = Output(as_json=json), sections()
    if topic in known:
        one = known[topic]
        if json or print_ or not _opened(one.name):
            out.show(
                {"name": one.name, "title": one.title, "text": one.text}, lambda console: _print(console, one.text)
            )
        return
    words = (topic or "").lower()
    pages = {name: one.title for name, one in known.items() if "#" not in name}
    said = {name: one.title for name, one in known.items() if words in one.title.lower()}
    said = said or {name: title for name, title in pages.items() if words in known[name].text.lower()}
    found = said if topic else pages
    if not found:
        out.say(f"No page says {topic!r}. Without a topic, `revector docs` lists all pages.")
        out.show({"found": {}}, lambda _: None)
        raise typer.Exit(NOTHING_TO_DO)
    out.show({"found": found}, lambda console: pairs(console, found))
    out.say("Read one: revector docs NAME")


def _print(console: Console, text: str) -> None:
    """Laid out on a terminal, page by page; as it is written elsewhere."""
    if console.is_terminal:
        from rich.markdown import Markdown

        with console.pager(styles=True):
            console.print(Markdown(text))
    else:
        sys.stdout.write(text)


def _opened(name: str) -> bool:
    """Whether a browser shows the page; only from a terminal, where a person is."""
    import webbrowser

    from revector.pages.manual import write_html

    try:
        browser = webbrowser.get() if sys.stdout.isatty() else None
    except webbrowser.Error:
        browser = None
    if browser is None:
        return False
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "revector", "manual")
    write_html(folder)
    page, _, place = name.partition("#")
    return browser.open((folder / f"{page}.html").as_uri() + (f"#{place}" if place else ""))
