"""A new metadata field on all documents that lack it: every index follows, nothing is embedded, no write is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.errors import ConfigError
from revector.upkeep import metadata
from revector.upkeep.metadata import FieldReport, fill_field
from stages import AtStep
from worlds import World, document


def fill(world: World, field: str, **options: Any) -> FieldReport:
    return fill_field(world.engine, world.collection.cid, "docs", field, actor="night", **options)


def meta(world: World, doc_id: str) -> Any:
    found = world.documents.get(doc_id)
    assert found is not None
    return found.meta


def test_every_document_gets_the_field_and_every_index_follows_without_embedding(at_step: AtStep) -> None:
    served = at_step("backfill")
    before = served.loader.embedded
    assert fill(served, "lang", value="en") == FieldReport("docs", "lang", 120, 0, more=False)
    assert served.value("SELECT count(DISTINCT gen) FROM pending") == 2
    served.settle()
    assert served.loader.embedded == before
    assert served.value("SELECT count(*) FROM document WHERE meta->>'lang' = 'en'") == 120
    assert served.search("apple3 pear3", where={"lang": "en"})[0] == "d00003"
    assert (served.value("SELECT count(*) FROM i1_lost"), served.differences(served.generation())) == (0, [])
    assert fill(served, "lang", value="de").filled == 0
    assert served.events("field")[1]["detail"]["filled"] == 120


def test_a_path_is_tried_first_then_the_value_and_what_has_the_field_is_left_alone(served: World) -> None:
    served.documents.put("d00001", "one", {"tags": ["a", "b"], "old": {"title": "One"}})
    served.documents.put("d00002", "two", {"tag_count": None})
    report = fill(served, "tag_count", path="$.meta.tags.size()", value=0)
    assert (report.filled, report.without) == (119, 0)
    assert [meta(served, f"d0000{n}")["tag_count"] for n in (1, 2, 3)] == [2, None, 0]
    report = fill(served, "title", path="$.meta.old.title")
    assert (report.filled, report.without) == (1, 119)
    assert fill(served, "has_text", path='$.text ? (@ starts with "apple")').filled == 118
    assert meta(served, "d00003")["has_text"] == document(3).text


def test_the_limit_is_kept_and_the_next_run_goes_on(served: World) -> None:
    assert fill(served, "lang", value="en", limit=100) == FieldReport("docs", "lang", 100, 0, more=True)
    assert fill(served, "lang", value="en", limit=100) == FieldReport("docs", "lang", 20, 0, more=False)


def test_what_is_written_meanwhile_wins_and_gets_the_field_too(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = metadata.metadata_rows.set_field, []

    def late(*args: Any) -> int:
        if not calls:
            served.documents.put("d00003", "new text", {"kind": "new"})
            served.documents.put("d00004", "new text", {"lang": "de"})
            served.documents.delete("d00005")
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(metadata.metadata_rows, "set_field", late)
    assert fill(served, "lang", value="en").filled == 118
    found = served.documents.get("d00003")
    assert found is not None
    assert (found.text, found.meta) == ("new text", {"kind": "new", "lang": "en"})
    assert (meta(served, "d00004"), served.documents.get("d00005")) == ({"lang": "de"}, None)
    served.settle()
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("", {"value": 1}),
        (" lang", {"value": 1}),
        ("n\0l", {"value": 1}),
        ("x" * 201, {"value": 1}),
        ("lang", {}),
        ("lang", {"value": float("nan")}),
        ("lang", {"value": "\0"}),
        ("lang", {"value": "\ud800"}),
        ("lang", {"value": object()}),
        ("lang", {"value": 1, "limit": 0}),
        ("lang", {"path": "meta.language"}),
        ("lang", {"path": "$.meta["}),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_changed(served: World, field: str, options: Any) -> None:
    before = served.state()
    with pytest.raises(ConfigError, match="Nothing was changed"):
        fill(served, field, **options)
    assert served.state() == before


def test_the_command_fills_and_says_so(served: World) -> None:
    words = ["meta", "set", "lang", "--value", '"en"', "--project", str(served.root)]
    found = json.loads(CliRunner().invoke(app, [*words, "--limit", "20", "--json"]).stdout)
    assert found == {"collection": "docs", "field": "lang", "filled": 20, "without": 0, "more": True}
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "100 documents got lang; for 0 there is nothing to give." in done.output
    refused = CliRunner().invoke(app, ["meta", "set", "lang", "--value", "en", "--project", str(served.root)])
    assert refused.exit_code == ConfigError.exit_code
