"""The Airflow connection ``revector``: which database, which revector.toml, which collection."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from revector.errors import ConfigError, RevectorError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from revector.config import Project


class RevectorHook(BaseHook):
    """Opens the project that a connection describes; without one, that of ``config``.

    A host in the connection wins over every other setting of the database, its ``config`` over the ``config`` here.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "revector_default"
    conn_type = "revector"
    hook_name = "Revector"

    def __init__(self, conn_id: str | None = default_conn_name, *, config: str | None = None) -> None:
        super().__init__()
        self.conn_id, self._config = conn_id, config

    @cached_property
    def _connection(self) -> Connection | None:
        return None if self.conn_id is None else self.get_connection(self.conn_id)

    @cached_property
    def _extra(self) -> Mapping[str, object]:
        return {} if self._connection is None else self._connection.extra_dejson

    def get_conn(self) -> Project:
        """Return the project. Raises ``ConfigError`` for settings that cannot be read; the database is not asked."""
        from revector.config import Project, load_project

        file = self._extra.get("config") or self._config
        project = load_project(Path(str(file)) if file else None)
        if (url := self._url()) is None:
            return project
        return Project(project.root, project.settings.model_copy(update={"database_url": url}))

    def collection(self, named: str | None) -> str:
        """Return the collection that is named, or the connection's. Raises ``ConfigError`` where there is neither."""
        if chosen := named or self._extra.get("collection"):
            return str(chosen)
        raise ConfigError(
            f"no collection was named, and Airflow connection {self.conn_id!r} has none. Nothing has run; name one in "
            "the task, or in the connection's form."
        )

    def test_connection(self) -> tuple[bool, str]:
        """Ask the database for its version and tables; return whether a migration could use it, and a sentence."""
        import sqlalchemy as sa

        from revector.database.engine import check_schema, make_engine

        try:
            engine = make_engine(self._url() or self.get_conn().database_url)
            try:
                check_schema(engine)
                with engine.connect() as connection:
                    version = connection.scalar(sa.text("SHOW server_version"))
                    names = connection.scalars(sa.text("SELECT name FROM collection ORDER BY name")).all()
            finally:
                engine.dispose()
        except RevectorError as error:
            return False, str(error)
        return True, f"PostgreSQL {version} with revector's tables; collections: {', '.join(names) or 'none yet'}."

    def _url(self) -> str | None:
        import sqlalchemy as sa

        if (there := self._connection) is None or not there.host:
            return None
        socket = there.host.startswith("/")  # a folder, which cannot stand before the colon of a URL
        query = {"host": there.host if socket else None, "sslmode": self._extra.get("sslmode")}
        url = sa.URL.create(
            "postgresql+psycopg",
            there.login,
            there.password,
            None if socket else there.host,
            there.port,
            there.schema,
            {name: str(value) for name, value in query.items() if value},
        )
        return url.render_as_string(hide_password=False)
