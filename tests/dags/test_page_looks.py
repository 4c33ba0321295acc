"""The page in a browser, in every state and both themes: what it says first, and what those hear who cannot see it.

With ``REVECTOR_TEST_PICTURES`` the manual's pictures are made in that folder: ``make pictures``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="the extra `airflow` is not installed")

from airflow.utils import db

from axe import grave
from revector.adoption.presets import AdoptionRequest
from revector.config import load_project
from revector.errors import GateFailed
from stages import AtStep
from worlds import World

pytestmark = pytest.mark.slow
ADDRESS = "http://page.test"
APPROVAL = {"subject": "Swap docs to revision b200?", "task_instance": {"dag_id": "revector_migrate"}}


def may_start(at_step: AtStep) -> World:
    return at_step("served")


def being_built(at_step: AtStep) -> World:
    return at_step("provision")


def refused(at_step: AtStep) -> World:
    world = at_step("served")
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=4)')
    with pytest.raises(GateFailed):
        world.upgrade("b200")
    return world


def asks(at_step: AtStep) -> World:
    return at_step("gate")


def window(at_step: AtStep) -> World:
    return at_step("swap")


def rolled_back(at_step: AtStep) -> World:
    world = at_step("swap")
    world.migrator.rollback("odd answers")
    return world


def not_followed(at_step: AtStep) -> World:
    world = at_step("swap")
    with (world.root / "revector.toml").open("a") as file:
        file.write("\n[collections.articles]\n")
    world.sql("CREATE TABLE public.articles (id int PRIMARY KEY, body text, embedding vector(8))")
    world.sql("INSERT INTO public.articles SELECT n, 'pear' || n FROM generate_series(1, 5) n")
    project = load_project(world.root)
    project.init()
    request = AdoptionRequest(table="public.articles", model="hashing", text=("body",), vectors=False)
    project.adopter("articles").run(project.adopter("articles").plan(request))
    project.engine.dispose()
    world.sql("ALTER TABLE public.articles DISABLE TRIGGER USER")
    return world


STATES: dict[str, tuple[Callable[[AtStep], World], str]] = {
    "start": (may_start, r"Nothing needs doing\. docs: revision b200 may be started\."),
    "building": (being_built, r"Nothing needs doing\. docs: revision b200 is being built, 0 % embedded\."),
    "refused": (
        refused,
        r"docs: the gate did not let revision b200 pass, and nothing was switched: abort, or override the gate\.",
    ),
    "approval": (asks, r"docs: revision b200 waits for an approval: Approve or Reject\."),
    "window": (window, r"Nothing needs doing\. docs: going back is possible until \d{4}-\d\d-\d\d \d\d:\d\d UTC\."),
    "back": (rolled_back, r"Nothing needs doing\. docs: going forward again is possible until .+ UTC\."),
    "adopted": (not_followed, r"articles: not every write of public\.articles is followed\. revector adopt -c .+\."),
}
"""By name: what makes it, and the first sentence."""

PICTURED = {("refused", "dark"), ("window", "light")}
"""What the manual shows."""


@pytest.fixture(scope="module", autouse=True)
def _airflow_database() -> None:
    db.initdb()


@contextmanager
def opened(browser: Any, asked: Any, theme: str, questions: list[Any]) -> Iterator[Any]:
    """The page: its requests are answered by the plugin's own server, or as Airflow would. It asks until closed."""
    page = browser.new_page(color_scheme=theme, viewport={"width": 1280, "height": 800})

    def answer(route: Any) -> None:
        path = route.request.url.removeprefix(ADDRESS)
        if path.startswith("/api/v2"):
            route.fulfill(json={"hitl_details": questions})
            return
        got = asked.get(path)
        route.fulfill(status=got.status_code, headers=dict(got.headers), body=got.content)

    page.route("**/*", answer)
    try:
        page.goto(f"{ADDRESS}/revector/ui/")
        page.locator("#doing li").first.wait_for()
        page.locator(".charts svg, .charts .empty").first.wait_for()
        yield page
    finally:
        page.close()


@pytest.mark.parametrize("state", STATES)
def test_the_page_begins_with_what_needs_doing_and_has_no_serious_finding_of_axe(
    state: str, at_step: AtStep, client: Any, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sentence = STATES[state]
    monkeypatch.setenv("REVECTOR_CONFIG", str(make(at_step).root))
    for theme in ("light", "dark"):
        with opened(browser, client("op"), theme, [APPROVAL] if state == "approval" else []) as page:
            if (folder := os.environ.get("REVECTOR_TEST_PICTURES")) and (state, theme) in PICTURED:
                page.locator("[data-key='history docs'] td").first.wait_for()
                page.screenshot(path=Path(folder) / f"{state}-{theme}.png")
                page.locator("[data-key='history docs']").screenshot(path=Path(folder) / f"history-{theme}.png")
            first = page.locator("main, #doing, #paused").first
            assert first.get_attribute("id") == "doing"
            assert re.fullmatch(sentence, page.locator("#doing li").first.inner_text())
            assert grave(page) == []
            if state == "window":
                page.get_by_role("button", name="Gate report").click()
                page.goto(page.locator("#report-link").evaluate("link => link.href"))
                assert "b200" in page.locator("main").inner_text()
                assert grave(page) == []
