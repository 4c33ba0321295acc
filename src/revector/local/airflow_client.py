"""Airflow over its REST API, the only way in which revector talks to it: trigger, watch, read logs, answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self, TypedDict
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from revector.errors import ConfigError, RevectorError

FINISHED = frozenset({"success", "failed"})
"""States in which a DAG run stays."""

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States in which a task stays."""

PARKED = frozenset({"awaiting_input", "deferred"})
"""States of a task that waits for an answer, in Airflow 3.3 and before."""

SETTLE_S = 5.0
"""How long a question stands before a program answers it. If the scheduler has not noticed yet that the task's process
ended, Airflow 3.3.2 takes the answer for a crash of the task ("task instance's state attribute is queued") and asks
again. People are slower than that, except on a busy machine."""

POLL_S = 1.0
"""Between two looks at what Airflow is doing."""


class TaskInstance(TypedDict):
    """A task of a run, as Airflow has it: ``map_index`` is -1 where it is not mapped, times are ISO 8601."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    executor: str | None
    start_date: str | None
    end_date: str | None


class _TryAgain(Exception):
    """The server is not there or not well; the call may be repeated."""


class AirflowClient:
    """One signed-in user of one Airflow 3 server.

    Calls are repeated for up to ``patience_s`` seconds while the server is away or answers 5xx; what was refused (4xx)
    raises ``RevectorError`` with the server's own words. Every call that changes something is safe to repeat.
    """

    def __init__(self, url: str, user: str, password: str, *, patience_s: float = 60.0) -> None:
        self.url, self.user = url.rstrip("/"), user
        self._password = password
        self._patience_s = patience_s
        # Localhost must not go through a proxy that the environment names.
        self._http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def login(self) -> str:
        """Return a new token (Bearer, 24 h). Raises ``ConfigError`` for a wrong user or password."""
        answer = self._send("POST", "/auth/token", json={"username": self.user, "password": self._password})
        if answer.status_code != 201:
            raise ConfigError(
                f"Airflow at {self.url} did not let user {self.user} in: {_words(answer)}. Nothing was changed."
            )
        token = str(answer.json()["access_token"])
        self._http.headers["Authorization"] = f"Bearer {token}"
        return token

    def request(self, method: str, path: str, *, accept: tuple[int, ...] = (), **kw: object) -> httpx.Response:
        """Send a request below the server's root; sign in first where needed.

        Raises ``RevectorError`` for an answer of 400 or more that is not in ``accept``.
        """
        if "Authorization" not in self._http.headers:
            self.login()
        answer = self._send(method, path, **kw)
        if answer.status_code == 401:
            self.login()
            answer = self._send(method, path, **kw)
        if answer.is_error and answer.status_code not in accept:
            raise RevectorError(
                f"{method} {path} was asked of Airflow at {self.url} as {self.user}; it answered "
                f"{answer.status_code}: {_words(answer)}"
            )
        return answer

    def get(self, path: str, **params: object) -> Any:
        """Return the JSON of ``GET /api/v2<path>``."""
        return self.request("GET", f"/api/v2{path}", params=params).json()

    def trigger(self, dag_id: str, conf: Mapping[str, object], *, note: str | None = None) -> str:
        """Start a run and return its id. ``conf`` fills the form; values that do not fit it raise ``RevectorError``."""
        run_id = f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}__{secrets.token_hex(4)}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf), "note": note}
        # The id is ours, so a repeated request cannot start a second run: it is answered 409.
        self.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body, accept=(409,))
        return run_id

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: queued, running, success or failed."""
        return str(self.get(_run(dag_id, run_id))["state"])

    def wait(self, dag_id: str, run_id: str, *, timeout_s: float) -> str:
        """Wait until a run has ended and return its state; after ``timeout_s`` return the state it is in."""
        end = time.monotonic() + timeout_s
        while (state := self.state(dag_id, run_id)) not in FINISHED and time.monotonic() < end:
            time.sleep(POLL_S)
        return state

    def tasks(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the task instances of a run."""
        found: list[TaskInstance] = self.get(f"{_run(dag_id, run_id)}/taskInstances", limit=1000)["task_instances"]
        return found

    def questions(self, dag_id: str = "~", run_id: str = "~", *, waiting: bool = True) -> list[dict[str, object]]:
        """Return what people are (or were) asked: ``task_instance``, ``subject``, ``options`` and more."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='~')}/hitlDetails"
        answer = self.get(path, limit=100, **({"response_received": False} if waiting else {}))
        return list(answer["hitl_details"])

    def answer(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        option: str,
        *,
        reason: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """Answer a waiting question of our DAGs as this user; return when the task that asked has ended.

        If Airflow loses the answer and asks again (``SETTLE_S``), it is given again. Raises ``RevectorError`` if the
        question is answered already or is over, if this user may not answer, or if the task needs over ``timeout_s``.
        """
        path = f"/api/v2{_run(dag_id, run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        given, end = False, time.monotonic() + timeout_s
        while True:
            asked = self.request("GET", path).json()
            state, answered = asked["task_instance"]["state"], asked["response_received"]
            if given and state in ENDED:
                return
            if (not given and (answered or state in ENDED)) or time.monotonic() > end:
                did = "was given, but has not ended it" if given else "was not given"
                raise RevectorError(
                    f"{option!r} was to be the answer to {task_id} of run {run_id}. That task is {state} and "
                    f"has {'an' if answered else 'no'} answer; this one {did}. See the task in Airflow."
                )
            if state in PARKED and not answered:
                time.sleep(SETTLE_S)
                self.request("PATCH", path, json={"chosen_options": [option], "params_input": {"reason": reason}})
                given = True
            else:
                time.sleep(POLL_S)

    def log_tail(self, dag_id: str, run_id: str, task: TaskInstance, *, lines: int = 30) -> str:
        """Return the last lines of a task instance's log (an entry of ``tasks``), empty if there is none yet."""
        path = f"/api/v2{_run(dag_id, run_id)}/taskInstances/{task['task_id']}/logs/{max(1, task['try_number'])}"
        params = {"map_index": task["map_index"], "full_content": True}
        answer = self.request("GET", path, params=params, accept=(404,), headers={"Accept": "application/json"})
        if answer.status_code == 404:
            return ""
        return "\n".join([line for entry in answer.json()["content"] for line in _log_lines(entry)][-lines:])

    def failures(self, dag_id: str, run_id: str, *, lines: int = 30) -> dict[str, str]:
        """Return the log tails of the failed task instances of a run, by task (``embed[2]`` for a mapped one)."""
        return {
            task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else ""): self.log_tail(
                dag_id, run_id, task, lines=lines
            )
            for task in self.tasks(dag_id, run_id)
            if task["state"] == "failed"
        }

    def set_pool(self, name: str, slots: int, description: str = "") -> None:
        """Make a pool, or set the size of the one that is there."""
        body = {"slots": slots, "description": description, "include_deferred": False}
        if self.request("POST", "/api/v2/pools", json={"name": name} | body, accept=(409,)).status_code == 409:
            self.request("PATCH", f"/api/v2/pools/{name}", json={"pool": name} | body)

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self.request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def _send(self, method: str, path: str, **kw: Any) -> httpx.Response:
        for attempt in Retrying(
            stop=stop_after_delay(self._patience_s),
            wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
            retry=retry_if_exception_type((httpx.TransportError, _TryAgain)),
            reraise=True,
        ):
            with attempt:
                answer = self._http.request(method, path, **kw)
                waited_s = attempt.retry_state.seconds_since_start or 0.0  # None at the first attempt
                if answer.status_code >= 500 and self._patience_s > waited_s:
                    raise _TryAgain(f"{answer.status_code}")
        return answer


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _words(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
    return detail if isinstance(detail, str) else str(detail)[:500]


def _log_lines(entry: str | Mapping[str, Any]) -> list[str]:
    if isinstance(entry, str):
        return entry.splitlines()
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in entry.get("error_detail") or []]
    return [str(entry.get("event", "")), *errors]
