"""Searches over HTTP by a stored document and by a vector: only ever by the active generation's own vectors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from revector.interfaces import whole_texts
from revector.registry import cutoffs
from revector.registry.control import control
from services import DOCUMENT, JSON_TYPE, SEARCH, refused, serve
from worlds import World


def vector_of(world: World, text: str) -> list[float]:
    return world.loader(world.generation().spec.model).encode("query", whole_texts([text]))[0].tolist()


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_documents_like_one_are_those_nearest_to_its_stored_vectors_without_itself(served: World) -> None:
    served.documents.put("twin", "apple7 pear7 some words here number 7 again", {"n": 7})
    served.settle()
    with serve(served.project) as client:
        found = ids(client.post(SEARCH, json={"like": "d00007", "k": 120}))
        assert (found[0], len(found)) == ("twin", 120)
        assert "d00007" not in found
        assert "d00007" not in ids(client.post(SEARCH, json={"like": "d00007", "k": 120, "by": "chunk"}))
        assert ids(client.post(SEARCH, json={"like": "d00007", "k": 3, "where": {"n": 7}})) == ["twin"]
        assert "no document" in refused(client.post(SEARCH, json={"like": "nobody"}), 404, "UnknownDocument")


def test_a_document_of_many_chunks_is_searched_by_their_mean(served: World) -> None:
    texts = [" ".join(f"{fruit}{n}" for n in range(90)) for fruit in ("medlar", "quince", "sloe")]
    served.documents.put("long", "\n\n".join(texts))
    served.documents.put("near", texts[0])
    served.settle()
    chunks = served.value(
        f"SELECT count(*) FROM {served.generation().physical_name} WHERE doc_id = :doc_id", doc_id="long"
    )
    assert chunks > 1
    with serve(served.project) as client:
        answer = client.post(SEARCH, json={"like": "long", "k": 1})
        assert ids(answer) == ["near"]
        rows = served.sql(
            f"SELECT CAST(embedding AS text) AS v FROM {served.generation().physical_name} WHERE doc_id = 'long'"
        )
        mean = np.mean([np.array(json.loads(row.v)) / np.linalg.norm(json.loads(row.v)) for row in rows], axis=0)
        fp = served.generation().encoder_fp
        by_vector = client.post(SEARCH, json={"vector": mean.tolist(), "encoder_fp": fp, "k": 2}).json()["hits"]
        near = next(hit["score"] for hit in by_vector if hit["id"] == "near")
        assert answer.json()["hits"][0]["score"] == pytest.approx(near, abs=1e-3)


def test_documents_like_one_that_is_not_indexed_or_was_deleted_are_refused(served: World) -> None:
    with serve(served.project) as client:
        served.documents.put("late", "not yet embedded")
        answer = client.post(SEARCH, json={"like": "late"})
        assert "does not show it yet" in refused(answer, 409, "NotCaughtUp")
        assert answer.json()["retryable"]
        served.documents.delete("d00007")
        refused(client.post(SEARCH, json={"like": "d00007"}), 404, "UnknownDocument")
        served.documents.put("d00007", "another text under the old name")
        # Its chunks from before the delete still lie in the index.
        refused(client.post(SEARCH, json={"like": "d00007"}), 409, "NotCaughtUp")


def test_chunks_without_a_common_direction_are_refused(served: World) -> None:
    name = served.generation().physical_name
    served.sql(
        f"INSERT INTO {name} (doc_id, chunk, version, start, stop, embedding) SELECT doc_id, 1, version, 0, 1, "
        f"embedding * CAST(ARRAY(SELECT -1 FROM generate_series(1, 64)) AS vector) FROM {name} WHERE doc_id = 'd00007'"
    )
    with serve(served.project) as client:
        assert "not all 0" in refused(client.post(SEARCH, json={"like": "d00007"}), 422, "ConfigError")


def test_documents_like_one_are_never_found_by_another_generations_vectors(served: World) -> None:
    with serve(served.project) as client:
        before = client.post(SEARCH, json={"like": "d00007", "k": 5}).json()
        served.upgrade("b200")
        after = client.post(SEARCH, json={"like": "d00007", "k": 5}).json()
        assert (before["revision"], after["revision"]) == ("a100", "b200")
        # The rows of the other generation are made useless; had they been asked, nothing would be found.
        served.sql(f"DELETE FROM {served.generation('standby').physical_name}")
        assert client.post(SEARCH, json={"like": "d00007", "k": 5}).json()["hits"] == after["hits"]


def test_a_vector_finds_what_its_text_finds_and_its_length_does_not_matter(served: World) -> None:
    with serve(served.project) as client:
        by_text = client.post(SEARCH, json={"query": "apple3 pear3", "k": 5}).json()
        vector, fp = vector_of(served, "apple3 pear3"), by_text["encoder_fp"]
        for scale in (1, 1e-30, 1e30):
            answer = client.post(SEARCH, json={"vector": [scale * x for x in vector], "encoder_fp": fp, "k": 5}).json()
            assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in by_text["hits"]]


def test_a_vector_is_refused_unless_it_is_of_the_active_generations_encoder(served: World) -> None:
    with serve(served.project) as client:
        old = {"vector": vector_of(served, "apple3 pear3"), "encoder_fp": served.generation().encoder_fp}
        served.upgrade("b200", to="gate")
        building = served.generation("building").encoder_fp
        assert ids(client.post(SEARCH, json=old))[0] == "d00003"
        said = refused(client.post(SEARCH, json={**old, "encoder_fp": building}), 409, "StateError")
        assert old["encoder_fp"] in said
        served.upgrade("b200")
        assert building in refused(client.post(SEARCH, json=old), 409, "StateError")
        served.migrator.rollback("the test goes back")
        assert ids(client.post(SEARCH, json=old))[0] == "d00003"


def test_a_key_or_parameter_that_stands_twice_is_refused_with_its_name(served: World) -> None:
    before = served.state()
    with serve(served.project) as client:
        for body, name in (
            ('{"query": "apple3", "where": {"n": 3, "n": 4}}', "n"),
            ('{"query": "apple3", "k": 5, "k": 6}', "k"),
        ):
            answer = client.post(SEARCH, content=body, headers=JSON_TYPE)
            assert f"'{name}' stands twice" in refused(answer, 422, "InvalidRequest")
        twice = '{"text": "x", "meta": {"author": {"name": "Ann", "name": "Bo"}}}'
        assert "'name' stands twice" in refused(
            client.put(DOCUMENT, content=twice, headers=JSON_TYPE), 422, "InvalidRequest"
        )
        answer = client.delete(f"{DOCUMENT}?version=9&version=1")
        assert "'version' stands twice" in refused(answer, 422, "InvalidRequest")
    assert served.state() == before


def test_exactly_one_way_to_search_is_taken_and_vectors_must_be_usable(served: World) -> None:
    fp = served.generation().encoder_fp
    good = vector_of(served, "apple3")
    wrong: list[dict[str, Any]] = [
        {},
        {"query": "x", "like": "d00007"},
        {"query": "x", "vector": good, "encoder_fp": fp},
        {"query": "x", "encoder_fp": fp},
        {"vector": good},
        {"encoder_fp": fp},
        {"vector": [], "encoder_fp": fp},
        {"vector": good[:-1], "encoder_fp": fp},
        {"vector": [0] * 64, "encoder_fp": fp},
        {"vector": ["a"] * 64, "encoder_fp": fp},
        {"vector": [1e308] * 64, "encoder_fp": fp},
        {"vector": [5e-324] * 64, "encoder_fp": fp},
        {"vector": [[1]] * 64, "encoder_fp": fp},
        {"like": ""},
        {"like": 7.5},
        {"like": True},
    ]
    with serve(served.project) as client:
        for body in wrong:
            answer = client.post(SEARCH, json=body)
            assert answer.status_code == (404 if body.get("like") == "" else 422), answer.text
        assert client.post(SEARCH, json={"like": 7}).status_code == 404, "an integer id is its digits, as in a source"
        for raw in ("NaN", "Infinity", "1e400", "null"):
            sent = f'{{"vector": [{", ".join([raw] * 64)}], "encoder_fp": "{fp}"}}'
            answer = client.post(SEARCH, content=sent, headers=JSON_TYPE)
            assert answer.status_code == 422, answer.text


def test_a_least_score_is_a_number_or_a_cut_off_and_each_answer_names_the_cut_offs(served: World) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    with serve(served.project) as client:
        for asked in ({"query": "apple7 pear7"}, {"like": "d00007"}):
            every = client.post(SEARCH, json={**asked, "k": 119}).json()
            assert every["cutoffs"] == {"support": 0.5}
            wanted = [hit["id"] for hit in every["hits"] if hit["score"] >= 0.5]
            assert 0 < len(wanted) < 119
            for least in (0.5, "support"):
                assert ids(client.post(SEARCH, json={**asked, "k": 119, "min_score": least})) == wanted
        said = refused(client.post(SEARCH, json={"query": "apple7", "min_score": "faq"}), 422, "ConfigError")
        assert "which has support" in said
        for least in (1.5, True, "", []):
            assert client.post(SEARCH, json={"query": "apple7", "min_score": least}).status_code == 422, least
