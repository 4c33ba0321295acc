"""What a canary sees beside recall: documents that are found no more, scores that fell, rows that are gone."""

from __future__ import annotations

import json

import pytest

from revector.cli import run
from revector.gate.canary import CanaryReport
from revector.gate.canary_falls import CanaryCheck
from revector.interfaces import Document
from worlds import World, document


def canary(world: World) -> tuple[CanaryReport, dict[str, CanaryCheck]]:
    found = world.project.canary("docs")
    return found, {one.name: one for one in found.checks}


def damage(world: World, statement: str) -> None:
    world.unguarded(statement.format(index=f"revector.{world.generation().physical_name}"))


def test_five_percent_of_the_vectors_that_are_lost_are_seen_the_same_day(
    served: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    canary(served)
    damage(served, "DELETE FROM {index} WHERE mod(right(doc_id, 2)::int, 20) = 0")
    found, checks = canary(served)
    rows, own = checks["rows"], checks["own_documents"]
    assert rows.alert
    assert "d00000 is missing: chunks unlike ledger" in rows.says
    assert own.alert
    assert own.value == 3 / 60 >= own.limit
    assert set(found.alerts) == {rows.says, own.says}
    (event,) = served.events("canary_alert")
    assert {one["name"]: one["limit"] for one in event["detail"]["checks"]} == {
        name: one.limit for name, one in checks.items()
    }
    monkeypatch.chdir(served.root)
    assert run(["canary", "--json"]) == 11
    said = json.loads(capsys.readouterr().out)["checks"]
    assert [one["name"] for one in said if one["alert"]] == ["own_documents", "rows"]
    assert run(["canary"]) == 11
    assert f"- own_documents 0.0500, limit {own.limit:.4f}: 3 of 60 queries" in capsys.readouterr().out


def test_rows_that_are_gone_before_the_first_canary_are_seen_by_it(served: World) -> None:
    damage(served, "DELETE FROM {index} WHERE doc_id = 'd00007'")
    found, checks = canary(served)
    assert checks["rows"].alert
    assert len(found.alerts) == 1


def test_documents_that_come_change_and_go_are_no_fault(served: World) -> None:
    canary(served)
    served.documents.put_many([Document(f"n{n}", f"apple{n} pear{n} apple{n}", {}) for n in range(60)])
    served.documents.put_many([Document(f"d{n:05d}", f"apple{n} says something else", {}) for n in range(10)])
    served.documents.delete_many([f"d{n:05d}" for n in range(20, 60, 5)])
    served.settle()
    _, checks = canary(served)
    assert checks["agreement"].value == 1.0
    assert [name for name in ("agreement", "own_documents", "scores", "rows") if checks[name].alert] == []


def test_a_document_that_is_deleted_leaves_the_baseline_of_its_query_alone(served: World) -> None:
    """… as long as another one answers it: recall of both sides is of the documents that still exist."""
    with (served.root / "labels" / "qrels" / "test.tsv").open("a") as file:
        file.writelines(f"q{n}\td{n + 60:05d}\t1\n" for n in range(10))  # which are found by no word of theirs
    first, _ = canary(served)
    assert first.recall < 1
    served.documents.delete_many([f"d{n + 60:05d}" for n in range(10)])
    served.settle()
    found, _ = canary(served)
    assert found.recall == found.baseline == 1.0
    assert found.begins == ""


def test_vectors_that_became_others_lower_scores_and_agreement(served: World) -> None:
    served.settings(canary_drop=1.0)
    canary(served)
    damage(served, "UPDATE {index} SET embedding = (SELECT embedding FROM {index} WHERE doc_id = 'd00100')")
    _, checks = canary(served)
    for name in ("agreement", "own_documents", "scores"):
        assert checks[name].alert, name
    assert not checks["rows"].alert, "their number is as it was"
    assert "the first score is" in checks["scores"].says


def test_a_baseline_of_an_earlier_version_is_compared_by_recall_and_rows_alone(served: World) -> None:
    canary(served)
    served.sql("UPDATE canary SET detail = detail - ARRAY['run', 'tops', 'version']")
    served.documents.put_many([document(n, again=True) for n in range(5)])
    served.settle()
    _, checks = canary(served)
    assert list(checks) == ["day", "rows"]
