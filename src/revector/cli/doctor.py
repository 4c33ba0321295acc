"""The checks of ``revector doctor``: each says what it found, or what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from revector.adoption import view
from revector.adoption.adoptions import read_adoption
from revector.adoption.checking import trigger_faults, way_out
from revector.adoption.copies import read_copied
from revector.config import Project
from revector.database.engine import SCHEMA_VERSION, check_schema
from revector.database.sessions import is_pooled
from revector.encoders.own import own_of
from revector.errors import ConfigError, DocumentError, RevectorError, StateError
from revector.gate.fidelity import slow_of
from revector.indexing import mirroring
from revector.indexing.waiting import UNSEEN_S, standstill
from revector.interfaces import Encoder
from revector.labels import check_against, load_labels
from revector.migration.target import edited_files
from revector.planning.screening import screen
from revector.registry import lanes
from revector.registry.collections import Generation, read_collection, read_generation
from revector.rehearsal.rehearsal import clear_leftovers
from revector.rehearsal.scratch import leftovers
from revector.revisions import RevisionGraph

TURNING_DISKS = 2.0
"""A ``random_page_cost`` above it is meant for disks that turn; PostgreSQL's own default is 4."""

POOLED = (
    "; reached through a pooler that lends another session to each transaction: all settings are made in each, but a "
    "build of HNSW takes the role's maintenance_work_mem, max_parallel_maintenance_workers and statement_timeout "
    "(`ALTER ROLE … SET …`) instead of index_build"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``detail`` of a failed one says what to do."""

    name: str
    ok: bool
    detail: str


def examine(project: Project) -> list[Check]:
    """Look at everything that a migration of this project needs; only what dead rehearsals left behind is removed."""
    checks, tables = [_check("database", lambda: _server(project))], False
    if checks[-1].ok:
        checks.append(_check("pgvector", lambda: _extension(project)))
        checks.append(_check("tables", lambda: _tables(project)))
        tables = checks[-1].ok
        checks.append(_check("rehearsals", lambda: _rehearsals(project)))
    checks.extend(_check(f"store {name}", partial(project.stores.ask, name)) for name in project.stores.configured)
    if not project.settings.collections:
        checks.append(Check("collections", ok=False, detail="none; add a [collections.<name>] table to revector.toml."))
    for name in sorted(project.settings.collections):
        checks.extend(_collection(project, name, with_tables=tables))
    return checks


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=look())
    except RevectorError as error:
        return Check(name, ok=False, detail=str(error))


def _server(project: Project) -> str:
    with project.raw_engine.connect() as connection:
        version, cost = connection.execute(
            sa.text("SELECT current_setting('server_version'), CAST(current_setting('random_page_cost') AS float8)")
        ).one()
        pooled = is_pooled(connection)
    embedded = project.settings.database_url is None
    return (
        f"PostgreSQL {version}, {'embedded' if embedded else project.raw_engine.url.render_as_string()}"
        + (
            f"; its random_page_cost is {cost:g}: unless its disks turn, 1.1 keeps batches from reading whole tables "
            "(`ALTER SYSTEM SET random_page_cost = 1.1; SELECT pg_reload_conf();`)"
            if cost > TURNING_DISKS
            else ""
        )
        + (POOLED if pooled else "")
    )


def _extension(project: Project) -> str:
    with project.raw_engine.connect() as connection:
        found = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if found is None:
        raise ConfigError("the extension vector is not created in this database; run `revector init`.")
    return str(found)


def _tables(project: Project) -> str:
    check_schema(project.raw_engine, whole=True)
    return f"schema version {SCHEMA_VERSION}"


def _rehearsals(project: Project) -> str:
    removed = clear_leftovers(project.raw_engine, project.archive)
    kept = [one.schema for one in leftovers(project.raw_engine) if one.kept]
    said = [f"removed {', '.join(removed)}, left behind by a rehearsal that died"] if removed else []
    said += [f"kept until the next rehearsal: {', '.join(kept)}"] if kept else []
    return "; ".join(said) or "nothing is left of any"


def _collection(project: Project, name: str, *, with_tables: bool) -> Iterator[Check]:
    files = _check(f"{name}, migration files", lambda: _files(project, name))
    yield files
    if with_tables:
        yield _check(f"{name}, registered", lambda: _registered(project, name))
        yield _check(f"{name}, labels", lambda: _labels(project, name))
    if files.ok and with_tables:
        yield _check(f"{name}, files of what is built", lambda: _as_built(project, name))
    if files.ok:
        yield _check(f"{name}, model of the head", lambda: _head_model(project, name))
    if with_tables:
        yield _check(f"{name}, tables of its indexes", lambda: _indexes(project, name))
        if project.stores.aliased:
            yield _check(f"{name}, aliases in stores", lambda: _aliases(project, name))
        yield from _adopted(project, name)
        yield _check(f"{name}, served encoder", lambda: _served(project, name))
        yield _check(f"{name}, waiting work", lambda: _waiting(project, name))
        yield _check(f"{name}, unknown tokens", lambda: _unknown_tokens(project, name))


def _adopted(project: Project, name: str) -> Iterator[Check]:
    """Look at the triggers of an adopted table, where there is one; say of a copied place that none follow it."""
    with project.raw_engine.connect() as connection:
        known = connection.scalar(sa.text("SELECT cid FROM revector.collection WHERE name = :name"), {"name": name})
        adoption = None if known is None else read_adoption(connection, known)
        copied = None if known is None else read_copied(connection, known)
        if copied is not None:
            said = f"copied from {copied.origin}, whose writes are not followed: `revector adopt -c {name}` reads again"
            yield Check(f"{name}, adopted by copy", ok=True, detail=said)
        if adoption is None:
            return
        unfollowed = trigger_faults(connection, adoption)
        unlike = view.faults(connection, adoption.cid, adoption.view)
    wrong = unfollowed + unlike
    followed = f"the writes of {adoption.terms.table} are followed"
    way = way_out(adoption, name, followed=not unfollowed, shown=not unlike)
    yield Check(f"{name}, adopted table", ok=not wrong, detail="; ".join([*wrong, str(way)]) if wrong else followed)


def _files(project: Project, name: str) -> str:
    graph = RevisionGraph.from_folder(project.migrations(name))
    return f"{len(graph)} in one line, head {graph.head.revision}"


def _as_built(project: Project, name: str) -> str:
    if edited := edited_files(project.engine, name, project.migrations(name)):
        raise ConfigError(" ".join(edited))
    return "no file was edited since an index was built from it"


def _registered(project: Project, name: str) -> str:
    documents = project.status(name, recount=True).documents
    return f"{documents:,} documents"


def _labels(project: Project, name: str) -> str:
    source = project.labels(name)
    if source is None:
        return "none configured: a second revision cannot pass its gate without (qrels in revector.toml)"
    labels = load_labels(source)
    check = check_against(labels, project.documents(name).known)
    return f"{len(check.queries_left):,} of {len(labels.queries):,} queries usable"


def _head_model(project: Project, name: str) -> str:
    model = RevisionGraph.from_folder(project.migrations(name)).head.model
    encoder = project.encoders.fresh(model)
    own = own_of(encoder)
    notes = (*own.ignored_by(model), *own.exceeded_by(model), *slow_of(encoder), *_speeds(encoder))
    said = "".join(f"; {clause}" for clause in notes)
    return f"{model.name} loads, {encoder.dim:,} dimensions, fingerprint {encoder.fingerprint[:12]}{said}"


def _speeds(encoder: Encoder) -> tuple[str, ...]:
    """Return what a product costs in each number format on this CPU, for a model that can run in any."""
    if (getattr(encoder, "engine", ""), getattr(encoder, "device", "")) != ("packed", "cpu"):
        return ()
    from revector.encoders.packed import instructions, product_speeds

    found = product_speeds().items()
    said = ", ".join(f"{dtype} {'refused' if times is None else f'{times:.1f}'}" for dtype, times in found)
    return (f"products here ({instructions()}), times float32: {said}",)


def _served(project: Project, name: str) -> str:
    generation = _active(project, name)
    if generation is None:
        return "nothing is served yet"
    project.encoders.of(generation)
    return f"generation {generation.gen} was built with the encoder that loads here"


CURES = {
    "active": "Go back while the window is open (`revector rollback --force`), or restore the table from a backup",
    "standby": "There is no way back any more: give it up with `revector retire --now`",
    "building": "End this migration with `revector abort` and begin it again with `revector upgrade`",
}
"""What a person can do about a dropped table of a generation, by its slot."""


def _indexes(project: Project, name: str) -> str:
    """Look whether each live generation has its tables, with vectors of its encoder inside."""
    wrong = []
    with project.engine.connect() as connection:
        collection = read_collection(connection, name)
        for gen in collection.live:
            generation, role = read_generation(connection, gen), str(collection.role(gen))
            faults = lanes.faults(connection, generation)
            if not faults:
                lanes.lane_of(generation).demand(project.engine)
            wrong += [f"generation {gen} ({role}): {'; '.join(faults)}. {CURES[role]}."] if faults else []
    if wrong:
        raise StateError(f"someone changed tables by hand: {' '.join(wrong)}")
    return f"{len(collection.live)} are there"


def _aliases(project: Project, name: str) -> str:
    with project.engine.connect() as connection:
        cid = read_collection(connection, name).cid
    return mirroring.say(project.engine, cid)


def _waiting(project: Project, name: str) -> str:
    with project.engine.connect() as connection:
        why = standstill(connection, read_collection(connection, name).cid)
    if why:
        raise StateError(f"changes have waited for more than {UNSEEN_S:g} s, and searches miss them: {why}")
    return f"no change has waited for {UNSEEN_S:g} s"


def _active(project: Project, name: str) -> Generation | None:
    with project.engine.connect() as connection:
        active = read_collection(connection, name).active_gen
        return None if active is None else read_generation(connection, active)


def _unknown_tokens(project: Project, name: str) -> str:
    """Say how much of what is indexed the served model does not know. Raises where documents cannot be told apart."""
    generation = _active(project, name)
    if generation is None:
        return "nothing is served yet"
    encoders, limit = project.encoders, generation.spec.model.max_unknown_tokens
    found = screen(
        project.engine,
        generation.cid,
        encoders.vocabulary_of(generation),
        encoders.chunker_of(generation),
        limit,
        gen=generation.gen,
    )
    if found is None:
        return "its encoder has no vocabulary: nothing can be unknown"
    if not found.unreadable.value:
        some = f": {found.examples}" if found.examples else ""
        return f"{found.share:.2%} in {found.looked:,} of {found.documents:,} indexed documents{some}"
    raise DocumentError(
        f"about {found.unreadable.value:,.0f} of {found.documents:,} indexed documents have a chunk of which more than "
        f"{limit:.0%} of the tokens are unknown to the model, so that no search can tell them from each other: "
        f"{found.examples}. They were indexed before this was looked at, and stay served until their text changes; "
        "delete them, or migrate to a model that knows these scripts."
    )
