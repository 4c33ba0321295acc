"""Cut-offs of an application move with the alias: mapped by the gate, swapped and rolled back in the same write."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from moving import bare_swap, in_control, refuses

from revector.errors import ConfigError, EvidenceStale, GateFailed, StateError
from revector.gate.demands.min_agreement import CutoffEvidence
from revector.pages.gate_result import gate_page, kept_result
from revector.registry import cutoffs, moves
from revector.registry.control import Control
from stages import AtStep
from worlds import World

QUERY = "apple7 pear7"


def choose(world: World, revision: str | None = None, **scores: float) -> None:
    in_control(world, lambda held: cutoffs.choose(held, scores, revision))


def scores(world: World, role: str = "active") -> dict[str, float]:
    with world.engine.connect() as connection:
        return cutoffs.read_scores(connection, world.generation(role).gen)


def answered(world: World) -> tuple[str, dict[str, float]]:
    """Revision and cut-offs of an answer."""
    answer = world.project.searcher("docs").search(QUERY)
    return answer.revision, dict(answer.cutoffs)


def by_sql(world: World) -> tuple[str, dict[str, float]]:
    return tuple(world.sql("SELECT revision, cutoffs FROM revector.active('docs')")[0])  # type: ignore[return-value]


@pytest.fixture
def supported(at_step: AtStep) -> World:
    """``served``, revision b200 indexed, with a cut-off that some results reach."""
    world = at_step("verify")
    choose(world, support=0.5)
    return world


def test_a_swap_and_a_rollback_take_the_cut_offs_along(supported: World) -> None:
    assert answered(supported) == by_sql(supported) == ("a100", {"support": 0.5})
    supported.upgrade("b200")
    mapped = scores(supported)["support"]
    assert mapped != 0.5
    assert answered(supported) == by_sql(supported) == ("b200", {"support": mapped})
    (swap,) = supported.events("swap")[:1]
    assert swap["detail"]["cutoffs"] == {"support": [0.5, mapped]}
    supported.migrator.rollback("a trial")
    assert answered(supported) == by_sql(supported) == ("a100", {"support": 0.5})
    assert supported.events("rollback")[0]["detail"]["cutoffs"] == {"support": [mapped, 0.5]}
    supported.upgrade("b200")
    assert answered(supported) == ("b200", {"support": mapped})


def test_the_alias_and_the_cut_offs_are_seen_to_move_at_once(supported: World) -> None:
    supported.upgrade("b200", to="approve")
    building = supported.generation("building")
    mapped = scores(supported, "building")
    answer = supported.project.searcher("docs").search(QUERY, generation=building.gen)
    assert (answer.revision, answer.cutoffs) == ("b200", mapped)
    old, new = ("a100", {"support": 0.5}), ("b200", mapped)

    def move(held: Control) -> None:
        moves.swap(held, building)
        assert answered(supported) == by_sql(supported) == old  # others read while it is not committed

    in_control(supported, move)
    assert answered(supported) == by_sql(supported) == new

    def back(held: Control) -> None:
        moves.rollback(held, reason="a trial", force=False)
        assert answered(supported) == by_sql(supported) == new

    in_control(supported, back)
    assert answered(supported) == by_sql(supported) == old


def evidence(world: World) -> CutoffEvidence:
    found = kept_result(world.project, "docs").evidence("cutoffs", CutoffEvidence)
    assert found is not None
    return found


def test_the_mapped_number_lets_the_same_share_through_and_is_in_the_evidence(supported: World) -> None:
    supported.upgrade("b200", to="gate")
    (one,) = evidence(supported).moved
    assert one.threshold == 0.5
    assert one.matched is not None
    assert one.matched.threshold == scores(supported, "building")["support"]
    assert one.matched.share == pytest.approx(one.share, abs=0.02)
    page = gate_page(supported.project, "docs")
    assert f"becomes {one.matched.threshold:.4f}" in page
    assert "Do the cut-offs of the application mean the same?" in page


def test_a_low_cut_off_is_mapped_on_more_documents_of_each_query(supported: World) -> None:
    choose(supported, support=-0.08)  # less than all of the first ten
    supported.upgrade("b200", to="gate")
    found = evidence(supported)
    assert found.depth == 100
    assert 0.5 < found.moved[0].share < 1


def test_an_alias_never_moves_without_a_number_for_a_cut_off(supported: World) -> None:
    """… nor by SQL of any kind."""
    gen = supported.generation("building").gen
    with pytest.raises(sa.exc.DBAPIError, match="has no number for the cut-offs support"):
        supported.sql(f"UPDATE collection SET active_gen = {gen}, building_gen = NULL")
    assert supported.generation().revision == "a100"


def test_a_cut_off_that_cannot_be_told_holds_the_swap_until_a_person_chooses(supported: World) -> None:
    choose(supported, support=1.0)  # more than any score
    with pytest.raises(GateFailed, match=r"inconclusive: cut-off support, 1.0000 .* cannot be carried over: none of"):
        supported.upgrade("b200")
    supported.migrator.override("recall is enough", by="Ann")
    supported.upgrade("b200", to="approve")
    refuses(supported, StateError, lambda: supported.upgrade("b200"), "no number is known of the cut-offs support")
    choose(supported, "b200", support=0.9)
    supported.upgrade("b200")
    assert answered(supported) == ("b200", {"support": 0.9})


def test_a_number_on_few_queries_is_inconclusive(supported: World) -> None:
    supported.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(40))
    supported.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', FEW)
    with pytest.raises(GateFailed, match=r"cut-off support, .* cannot be carried over: only 40 queries"):
        supported.upgrade("b200")
    choose(supported, "b200", support=0.4)
    supported.upgrade("b200")
    assert answered(supported) == ("b200", {"support": 0.4})


FEW = "gate = Gate(max_drop=0.2, min_queries=20)"


def test_a_cut_off_that_was_set_since_the_gate_is_mapped_again_before_the_swap(supported: World) -> None:
    supported.upgrade("b200", to="approve")
    before = scores(supported, "building")["support"]
    choose(supported, support=0.3, strict=0.4)
    with pytest.raises(EvidenceStale, match="the cut-offs strict, support were set since"):
        bare_swap(supported)
    supported.upgrade("b200")
    after = scores(supported)
    assert after.keys() == {"support", "strict"}
    assert after["support"] < min(before, after["strict"])


@pytest.mark.parametrize(("least", "passes"), [(0.01, True), (1.0, False)])
def test_a_gate_may_demand_that_decisions_stay(supported: World, least: float, passes: bool) -> None:
    gate = f"gate = Gate(max_drop=0.1, min_agreement={least})"
    supported.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)', gate)
    if passes:
        supported.upgrade("b200", to="gate")
    else:
        with pytest.raises(GateFailed, match="share of decisions by cut-off support that stay"):
            supported.upgrade("b200", to="gate")


def test_a_number_that_a_person_chose_is_judged_and_not_mapped(supported: World) -> None:
    choose(supported, "b200", support=0.77)
    supported.upgrade("b200", to="gate")
    assert scores(supported, "building") == {"support": 0.77}
    assert evidence(supported).chosen == ("support",)
    assert "was chosen as 0.7700" in gate_page(supported.project, "docs")


def test_what_a_person_did_while_the_gate_measured_stays(supported: World) -> None:
    gen = supported.generation("building").gen
    choose(supported, "b200", support=0.77)
    measured = {"support": cutoffs.NamedCutoff(0.4, 0.5), "dropped": cutoffs.NamedCutoff(0.4, 0.5)}
    in_control(supported, lambda held: cutoffs.keep_mapped(held, gen, measured))
    assert scores(supported, "building") == {"support": 0.77}


def test_a_dropped_cut_off_is_gone_from_every_generation(supported: World) -> None:
    supported.upgrade("b200", to="gate")
    in_control(supported, lambda held: cutoffs.drop(held, ["support"]))
    assert scores(supported) == scores(supported, "building") == {}
    supported.upgrade("b200")
    assert answered(supported) == ("b200", {})
    refuses(supported, StateError, lambda: in_control(supported, lambda held: cutoffs.drop(held, ["support"])), "none")


@pytest.mark.parametrize(
    ("error", "revision", "chosen", "said"),
    [
        (ConfigError, None, {"Support": 0.4}, "a name is 1 to 63"),
        (ConfigError, None, {"": 0.4}, "a name is 1 to 63"),
        (ConfigError, None, {"support": 42.0}, "-1 to 1, found 42"),
        (ConfigError, None, {"support": float("nan")}, "-1 to 1, found nan"),
        (StateError, "zzz", {"support": 0.4}, "it is not live"),
    ],
)
def test_what_cannot_be_a_cut_off_is_refused(
    supported: World, error: type[ConfigError | StateError], revision: str | None, chosen: dict[str, float], said: str
) -> None:
    refuses(supported, error, lambda: in_control(supported, lambda held: cutoffs.choose(held, chosen, revision)), said)
    assert scores(supported) == {"support": 0.5}


def test_the_column_of_active_filters_a_search_in_one_statement(supported: World) -> None:
    generation = supported.generation()
    vector = supported.project.searcher("docs").encode(generation, [QUERY])[0].tolist()
    url = sa.make_url(supported.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT s.doc_id FROM revector.active('docs') a, revector.search('docs', %s::vector, a.encoder_fp) s "
            "WHERE s.score >= (a.cutoffs->>'support')::float8 ORDER BY s.score DESC",
            (str(vector),),
        ).fetchall()
    assert [row[0] for row in rows] == supported.search(QUERY, min_score="support")
    assert 0 < len(rows) < 10
