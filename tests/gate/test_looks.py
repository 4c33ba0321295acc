"""Each look at more labels is counted, pays for its chance of luck, and another test says that it began."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.errors import GateFailed
from revector.gate import judgement
from revector.gate.figures import GateFigures
from revector.gate.looks import look_confidence
from revector.measure.comparison import ScoredRun, compare
from revector.measure.statistics import paired_interval
from revector.pages.gate_result import kept_result
from revector.spec import Gate
from worlds import QUERIES, World

OTHER = 'model = ModelSpec(name="hashing:seed2", dim=64)'


@given(st.integers(1, 2_000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_all_looks_together_spend_no_more_than_the_error_that_is_left(looks: int, confidence: float) -> None:
    gate = Gate(confidence=confidence)
    spent = sum((1 - look_confidence(gate, number)) / 2 for number in range(1, looks + 1))
    assert spent <= 1 - confidence + 1e-6
    exact = sum(Fraction(1, number * (number + 1)) for number in range(1, looks + 1))
    assert spent == pytest.approx(float(exact) * (1 - confidence), abs=1e-5)
    assert look_confidence(gate, 1) == pytest.approx(confidence)
    assert look_confidence(Gate(confidence=confidence, method="fixed"), looks) == pytest.approx(2 * confidence - 1)


def ever_passes(looks: list[int], lost: float, confidence: list[float]) -> float:
    """P(a drop of 0.1 is excluded at any look), by enumerating how many queries were lost between the looks."""
    alive, before, passed = {0: 1.0}, 0, 0.0
    for size, level in zip(looks, confidence, strict=True):
        now: dict[int, float] = {}
        for so_far, chance in alive.items():
            for more in range(size - before + 1):
                step = comb(size - before, more) * lost**more * (1 - lost) ** (size - before - more)
                now[so_far + more] = now.get(so_far + more, 0.0) + chance * step
        alive = {}
        for count, chance in now.items():
            new = np.ones(size)
            new[:count] = 0.0
            if paired_interval(np.ones(size), new, confidence=level, draws=1_000).low >= -0.1:
                passed += chance
            else:
                alive[count] = chance
        before = size
    return passed


def test_looking_until_it_passes_is_wrong_no_more_often_than_the_confidence_says() -> None:
    """A true drop just above what is allowed, looked at seven times: exact, and more often wrong without the count."""
    looks, gate = [40, 50, 60, 70, 80, 100, 120], Gate(confidence=0.9)
    honest = [look_confidence(gate, number) for number in range(1, len(looks) + 1)]
    assert ever_passes(looks, 0.101, honest) <= 0.1
    assert ever_passes(looks, 0.101, [look_confidence(Gate(confidence=0.9, method="fixed"), 1)] * len(looks)) > 0.1


def judge(world: World, gate: str) -> tuple[int, list[str]]:
    """Judge b200 by this gate; return the number of the look and what was found."""
    world.revision("b200", "a100", OTHER, f"gate = Gate(min_overlap=None, {gate})")
    with pytest.raises(GateFailed):
        world.upgrade("b200", to="gate")
    result = kept_result(world.project, "docs")
    assert result.look is not None
    return result.look, [one.sentence for one in result.findings]


def label(world: World, count: int) -> None:
    world.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(count))


def test_more_labels_are_another_look_and_other_demands_another_test(served: World) -> None:
    assert judge(served, "max_drop=0.001")[0] == 1
    assert judge(served, "max_drop=0.001")[0] == 1, "the same judgements, measured again"
    label(served, QUERIES + 10)
    look, found = judge(served, "max_drop=0.001")
    assert look == 2
    assert any("Look 2 of this test: judged by 98.3333 % intervals" in one for one in found)
    served.migrator.abort(reason="again")
    label(served, QUERIES + 20)
    assert judge(served, "max_drop=0.001")[0] == 3, "looks of an aborted attempt count"
    for gate, told in (("max_drop=0.001, k=5", "k is 5, and was 10"), ("max_drop=0.002, k=5", "max_drop is 0.002")):
        look, found = judge(served, gate)
        assert look == 1
        assert any(one.startswith("A new test began") and told in one for one in found)
    label(served, QUERIES + 10)
    look, found = judge(served, "max_drop=0.002, k=5")
    assert look == 1
    assert any(f"10 of {QUERIES + 20} judged queries are gone" in one for one in found)


def test_a_fixed_test_passes_at_its_first_look_alone(served: World) -> None:
    gate = 'max_drop=0.001, method="fixed"'
    assert judge(served, gate)[0] == 1
    label(served, QUERIES + 40)
    look, found = judge(served, gate)
    assert look == 2
    assert any('gate.method "fixed" is right for one' in one for one in found)
    same = {f"q{n}": 1.0 for n in range(300)}
    new, old = (ScoredRun(name, "same", {"recall": same}, {}) for name in ("b200", "a100"))
    for method, number, value in (("fixed", 1, "pass"), ("fixed", 2, "inconclusive"), ("sequential", 2, "pass")):
        figures = {
            "comparison": compare(new, old, k=10, documents=900, max_drop=0.05),
            "test": {"number": number, "terms": {}, "judged": {}, "evidence": ""},
        }
        demanded = Gate(max_drop=0.05, min_overlap=None, method=method)
        assert judgement.judge(demanded, GateFigures.model_validate(figures)).value == value


def test_what_was_kept_before_methods_existed_is_not_measured_again_for_it(served: World) -> None:
    served.revision("b200", "a100", OTHER, "gate = Gate(max_drop=0.9, min_overlap=None)")
    served.upgrade("b200", to="gate")
    with served.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gate_result DISABLE TRIGGER ALL")
        connection.exec_driver_sql(
            "UPDATE gate_result SET detail = (detail #- '{gate,method}') - 'test' - 'look' WHERE kind = 'recall'"
        )
        connection.exec_driver_sql("ALTER TABLE gate_result ENABLE TRIGGER ALL")
    assert kept_result(served.project, "docs").look is None
    (gate,) = [one for one in served.upgrade("b200", to="gate") if one.step == "gate"]
    assert not gate.changed
