"""Connections to PostgreSQL: one engine, one schema version, and database failures as errors of our tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa
import tenacity
from sqlalchemy import event

from revector.database.catalogue import check_parts, is_part
from revector.database.driver import first_line, translated
from revector.database.sessions import EACH_TIME, ask_seldom, settle
from revector.database.urls import database_url, waits
from revector.errors import MissingExtension, NotAllowed, SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config

MIN_POSTGRES = 15
MIN_PGVECTOR = (0, 8)
GATE_LOCK = 1919252067
"""First key of the advisory lock that is a collection's gate; the schema's trigger names the same number."""

SCHEMA_VERSION = "0019"
"""Alembic's head in ``schema/versions``, spelled out because every command checks it and Alembic is slow to load."""

MISSING = ("42P01", "42703", "42883", "3F000")
"""SQLSTATEs of a relation, column, function or schema that is not there."""

Role = Literal["primary", "standby", "read-only"]

SCHEMA_FOLDER = Path(__file__).parent / "schema"
"""What makes revector's tables, one version after the other."""

SEARCH_PATH = "revector,public,extensions"
"""``extensions`` is where some hosted PostgreSQL installs pgvector."""


def make_engine(
    url: str,
    *,
    search_path: str = SEARCH_PATH,
    name: str = "revector",
    silence_s: float | None = None,
    **more: str,
) -> sa.Engine:
    """Return an engine whose transactions see the ``revector`` schema first and never idle for long.

    ``name`` is what PostgreSQL lists its sessions under; ``silence_s``: how long it may leave a request unanswered
    before the connection is given up, for ever if None; ``more``: further settings, as PostgreSQL spells them.
    Raises ``ConfigError`` for a URL that is none of PostgreSQL.
    """
    given = sa.make_url(database_url(url))
    engine = sa.create_engine(
        given,
        pool_size=5,
        max_overflow=20,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",  # whatever the database's default: a swap's test must see what its lock saw
        connect_args={**waits(given), "application_name": name},
    )
    settle(
        engine,
        {
            "search_path": search_path,
            "plan_cache_mode": EACH_TIME,
            "idle_in_transaction_session_timeout": "30s",
            "revector_session.own": "on",  # rows of indexes and of the work on them are deleted by no other session
            **more,
        },
        silence_s,
    )
    ask_seldom(engine)
    event.listen(engine, "handle_error", _translate)
    return engine


def _translate(context: sa.ExceptionContext) -> None:
    if context.is_pre_ping:  # the pool replaces that connection itself
        return
    error = translated(context.original_exception, disconnected=context.is_disconnect)
    state = getattr(context.original_exception, "sqlstate", None)
    if state in MISSING and is_part(str(context.original_exception)):
        error = SchemaMismatch(
            f"the database lacks what this version works with ({first_line(context.original_exception)}). The "
            "transaction was undone; run `revector init` if it was never run here, else `revector doctor`, which names "
            "all that is missing."
        )
    if error is not None:
        raise error from context.original_exception


def _script() -> tuple[Config, set[str]]:
    """Return Alembic's configuration and every schema version that this code knows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCHEMA_FOLDER))
    return config, {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _schema_found(connection: sa.Connection) -> str | None:
    if connection.scalar(sa.text("SELECT to_regclass('revector.schema_version')")) is None:
        return None
    found = connection.scalar(sa.text("SELECT version_num FROM revector.schema_version"))
    return None if found is None else str(found)


def check_schema(engine: sa.Engine, *, whole: bool = False) -> None:
    """Raise ``SchemaMismatch`` unless the tables are of exactly this version; ``whole``: all of them."""
    with engine.connect() as connection:
        found = _schema_found(connection)
        if found == SCHEMA_VERSION and whole:
            check_parts(connection)
    if found == SCHEMA_VERSION:
        return
    if found is None:
        raise SchemaMismatch("the database has no revector tables yet. Nothing was changed; run `revector init`.")
    way = (
        "run `revector init` to upgrade it"
        if found in _script()[1]
        else "it was made by a newer revector: upgrade this installation"
    )
    raise SchemaMismatch(
        f"the database's schema is version {found}, this revector works with {SCHEMA_VERSION}. Nothing was "
        f"changed; {way}."
    )


def role_of(connection: sa.Connection) -> Role:
    """Return what the database is: ``primary`` takes writes, ``standby`` and ``read-only`` take none."""
    row = connection.execute(
        sa.text("SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS fixed")
    ).one()
    return "standby" if row.standby else "read-only" if row.fixed else "primary"


def upgrade_schema(engine: sa.Engine) -> bool:
    """Create or upgrade the tables; return whether anything was done.

    Raises ``MissingExtension`` with the statement that fixes it, or ``SchemaMismatch`` for a newer schema.
    """
    with engine.connect() as connection:
        _check_server(connection)
        found = _schema_found(connection)
        connection.rollback()
        if found == SCHEMA_VERSION:
            return False
        config, known = _script()
        if found is not None and found not in known:
            raise SchemaMismatch(
                f"the database's schema is version {found}, newer than this revector's {SCHEMA_VERSION}. Nothing was "
                "changed; upgrade this installation."
            )
        if found is None and connection.scalar(sa.text("SELECT to_regclass('revector.collection')")) is not None:
            raise SchemaMismatch(
                "the database has revector's tables, but not which version they are of: someone deleted that by hand. "
                "Nothing was changed; restore the table schema_version from a backup (`pg_restore --schema revector`)."
            )
        # One installer at a time; held until the connection's transaction ends.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key, 0)"), {"key": GATE_LOCK})
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS revector"))
        from alembic import command

        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    return True


def _check_server(connection: sa.Connection) -> None:
    number = int(connection.scalar(sa.text("SHOW server_version_num")) or 0)
    if number // 10_000 < MIN_POSTGRES:
        raise MissingExtension(
            f"PostgreSQL {number // 10_000} was found, {MIN_POSTGRES} or newer is needed. Nothing was changed; upgrade "
            "the server."
        )
    found = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if found is None:
        try:
            connection.execute(sa.text("CREATE EXTENSION vector"))
            connection.commit()
        except (sa.exc.DBAPIError, NotAllowed) as error:
            connection.rollback()
            if connection.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")):
                _check_server(connection)  # another installer was faster
                return
            raise MissingExtension(
                "the extension vector is absent and could not be created: "
                f"{first_line(getattr(error, 'orig', None) or error.__cause__ or error)}. Nothing was changed; "
                f"{_way_to_extension(connection)}."
            ) from error
        found = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if tuple(int(part) for part in str(found).split(".")[:2]) < MIN_PGVECTOR:
        wanted = ".".join(map(str, MIN_PGVECTOR))
        raise MissingExtension(
            f"pgvector {found} was found, {wanted} or newer is needed. Nothing was changed; install it and run `ALTER "
            "EXTENSION vector UPDATE;`."
        )


def _way_to_extension(connection: sa.Connection) -> str:
    """Say who may create the extension here: most packages of pgvector do not mark it as trusted."""
    offered = connection.execute(
        sa.text(
            "SELECT v.trusted, v.superuser, quote_ident(current_database()) AS database, quote_ident(current_user) AS "
            "role FROM pg_available_extensions e JOIN pg_available_extension_versions v ON (v.name, v.version) = "
            "(e.name, e.default_version) WHERE e.name = 'vector'"
        )
    ).one_or_none()
    if offered is None:
        return (
            "install pgvector on the server (Debian: `apt-get install postgresql-NN-pgvector`), then run `CREATE "
            "EXTENSION vector;` in this database as a superuser"
        )
    if offered.superuser and not offered.trusted:
        return (
            f"run `CREATE EXTENSION vector;` in the database {offered.database} as a superuser: it is not marked as "
            "trusted on this server, so the database's owner may not"
        )
    return (
        f"run `CREATE EXTENSION vector;` in the database {offered.database} as its owner, or `GRANT CREATE ON DATABASE "
        f"{offered.database} TO {offered.role};`"
    )


def asked_to_repeat(error: BaseException) -> bool:
    """Whether PostgreSQL undid a transaction and asks for it again: 40001 and 40P01."""
    return isinstance(error, sa.exc.DBAPIError) and getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


repeated = tenacity.retry(
    retry=tenacity.retry_if_exception(asked_to_repeat),
    stop=tenacity.stop_after_attempt(8),
    wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
    reraise=True,
)
"""Repeats a whole transaction where PostgreSQL asks for it, and nowhere else: a snapshot older than the gate (40001), a
deadlock with foreign SQL (40P01). A lost connection is not repeated: the commit may have happened."""


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One READ COMMITTED transaction; committed at the end, undone by any error."""
    with engine.connect() as connection, connection.begin():
        yield connection
