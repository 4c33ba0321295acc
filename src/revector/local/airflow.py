"""An Airflow of our own on this machine: folder, secrets, settings, ports and the four components, kept running.

It listens on 127.0.0.1 only, has three users with random passwords, and keeps everything in ``<state>/airflow``. It is
for one machine: a team's own Airflow needs only ``pip install revector[airflow]`` and the files in ``dags/``.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httpx

from revector.errors import ConfigError, RevectorError
from revector.local.airflow_client import AirflowClient
from revector.local.processes import Supervisor

USERS = {"admin": "admin", "operator": "user", "viewer": "viewer"}
"""User and role: a viewer only looks; a user also triggers, approves and rolls back; an admin does everything."""

DAGS = (
    "revector_migrate",
    "revector_rollback",
    "revector_adopt",
    "revector_finetune",
    "revector_retire",
    "revector_canary",
    "revector_verify",
    "revector_verify_full",
    "revector_dead_letters",
    "revector_stale",
    "revector_metadata_backfill",
)
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
"""Without their log servers, which would listen on all interfaces: on one machine the logs are read from the disk."""


@dataclass
class AirflowHome:
    """The embedded Airflow of one project.

    ``state`` is the project's state folder, ``config`` its ``revector.toml``, ``dags`` the folder of DAG files.
    ``path``, such as ``/team``, is what every address begins with, as behind a proxy. ``settings`` are further Airflow
    variables (``AIRFLOW__…``) that win over ours. Use it as a context manager, or call ``start`` and ``stop``. If this
    process is killed, Airflow ends within seconds.
    """

    state: Path
    config: Path
    dags: Path
    port: int = 8080
    gpu_slots: int = 1
    path: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    _supervisor: Supervisor | None = field(default=None, repr=False)
    _url: str | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def home(self) -> Path:
        """The folder that Airflow calls ``AIRFLOW_HOME``."""
        return self.state.resolve() / "airflow"

    @property
    def url(self) -> str:
        """Address of the running server. Raises ``ConfigError`` if none runs."""
        url = self._url or self.running()
        if url is None:
            raise ConfigError(f"no Airflow of {self.home} is running. Start it with `revector up`.")
        return url

    @property
    def passwords(self) -> dict[str, str]:
        """Password by user: random, made once, kept in a file that only this user can read."""
        return _keep_passwords(self.home)

    def running(self) -> str | None:
        """Return the address of the Airflow of this folder if it answers, no matter who started it."""
        with contextlib.suppress(OSError, ValueError, KeyError, httpx.HTTPError):
            url = cast("str", json.loads((self.home / "address.json").read_text())["url"])
            if httpx.get(f"{url}/api/v2/version", timeout=5, trust_env=False).status_code == 200:
                return url
        return None

    def client(self, user: str = "operator") -> AirflowClient:
        """Return a client that is signed in as ``user`` at its first call."""
        if user not in USERS:
            raise ConfigError(f"Airflow user {user!r} was asked for; there are {', '.join(USERS)}.")
        return AirflowClient(self.url, user, self.passwords[user])

    def login(self, user: str = "operator") -> str:
        """Return an API token (Bearer) of ``user``."""
        with self.client(user) as client:
            return client.login()

    def start(self, *, timeout_s: float = 240.0, dags: Sequence[str] = DAGS) -> str:
        """Start everything, wait until it is ready and return the address.

        Ready: the server and the task API answer, the scheduler and DAG processor report healthy, the pool ``gpu``
        exists and every DAG of ``dags`` is listed and not paused. Raises ``StateError`` if it runs already,
        ``RevectorError`` with the log's last lines if it is not ready in time; then nothing is left running.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        _keep_passwords(self.home)
        supervisor = Supervisor(self.home)
        supervisor.acquire()
        self._supervisor = supervisor
        try:
            self._url = f"http://127.0.0.1:{free_port(self.port)}{self.path}"
            environment = self.environment()
            self._migrate(supervisor, environment)
            for name, argv in self.programs().items():
                supervisor.start(name, argv, env=environment, cwd=self.home)
            _write(self.home / "address.json", {"url": self._url, "pid": os.getpid()})
            self._wait_until_ready(time.monotonic() + timeout_s, dags)
        except BaseException:
            self.stop()
            raise
        return self._url

    def stop(self) -> None:
        """Stop everything; no process is left. Running tasks are cut off: their DAG run resumes at the next start."""
        if self._supervisor is not None:
            (self.home / "address.json").unlink(missing_ok=True)
            self._supervisor.stop()
        self._supervisor = self._url = None

    def programs(self) -> dict[str, list[str]]:
        """Return what is kept running: name and command line."""
        return {name: airflow(words) for name, words in COMPONENTS.items()}

    @property
    def database(self) -> Mapping[str, str]:
        """Airflow's settings of the metadata database."""
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}"}

    def has_database(self) -> bool:
        """Whether the metadata database was there already; what Airflow cannot make itself is there afterwards."""
        return (self.home / "airflow.db").exists()

    def environment(self) -> dict[str, str]:
        """Return the environment of every component: ours without its own Airflow variables, plus our settings."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        spared = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        local = ",".join(filter(None, [spared, "127.0.0.1,localhost"]))
        environment = inherited | {
            "NO_PROXY": local,
            "no_proxy": local,
            "PYTHONUNBUFFERED": "1",
            "REVECTOR_CONFIG": str(self.config.resolve()),
            # Airflow's own tools call `airflow` and `python` by name.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "AIRFLOW_HOME": str(self.home),
        }
        if sys.platform == "darwin":
            # A fork after Objective-C frameworks are loaded would abort the task.
            environment["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"
        return environment | self._settings() | dict(self.settings)

    def _settings(self) -> dict[str, str]:
        url = self.url
        keys = keep(
            self.home / "secrets.json",
            {
                "jwt": secrets.token_hex(48),
                "session": secrets.token_hex(32),
                "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
        )
        return {
            **self.database,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(urlsplit(url).port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__SECRET_KEY": keys["session"],
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__INSTANCE_NAME": "revector",
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
            "AIRFLOW__CORE__AUTH_MANAGER": (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            ),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags.resolve()),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.dags.resolve().parent / "plugins"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs" / "tasks"),
            "AIRFLOW__REVECTOR__GPU_POOL": "gpu",
            # A component killed with -9 is noticed, and its tasks retried, within about a minute.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "5",
        }

    def _migrate(self, supervisor: Supervisor, environment: dict[str, str]) -> None:
        executor = environment["AIRFLOW__CORE__EXECUTOR"]
        made = {"airflow": importlib.metadata.version("apache-airflow-core"), "executor": executor}
        note = self.home / "run" / "database.json"
        if self.has_database() and note.exists() and json.loads(note.read_text()) == made:
            return
        supervisor.run("db-migrate", airflow(["db", "migrate"]), env=environment, cwd=self.home, timeout_s=180)
        _write(note, made)

    def _wait_until_ready(self, end: float, dags: Sequence[str]) -> None:
        self._wait(end, "the server answers", lambda: self._answers("/api/v2/monitor/health"))
        # The first call builds the task API, which takes seconds: the first task must not have to wait for it.
        self._wait(end, "the task API answers", lambda: self._answers("/execution/health"))
        with self.client("admin") as admin:
            admin.set_pool("gpu", self.gpu_slots, "One slot per GPU: shards embedded at the same time")
            self._wait(end, f"the DAGs {', '.join(dags)} are listed", lambda: all(_listed(admin, dag) for dag in dags))
            self._wait(end, "scheduler and DAG processor are healthy", lambda: _healthy(admin))

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _wait(self, end: float, what: str, met: Callable[[], bool]) -> None:
        while not met():
            if time.monotonic() > end:
                supervisor = cast("Supervisor", self._supervisor)
                logs = "\n".join(f"--- {supervisor.log(name)}\n{supervisor.tail(name, 8)}" for name in self.programs())
                raise RevectorError(
                    f"Airflow was started at {self._url}; it was not ready in time: not yet true that {what}. "
                    f"{self._import_errors()}Everything was stopped again. The ends of its logs:\n{logs}"
                )
            time.sleep(0.3)

    def _import_errors(self) -> str:
        try:
            with AirflowClient(self.url, "admin", self.passwords["admin"], patience_s=5) as admin:
                errors = admin.get("/importErrors")["import_errors"]
        except (httpx.HTTPError, RevectorError):
            return ""
        lines = [(error["filename"], error["stack_trace"].splitlines()[-1]) for error in errors]
        return "".join(f"{file} cannot be loaded: {line}. " for file, line in lines)


def airflow(words: Sequence[str]) -> list[str]:
    """Return the command line of one of Airflow's programs."""
    return [sys.executable, "-m", "airflow", *words]


def _listed(admin: AirflowClient, dag_id: str) -> bool:
    answer = admin.request("GET", f"/api/v2/dags/{dag_id}", accept=(404,))
    if answer.status_code == 404:
        return False
    if answer.json()["is_paused"]:
        admin.unpause(dag_id)
    return True


def _healthy(admin: AirflowClient) -> bool:
    health = admin.get("/monitor/health")
    return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def free_port(wanted: int) -> int:
    """Return this port of 127.0.0.1, or another one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return cast("int", probe.getsockname()[1])
    raise RevectorError("no port of 127.0.0.1 is free for Airflow; nothing was started.")


def _keep_passwords(home: Path) -> dict[str, str]:
    return keep(home / "passwords.json", {name: secrets.token_urlsafe(12) for name in USERS})


def keep(path: Path, first: dict[str, str]) -> dict[str, str]:
    """Return what the file holds; what it lacks of ``first`` is added to it."""
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        known = {}
    if missing := {name: value for name, value in first.items() if name not in known}:
        _write(path, known | missing)
    return cast("dict[str, str]", known | missing)


def _write(path: Path, data: Mapping[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(data, file, indent=1)
    temporary.replace(path)
