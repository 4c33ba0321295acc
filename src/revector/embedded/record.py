"""``postgres.json``: where one embedded server keeps its things."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import URL

PORT = 5432  # only names the socket file
NAME = "revector"  # of the database and of its superuser
# Not /var/tmp or /tmp: their cleaners delete files that were not touched for some weeks.
SHARED_ROOTS = (Path("/var/lib"), Path("/var/db"), Path("/opt"), Path("/srv"))


@dataclass(frozen=True)
class ServerRecord:
    """Where one embedded server keeps its things, as ``postgres.json`` records it; paths are absolute."""

    state: str
    home: str
    sockets: str
    binaries: str
    uid: int
    gid: int
    port: int = PORT

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder, mode 0700, owned by ``uid``."""
        return Path(self.home, "data")

    @property
    def log(self) -> Path:
        """What the server says; started again after 16 MiB."""
        return Path(self.home, "log")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database; the port is spelled out so that ``PGPORT`` cannot redirect a client."""
        query = {"host": self.sockets, "port": str(self.port)}
        return URL.create("postgresql+psycopg", NAME, database=NAME, query=query).render_as_string(hide_password=False)


def recorded(state: Path) -> ServerRecord | None:
    """Read the record, unless it is torn, names a place that is not ours, or came with a copy of another folder."""
    try:
        found = json.loads((state / "postgres.json").read_text(encoding="utf-8"))
        server = ServerRecord(**{name: found[name] for name in ServerRecord.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    home = Path(server.home)
    ours = home == state / "postgres" or (home.parent in SHARED_ROOTS and home.name.startswith("revector-"))
    copied = server.state != str(state) and Path(server.state).exists()
    return server if ours and not copied else None


def record(server: ServerRecord) -> None:
    """Write the record as a whole, and in a shared place whose it is."""
    content = json.dumps(asdict(server) | {"data": str(server.data), "log": str(server.log)}, indent=2)
    descriptor, name = tempfile.mkstemp(prefix="postgres.json.", dir=server.state)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o644)
        file.write(content + "\n")
    Path(name).replace(Path(server.state, "postgres.json"))
    if Path(server.home).parent in SHARED_ROOTS:
        Path(server.home, "state").write_bytes(os.fsencode(server.state))
