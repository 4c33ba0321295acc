"""The loss of an ANN index, apart from the model's: a bad index is found and named, a good one is not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from revector.cli.commands_gate import print_lost
from revector.cli.output import console_for
from revector.errors import ConfigError, GateFailed
from revector.gate import ann
from revector.gate.ann import AnnReport, measure_ann
from revector.gate.explaining import explain
from revector.gate.latency import compare_latency
from revector.interfaces import Document, whole_texts
from revector.measure.metrics import Interval
from revector.pages import gate_result
from revector.registry.collections import Generation
from revector.registry.in_sql import InSqlLane
from revector.serving.searcher import Searcher
from worlds import World

COUNT = 3_000
GOOD, BAD = "a100", "b200"


def text(n: int) -> str:
    rng = np.random.default_rng(n)
    return " ".join(f"word{one}" for one in rng.integers(0, 400, 12))


@pytest.fixture(scope="module")
def library(databases, template, tmp_path_factory) -> Iterator[World]:
    """3,000 documents, some of several chunks, some alike; beside the served index one that was built badly."""
    world = World(tmp_path_factory.mktemp("library"), databases.url(databases.create(template)))
    model = 'model = ModelSpec(name="hashing", dim=64, max_tokens=64)\nchunking = Chunking(max_tokens=64)'
    world.revision(GOOD, None, f"{model}\nindex = IndexSpec(ef_search=60)")
    world.revision(BAD, GOOD, f"{model}\nindex = IndexSpec(m=2, ef_construction=4, ef_search=10)")
    texts = [text(n % 2_900) if n % 50 else " ".join(map(text, range(n, n + 12))) for n in range(COUNT)]
    world.documents.put_many([Document(f"d{n:05d}", one) for n, one in enumerate(texts)])
    world.upgrade(GOOD)
    world.upgrade(BAD, to="index")
    world.documents.delete_many([f"d{n:05d}" for n in range(0, 300, 3)])  # which no worker has applied
    yield world
    world.engine.dispose()


@pytest.fixture
def searcher(library: World) -> Searcher:
    return library.project.searcher("docs")


QUERIES = {f"q{n}": text(10_000 + n) for n in range(50)}


def measured(library: World, generation: Generation, **options) -> AnnReport:
    return measure_ann(library.engine, library.project.searcher("docs"), generation, QUERIES, **options)


@pytest.fixture(scope="module")
def reports(library: World) -> dict[str, AnnReport]:
    qrels = {query: {f"d{n:05d}": 1 for n in range(k * 40, k * 40 + 40)} for k, query in enumerate(list(QUERIES)[:20])}
    return {
        role: measured(library, library.generation(role), qrels=qrels if role == "building" else None)
        for role in ("active", "building")
    }


def test_a_good_index_passes_and_gets_a_setting_recommended(reports: dict[str, AnnReport]) -> None:
    report = reports["active"]
    assert report.served.plan.hnsw
    assert report.served.ef_search == 60
    assert report.served.overlap.mean >= 0.95
    assert (report.reasons, report.notes, report.loss) == ((), (), None)
    fits = [point.ef_search for point in report.sweep if point.overlap.low >= 0.95]
    assert report.recommended == fits[0]
    assert (report.documents, report.queries, report.k) == (COUNT - 100, 50, 10)
    assert report.chunks > report.documents


def test_a_badly_built_index_is_found_below_the_threshold_and_named(
    library: World, reports: dict[str, AnnReport]
) -> None:
    report, generation = reports["building"], library.generation("building")
    assert report.served.plan.hnsw
    assert report.served.overlap.high < 0.95
    [reason] = report.reasons
    for part in (generation.physical_name, BAD, "m = 2", "ef_construction = 4", "ef_search = 10", "0.9500 is demanded"):
        assert part in reason
    assert (f"ef_search = {report.recommended} reaches it" if report.recommended else "larger m") in reason


def test_a_wider_search_finds_more(reports: dict[str, AnnReport]) -> None:
    for report in reports.values():
        efs = [point.ef_search for point in report.sweep]
        assert efs == sorted(set(efs))
        assert efs[0] == 40  # a search for ten documents wants forty candidates: less than that is never in force
        overlaps = [point.overlap.mean for point in report.sweep if point.plan.hnsw]
        assert overlaps[-1] >= overlaps[0]
    assert reports["building"].sweep[0].overlap.mean < reports["active"].sweep[0].overlap.mean


def test_recall_that_the_index_loses_is_told_apart_from_that_of_the_model(reports: dict[str, AnnReport]) -> None:
    loss = reports["building"].loss
    assert loss is not None
    assert loss.queries == 20
    assert loss.lost.mean == pytest.approx(loss.exact.mean - loss.served.mean)


def test_the_overlap_is_that_with_an_exact_search_in_the_database(library: World, searcher: Searcher, reports) -> None:
    generation = library.generation("building")
    shares = []
    for query in QUERIES.values():
        [vector] = searcher.encode(generation, [query])
        wanted = {hit.id for hit in searcher.search_vector(generation, vector, 10, exact=True).hits}
        found = {hit.id for hit in searcher.search_vector(generation, vector, 10).hits}
        shares.append(len(wanted & found) / 10)
    # Documents that are alike tie, and either of them counts.
    assert reports["building"].served.overlap.mean == pytest.approx(np.mean(shares), abs=0.03)
    assert reports["building"].served.overlap.mean >= np.mean(shares) - 1e-9


def test_the_best_documents_that_the_index_lost_are_named(library: World, searcher: Searcher, reports, capsys) -> None:
    generation, report = library.generation("building"), reports["building"]
    wanted = {}
    for name, query in QUERIES.items():
        [vector] = searcher.encode(generation, [query])
        best, *_, next_one = searcher.search_vector(generation, vector, 11, exact=True).hits
        served = {hit.id for hit in searcher.search_vector(generation, vector, 10).hits}
        if best.id not in served and best.score > next_one.score + 1e-6:
            wanted[name] = best.id
    assert wanted, "so bad an index loses some"
    assert {one.query: one.document for one in report.lost} == wanted
    assert report.lost_best == len(report.lost) == report.as_data()["lost_best"]
    assert report.lost_relevant == sum(one.relevant is True for one in report.lost)
    [first, *_] = report.lost
    print_lost(report, QUERIES, console_for(sys.stdout))
    said = capsys.readouterr().out
    assert f"{len(wanted)} of 50 queries the index lost the document that exact search has at rank 1" in said
    assert f"  {first.document} ({first.score:.4f}" in said


def test_a_document_that_is_the_query_is_left_out_of_both_sides(library: World) -> None:
    """Its loss is none, and neither its overlap nor the recall counts it."""
    asked = {f"d{n:05d}": text(n) for n in range(301, 311)}
    own = {query: [query, f"d{int(query[1:]) + 2_900:05d}"] for query in asked}
    report = measure_ann(
        library.engine,
        library.project.searcher("docs"),
        library.generation("building"),
        asked,
        qrels={query: {query: 1} for query in asked},
        own=own,
        sweep=(),
    )
    assert report.loss is not None
    assert (report.loss.exact.mean, report.loss.served.mean) == (0, 0)
    assert not {one.document for one in report.lost} & {doc for docs in own.values() for doc in docs}


def test_the_demanded_overlap_decides(library: World) -> None:
    report = measured(library, library.generation("building"), min_overlap=0.05, sweep=(40,))
    assert (report.reasons, report.recommended) == ((), 40)
    strict = measured(library, library.generation("active"), min_overlap=1.0, sweep=())
    assert bool(strict.reasons) == (strict.served.overlap.mean < 1)


def test_the_plan_is_that_of_the_search_as_it_is_served(library: World, searcher: Searcher) -> None:
    generation = library.generation()
    [vector] = searcher.encode(generation, ["word1 word2"])
    plan = explain(library.engine, searcher, generation, vector, 10)
    assert (plan.hnsw, plan.ef_search) == (True, 60)
    assert plan.nodes == (f"Index Scan {InSqlLane(generation).index._ann}",)
    wide = dataclasses.replace(generation.spec, index=dataclasses.replace(generation.spec.index, ef_search=333))
    assert explain(library.engine, searcher, dataclasses.replace(generation, spec=wide), vector, 10).ef_search == 333


def test_an_index_of_bits_is_measured_as_it_is_served_with_its_rerank(library: World, searcher: Searcher) -> None:
    served = library.generation()
    index = dataclasses.replace(served.spec.index, quantize="bit", rerank=2)
    bits = dataclasses.replace(
        served, physical_name="idx_docs_bits", spec=dataclasses.replace(served.spec, index=index)
    )
    with library.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE idx_docs_bits AS SELECT * FROM {served.physical_name}")
    InSqlLane(bits).index.build(library.engine)
    InSqlLane(bits).analyze(library.engine)
    report = measured(library, bits, sweep=(40, 320), min_overlap=1.0)
    assert report.served.plan.hnsw
    assert [point.ef_search for point in report.sweep] == [80, 320]  # twice the forty candidates of ten documents
    assert 0.3 < report.served.overlap.mean < 1
    [reason] = report.reasons
    assert "quantize = bit, rerank = 2" in reason
    assert "or set a larger rerank" in reason
    wide = dataclasses.replace(bits, spec=dataclasses.replace(bits.spec, index=dataclasses.replace(index, rerank=16)))
    more = measured(library, wide, sweep=(), min_overlap=1.0)
    assert more.served.overlap.mean > report.served.overlap.mean


def test_a_small_table_is_scanned_and_the_report_says_so(served: World) -> None:
    report = measure_ann(
        served.engine, served.project.searcher("docs"), served.generation(), {"q": "apple7 pear7"}, sweep=(40, 80)
    )
    assert not report.served.plan.hnsw
    assert report.served.overlap == Interval(1.0, 1.0, 1.0)
    assert report.recommended is None
    [note] = report.notes
    assert "does not use the HNSW index of revision a100" in note


def test_a_generation_without_an_ann_index_loses_nothing(world: World) -> None:
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)\nindex = IndexSpec(kind="exact")')
    world.put(80)
    world.upgrade("a100")
    report = measure_ann(world.engine, world.project.searcher("docs"), world.generation(), {"q": "apple7", "r": "pear"})
    assert [point.ef_search for point in report.sweep] == [0]
    assert report.served.exact_answers == 2
    assert report.served.overlap.mean == 1.0
    assert (report.reasons, report.notes) == ((), ())


def test_a_report_is_plain_data(reports: dict[str, AnnReport]) -> None:
    data = reports["building"].as_data()
    assert json.loads(json.dumps(data)) == data
    assert data["served"]["overlap"].keys() == {"mean", "low", "high"}
    assert data["loss"]["lost"].keys() == {"mean", "low", "high"}


@pytest.mark.parametrize(
    "options", [{"queries": {}}, {"min_overlap": 1.1}, {"sweep": (0,)}, {"sweep": (1_001,)}, {"k": 0}, {"k": COUNT}]
)
def test_what_cannot_be_measured_is_refused(library: World, searcher: Searcher, options) -> None:
    with pytest.raises(ConfigError, match="Nothing was measured"):
        measure_ann(library.engine, searcher, library.generation(), **{"queries": {"q": "word1"}, **options})


# Old against new ------------------------------------------------------------------------------------------------------


def test_old_and_new_are_asked_the_same_queries_in_turns(library: World, searcher: Searcher, monkeypatch) -> None:
    old, new = library.generation(), library.generation("building")
    asked: list[int] = []
    real = Searcher.search_vector
    monkeypatch.setattr(
        Searcher,
        "search_vector",
        lambda self, pinned, *rest, **options: (asked.append(pinned.gen), real(self, pinned, *rest, **options))[1],
    )
    report = compare_latency(searcher, old, new, list(QUERIES.values())[:20])
    assert asked[-40:] == [old.gen, new.gen, new.gen, old.gen] * 10
    assert (report.old.revision, report.new.revision, report.queries) == (GOOD, BAD, 20)
    for ratio in report.ratio.values():
        assert 0 < ratio.low <= ratio.mean <= ratio.high
    for timed in (report.old, report.new):
        assert 0 < timed.total_ms["p50"] <= timed.total_ms["p95"] <= timed.total_ms["p99"]
        assert timed.total_ms["p50"] >= max(timed.encode_ms["p50"], timed.search_ms["p50"])
    data = report.as_data()
    assert json.loads(json.dumps(data)) == data


def test_a_slower_encoder_shows_in_the_ratio(swapped: World, monkeypatch) -> None:
    """Its clock is put forward, so that nothing depends on the machine."""
    searcher = swapped.project.searcher("docs")
    old, new = swapped.generation("standby"), swapped.generation()
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) / 1_000)
    encoder = swapped.loader["hashing:seed2"]

    def slowly(texts):
        [next(clock) for _ in range(500)]
        return encoder._inner.encode("query", whole_texts(texts))

    monkeypatch.setattr(encoder, "queries", slowly)
    report = compare_latency(searcher, old, new, ["apple1", "apple2", "pear3"])
    assert report.old.encode_ms["p50"] == pytest.approx(1)
    assert report.new.encode_ms == pytest.approx({"p50": 501, "p95": 501, "p99": 501})
    assert report.ratio["p50"] == pytest.approx((251, 251, 251))  # one for the search, both times


def test_latency_of_no_queries_is_refused(library: World, searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match="over no queries"):
        compare_latency(searcher, library.generation(), library.generation("building"), [])


# What changes and what is served; at the end, for the library is not the same afterwards ------------------------------


def test_documents_that_change_while_an_index_is_measured_count_for_neither_side(library: World, monkeypatch) -> None:
    """Five new documents would be ahead of half of what exact search had found."""

    def meanwhile(*rest):
        added = [Document(f"new{query}{n}", f"{words} {n}") for query, words in QUERIES.items() for n in range(5)]
        library.documents.put_many(added)
        library.settle()
        return sweep(*rest)

    sweep = ann._sweep
    monkeypatch.setattr(ann, "_sweep", meanwhile)
    report = measured(library, library.generation(), sweep=())
    assert sum(doc.startswith("new") for doc in library.search(QUERIES["q0"])) == 5
    assert report.served.plan.hnsw
    assert report.served.overlap.mean >= 0.95


def test_an_index_that_loses_answers_fails_the_gate_although_its_model_is_the_same(library: World) -> None:
    path = library.root / "migrations" / "docs" / f"{BAD}.py"
    path.write_text(path.read_text().replace("Gate(max_drop=0.1)", "Gate(max_drop=1.0, min_queries=20)"))
    with pytest.raises(GateFailed, match=r"failed: overlap@10 of the index with exact search is 0\.\d+, at least 0.95"):
        library.upgrade(BAD, to="gate")
    kept = gate_result.kept_result(library.project, "docs")
    assert kept.evidence("ann", AnnReport).served.overlap.mean < 0.95
    assert "What does the index lose" in gate_result.gate_page(library.project, "docs")
    path.write_text(path.read_text().replace("min_queries=20", "min_queries=20, min_overlap=None"))
    library.upgrade(BAD, to="gate")
    assert gate_result.kept_result(library.project, "docs").verdict == "pass"
