"""The demo's application: what it holds to be answered by a wrong model, and what not."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from revector.local import application
from revector.local.record import Record
from worlds import World

QUERY = "apple1 &amp; pear1"
"""A query that is cleaned before it is encoded, as one of the quickstart's is."""


def asked(world: World, monkeypatch: pytest.MonkeyPatch, *, other_model: bool = False) -> dict[str, Any]:
    monkeypatch.setattr(application, "JUST_STORED", timedelta(0))
    file = io.StringIO()
    reader = application.Reader(world.project, world.collection.name, Record(file), seed=1)
    monkeypatch.setattr(reader, "_queries", [QUERY])
    if other_model:
        revision = world.generation().revision
        other = world.project.load_encoder(replace(world.generation().spec.model, name="hashing:seed9"))
        monkeypatch.setattr(reader._own[revision], "encode", other.encode)
    reader.step()
    return json.loads(file.getvalue())


def test_a_right_answer_to_a_query_that_is_cleaned_is_right(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    line = asked(served, monkeypatch)
    assert (line["ok"], line["wrong_model"]) == (True, False)
    assert line["hits"]


def test_an_answer_by_another_model_of_the_same_name_is_found_wrong(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(served, monkeypatch, other_model=True)["wrong_model"]


def test_what_answers_a_labelled_question_is_never_deleted(served: World) -> None:
    ids = [f"d{n:05d}" for n in range(10)]
    kept, file = frozenset(ids[:5]), io.StringIO()
    writer = application.Writer(served.documents, list(ids), Record(file), seed=2, judged=kept)
    for _ in range(60):
        writer.step()
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert {line["id"] for line in lines if line["op"] == "delete"} & set(ids)
    assert not {line["id"] for line in lines if line["op"] == "delete"} & kept
    assert {line["id"] for line in lines if line["op"] == "put"} & kept
