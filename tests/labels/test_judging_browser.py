"""A person judges 12 queries in a real browser, by the keyboard; the labels and the gate then use what was judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from axe import grave
from revector.cli import run
from revector.labels import load_labels
from revector.pages.gate_result import kept_result
from worlds import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OTHER = 'model = ModelSpec(name="hashing:seed2", dim=64)'
HOSTILE = (
    "apple0 <img src=x onerror=\"document.title='stolen'\"></p><script>document.title='stolen'</script> <b>bold</b>"
)


@pytest.fixture
def drawn(served: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """12 queries in next.jsonl, drawn from those that the active and the building generation answer differently."""
    monkeypatch.chdir(served.root)
    served.documents.put("hostile", HOSTILE)
    served.settle()
    asked = [{"_id": f"u{n}", "text": f"apple{n % 120} words {HOSTILE[6:]} number {n}"} for n in range(120)]
    (served.root / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    served.settings(queries="asked.jsonl")
    served.revision("b200", "a100", OTHER, "gate = Gate(max_drop=0.01, min_overlap=None)")
    served.upgrade("b200", to="index")
    assert run(["labels", "next", "-n", "12", "-o", "next.jsonl"]) == 0
    return served


@contextmanager
def judging(world: World) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`revector labels judge` as people start it, and the address that it prints."""
    words = [sys.executable, "-m", "revector", "labels", "judge", "next.jsonl", "--port", "0"]
    with subprocess.Popen(words, cwd=world.root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/#\S+", told)
            assert found is not None, told
            yield process, found.group()
        finally:
            process.kill()


class JudgingPerson:
    """One who judges with the keyboard alone; ``heard`` is all that the page was sent, ``asked`` whom it asked."""

    def __init__(self, browser: Any, address: str, name: str) -> None:
        self.page = browser.new_page()
        self.heard: list[str] = []
        self.asked: set[str] = set()
        self.page.on("requestfinished", lambda request: self.heard.append(request.response().text()))
        self.page.on("request", lambda request: self.asked.add(request.url.split("/")[2]))
        self.page.goto(address)
        self.page.get_by_label("Your name").fill(name)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def wait_for(self, text: str) -> None:
        self.page.get_by_text(re.compile(text)).first.wait_for()

    def judge(self, queries: range) -> None:
        """Score 1 what begins with the query's first word, and nothing else."""
        for number in queries:
            self.wait_for(rf"query {number} of 12$")
            query = self.page.locator("h1").inner_text()
            assert "<b>bold</b>" in query, "HTML in a text is text"
            word = query.split()[0]
            for text in self.page.locator("fieldset .text").all_inner_texts():
                self.press("1" if text.split()[0] == word else "0")
            self.wait_for("all saved")
            self.press("Enter")


def test_people_judge_12_queries_and_the_gate_uses_them(drawn: World, browser: Any) -> None:
    before = load_labels(drawn.root / "labels")
    with judging(drawn) as (process, address):
        ada = JudgingPerson(browser, address, "ada")
        assert grave(ada.page) == []
        ada.judge(range(1, 7))
        process.kill()
    with judging(drawn) as (process, address):
        ada = JudgingPerson(browser, address, "ada")
        ada.wait_for(r"query 7 of 12$")
        undo_by_keyboard(ada)
        ada.judge(range(7, 13))
        ada.wait_for("Every document is judged")
        assert grave(ada.page) == []
        assert ada.page.title() == "Every document is judged", "a text that is HTML is shown, not run"
        ada.page.get_by_role("button", name="Add them and judge the gate").focus()
        ada.press("Enter")
        ada.wait_for("INCONCLUSIVE|PASS|FAIL")
        assert ada.asked == {address.split("/")[2]}
        assert not [name for name in ("a100", "b200", "generation", "hashing") if name in "".join(ada.heard[:-1])]
    found = kept_result(drawn.project, "docs")
    assert found.drawn == 12
    added = load_labels(drawn.root / "labels")
    assert set(before.queries) < set(added.queries)
    batch = [json.loads(line) for line in (drawn.root / "next.jsonl").read_text().splitlines()]
    asked = {(row["query_id"], row["doc_id"]): row for row in batch if "judge" not in row}
    for (query, document), row in asked.items():
        if query in added.qrels:  # judged relevant at least once
            right = int(row["query"].split()[0] == row["text"].split()[0])
            assert added.qrels[query][document] == right, (query, document)


def undo_by_keyboard(person: JudgingPerson) -> None:
    """What was scored by mistake is taken back, one score after the other."""
    person.press("2", "u")
    person.wait_for("^0 of")
    person.press("n")
    person.wait_for("all saved")
    person.press("u")
    person.wait_for("^0 of")
    person.press("?")
    assert person.page.get_by_role("dialog").is_visible()
    person.press("Escape")


def test_two_judges_settle_what_they_differ_in(drawn: World, browser: Any) -> None:
    rows = [json.loads(line) for line in (drawn.root / "next.jsonl").read_text().splitlines()]
    first = rows[0]["query_id"]
    few = [row for row in rows if row["query_id"] == first][:3]
    (drawn.root / "next.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    with judging(drawn) as (_, address):
        for name, keys in (("ada", "110"), ("bo", "100")):
            judge = JudgingPerson(browser, address, name)
            judge.wait_for("query 1 of 1")
            judge.press(*keys)
            judge.wait_for("3 of 3 documents judged, all saved")
            judge.press("Enter")
            judge.wait_for("Every document is judged")
        judge.wait_for("2 judges say the same of 2 of 3 documents")
        judge.wait_for("0 of 1 query can be added")
        judge.page.get_by_role("button", name="Settle what you differ in").click()
        judge.wait_for("Judged ada: 1, bo: 0")
        judge.press("0", "Enter")
        judge.wait_for("1 of 1 query can be added")
        other = JudgingPerson(browser, address, "bo")  # a second tab of one judge
        other.page.get_by_role("button", name="Look through from the first").click()
        other.wait_for("query 1 of 1")
        stale = JudgingPerson(browser, address, "bo")
        stale.page.get_by_role("button", name="Look through from the first").click()
        stale.wait_for("query 1 of 1")
        other.press("0")
        other.wait_for("all saved")
        stale.press("2")
        stale.wait_for("has the score 0 by now, and had 1 here")
        assert stale.page.get_by_role("radio", checked=True).evaluate_all(
            "nodes => nodes.map((node) => node.value)"
        ) == ["0", "0", "0"]
