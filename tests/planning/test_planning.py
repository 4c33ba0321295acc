"""The plan: what changes, what is redone and what is reused, how much there is, what it costs, and what came of it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from revector.cli import exits, run
from revector.config import Project, load_project
from revector.encoders.hashing import HashingEncoder
from revector.errors import NoRoom
from revector.interfaces import Document, whole_texts
from revector.planning import estimating, outcomes, server, strata
from revector.planning import plan as planning
from revector.planning.constants import CONSTANTS
from revector.planning.costs import Costs, money
from revector.planning.forecast import LEAST_FREE, Disk
from revector.planning.probing import probe
from revector.registry.control import add_event
from revector.spec import ModelSpec
from worlds import World

MODEL = 'model = ModelSpec(name="hashing", dim=64)'


def embedded_and_reused(world: World, revision: str) -> tuple[int, int]:
    """What the backfill says that it did."""
    outcomes = {one.step: one.facts for one in world.upgrade(revision, to="backfill")}
    return outcomes["backfill"]["embedded"], outcomes["backfill"]["reused"]


# What must be redone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reused"),
    [
        ((MODEL, "index = IndexSpec(m=24)"), 120),
        ((MODEL, 'index = IndexSpec(kind="exact")'), 120),
        ((MODEL, 'index = IndexSpec(storage="halfvec")'), 120),
        ((MODEL, 'index = IndexSpec(quantize="bit")'), 120),
        ((MODEL, "index = IndexSpec(ef_search=40)"), 120),
        ((MODEL, "chunking = Chunking(max_tokens=128)"), 0),
        (('model = ModelSpec(name="hashing:seed2", dim=64)',), 0),
        (('model = ModelSpec(name="hashing", dim=128)',), 0),
        (('model = ModelSpec(name="hashing", dim=64, document_prompt="passage: ")',), 0),
    ],
    ids=lambda value: value[-1][:60] if isinstance(value, tuple) else None,
)
def test_the_plan_foretells_what_the_backfill_reuses(served: World, body: tuple[str, ...], reused: int) -> None:
    served.revision("b200", "a100", *body)
    plan = served.migrator.plan("b200")
    assert plan.reused == reused
    assert embedded_and_reused(served, "b200") == (120 - reused, reused)
    assert (plan.tokens_to_embed.value == 0) == (reused == 120)
    assert ("copy every vector" in plan.action) == (reused == 120)


def test_what_was_written_since_is_embedded_whatever_is_reused(served: World) -> None:
    served.revision("b200", "a100", MODEL, "index = IndexSpec(m=24)")
    served.put(30, start=1_000)
    plan = served.migrator.plan("b200")
    assert (plan.documents, plan.reused) == (150, 120)
    assert embedded_and_reused(served, "b200") == (30, 120)


def test_an_aborted_migration_is_reused_from_the_archive(served: World) -> None:
    served.upgrade("b200", to="backfill")
    served.migrator.abort("started again")
    served.documents.put("d00003", "quite another text")
    plan = served.migrator.plan("b200")
    assert plan.reused == 119
    assert embedded_and_reused(served, "b200") == (1, 119)


def test_parts_that_were_removed_from_the_archive_are_not_counted_on(served: World) -> None:
    served.upgrade("b200", to="backfill")
    served.migrator.abort("started again")
    for part in served.project.archive.rglob("*.h5"):
        part.unlink()
    assert served.migrator.plan("b200").reused == 0


def test_every_setting_is_marked_as_changed_new_or_the_same(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=128)')
    changed = {one.field: one for one in served.migrator.plan("b200").changes}
    assert {name for name, one in changed.items() if one.mark == "~"} == {"model.name", "model.dim"}
    assert changed["model.name"].means == "every document is re-embedded"
    assert {one.mark for name, one in changed.items() if not name.startswith("model.")} == {"="}


def test_a_first_revision_is_all_new(world: World) -> None:
    world.put(10)
    plan = world.migrator.plan("a100")
    assert {one.mark for one in plan.changes} == {"+"}
    assert plan.action == "embed 10 documents into a new index"


# How much there is ----------------------------------------------------------------------------------------------------


def long_tailed(count: int) -> list[Document]:
    """Documents of 5 to some thousand words, of which few hold most of the text."""
    numbers = random.Random(3)
    lengths = [max(5, round(math.exp(numbers.gauss(4, 1.2)))) for _ in range(count)]
    return [Document(f"t{n:05d}", " ".join(f"word{n % 97}" for _ in range(k))) for n, k in enumerate(lengths)]


def test_tokens_of_all_documents_lie_in_the_interval_of_a_sample(world: World) -> None:
    documents = long_tailed(3_000)
    world.documents.put_many(documents)
    encoder = HashingEncoder(ModelSpec("hashing", 64))
    truth = sum(encoder.count_tokens(one.text or "") for one in documents)
    drawn = strata.draw(world.engine, world.collection.cid)
    found = strata.total(drawn, strata.by_stratum(drawn, encoder.count_tokens))
    assert (drawn.documents, len(drawn.strata) > 5) == (3_000, True)
    assert drawn.sampled < 300
    assert found.low <= truth <= found.high
    assert (found.high - found.low) / truth < 0.15


def test_a_sample_by_length_is_surer_than_one_at_random(world: World) -> None:
    world.documents.put_many(long_tailed(3_000))
    encoder = HashingEncoder(ModelSpec("hashing", 64))
    drawn = strata.draw(world.engine, world.collection.cid)
    by_length = strata.total(drawn, strata.by_stratum(drawn, encoder.count_tokens))
    picked = random.Random(1).sample(world.sql("SELECT content FROM document"), drawn.sampled)
    alone = strata.StratifiedSample(
        (strata.LengthClass(3_000, drawn.bytes, tuple(row.content for row in picked)),), 6.0
    )
    at_random = strata.total(alone, strata.by_stratum(alone, encoder.count_tokens))
    assert by_length.high - by_length.low < (at_random.high - at_random.low) / 2


def test_a_small_collection_is_counted_whole(served: World) -> None:
    plan = served.migrator.plan("b200")
    assert (plan.sampled, plan.chunks.low, plan.chunks.high) == (120, 120, 120)


def test_the_sample_does_not_change_between_two_plans(served: World) -> None:
    served.put(400, start=1_000)
    draw = lambda: strata.draw(served.engine, served.collection.cid)  # noqa: E731
    assert draw() == draw()


def test_a_probe_counts_what_it_embeds_and_stops_at_its_time() -> None:
    encoder = HashingEncoder(ModelSpec("hashing", 64))
    chunks = [(piece, 1.0) for piece in whole_texts(f"five words number {n} here" for n in range(300))]
    found = probe(encoder, chunks, seconds=4.0, cut_tokens_per_s=1.0)
    assert (found.chunks, found.tokens, found.device) == (300, 1_500, "cpu")
    assert found.tokens_per_s.low <= found.tokens_per_s.value <= found.tokens_per_s.high
    assert probe(encoder, chunks, seconds=0.0, cut_tokens_per_s=1.0).tokens == 0


def test_a_text_that_cannot_be_embedded_is_told_and_does_not_stop_the_plan(served: World) -> None:
    served.documents.put("d00003", "poison in the well")

    def choke(texts: Any, vectors: Any) -> Any:
        if any("poison" in text for text in texts):
            raise RuntimeError("tokenizer choked")
        return vectors

    served.loader["hashing:seed2"].hook = choke
    plan = served.migrator.plan("b200")
    assert (plan.probe.chunks, plan.probe.failed) == (120, 1)
    assert any("1 of 120 chunks" in risk for risk in plan.risks)


def test_the_steps_of_a_slower_server_are_planned_longer_and_embedding_is_not(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "WORTH_S", 0.0)
    probes: list[int] = []

    def slow(_: Any, sessions: int) -> server.Slowdown:
        probes.append(sessions)
        return server.Slowdown(1_000.0, 2_000.0)

    quick = {step.step: step for step in served.migrator.plan("b200").steps}
    monkeypatch.setattr(estimating, "measure", slow)
    plan = served.migrator.plan("b200")
    steps = {step.step: step for step in plan.steps}
    assert probes == [1]
    assert steps["index"].seconds.value > 100 * quick["index"].seconds.value
    assert "2000.0 times as long as in revector capacity, as probed" in steps["index"].by
    assert "1000.0 times" in steps["verify"].by
    least = 120 * (CONSTANTS["seed_cpu_s"].value + CONSTANTS["publish_cpu_s"].value) * 1_000
    assert least < steps["backfill"].seconds.value < 2 * least + 1


def test_a_plan_says_that_the_server_could_not_be_probed(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "WORTH_S", 0.0)
    monkeypatch.setattr(estimating, "measure", lambda *_: server.Slowdown(refused="permission denied"))
    assert "PostgreSQL could not be probed: permission denied" in served.migrator.plan("b200").steps[0].by


def test_a_server_with_little_to_do_is_not_probed(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "measure", lambda *_: pytest.fail("120 documents are no work"))
    plan = served.migrator.plan("b200")
    assert "times as long" not in "".join(step.by for step in plan.steps)


def test_nothing_is_tried_where_every_vector_is_there_already(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    served.revision("b200", "a100", MODEL, "index = IndexSpec(m=24)")
    monkeypatch.setattr(planning, "probe", lambda *_, **__: pytest.fail("the model was tried"))
    monkeypatch.setattr(estimating, "WORTH_S", 0.01)
    monkeypatch.setattr(estimating, "measure", lambda *_: pytest.fail("the server was tried"))
    plan = served.migrator.plan("b200")
    assert (plan.reused, plan.probe.chunks, plan.tokens_to_embed.value) == (120, 0, 0)
    assert 0 < plan.seconds.value < 600
    assert math.isfinite(plan.probe.tokens_per_s.value)


def test_a_plan_names_what_it_does_from_the_start_also_into_a_pipe(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    load = Project.load_encoder

    def loaded(self: Project, model: ModelSpec) -> Any:
        said = capsys.readouterr().err
        assert said.splitlines() == [
            "plan: read the migration files and the labelled queries …",
            "plan: load the model hashing:seed2 …",
        ]
        return load(self, model)

    monkeypatch.setattr(Project, "load_encoder", loaded)
    run(["plan", "b200", "--probe-seconds", "0.2"])
    out, err = capsys.readouterr()
    assert "Therefore: " in out
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "plan: read a sample of the documents",
        "plan: look for vectors that are there already …",
        "plan: try the model on this machine",
        "plan: ask PostgreSQL …",
    ]


def test_a_probe_of_the_server_measures_it_and_leaves_nothing_behind(served: World) -> None:
    before = served.sql("SELECT count(*) FROM pg_class")
    slower = server.measure(served.engine, 3)
    assert min(slower.alone, slower.together) > 0.02
    assert slower != server.Slowdown()
    assert served.sql("SELECT count(*) FROM pg_class") == before


def test_a_role_that_may_not_make_temporary_tables_gets_a_plan_without_a_probe_of_the_server(served: World) -> None:
    database = served.engine.url.database
    served.sql(f'REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC')
    served.sql("DROP ROLE IF EXISTS without_temporary")
    served.sql("CREATE ROLE without_temporary")
    engine = sa.create_engine(served.engine.url, connect_args={"options": "-crole=without_temporary"})
    try:
        found = server.measure(engine, 2)
        assert (found.alone, found.together) == (1, 1)
        assert "permission denied to create temporary tables" in found.refused
    finally:
        engine.dispose()
        served.sql("DROP ROLE without_temporary")


def test_an_encoder_that_fails_on_everything_stops_the_plan(served: World) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no device")

    served.loader["hashing:seed2"].hook = broken
    with pytest.raises(RuntimeError, match="no device"):
        served.migrator.plan("b200")


# Money ----------------------------------------------------------------------------------------------------------------


def test_an_api_and_gpus_cost_what_their_prices_say() -> None:
    found = money(Costs(), 600e6)  # an hour of one GPU at 10 million tokens a minute
    assert (found.api_usd, found.gpu_hours, found.gpu_usd) == (12.0, 1.0, 3.0)
    assert (found.break_even_tokens_hour, found.cheaper) == (150e6, "gpu")
    assert found.break_even_tokens_month == pytest.approx(109.5e9)
    assert money(Costs(api_usd_per_million_tokens=0.001), 600e6).cheaper == "api"
    assert money(Costs(api_usd_per_million_tokens=0), 1e6).break_even_tokens_hour is None


def test_prices_of_the_settings_reach_the_plan(served: World) -> None:
    file = served.root / "revector.toml"
    file.write_text("costs.api_usd_per_million_tokens = 1000000.0\n" + file.read_text())
    served.__dict__.pop("project")
    plan = served.migrator.plan("b200")
    assert plan.money.api_usd == pytest.approx(plan.tokens_to_embed.value)


def test_what_a_provider_was_paid_stands_beside_what_was_planned(served: World, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the api extra is not installed")
    from revector.encoders.api.fake import FakeServer

    HashingEncoder(ModelSpec("hashing", 64)).tokenizer.save(str(tmp_path / "tokenizer.json"))
    served.revision("b200", "a100", 'model = ModelSpec(name="api:far/words", dim=64, max_tokens=256)')
    with FakeServer() as provider:
        file = served.root / "revector.toml"
        file.write_text(
            f"{file.read_text()}\n[providers.far]\nbase_url = {json.dumps(provider.base_url)}\n"
            f"tokenizer = {json.dumps(str(tmp_path / 'tokenizer.json'))}\nprice_per_million_tokens_usd = 1000.0\n"
        )
        migrator = load_project(served.root).migrator("docs", actor="test")
        migrator.upgrade("b200", to="backfill")
        migrator.plan("b200", probe_s=0.1)  # pays for its probe: after the backfill, so it counts no more
        compared = migrator.plan("b200", probe_s=0.1).already
    assert compared is not None
    first, last = (
        served.value("SELECT detail->'spent' FROM event WHERE kind = :kind ORDER BY seq DESC LIMIT 1", kind=kind)
        for kind in ("provision", "backfill")
    )
    assert compared["tokens"]["actual"] == last["tokens"] - first["tokens"] > 0
    assert compared["usd"]["actual"] == pytest.approx(compared["tokens"]["actual"] * 0.001)
    assert compared["usd"]["planned"] == pytest.approx(compared["tokens"]["planned"] * 0.001, rel=0.01)
    assert compared["tokens"]["actual"] == pytest.approx(compared["tokens"]["planned"], rel=0.5)


def test_a_local_model_is_compared_without_tokens_that_nobody_counted(served: World) -> None:
    served.upgrade("b200", to="backfill")
    assert "tokens" not in (served.migrator.plan("b200").already or {})


# Disks ----------------------------------------------------------------------------------------------------------------


def test_a_disk_with_too_little_free_refuses_the_migration_before_it_begins(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 1

    monkeypatch.setattr(estimating.shutil, "disk_usage", lambda _: Full)
    assert any("GB free" in warning for warning in served.migrator.plan("b200").warnings)
    before = served.state()
    with pytest.raises(NoRoom, match="Nothing was changed"):
        served.upgrade("b200")
    assert served.state() == before
    assert served.events("plan")[0]["detail"]["revision"] == "a100"


def test_a_disk_is_too_small_below_its_multiple_and_never_when_it_cannot_be_seen() -> None:
    assert Disk("archive", "/a", 100, int(100 * LEAST_FREE) - 1).too_small
    assert not Disk("archive", "/a", 100, math.ceil(100 * LEAST_FREE)).too_small
    assert not Disk("PostgreSQL", "", 100, None).too_small


# History and command line ---------------------------------------------------------------------------------------------


def test_the_history_holds_planned_against_actual(served: World) -> None:
    served.upgrade("b200")
    found = served.migrator.plan("b200").already
    assert found is not None
    assert found["documents"] == {"planned": 120, "actual": 120}
    assert found["chunks"] == {"planned": 120, "actual": 120}
    assert found["index_bytes"]["actual"] == served.value(
        f"SELECT pg_total_relation_size('{served.generation().physical_name}')"
    )
    assert found["archive_bytes"]["actual"] > 0
    assert all(found[f"{step}_seconds"]["actual"] > 0 for step in ("backfill", "index", "verify", "gate"))


def test_a_plan_without_a_migration_has_nothing_to_compare(served: World) -> None:
    assert served.migrator.plan("b200").already is None


@pytest.fixture
def at(served: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(served.root)
    return served


def plan_in_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(["plan", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_exit_codes_tell_changes_nothing_to_do_and_what_would_be_refused(
    at: World, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = plan_in_json(capsys, "b200")
    assert code == (exits.CHECK_FAILED if found["warnings"] else 0)
    assert plan_in_json(capsys, "a100")[0] == exits.NOTHING_TO_DO
    at.labels([("d00001", "apple1")])
    code, found = plan_in_json(capsys, "b200")
    assert (code, found["warnings"] != []) == (exits.CHECK_FAILED, True)


def test_the_page_shows_changes_money_time_and_disks(at: World, capsys: pytest.CaptureFixture[str]) -> None:
    run(["plan", "b200", "--probe-seconds", "1"])
    page = capsys.readouterr().out
    for line in (
        "~  model.name",
        "=  chunking.*",
        "to change",
        "break-even",
        "to the swap",
        "disk: ",
        "way back",
        "at ef_search 100",
    ):
        assert line in page
    assert str(Path.home()) not in page.split("disk")[0]


@pytest.mark.parametrize(("hours", "shards"), [(0.01, 4), (3.0, 4), (3.1, 5), (10_000.0, 1_024)])
def test_without_a_number_a_shard_is_45_minutes_of_the_planned_time(served: World, hours: float, shards: int) -> None:
    plan = {"revision": "b200", "seconds": {"backfill": hours * 3600}}
    with served.project.engine.begin() as connection:
        cid = served.project.cid("docs")
        add_event(connection, cid, "tester", "plan", None, {**plan, "seconds": {"backfill": 1}})
        add_event(connection, cid, "tester", "plan", None, plan)
        add_event(connection, cid, "tester", "plan", None, {**plan, "revision": "other"})
        assert outcomes.shards_for(connection, cid, "b200") == shards


def test_airflow_maps_no_more_shards_than_its_limit() -> None:
    from airflow.configuration import conf

    from revector.airflow.dags import MOST_SHARDS

    assert outcomes.MOST_SHARDS == MOST_SHARDS == conf.getint("core", "max_map_length")
