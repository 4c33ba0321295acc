"""Collections and generations as rows: what is registered, and who sits in which slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from revector.errors import ConfigError
from revector.guards import guard
from revector.interfaces import Vectors
from revector.lifecycle import Phase
from revector.spec import Revision, revision_from_data
from revector.stores.opening import Stores, stores_of

PROTOCOL_VERSION = 2


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection row: identity, epoch and the three slots."""

    cid: int
    name: str
    epoch: int
    active_gen: int | None
    standby_gen: int | None
    building_gen: int | None
    rollback_deadline: datetime | None
    protocol_version: int
    cutoffs: Mapping[str, float] = field(default_factory=dict)
    """Those of the active generation; see ``registry.cutoffs``. Read with its number: a search asks once."""

    @property
    def live(self) -> tuple[int, ...]:
        """Generations that receive writes."""
        return tuple(gen for gen in (self.active_gen, self.standby_gen, self.building_gen) if gen is not None)

    def role(self, gen: int) -> str | None:
        """Name of the slot that holds ``gen``, or None."""
        roles = {self.active_gen: "active", self.standby_gen: "standby", self.building_gen: "building"}
        return roles.get(gen)


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation row: a physical index, its encoder, chunker and configuration."""

    gen: int
    cid: int
    revision: str
    physical_name: str
    spec: Revision
    config_hash: str
    chunker_fp: str
    encoder_fp: str
    encoder: Mapping[str, object]
    probes: Vectors
    phase: Phase
    live: bool
    dropped: bool
    seeded: bool
    window_hours: float
    needs_approval: bool
    registered_at: datetime
    live_at: datetime | None
    ended_at: datetime | None
    vectors_fp: str
    """``encoder_fp`` without the width, where a narrower vector is the beginning of a wider one."""
    fidelity: Mapping[str, object]
    """The encoder as it runs against float32, measured when it was registered; empty where nothing was to measure."""
    stores: Stores = field(default_factory=Stores, compare=False, repr=False)
    """Those of the project that it was read by."""


COLLECTION_COLUMNS = (
    "cid, name, epoch, active_gen, standby_gen, building_gen, rollback_deadline, protocol_version, coalesce((SELECT "
    "jsonb_object_agg(k.name, k.score) FROM cutoff k WHERE k.gen = active_gen), '{}') AS cutoffs"
)


def ensure_collection(connection: sa.Connection, name: str) -> Collection:
    """Return the collection, registering it if it is new; one that is there is only read, as a standby allows.

    Raises ``ConfigError`` for a name that cannot be one.
    """
    if not (
        name
        and name[0].isascii()
        and name[0].islower()
        and len(name) <= 31
        and name.isascii()
        and name.replace("_", "a").isalnum()
        and name == name.lower()
    ):
        raise ConfigError(
            f"collection {name!r}: a name is 1 to 31 of a-z, 0-9 and _, beginning with a letter. Nothing was changed."
        )
    known = connection.scalar(sa.text("SELECT true FROM collection WHERE name = :name"), {"name": name})
    if not known:
        connection.execute(
            sa.text("INSERT INTO collection (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"), {"name": name}
        )
    return read_collection(connection, name)


def read_collection(connection: sa.Connection, name: str) -> Collection:
    """Return the collection row. Raises ``ConfigError`` when it is not registered or of another protocol."""
    row = connection.execute(
        sa.text(f"SELECT {COLLECTION_COLUMNS} FROM collection WHERE name = :name"), {"name": name}
    ).one_or_none()
    if row is None:
        raise ConfigError(
            f"collection {name!r} is not registered in this database. Nothing was changed; add it to revector.toml and "
            "run `revector init`."
        )
    return _collection(row)


def lock_collection(connection: sa.Connection, cid: int) -> Collection:
    """Return the collection row, locked exclusively. The caller holds the advisory lock already."""
    return _collection(
        connection.execute(
            sa.text(f"SELECT {COLLECTION_COLUMNS} FROM collection WHERE cid = :cid FOR UPDATE"), {"cid": cid}
        ).one()
    )


def window_is_over(connection: sa.Connection, cid: int) -> bool | None:
    """Whether the rollback window ended, by the database's clock; None where no generation is on standby."""
    now = guard("window.clock", "clock_timestamp()")
    over: bool | None = connection.scalar(
        sa.text(f"SELECT {now} >= rollback_deadline FROM collection WHERE cid = :cid"), {"cid": cid}
    )
    return over


def _collection(row: sa.Row[tuple[object, ...]]) -> Collection:
    collection = Collection(**row._mapping)
    if collection.protocol_version != PROTOCOL_VERSION:
        raise ConfigError(
            f"collection {collection.name!r} follows protocol {collection.protocol_version}, this revector "
            f"{PROTOCOL_VERSION}. Nothing was changed; use the revector that began the migration, or upgrade."
        )
    return collection


_GENERATION = (
    "SELECT gen, cid, revision, physical_name, spec, config_hash, chunker_fp, encoder_fp, encoder, probes, phase, "
    "live, dropped, seeded, window_hours, needs_approval, registered_at, live_at, ended_at, vectors_fp, "
    "fidelity FROM generation"
)


def read_generation(connection: sa.Connection, gen: int) -> Generation:
    """Return one generation row."""
    row = connection.execute(sa.text(f"{_GENERATION} WHERE gen = :gen"), {"gen": gen}).one()
    return _generation(row, stores_of(connection))


def read_generations(connection: sa.Connection, cid: int) -> list[Generation]:
    """Return all generations of a collection, oldest first."""
    rows = connection.execute(sa.text(f"{_GENERATION} WHERE cid = :cid ORDER BY gen"), {"cid": cid})
    return [_generation(row, stores_of(connection)) for row in rows]


def _generation(row: sa.Row[tuple[object, ...]], stores: Stores) -> Generation:
    values = dict(row._mapping)
    spec = revision_from_data(values.pop("spec"))
    probes = np.frombuffer(values.pop("probes"), dtype="<f4").reshape(-1, spec.model.dim).astype(np.float32)
    return Generation(spec=spec, probes=probes, phase=Phase(values.pop("phase")), stores=stores, **values)
