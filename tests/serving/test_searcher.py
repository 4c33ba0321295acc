"""Search: exactly k whenever k match, only through the pair that the alias names, only what may be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation.reliability.truth import Truth

from revector.errors import ConfigError, StateError
from revector.interfaces import Document, whole_texts
from revector.serving.searcher import Searcher
from serving.conftest import COUNT, text
from worlds import World


@pytest.fixture
def searcher(library: World) -> Searcher:
    return library.project.searcher("docs")


QUERY = "apple70 redsea bluesky greensun"


# Exactly k ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["document", "chunk"])
@pytest.mark.parametrize(
    ("where", "matching"),
    [
        ({}, COUNT),
        ({"half": True}, 1_500),
        ({"lang": "l3"}, 150),
        ({"rare": 7}, 15),
        ({"n": [1, 2, 3]}, 3),
        ({"n": {"gte": 10, "lt": 20}}, 10),
        ({"n": {"gt": 10, "lte": 20}, "half": True}, 5),
        ({"date": {"gte": "2024-06", "lt": "2024-07"}}, 250),
        ({"lang": ["l3", "l4"]}, 300),
        ({"n": -1}, 0),
        ({"n": {"gte": "2024"}}, 0),
    ],
    ids=str,
)
def test_exactly_k_come_back_whenever_k_match(searcher: Searcher, where, matching: int, by: str) -> None:
    for k in (1, 10, 100):
        hits = searcher.search(QUERY, k, where=where, by=by).hits
        assert len(hits) >= min(k, matching)
        assert len(hits) <= k
        if by == "document":
            assert len({hit.id for hit in hits}) == len(hits) == min(k, matching)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_one_document_with_most_of_the_chunks_does_not_starve_the_others(served: World) -> None:
    served.documents.put("huge", " ".join(["apple7 pear7"] * 60_000))
    served.settle()
    assert served.value(f"SELECT count(*) FROM {served.generation().physical_name} WHERE doc_id = 'huge'") > 400
    found = served.search("apple7 pear7", 50)
    assert len(found) == 50
    assert {"huge", "d00007"} <= set(found)


def test_deletes_that_no_worker_has_applied_do_not_starve_the_result(served: World) -> None:
    gone = [f"d{n:05d}" for n in range(0, 120, 3)]
    served.documents.delete_many(gone)
    found = served.search("some words here", 80)
    assert len(found) == 80
    assert not set(found) & set(gone)


def test_a_filter_that_matches_deleted_documents_counts_the_living(served: World) -> None:
    served.documents.delete_many([f"d{n:05d}" for n in range(10)])
    assert served.search("some words", 10, where={"n": {"lt": 13}}) != []
    assert set(served.search("some words", 10, where={"n": {"lt": 13}})) == {"d00010", "d00011", "d00012"}


def test_more_than_there_are_gives_all_there_are(served: World) -> None:
    assert len(served.search("some words", 1_000)) == 120


# The right ones -------------------------------------------------------------------------------------------------------


def brute_force(world: World, query: str, k: int) -> list[str]:
    encoder = world.loader["hashing"]._inner
    short = [n for n in range(COUNT) if n % 10]
    scores = (
        encoder.encode("document", whole_texts([text(n) for n in short]))
        @ encoder.encode("query", whole_texts([query]))[0]
    )
    best = sorted(zip(-np.round(scores, 5), short, strict=True))[:k]
    return [f"d{n:05d}" for _, n in best]


def test_exact_search_equals_brute_force(library: World, searcher: Searcher) -> None:
    only_short = {"rare": [n for n in range(200) if n % 10]}
    for n in (11, 222, 1_333):
        query = f"apple{n} redsea bluesky"
        answer = searcher.search(query, 20, where=only_short, exact=True)
        assert answer.exact
        encoder = library.loader["hashing"]._inner
        wanted = encoder.encode("document", whole_texts([text(int(i[1:])) for i in brute_force(library, query, 20)]))
        scores = wanted @ encoder.encode("query", whole_texts([query]))[0]
        assert np.allclose([hit.score for hit in answer.hits], scores, atol=1e-4)


def test_hnsw_finds_nine_tenths_of_what_exact_search_finds(searcher: Searcher) -> None:
    overlap = []
    for n in range(0, COUNT, 100):
        query = f"apple{n} pear{n} redsea"
        exact = {hit.id for hit in searcher.search(query, 10, exact=True).hits}
        fast = searcher.search(query, 10)
        assert not fast.exact
        overlap.append(len(exact & {hit.id for hit in fast.hits}) / 10)
    assert np.mean(overlap) >= 0.9


def test_a_filtered_search_finds_what_exact_search_finds(searcher: Searcher) -> None:
    for where in ({"half": True}, {"lang": "l3"}, {"rare": 7}):
        exact = [hit.id for hit in searcher.search(QUERY, 10, where=where, exact=True).hits]
        found = [hit.id for hit in searcher.search(QUERY, 10, where=where).hits]
        assert len(set(exact) & set(found)) >= 9


def test_by_document_gives_the_best_chunk_of_each(searcher: Searcher) -> None:
    chunks = searcher.search(QUERY, 200, by="chunk", exact=True).hits
    best: dict[str, float] = {}
    for hit in chunks:
        best.setdefault(hit.id, hit.score)
    for hit in searcher.search(QUERY, 10, exact=True).hits:
        assert hit.score == pytest.approx(best[hit.id])


def test_a_hit_carries_the_text_of_its_chunk(library: World, searcher: Searcher) -> None:
    for hit in searcher.search(QUERY, 20, by="chunk").hits:
        stored = library.documents.get(hit.id)
        assert stored is not None
        assert hit.text == stored.text[hit.start : hit.stop]
        assert hit.meta == stored.meta


# Bad questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        {"": 1},
        {1: 1},
        {"n": []},
        {"n": {}},
        {"n": {"between": 1}},
        {"n": {"gte": None}},
        {"n": {"gte": True}},
        {"n": {"gte": float("nan")}},
        {"n": float("inf")},
        {"n": {1, 2}},
        {"n": object},
        {"n": "NUL \0"},
        {"n": "half \ud800"},
        {"n\0": 1},
        {"n\0": {"gte": 1}},
        ["n"],
    ],
    ids=ascii,
)
def test_a_filter_that_cannot_be_answered_is_refused(searcher: Searcher, where) -> None:
    with pytest.raises(ConfigError, match="Nothing was searched"):
        searcher.search(QUERY, where=where)


@pytest.mark.parametrize("query", ["", "  ", None, 5])
def test_a_query_without_text_is_refused(searcher: Searcher, query) -> None:
    with pytest.raises(ConfigError, match="Nothing was searched"):
        searcher.search(query)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 1_001}, {"by": "page"}])
def test_options_out_of_range_are_refused(searcher: Searcher, options) -> None:
    with pytest.raises(ConfigError, match="Nothing was searched"):
        searcher.search(QUERY, **options)


def test_text_that_looks_like_sql_is_only_text(searcher: Searcher) -> None:
    hostile = "'; DROP TABLE document; -- :cid %s %(x)s"
    assert searcher.search(hostile, 1).hits
    assert searcher.search(QUERY, where={hostile: hostile}).hits == ()
    assert searcher.search(QUERY, where={hostile: {"gte": hostile}}).hits == ()


def test_before_the_first_swap_a_search_says_that_nothing_is_served(world: World) -> None:
    world.put(60)
    world.upgrade("a100", to="provision")
    with pytest.raises(StateError, match="revector upgrade"):
        world.search("apple1")


# The alias ------------------------------------------------------------------------------------------------------------


def test_index_and_encoder_change_together(served: World) -> None:
    searcher = served.project.searcher("docs")
    before = searcher.search("apple7 pear7")
    served.upgrade("b200")
    after = searcher.search("apple7 pear7")
    old, new = served.generation("standby"), served.generation()
    assert old.spec.model.dim == new.spec.model.dim, "a query of the wrong model must not fail for its width"
    for answer, generation in ((before, old), (after, new)):
        assert (answer.generation, answer.encoder_fp) == (generation.gen, generation.encoder_fp)
        truth = Truth.of(generation.spec)
        for hit in answer.hits:
            assert hit.score == pytest.approx(float(truth.vector(hit.text) @ truth.vector("apple7 pear7")), abs=1e-5)


def test_a_query_that_meets_a_swap_is_asked_again(swapped: World) -> None:
    """Pinned to b200 when it begins; before it searches, the alias moves."""
    searcher = swapped.project.searcher("docs")
    pinned = searcher.resolve()
    vector = searcher.encode(pinned, ["apple7 pear7"])[0]
    swapped.migrator.rollback("test")
    assert searcher.search_vector(pinned, vector, 10, follow_alias=True) is None
    assert searcher.search("apple7 pear7").generation == swapped.generation().gen != pinned.gen


def test_a_query_whose_index_is_dropped_while_it_encodes_is_asked_again(swapped: World, monkeypatch) -> None:
    searcher = swapped.project.searcher("docs")
    swapped.migrator.rollback("test")
    pinned = searcher.resolve()

    def meanwhile(texts):
        monkeypatch.undo()
        swapped.migrator.run("swap", "b200")
        swapped.migrator.retire("test", now=True)
        return encoder.encode("query", whole_texts(texts))

    encoder = swapped.loader["hashing"]
    monkeypatch.setattr(encoder, "queries", meanwhile)
    answer = searcher.search("apple7 pear7")
    assert answer.generation == swapped.generation().gen != pinned.gen
    assert answer.hits[0].id == "d00007"


def test_a_named_generation_answers_with_its_own_encoder(swapped: World) -> None:
    standby = swapped.generation("standby")
    answer = swapped.project.searcher("docs").search("apple7 pear7", generation=standby.gen)
    assert (answer.generation, answer.encoder_fp) == (standby.gen, standby.encoder_fp)
    assert answer.hits[0].id == "d00007"


def test_a_generation_in_no_slot_is_refused(swapped: World) -> None:
    gone = swapped.generation("standby").gen
    swapped.migrator.retire("test", now=True)
    with pytest.raises(StateError, match="no slot"):
        swapped.search("apple7", generation=gone)


# What may be seen -----------------------------------------------------------------------------------------------------


def test_a_deleted_document_is_hidden_at_once_though_no_worker_ran(served: World) -> None:
    assert served.search("apple7 pear7", 1) == ["d00007"]
    served.documents.delete("d00007")
    for options in ({}, {"exact": True}, {"where": {"n": {"lt": 20}}}, {"by": "chunk"}):
        assert "d00007" not in served.search("apple7 pear7", 100, **options)


def test_text_from_before_a_delete_is_never_served_again(served: World) -> None:
    served.documents.delete("d00007")
    served.documents.put("d00007", "cherry plum")
    assert "d00007" not in served.search("apple7 pear7", 100)
    served.settle()
    assert served.search("cherry plum", 1) == ["d00007"]


def test_text_and_metadata_of_a_hit_are_the_current_ones_though_no_worker_ran(served: World) -> None:
    served.documents.put("d00007", "cherry plum", {"lang": "de"})
    hit = served.project.searcher("docs").search("apple7 pear7").hits[0]
    assert (hit.id, hit.text, hit.meta) == ("d00007", "cherry plum", {"lang": "de"})


def test_a_filter_reads_the_current_metadata_though_no_worker_ran(served: World) -> None:
    stored = served.documents.get("d00007")
    served.documents.put("d00007", stored.text, {"secret": True})
    assert served.search("apple7 pear7", where={"n": 7}) == []
    assert served.search("apple7 pear7", where={"secret": True}) == ["d00007"]


def test_collections_do_not_see_each_other(served: World, tmp_path: Path) -> None:
    file = tmp_path / "revector.toml"
    file.write_text(file.read_text() + '\n[collections.other]\nqrels = "labels"\nmigrations = "migrations/docs"\n')
    served.__dict__.pop("project")
    served.project.init()
    other = served.project.documents("other")
    other.put_many([Document(f"d{n:05d}", f"apple{n} pear{n} elsewhere") for n in range(80)])
    served.project.migrator("other", actor="tester").upgrade("a100")
    hit = served.project.searcher("other").search("apple7 pear7").hits[0]
    assert (hit.id, hit.text) == ("d00007", "apple7 pear7 elsewhere")
    other.delete("d00007")
    assert served.search("apple7 pear7", 1) == ["d00007"]
