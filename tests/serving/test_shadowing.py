"""Promises of stored shadow reads: sums of all processes add up, the service feeds them, the status tells them."""

from __future__ import annotations

import threading

import pytest

from revector.indexing.encoding import Encoders
from revector.measure.agreement import AgreementTally
from revector.serving import shadow_rows
from revector.spec import ModelSpec
from services import HERE
from stages import AtStep
from worlds import World


def counted(*overlaps: float) -> AgreementTally:
    made = AgreementTally(shed=1)
    for overlap in overlaps:
        made.note(overlap, overlap / 2, old_ms=10.0, new_ms=20.0)
    return made


def test_what_several_processes_add_is_the_sum_and_the_status_tells_it(at_step: AtStep) -> None:
    served = at_step("index")
    gen, against = served.generation("building").gen, served.generation().gen
    for tally in (counted(0.5, 0.7), counted(0.9)):
        with served.engine.begin() as connection:
            shadow_rows.add(connection, [{"gen": gen, "against": against, "k": 10, **tally.as_row()}])
    (found,) = served.project.status("docs").as_data()["shadow"]
    expected = counted(0.5, 0.7, 0.9)
    expected.shed = 2
    assert found.pop("overlap") == pytest.approx(expected.as_data().pop("overlap"))
    assert found.pop("rbo") == pytest.approx(expected.as_data().pop("rbo"))
    rest = {key: value for key, value in expected.as_data().items() if key not in ("overlap", "rbo")}
    assert found == {"against": against, "k": 10, **rest}
    assert served.value("SELECT count(*) FROM shadow_read") == 1


def test_a_model_that_is_loaded_waits_for_no_other_models_loading(served: World) -> None:
    """The query's encoder is had while the one being built loads for minutes."""
    entered, released = threading.Event(), threading.Event()
    fast, slow = ModelSpec("hashing", 64), ModelSpec("hashing:seed2", 64)

    def load(model: ModelSpec):
        if model == slow:
            entered.set()
            assert released.wait(60)
        return served.loader(model)

    encoders = Encoders(load)
    encoders.fresh(fast)
    loading = threading.Thread(target=encoders.fresh, args=(slow,))
    loading.start()
    assert entered.wait(60)
    other = threading.Thread(target=encoders.fresh, args=(fast,))
    other.start()
    other.join(10)
    waited = other.is_alive()
    released.set()
    other.join()
    loading.join()
    assert not waited


def test_the_service_offers_its_queries_and_ends_the_reads(served: World) -> None:
    from starlette.testclient import TestClient

    from revector.service.app import create_app

    served.settings(shadow={"share": 1.0})
    lines = (served.root / "revector.toml").read_text().replace('shadow = {"share": 1.0}', "shadow = {share = 1.0}")
    (served.root / "revector.toml").write_text(lines)
    served.upgrade("b200", to="index")
    with TestClient(create_app(served.project, is_open=True), base_url=HERE) as client:
        for _ in range(6_000):
            client.post("/collections/docs/search", json={"query": "apple7 pear7"}).raise_for_status()
            found = client.get("/collections/docs/shadow").json()
            if found["tallies"] and found["tallies"][0]["compared"]:
                break
            threading.Event().wait(0.01)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("shadow")] == []
    assert served.value("SELECT sum(compared) FROM shadow_read") >= 1
