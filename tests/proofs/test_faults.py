"""Faults on the SQL wire, in encoders and on disks (layer L4): each once, and COMMIT whose answer is lost."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from evaluation.reliability import faults, faults_disk, hunt
from evaluation.reliability.bugs import BUGS
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_encoder import ORDERS, RAISED, REPLIES, Struck, raising
from evaluation.reliability.faults_place import Place
from evaluation.reliability.faults_wire import FAULTS, TYPICAL, Operation, Striker, Walk, keep_cutting
from evaluation.reliability.site import COLLECTION, NEW
from evaluation.reliability.wire import Proxy, Toxic

from copies import Databases
from revector.archive import Part, read_part, write_part
from revector.database import sessions
from revector.database.engine import make_engine
from revector.errors import ArchiveError


class Scene:
    """A place behind a faulty wire."""

    def __init__(self, place: Place, proxy: Proxy) -> None:
        self.place, self.proxy = place, proxy
        self.walk = Walk(place, random.Random(7))
        self.striker = Striker(place, proxy, Counter())

    def migrate(self, to: str) -> None:
        """Go there beside the wire."""
        self.place.direct.migrator(COLLECTION, actor="observer").upgrade(NEW, to=to)

    def written(self, operation: Operation) -> None:
        """Write, with no fault."""
        calls = self.place.begin(operation.writes)
        operation.run()
        self.place.acknowledge(calls, operation.writes)

    def strike(self, operation: Operation, toxic: Toxic) -> list[Finding]:
        """Strike, and make sure that it was one."""
        self.striker.fired.clear()  # of the tests before
        found = self.striker.strike(operation, "a toxic", toxic)
        assert self.striker.fired["a toxic"]
        self.place.settle()
        return found + self.place.compare()

    def back(self) -> None:
        """End what is open, so that the old revision serves and no other is there."""
        collection, observer = self.place.collection(), self.place.direct.migrator(COLLECTION, actor="observer")
        if collection.building_gen is not None:
            observer.abort("the test is over")
        if collection.standby_gen is not None:
            if self.place.generation(collection.active_gen).revision == NEW:
                observer.rollback("the test is over")
            observer.retire("the test is over", now=True)


@pytest.fixture(scope="module")
def scene(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    name = databases.create(template)
    with Proxy(databases.url(name)) as proxy:
        made = Scene(Place(tmp_path_factory.mktemp("place"), databases.url(name), wired=proxy.url), proxy)
        yield made
        made.place.close()
    databases.drop(name)


@pytest.fixture
def clean(scene: Scene) -> Iterator[Scene]:
    """The scene, with the first revision live alone before and after."""
    scene.back()
    yield scene
    scene.proxy.clear()
    scene.back()


# The wire -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["put", "apply"])
def test_a_fault_of_the_wire_costs_no_more_than_one_repeated_call(clean: Scene, name: str, fault: str) -> None:
    if name == "apply":
        clean.written(clean.walk.put_many())
    clean.striker.fired.clear()
    found = clean.striker.strike(getattr(clean.walk, name)(), fault, FAULTS[fault](random.Random(3), TYPICAL["put"]))
    assert found == []
    assert clean.striker.fired == {fault: 1}


ANSWER_LOST = partial(Toxic, action="answer", at="^COMMIT")


def test_a_put_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    assert clean.strike(clean.walk.put(), ANSWER_LOST(within="INSERT INTO document")) == []


def test_an_ingestion_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    assert clean.strike(clean.walk.ingest(), ANSWER_LOST(within="INSERT INTO document", skip=1)) == []


def test_a_publication_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    clean.written(clean.walk.put())
    assert clean.strike(clean.walk.apply(), ANSWER_LOST(within="INSERT INTO ledger")) == []


def test_an_approval_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    clean.migrate(to="gate")
    assert clean.strike(clean.walk.step("approve"), ANSWER_LOST(within="UPDATE generation")) == []


def test_a_swap_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    clean.migrate(to="approve")
    assert clean.strike(clean.walk.step("swap"), ANSWER_LOST(within="active_gen = ")) == []


def test_a_rollback_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    clean.migrate(to="swap")
    assert clean.strike(clean.walk.rollback(), ANSWER_LOST(within="active_gen = ")) == []


def test_a_retirement_whose_commit_was_not_answered_is_done_once(clean: Scene) -> None:
    clean.migrate(to="swap")
    clean.place.direct.migrator(COLLECTION, actor="observer").rollback("so that the new one can go")
    assert clean.strike(clean.walk.retire(), ANSWER_LOST(within="standby_gen = NULL")) == []


def test_an_abortion_whose_commit_was_not_answered_is_done_once_and_its_index_is_dropped(clean: Scene) -> None:
    clean.migrate(to="provision")
    assert clean.strike(clean.walk.abort(), ANSWER_LOST(within="building_gen = NULL")) == []


def test_idle_connections_that_were_cut_are_replaced_without_an_error(
    clean: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… as after a restart of the database: the pool finds out by itself."""
    monkeypatch.setattr(sessions, "REST_S", 0.0)  # it has rested for long
    clean.place.wired.status(COLLECTION)
    clean.proxy.arm(Toxic(action="close", at="^;$"))  # the pool asks whether a connection lives
    clean.place.wired.status(COLLECTION)
    assert clean.proxy.clear().fired


@pytest.mark.parametrize("at", ["^DELETE FROM idx_", "^COPY data|^INSERT INTO idx_", "^INSERT INTO ledger", "^COMMIT"])
def test_a_worker_that_stalls_while_it_publishes_holds_nothing_for_long(clean: Scene, at: str) -> None:
    """… neither documents from writers, nor its generation from a rollback."""
    clean.written(clean.walk.put())
    assert clean.strike(clean.walk.apply(), Toxic(action="stall", at=at, within="^SELECT live AND encoder_fp")) == []


def test_a_document_in_hand_whenever_the_wire_is_cut_is_never_given_up(clean: Scene) -> None:
    assert keep_cutting(clean.place, clean.proxy) == []


def test_sessions_that_idle_in_a_transaction_are_ended_after_30_s(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout")) == "30s"
    engine.dispose()


def test_the_wire_resets_as_a_network_does(scene: Scene) -> None:
    url = sa.make_url(scene.proxy.url)
    startup = b"".join(word + b"\0" for word in (b"user", str(url.username).encode(), b"database", b"postgres", b""))
    scene.proxy.arm(Toxic(action="reset"))
    with socket.create_connection((str(url.host), int(url.port or 0))) as client:
        client.sendall(struct.pack("!ii", 8 + len(startup), 196_608) + startup)
        client.sendall(b"Q" + struct.pack("!i", 13) + b"SELECT 1\0")
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: client.recv(4_096), b""))
    assert scene.proxy.clear().fired == "SELECT 1"


# Encoders -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def struck(clean: Scene) -> Struck:
    return Struck(clean.place)


@pytest.mark.parametrize("error", RAISED)
def test_a_text_that_a_model_cannot_take_costs_only_itself(struck: Struck, error: str) -> None:
    assert struck.poison(RAISED[error]) == []


@pytest.mark.parametrize("error", ["RuntimeError", "KeyError", "ConnectionResetError", "EncoderUnavailable"])
@pytest.mark.parametrize("where", ["worker", "backfill", "query"])
def test_what_a_model_raises_for_every_text_is_told_and_costs_only_time(struck: Struck, where: str, error: str) -> None:
    assert struck.down(raising(RAISED[error]), where) == []


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_of_the_wrong_shape_or_values_is_never_shown(struck: Struck, reply: str) -> None:
    assert struck.down(REPLIES[reply], "worker") == []


@pytest.mark.parametrize("reply", ["one vector too many", "wider vectors", "NaN", "zero"])
def test_a_query_is_not_answered_by_a_bad_vector(struck: Struck, reply: str) -> None:
    assert struck.down(REPLIES[reply], "query") == []


@pytest.mark.parametrize("order", ORDERS)
def test_good_vectors_in_another_order_are_not_shown(struck: Struck, order: str) -> None:
    assert struck.down(ORDERS[order], "worker") == []


def test_a_model_that_hangs_holds_nothing_and_its_late_reply_changes_nothing(struck: Struck) -> None:
    assert struck.hang() == []


def test_another_model_under_the_same_name_is_refused_by_every_new_process(struck: Struck) -> None:
    assert struck.other_model() == []


def test_a_model_that_changed_behind_its_fingerprint_is_noticed_before_it_publishes(struck: Struck) -> None:
    assert struck.silent_change() == []


# Disks ----------------------------------------------------------------------------------------------------------------


def mounted(scenario: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return scenario()
    except faults_disk.NoMountError as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")


@pytest.mark.parametrize("leave", [0, 4_096, 20_000, 200_000])
def test_a_disk_that_fills_while_a_part_is_written_ends_the_part_and_not_the_process(
    leave: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 1_000
    numbers, none = np.arange(rows), np.zeros(rows, np.int32)
    vectors = np.ones((rows, 384), np.float32)
    part = Part([f"d{n:05d}" for n in range(rows)], numbers, ["0" * 64] * rows, numbers, none + 1, none, none, vectors)
    monkeypatch.setattr("revector.archive.part.RESERVE_BYTES", -(1 << 40))  # it fills after it was looked at

    def scenario() -> list[Finding]:
        with faults_disk.small_disk(8) as disk:
            disk.fill(leave)
            with pytest.raises((OSError, ArchiveError)):
                write_part(disk.path / "part.h5", part, attributes={})
            assert [path.name for path in disk.path.iterdir()] == ["filler"]
            disk.free()
            sha256 = write_part(disk.path / "part.h5", part, attributes={})
            assert read_part(disk.path / "part.h5", sha256).doc_ids == part.doc_ids
        return []

    assert mounted(scenario) == []


@pytest.mark.parametrize("warned", [True, False])
def test_a_full_archive_stops_the_backfill_alone_and_it_resumes(clean: Scene, warned: bool) -> None:
    assert mounted(lambda: faults_disk.full_archive(clean.place, warned=warned)) == []


@pytest.mark.slow
def test_each_step_write_and_log_on_a_full_database_disk_is_done_or_not_done_and_goes_on_with_room(
    tmp_path: Path,
) -> None:
    assert mounted(lambda: faults_disk.full_server(tmp_path)) == []


# The proof itself -----------------------------------------------------------------------------------------------------


def test_a_write_that_is_lost_behind_its_acknowledgement_is_found(clean: Scene) -> None:
    operation = clean.walk.put()
    lying, told = Operation("put", lambda: None, operation.writes), list(clean.place.recorder.records)
    found = clean.striker.strike(lying, "latency", Toxic(latency_ms=1))
    clean.place.recorder.records = told
    assert [finding.promise for finding in found] == ["lost"]


def test_a_move_that_happens_twice_is_found(clean: Scene) -> None:
    clean.migrate(to="approve")
    swap, migrator = clean.walk.step("swap"), clean.place.wired.migrator(COLLECTION, actor="eager")

    def twice() -> None:
        swap.run()
        migrator.rollback("a bug")

    found = clean.striker.strike(Operation("swap", twice, events=swap.events), "latency", Toxic(latency_ms=1))
    assert {finding.promise for finding in found} == {"one intended step, one event"}


def test_a_raw_error_of_the_driver_is_found(clean: Scene) -> None:
    def broken() -> None:
        with clean.place.wired.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 / 0")

    found = clean.striker.strike(Operation("status", broken), "latency", Toxic(latency_ms=1))
    assert found[0].promise == "an error is of our tree"


def test_a_planted_bug_is_found_by_its_promise(database_url: str) -> None:
    found = faults.strike(database_url, seed=1, only=("encoder",), bug="short_batch_accepted").findings
    assert {says.partition(":")[0] for _, says in found} & {"wrong model", "lost", "mixed chunks"}, found


def test_the_hunt_asks_encoders_for_a_bug(database_url: str) -> None:
    tries, shown_as = hunt.LAYERS["L4"](BUGS["same_name_other_model"], database_url, 1, 1) or (0, "")
    assert (tries, "encoder" in shown_as) == (1, True), shown_as
