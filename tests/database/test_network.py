"""The network between a real `revector worker` and PostgreSQL is cut in every way, and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from evaluation.reliability.wire import Action, Proxy, Toxic

from copies import Databases
from places import until
from revector.database.engine import make_engine
from revector.database.urls import LOST_S, waits
from stages import Stages
from worlds import LIMIT_S, World

IMPATIENT = "&keepalives_idle=1&keepalives_interval=1&keepalives_count=1&tcp_user_timeout=2000&connect_timeout=2"
"""So that a silent network is noticed within two seconds, not a minute."""

POLL = Toxic(at="FROM slot s JOIN collection")
CLAIM = Toxic(at="UPDATE pending p SET lease_token")
PUBLISH = Toxic(at="^COMMIT", within="INSERT INTO ledger")


class Process:
    """`revector worker`, its log, and what it is connected by."""

    def __init__(self, world: World, proxy: Proxy, log: Path) -> None:
        self.world, self.proxy, self._log = world, proxy, log
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "REVECTOR_DATABASE_URL": self.proxy.url + IMPATIENT}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "revector", "worker"], cwd=self.world.root, env=environment, stderr=log
            )
        until(lambda: "working for docs" in self.log(), "the worker runs", LIMIT_S)

    def log(self, since: int = 0) -> str:
        return self._log.read_text()[since:]

    def settle(self) -> None:
        """Wait until all is applied; leases of what was in hand end now and not in a minute."""
        release = "UPDATE pending SET lease_until = clock_timestamp(), due_at = clock_timestamp() WHERE state = 'due'"
        self.world.sql(release)
        until(lambda: not self.world.sql("SELECT 1 FROM pending"), "all is applied", LIMIT_S)


@pytest.fixture(scope="module")
def running(databases: Databases, stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("network")
    name = databases.create(stages["served"])
    world = World(root, databases.url(name))
    with Proxy(world.database_url) as proxy:
        made = Process(world, proxy, root / "worker.log")
        yield made
        made.process.kill()
        made.process.wait()
    world.engine.dispose()
    databases.drop(name)


def cut(toxic: Toxic, action: Action) -> Toxic:
    return Toxic(action=action, at=toxic.at, within=toxic.within)


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by a socket filter of Linux")
@pytest.mark.parametrize("action", ["drop", "reset", "refuse"])
@pytest.mark.parametrize("toxic", [POLL, CLAIM, PUBLISH], ids=["poll", "claim", "publish"])
def test_a_worker_that_loses_the_network_says_so_and_goes_on_by_itself_with_nothing_lost_or_doubled(
    running: Process, toxic: Toxic, action: Action
) -> None:
    world, proxy, told = running.world, running.proxy, len(running.log())
    proxy.arm(cut(toxic, action))
    start = 1_000 + int(world.value("SELECT count(*) FROM document"))
    written = world.put(40, start=start)
    until(lambda: proxy.state().fired, "the cut", LIMIT_S)
    until(lambda: "tries again every 2 s" in running.log(told), "the cut is in the log", LIMIT_S)
    proxy.clear()
    running.settle()
    until(lambda: "the database does its part again" in running.log(told), "the end is in the log", LIMIT_S)
    assert running.process.poll() is None
    world.documents.wait_until_served(written, timeout_s=1)
    assert world.differences(world.generation()) == []
    twice = "SELECT doc_id FROM ledger l JOIN document d USING (doc_id) WHERE l.version <> d.version OR n_chunks <> 1"
    assert world.sql(twice) == []


def test_a_worker_without_a_network_neither_spins_nor_fills_its_log(running: Process) -> None:
    proxy, told = running.proxy, len(running.log())
    proxy.arm(cut(POLL, "refuse"))
    until(lambda: "tries again every 2 s" in running.log(told), "the cut is in the log", LIMIT_S)
    process = psutil.Process(running.process.pid)
    used_s, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(5)
    assert sum(process.cpu_times()[:2]) - used_s < 0.3 * (time.monotonic() - began)
    assert running.log(told).count("tries again every 2 s") == 1
    proxy.clear()
    until(lambda: "the database does its part again" in running.log(told), "the end is in the log", LIMIT_S)


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by a socket filter of Linux")
def test_ctrl_c_ends_a_worker_whose_network_is_silent(running: Process) -> None:
    """… once its connections are given up, and what it had in hand is done by the next one."""
    running.proxy.arm(cut(PUBLISH, "drop"))
    written = running.world.put(5, start=90_000)
    until(lambda: running.proxy.state().fired, "the cut", LIMIT_S)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(LIMIT_S) == 0
    assert running.log().endswith("stopped\n")
    running.proxy.clear()
    running.start()
    running.settle()
    running.world.documents.wait_until_served(written, timeout_s=1)
    assert running.world.differences(running.world.generation()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="packets are dropped by a socket filter of Linux")
def test_a_second_ctrl_c_ends_it_at_once(running: Process) -> None:
    told = len(running.log())
    running.proxy.arm(cut(POLL, "stall"))  # a server that hangs and whose kernel answers: no time-out ends that
    until(lambda: running.proxy.state().fired, "the cut", LIMIT_S)
    running.process.send_signal(signal.SIGINT)
    until(lambda: "a second Ctrl-C ends at once" in running.log(told), "how to end it", LIMIT_S)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(LIMIT_S) == -signal.SIGINT
    running.proxy.clear()


def test_a_silent_connection_is_given_up_after_a_minute_by_both_ends_unless_the_url_says_otherwise(
    database_url: str,
) -> None:
    url = sa.make_url(database_url)
    assert waits(url)["tcp_user_timeout"] == LOST_S * 1_000 == 60_000
    assert waits(url.update_query_dict({"tcp_user_timeout": "5000"})).keys() == waits(url).keys() - {"tcp_user_timeout"}
    with Proxy(database_url) as proxy:
        engine = make_engine(proxy.url)
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            given = {one.keyword.decode(): (one.val or b"").decode() for one in driver.pgconn.info}
        engine.dispose()
    assert (given["keepalives_idle"], given["connect_timeout"]) == ("30", "10")
    assert "-ctcp_keepalives_idle=30" in given["options"]
