"""The canary measures what is served on the same queries, day by day, and says when it got worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from revector.cli import run
from revector.encoders.hashing import HashingEncoder
from revector.errors import CanaryAlert, EncoderMismatch, LabelError, StateError
from revector.history import canary_series
from revector.pages.gate_result import kept_result
from worlds import World, document


def spoil(world: World, count: int) -> None:
    """Make so many labelled documents unfindable by their queries."""
    world.documents.put_many([document(n) for n in range(500, 500 + count)])
    world.documents.put_many(
        [type(document(0))(f"d{n:05d}", f"nothing that anyone asks for {n}", {}) for n in range(count)]
    )
    world.settle()


def test_what_is_as_it_was_raises_no_alert_and_adds_to_the_series(served: World) -> None:
    first, second = served.project.canary("docs"), served.project.canary("docs")
    assert first.alerts == second.alerts == ()
    assert first.recall == first.baseline == second.baseline == 1.0
    with served.engine.connect() as connection:
        kept = canary_series.read(connection, served.collection.cid)
    assert [row["recall"] for row in kept] == [1.0, 1.0]
    assert kept[0]["at"] > kept[1]["at"]
    assert served.events("canary_alert") == []


def test_a_fall_of_recall_is_told_to_the_caller_the_history_and_the_webhook(served: World, webhook: Any) -> None:
    url, heard = webhook
    served.project.settings.alerts.webhook = url
    served.project.canary("docs")
    spoil(served, 16)
    found = served.project.canary("docs")
    assert found.recall < 0.8
    (alert,) = found.alerts
    assert f"fell from 1.0000 to {found.recall:.4f} on 60 queries" in alert
    with pytest.raises(CanaryAlert, match="canary of docs: recall@10"):
        found.raise_alerts()
    assert served.events("canary_alert")[0]["detail"]["recall"] == found.recall
    assert alert in heard[-1]["text"]
    assert heard[-1]["event"]["gen"] == served.generation().gen


def test_a_fall_within_what_is_allowed_is_no_alert(served: World) -> None:
    served.project.canary("docs")
    spoil(served, 1)
    assert served.project.canary("docs").alerts == ()


def test_a_new_index_and_other_queries_begin_a_test_of_their_own_and_it_is_said(served: World) -> None:
    assert served.project.canary("docs").begins == "it is the first canary of this collection"
    spoil(served, 6)
    served.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(3, 60))
    found = served.project.canary("docs")
    assert (found.alerts, found.begins) == ((), "the labels or the pipeline are others")
    assert served.project.canary("docs").begins == ""
    served.upgrade("b200")
    found = served.project.canary("docs")
    assert (found.alerts, found.begins) == ((), "another index serves than at the last canary")


def test_a_model_that_is_another_one_under_its_name_is_told(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    served.project.canary("docs")
    inner = served.loader["hashing"]._inner
    original = inner.encode
    monkeypatch.setattr(inner, "encode", lambda side, pieces: np.roll(original(side, pieces), 1, axis=1))
    found = served.project.canary("docs")
    assert found.encoder_fault is not None
    assert any("no longer what the index was built with" in alert for alert in found.alerts)


def test_a_webhook_that_fails_hides_no_alert(served: World, webhook: Any) -> None:
    url, heard = webhook
    served.project.settings.alerts.webhook = f"{url}/refuse"
    served.project.canary("docs")
    spoil(served, 16)
    assert served.project.canary("docs").alerts
    assert heard
    served.project.settings.alerts.webhook = "http://127.0.0.1:1/nobody"
    assert served.project.canary("docs").alerts


def test_a_canary_set_of_its_own_is_used_instead_of_the_gates_labels(served: World) -> None:
    served.settings(canary="labels")
    assert served.project.canary("docs").queries == 60


def test_a_canary_of_few_queries_says_what_it_does_not_notice(
    served: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = served.project.canary("docs")
    assert found.detectable == pytest.approx(0.1286, abs=1e-4)
    assert found.caution is not None
    said = "of 60 queries a fall of 0.1286 is noticed within a week in 4 of 5 cases, and one of 0.02 in 0%"
    assert said in found.caution
    monkeypatch.chdir(served.root)
    assert run(["canary"]) == 0  # a caution is no alert
    assert "Caution: of 60 queries" in capsys.readouterr().out
    served.settings(canary_drop=0.2)
    assert served.project.canary("docs").caution is None


def test_a_model_that_does_not_load_under_its_name_any_more_is_told_as_well(
    served: World, webhook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, heard = webhook
    served.project.settings.alerts.webhook = url

    def refuse(_generation: object) -> Any:
        raise EncoderMismatch("its weights are others")

    monkeypatch.setattr(served.project.encoders, "of", refuse)
    monkeypatch.chdir(served.root)
    with pytest.raises(CanaryAlert, match="cannot be measured, as its encoder cannot be used: its weights are others"):
        served.project.canary("docs")
    assert served.events("canary_alert")
    assert "its weights are others" in heard[-1]["text"]


@pytest.mark.parametrize("replaced", ["vectors", "fingerprint"])
def test_the_command_ends_with_11_for_a_model_that_was_replaced_under_its_name(
    served: World, webhook: Any, monkeypatch: pytest.MonkeyPatch, replaced: str
) -> None:
    url, heard = webhook
    (served.root / "revector.toml").open("a").write(f'\n[alerts]\nwebhook = "{url}"\n')
    monkeypatch.chdir(served.root)
    assert run(["canary"]) == 0
    if replaced == "vectors":
        encode = HashingEncoder.encode
        rolled = lambda self, side, pieces: np.roll(encode(self, side, pieces), 1, axis=1)  # noqa: E731
        monkeypatch.setattr(HashingEncoder, "encode", rolled)
    else:
        monkeypatch.setattr(HashingEncoder, "components", property(lambda self: {**self._components, "seed": "9"}))
    assert run(["canary"]) == 11
    (event,) = served.events("canary_alert")
    assert "encoder" in event["detail"]["alerts"][-1]
    assert "encoder" in heard[-1]["text"]


def test_without_labels_or_anything_served_it_is_refused(world: World) -> None:
    world.put(60)
    with pytest.raises(StateError):
        world.project.canary("docs")
    world.upgrade("a100")
    world.settings(qrels=None)
    with pytest.raises(LabelError):
        world.project.canary("docs")


def test_eval_gate_and_canary_print_one_interval_of_one_recall(served: World) -> None:
    spoil(served, 6)
    served.upgrade("b200", to="gate")
    judged = kept_result(served.project, "docs")
    measured = {role: served.migrator.evaluate(generation=side.generation) for role, side in judged.sides.items()}
    assert {role: side.recall for role, side in judged.sides.items()} == {
        role: one.interval() for role, one in measured.items()
    }
    canary_of_old = served.project.canary("docs")
    assert (canary_of_old.recall, canary_of_old.low, canary_of_old.high) == judged.sides["old"].recall
    assert judged.sides["old"].recall.low < canary_of_old.recall < 1.0


def test_a_query_whose_document_is_gone_leaves_the_baseline_too(served: World) -> None:
    spoil(served, 6)
    first = served.project.canary("docs")
    served.documents.delete_many([f"d{n:05d}" for n in range(6)])  # those that nobody finds
    served.settle()
    second = served.project.canary("docs")
    assert first.baseline < second.baseline == second.recall
    assert second.alerts == ()


def test_a_baseline_of_an_earlier_version_is_compared_as_it_was(served: World) -> None:
    served.project.canary("docs")
    served.sql("UPDATE canary SET detail = detail - 'scores'")
    spoil(served, 1)
    assert served.project.canary("docs").baseline == 1.0
