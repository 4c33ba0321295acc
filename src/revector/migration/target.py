"""Owns which revision is meant and where it stands: migration files on one side, generations and slots on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa

from revector.errors import EditedRevision, GenerationGone, IndexGone, SpecError
from revector.lifecycle import Phase
from revector.registry.collections import Collection, Generation, read_collection, read_generation, read_generations
from revector.revisions import RevisionGraph
from revector.spec import Revision


class Standing:
    """One collection, its migration files and its generations; nothing is remembered between two calls."""

    def __init__(self, engine: sa.Engine, name: str, cid: int, migrations: Path) -> None:
        self.name = name
        self._engine, self._cid, self._migrations = engine, cid, migrations

    def target(self, revision: str | None) -> Revision:
        """Return the migration file asked for, refused if it was edited or does not follow what is served."""
        graph = RevisionGraph.from_folder(self._migrations)
        target = graph[revision] if revision else graph.head
        with self._engine.connect() as connection:
            collection = read_collection(connection, self.name)
            for generation in read_generations(connection, self._cid):
                same = generation.revision == target.revision and generation.phase != Phase.ABORTED
                if same and generation.config_hash != target.config_hash:
                    raise EditedRevision(
                        f"revision {target.revision} was edited after generation {generation.gen} was registered from "
                        f"it: {differing(generation.spec, target)}. Nothing was changed; restore "
                        f"{target.path or 'the file'}, or write a new revision with `revector revision`."
                    )
            if collection.active_gen is not None:
                graph.path_between(read_generation(connection, collection.active_gen).revision, target.revision)
        return target

    def generation_of(self, target: Revision) -> Generation | None:
        """Return the generation of a revision that is in a slot, or None."""
        with self._engine.connect() as connection:
            collection = read_collection(connection, self.name)
            for gen in (collection.building_gen, collection.active_gen, collection.standby_gen):
                if gen is not None and (found := read_generation(connection, gen)).revision == target.revision:
                    return found
        return None

    def open_revision(self) -> str | None:
        """Return the revision that is being built, or None."""
        building = self.collection().building_gen
        if building is None:
            return None
        with self._engine.connect() as connection:
            return read_generation(connection, building).revision

    def last_aborted(self) -> Generation | None:
        """Return the newest generation if it was aborted."""
        with self._engine.connect() as connection:
            newest = read_generations(connection, self._cid)[-1:]
        return next((one for one in newest if one.phase == Phase.ABORTED), None)

    @contextmanager
    def while_there(self, generation: Generation) -> Iterator[None]:
        """Say it as an error of ours when an abort takes the index away from under a step."""
        try:
            yield
        except IndexGone as error:
            if self.phase(generation) not in (Phase.ABORTED, Phase.RETIRED):
                raise
            raise GenerationGone(
                f"revision {generation.revision} was aborted meanwhile, and its generation {generation.gen} dropped. "
                "Nothing more was changed; start again with `revector upgrade`."
            ) from error

    def phase(self, generation: Generation) -> Phase:
        """Return the phase of a generation as it is now."""
        with self._engine.connect() as connection:
            return read_generation(connection, generation.gen).phase

    def collection(self) -> Collection:
        """Return the collection's row as it is now."""
        with self._engine.connect() as connection:
            return read_collection(connection, self.name)

    def edited(self) -> list[str]:
        """Return a sentence for each slot whose migration file was edited since; see ``edited_files``."""
        return edited_files(self._engine, self.name, self._migrations)


def differing(built: Revision, file: Revision) -> str:
    """Return what differs in model, chunking and index, as ``model.dim 64 → 128``, at most three; else their names."""
    found = []
    for part in ("model", "chunking", "index"):
        before, after = asdict(getattr(built, part)), asdict(getattr(file, part))
        found += [f"{part}.{name} {before[name]!r} → {after[name]!r}" for name in before if before[name] != after[name]]
    more = [f"{len(found) - 3} more"] if len(found) > 3 else []
    return ", ".join([*found[:3], *more]) or "model, chunking or index differ"


def edited_files(engine: sa.Engine, name: str, migrations: Path) -> list[str]:
    """Return a sentence for each generation in a slot that its migration file no longer describes, active first.

    What is served stays as it was built, but nobody could build it again from the files. Where the files cannot be
    read there is nothing to say: who needs them is told.
    """
    try:
        files = {one.revision: one for one in RevisionGraph.from_folder(migrations)}
    except SpecError:
        return []
    found = []
    with engine.connect() as connection:
        collection = read_collection(connection, name)
        for gen in collection.live:
            built = read_generation(connection, gen)
            file = files.get(built.revision)
            if file is not None and file.config_hash != built.config_hash:
                found.append(
                    f"the file of revision {file.revision} ({collection.role(gen)}) was edited since generation {gen} "
                    f"was built from it: {differing(built.spec, file)}. What is served stays as it was built; restore "
                    f"{file.path or 'the file'}, or keep the change as a new revision (`revector revision`)."
                )
    return found
