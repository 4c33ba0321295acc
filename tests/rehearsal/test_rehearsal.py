"""Rehearsals: what they tell is true of the real migration, and what they find is refused."""

from __future__ import annotations

import io
import json
import os
import random
import re
from typing import Any

import pytest
import sqlalchemy as sa
from rehearsing import During, everything, rehearse, schemas, traces

from revector.cli import run
from revector.cli.output import console_for
from revector.cli.rehearsal_page import rehearsal_page
from revector.database.engine import make_engine
from revector.errors import (
    ConfigError,
    DatabaseError,
    EditedRevision,
    EncoderMismatch,
    IllegalStep,
    LabelError,
    RevectorError,
)
from revector.interfaces import Document
from revector.planning.estimate import Estimate
from revector.registry import cutoffs
from revector.registry.control import control
from revector.rehearsal.growth import Growth, graph_growth, step_times
from revector.rehearsal.report import RehearsedRollback
from revector.rehearsal.sampling import FigureSums, choose_queries, draw, whole
from revector.rehearsal.scratch import Scratch
from worlds import World

# What it tells --------------------------------------------------------------------------------------------------------


def test_a_rehearsal_reports_the_whole_migration_and_leaves_one_event_behind(served: World) -> None:
    served.put(200, start=200)
    before, tasks = everything(served), During("", lambda: None)
    found = rehearse(served, size=150, progress=tasks)
    assert everything(served) == before
    assert traces(served) == []
    assert tasks.seen[0] == "copy the sample"
    assert {"a100: shard 0", "b200: shard 0", "b200: build HNSW", "b200: search a100"} <= set(tasks.seen)
    assert found.refusals == ()
    assert [note for note in found.notes if "170 documents that could push a relevant one down" in note]
    assert (found.documents, found.sampled, found.labelled, found.queries_usable) == (320, 150, 60, 60)
    steps = [step.step for step in found.steps]
    assert steps == ["provision", "backfill", "index", "verify", "gate", "swap", "rollback", "retire"]
    assert found.gate.passed
    assert found.gate.queries == 60
    assert found.gate.old.revision == "a100"
    assert found.gate.new.revision == "b200"
    assert found.verify.passed
    assert found.verify.documents == 150
    assert found.rollback == RehearsedRollback(passed=True, reasons=[], written=3, deleted=2)
    assert set(found.pauses_ms) == {"swap", "rollback", "forward again"}
    [event] = served.events("rehearse")
    assert event["actor"] == "tester"
    assert event["detail"]["revision"] == "b200"
    assert event["detail"]["gate"]["new"]["recall"]["mean"] == found.gate.new.recall.mean


def test_the_estimates_hold_for_the_migration_that_follows(served: World) -> None:
    draws = random.Random(3)
    served.documents.put_many([_of_length(n, int(draws.paretovariate(1.2) * 20)) for n in range(120, 420)])
    chunking = "chunking = Chunking(max_tokens=16, overlap_tokens=0)"
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128)', chunking)
    served.settle()
    found = rehearse(served, size=150)
    served.upgrade("b200")
    index = served.generation().physical_name
    chunks, size, graph = served.sql(
        f"SELECT (SELECT count(*) FROM {index}), pg_total_relation_size('{index}'), pg_relation_size('{index}_hnsw')"
    )[0]
    assert found.chunks.low <= chunks <= found.chunks.high
    assert found.chunks.low < 0.9 * found.chunks.value
    assert found.chunks_per_document == pytest.approx(found.chunks.value / 420)
    assert found.index_bytes.value == pytest.approx(size, rel=0.5)
    assert found.memory_bytes.value == pytest.approx(graph, rel=0.5)
    backfill = next(step for step in found.steps if step.step == "backfill")
    assert backfill.estimated_s.value == pytest.approx(found.tokens.value / found.tokens_per_s)
    assert found.embedding_hours.value == pytest.approx(backfill.estimated_s.value / 3_600)


def _of_length(n: int, words: int) -> Document:
    return Document(f"d{n:05d}", " ".join(f"word{n}x{i}" for i in range(min(words, 2_000))))


def test_a_sample_that_is_the_whole_collection_is_no_estimate(served: World) -> None:
    found = rehearse(served, share=1.0)
    assert (found.sampled, found.documents) == (120, 120)
    assert (found.chunks.low, found.chunks.value, found.chunks.high) == (120, 120, 120)
    assert found.dead_expected == Estimate(0, 0, 0)
    assert not [note for note in found.notes if "upper bound" in note]


def test_documents_that_the_chunking_cuts_are_counted(served: World) -> None:
    chunking = 'chunking = Chunking(unit="document", max_tokens=8, overlap_tokens=0)'
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128)', chunking)
    served.documents.put_many([_of_length(n, 30) for n in range(110, 117)])
    assert rehearse(served, share=1.0).truncated == Estimate(7, 7, 7)


def test_the_first_revision_is_rehearsed_without_a_way_back(world: World) -> None:
    world.put(100)
    before = everything(world)
    found = rehearse(world, "a100", size=80)
    assert everything(world) == before
    assert (found.active_revision, found.rollback, found.refusals) == (None, None, ())
    assert found.gate.old is None
    world.settings(qrels=None)
    assert rehearse(world, "a100", size=50).gate.not_measured


# What it refuses ------------------------------------------------------------------------------------------------------


def test_poison_documents_are_found_with_their_reasons_and_the_rest_is_rehearsed_all_the_same(served: World) -> None:
    served.put(40, start=200)
    served.documents.put("d00210", "poison in the well")
    served.settle()

    def choke(texts, vectors):
        if any("poison" in text for text in texts):
            raise RuntimeError("tokenizer choked")
        return vectors

    served.loader["hashing:seed2"].hook = choke
    before = everything(served)
    found = rehearse(served, share=1.0)
    assert everything(served) == before
    assert found.dead_letters == 1
    assert found.dead_reasons == {"d00210": "RuntimeError: tokenizer choked"}
    assert found.dead_expected.value == 1
    assert found.refusals == ("1 documents of the sample cannot be embedded: cure them, or waive each",)
    assert found.gate.passed
    assert found.rollback.passed
    page = io.StringIO()
    rehearsal_page(found, console_for(page))
    assert "The real migration would be refused:\n  1 documents of the sample" in page.getvalue()
    assert "d00210: RuntimeError: tokenizer choked" in page.getvalue()


def test_a_gate_that_would_fail_is_said_with_old_and_new_and_the_rest_is_rehearsed(served: World) -> None:
    served.put(100, start=200)
    served.revision(
        "b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=2)', "gate = Gate(max_drop=0.1, min_queries=40)"
    )
    file = served.root / "migrations" / "docs" / "b200.py"
    text, before = file.read_text(), everything(served)
    found = rehearse(served, size=150)
    assert everything(served) == before
    assert file.read_text() == text
    assert len(found.refusals) == 1
    assert re.search(r"gate: recall@10 falls by .* against revision a100 ", found.refusals[0])
    assert found.gate.new.recall.mean < found.gate.old.recall.mean
    assert found.gate.gate["max_drop"] == 0.1
    assert found.rollback.passed


def test_cut_offs_are_carried_over_on_the_copy_as_the_real_gate_will(served: World) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    found = rehearse(served, share=1.0)
    served.upgrade("b200", to="gate")
    with served.engine.connect() as connection:
        real = cutoffs.read_scores(connection, served.generation("building").gen)
    assert found.cutoffs == {"support": (0.5, real["support"])}
    assert real["support"] != 0.5
    rehearsal_page(found, console_for(page := io.StringIO()))
    assert f"support 0.5000, then {real['support']:.4f}" in page.getvalue()


def test_a_cut_off_that_the_copy_cannot_carry_over_is_said_and_ends_nothing(served: World) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.99})
    found = rehearse(served, share=1.0)
    assert any("cut-off support" in reason and "cannot be carried over" in reason for reason in found.refusals)
    assert found.rollback.passed


def test_an_index_that_would_not_be_verified_ends_the_rehearsal_there(served: World) -> None:
    served.loader["hashing:seed2"].hook = lambda _, vectors: vectors * 2
    found = rehearse(served, size=60)
    assert len(found.refusals) == 1
    assert re.match("verification: 80 .* bad vectors", found.refusals[0])
    assert (found.gate, found.rollback, found.pauses_ms) == (None, None, {})
    assert traces(served) == []


FAULTS = {
    "the standby index misses what is written after the swap": (
        "s(gen)\n    WHERE s.gen IS NOT NULL",
        "s(gen)\n    WHERE s.gen IS NOT NULL AND s.gen IS DISTINCT FROM c.standby_gen",
        "index of a100: 1 documents are missing",
    ),
    "deletes reach no index": (
        "s(gen)\n    WHERE s.gen IS NOT NULL",
        "s(gen)\n    WHERE s.gen IS NOT NULL AND NOT f.deleted",
        "index of (a100|b200): ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_the_window_is_a_rollback_that_loses(served: World, fault: str) -> None:
    sound, broken, says = FAULTS[fault]

    def plant() -> None:
        [schema] = schemas(served)
        source = served.value(f"SELECT pg_get_functiondef('{schema}.document_fan_out'::regproc)")
        assert sound in source
        with served.engine.begin() as connection:
            connection.exec_driver_sql(source.replace(sound, broken.format(schema=schema)).replace("%", "%%"))

    found = rehearse(served, size=60, progress=During("put and delete", plant))
    assert not found.rollback.passed
    assert any(re.search(f"rollback: {says}", reason) for reason in found.refusals), found.refusals
    assert traces(served) == []


REFUSED: list[tuple[type[RevectorError], str, dict[str, Any]]] = [
    (IllegalStep, "is what is served", {"revision": "a100"}),
    (ConfigError, "share above 0", {"size": 0}),
    (ConfigError, "share above 0", {"share": 1.5}),
    (ConfigError, "share above 0", {"share": float("nan")}),
    (RevectorError, "Known, from base to head", {"revision": "zzzz"}),
]


@pytest.mark.parametrize(("error", "says", "options"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_made(served: World, error, says: str, options) -> None:
    before = everything(served)
    with pytest.raises(error, match=says):
        rehearse(served, **options)
    assert everything(served) == before
    assert traces(served) == []


def test_what_the_real_migration_would_refuse_at_once_is_refused_at_once(served: World) -> None:
    before = everything(served)
    served.revision("a100", None, 'model = ModelSpec(name="hashing", dim=32)')
    with pytest.raises(EditedRevision, match="a copy would not be what is served"):
        rehearse(served)
    served.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)')
    served.labels([("d00001", "apple1")])
    with pytest.raises(LabelError, match="at least 50"):
        rehearse(served)
    served.settings(qrels=None)
    with pytest.raises(LabelError, match="qrels"):
        rehearse(served)
    assert everything(served) == before
    assert traces(served) == []


def test_a_served_encoder_that_changed_is_refused(served: World) -> None:
    served.unguarded("""UPDATE revector.generation SET encoder = encoder || '{"model": "another"}'""")
    with pytest.raises(EncoderMismatch):
        rehearse(served)
    assert traces(served) == []


def test_a_role_that_may_not_make_a_schema_is_told_the_statement_that_mends_it(served: World, admin: sa.Engine) -> None:
    role = f"rehearsing_{os.getpid()}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    plain = make_engine(served.engine.url.set(username=role, password="secret").render_as_string(hide_password=False))
    try:
        with pytest.raises(DatabaseError, match=f'GRANT CREATE ON DATABASE "{served.engine.url.database}" TO "{role}"'):
            Scratch(plain, "docs")
    finally:
        plain.dispose()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP ROLE {role}")
    assert schemas(served) == []


# The sample -----------------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_documents_and_another_seed_others(served: World) -> None:
    served.put(300, start=200)

    def drawn(seed: int, size: int) -> list[str]:
        with Scratch(served.engine, "docs") as scratch:
            sample = draw(scratch.engine, served.collection.cid, ["d00001", "d00007"], size=size, seed=seed)
            ids = served.sql(f"SELECT doc_id, labelled FROM {scratch.schema}.sample ORDER BY 1")
            scratch.drop()
        assert (sample.documents, sample.labelled, sample.drawn) == (420, 2, size - 2)
        assert [row.doc_id for row in ids if row.labelled] == ["d00001", "d00007"]
        return [row.doc_id for row in ids]

    assert drawn(1, 50) == drawn(1, 50)
    assert drawn(1, 50) != drawn(2, 50)
    assert set(drawn(1, 50)) < set(drawn(1, 90)), "a larger sample holds the smaller one"


def test_queries_are_taken_whole_in_the_order_of_the_seed() -> None:
    qrels = {f"q{n}": {f"d{n}": 1, f"e{n}": 2, f"no{n}": 0} for n in range(50)}
    queries, documents = choose_queries(qrels, seed=1, most_documents=21, least_queries=3)
    assert len(queries) == 10
    assert documents == {f"{letter}{query[1:]}" for query in queries for letter in "de"}
    assert choose_queries(qrels, seed=1, most_documents=21, least_queries=3)[0] == queries
    assert choose_queries(qrels, seed=2, most_documents=21, least_queries=3)[0] != queries
    assert choose_queries(dict(reversed(qrels.items())), seed=1, most_documents=21, least_queries=3)[0] == queries
    assert len(choose_queries(qrels, seed=1, most_documents=0, least_queries=7)[0]) == 7
    assert choose_queries({}, seed=1, most_documents=5, least_queries=7) == ([], set())


def test_the_interval_of_a_total_covers_it_as_often_as_it_says() -> None:
    draws = random.Random(7)
    population = [draws.expovariate(0.2) for _ in range(2_000)]
    labelled, rest = population[:100], population[100:]
    certain = FigureSums()
    for value in labelled:
        certain.add(value)
    covered = 0
    for _ in range(400):
        tally = FigureSums()
        for value in draws.sample(rest, 200):
            tally.add(value)
        found = whole(certain, tally, len(population))
        covered += found.low <= sum(population) <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_of_a_count_covers_it_also_where_nothing_was_found() -> None:
    draws = random.Random(8)
    rest = [n < 20 for n in range(1_000)]
    covered = sum(
        found.low <= 20 + 3 <= found.high
        for _ in range(400)
        for found in [Estimate.of_count(3, sum(draws.sample(rest, 150)), 150, len(rest))]
    )
    assert covered / 400 >= 0.93
    none = Estimate.of_count(0, 0, 100, 10_000)
    assert (none.value, none.low) == (0, 0)
    assert 300 < none.high < 400, "the rule of three"
    assert Estimate.of_count(1, 2, 50, 50) == Estimate(3, 3, 3)


def test_steps_grow_by_what_their_time_depends_on() -> None:
    growth = Growth(
        chunks=Estimate(20, 19, 21),
        tokens=Estimate(30, 28, 33),
        graph=graph_growth(Estimate(10_000, 9_000, 11_000), 1_000),
        queries=Estimate(2, 2, 2),
    )
    steps = ("provision", "backfill", "index", "verify", "gate", "swap", "retire")
    times = step_times(dict.fromkeys(steps, 1.0), growth, ranges_s=3.0, drain_s=60.0, reembedded_s=0.4)
    found = {one.step: one.estimated_s for one in times}
    assert found["provision"].value == 4
    assert found["backfill"] == Estimate(30, 28, 33)
    assert found["index"].value == pytest.approx(10 * 4 / 3)
    assert found["verify"].value == pytest.approx(0.4 + 0.6 * 20)
    assert (found["gate"].value, found["swap"].value, found["retire"].value) == (2, 1, 61)


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_it_to_people_and_machines_and_ends_with_5_where_it_would_be_refused(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    assert run(["rehearse", "b200", "--sample", "90%"]) == 0
    page = capsys.readouterr().out
    for said in (
        "Rehearsed revision b200 of docs on 108 of 120 documents (54 of them labelled, seed 0)",
        "Nothing in the sample would stop the real migration.",
        "lost nothing; 3 documents written and 2 deleted",
        "passed: recall@10 old 1.0000",
    ):
        assert said in page
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=1)')
    assert run(["rehearse", "--sample", "60", "--seed", "4", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["revision"], found["seed"], found["sampled"]) == ("b200", 4, 80)
    assert found["refusals"][0].startswith("gate: ")
    for words in ("many", "0", "-3", "140%", "0.0"):
        assert run(["rehearse", f"--sample={words}"]) == 2
    assert run(["rehearse", "a100"]) == 4
