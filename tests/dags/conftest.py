"""The page's server with someone signed in, for the tests that ask it and those that look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Any]], None]:
    """Makes another kind of auth manager decide; it begins with Airflow's simple one."""
    from airflow.api_fastapi import app as airflow_app
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "s" * 64)

    def use(kind: type[Any]) -> None:
        monkeypatch.setattr(airflow_app._AuthManagerState, "instance", kind())

    use(SimpleAuthManager)
    return use


@pytest.fixture
def client(manager: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """The page below Airflow's own app, for someone with a role, or for nobody."""
    from airflow.api_fastapi import app as airflow_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from revector.airflow import web, web_access

    def make(role: str | None = "viewer", prefix: str = "") -> TestClient:
        around = FastAPI(root_path=prefix)
        around.mount("/revector", web.app)
        made = TestClient(around)
        if role is not None:
            user = SimpleAuthManagerUser(username=f"{role}-person", role=role)
            token = airflow_app.get_auth_manager().generate_jwt(user)
            made.headers["Authorization"] = f"Bearer {token}"
        return made

    web_access.project.cache_clear()
    yield make
    web_access.project.cache_clear()
