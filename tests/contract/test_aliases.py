"""A store's own alias, for readers outside of revector: it follows a collection's, and another's is left alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from outside import RedisServer, shared
from qdrant_wire import LocalShard, QdrantWire
from revector.cli.doctor import examine
from revector.errors import SpecError
from revector.indexing.keeping import StoreKeeper
from revector.registry.lanes import lane_of
from revector.spec import IndexSpec
from revector.stores.seam import AliasedStore
from worlds import World

ROOT = Path(__file__).parents[2]
GATE = "gate = Gate(max_drop=1.0, min_overlap=None, min_queries=1)"
ANOTHER = "an_index_of_another"


def redis(_: Path) -> str:
    return shared(RedisServer).url


def milvus_lite(folder: Path) -> str:
    if find_spec("milvus_lite") is None:
        pytest.skip("milvus-lite is not installed: make test-stores")
    return str(folder / "vectors.db")


def milvus(_: Path) -> str:
    if not (url := os.environ.get("REVECTOR_TEST_MILVUS_URL")):
        pytest.skip("no Milvus: REVECTOR_TEST_MILVUS_URL is not set (make test-milvus)")
    return url


def qdrant_local(_: Path) -> str:
    if find_spec("qdrant_client") is None:
        pytest.skip("qdrant-client is not installed: make test-stores")
    return QdrantWire(LocalShard).url


PLACES: dict[str, Callable[[Path], str]] = {
    "redis": redis, "milvus-lite": milvus_lite, "milvus": milvus, "qdrant-local": qdrant_local
}  # fmt: skip


@dataclass
class Mirrored:
    """A project that has its store keep aliases, and where others see them."""

    world: World

    @property
    def aliases(self) -> AliasedStore:
        return self.world.project.stores.aliases_of("vectors")

    @property
    def active(self) -> str:
        return self.world.generation().physical_name

    def keep(self) -> None:
        """Look after the served index as a worker does once a minute."""
        StoreKeeper(self.world.engine).look(self.world.generation())

    def other(self, name: str) -> None:
        """Have someone else make an index of that name."""
        self.world.project.stores.open_index("vectors", name, 64, IndexSpec()).create("another's")


@pytest.fixture(params=PLACES)
def mirrored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mirrored]:
    url = PLACES[request.param](tmp_path)  # where there is none, no world is made either
    world: World = request.getfixturevalue("world")
    kind, file = request.param.partition("-")[0], world.root / "revector.toml"
    table = f'\n[stores.vectors]\nkind = "{kind}"\nurl = {json.dumps(url)}\nnative_alias = true\n'
    file.write_text(file.read_text() + table)
    world.__dict__.pop("project", None)
    for name, parent, encoder, store in (
        ("a100", None, "hashing", "vectors"),
        ("b200", "a100", "hashing:seed2", "vectors"),
        ("c300", "b200", "hashing:seed2", "pgvector"),
    ):
        model = f'model = ModelSpec(name="{encoder}", dim=64)'
        world.revision(name, parent, model, f'index = IndexSpec(store="{store}")', GATE)
    world.put(30)
    yield Mirrored(world)
    made = [row.physical_name for row in world.sql("SELECT physical_name FROM generation")]
    aliases = world.project.stores.aliases_of("vectors")
    if aliases.leads_to("docs") not in (None, "docs"):
        aliases.lead("docs", None)
    for name in (ANOTHER, "docs", *made):
        world.project.stores.open_index("vectors", name, 64, IndexSpec()).drop()
    world.project.stores.close()


def test_it_follows_swap_and_rollback_and_goes_with_the_last_index(mirrored: Mirrored) -> None:
    world, leads_to = mirrored.world, mirrored.aliases.leads_to
    world.upgrade("a100")
    first = mirrored.active
    assert leads_to("docs") == first
    world.upgrade("b200")
    assert leads_to("docs") == mirrored.active != first
    world.migrator.rollback("worse")
    assert leads_to("docs") == first
    world.upgrade("b200")
    world.migrator.run("retire", reason="good", now=True)
    assert leads_to("docs") == mirrored.active
    world.upgrade("c300")  # in PostgreSQL: nothing of the store is active
    assert leads_to("docs") is None
    world.migrator.rollback("worse")
    assert leads_to("docs") == mirrored.active
    lane_of(world.generation()).index.drop()
    assert leads_to("docs") is None


@pytest.mark.parametrize("left", ["behind", "away"])
def test_one_that_was_left_behind_is_set_right_by_the_next_look(mirrored: Mirrored, left: str) -> None:
    world = mirrored.world
    world.upgrade("a100")
    first = mirrored.active
    world.upgrade("b200")
    mirrored.aliases.lead("docs", first if left == "behind" else None)
    [said] = [one for one in examine(world.project) if one.name == "docs, aliases in stores"]
    assert not said.ok
    assert mirrored.active in said.detail
    mirrored.keep()
    assert mirrored.aliases.leads_to("docs") == mirrored.active
    assert next(one for one in examine(world.project) if one.name == "docs, aliases in stores").ok


@pytest.mark.parametrize("taken", ["alias", "index"])
def test_a_name_that_another_has_is_refused_before_the_work_and_left_alone(mirrored: Mirrored, taken: str) -> None:
    world, theirs = mirrored.world, ANOTHER if taken == "alias" else "docs"
    mirrored.other(theirs)
    if taken == "alias":
        mirrored.aliases.lead("docs", theirs)
    for act in (lambda: world.migrator.plan("a100"), lambda: world.upgrade("a100")):
        with pytest.raises(SpecError, match="which revector did not make for this collection"):
            act()
    assert world.collection.live == ()
    assert mirrored.aliases.leads_to("docs") == theirs


def test_one_that_another_takes_later_is_left_alone_and_said_while_moves_go_on(mirrored: Mirrored) -> None:
    world = mirrored.world
    world.upgrade("a100")
    first = mirrored.active
    world.upgrade("b200")
    mirrored.other(ANOTHER)
    mirrored.aliases.lead("docs", ANOTHER)
    mirrored.keep()
    assert ANOTHER in world.migrator.rollback("worse").facts["native_alias"]
    assert mirrored.active == first
    assert mirrored.aliases.leads_to("docs") == ANOTHER


def test_what_a_reader_outside_found_is_told_by_the_statement_of_the_manual(mirrored: Mirrored) -> None:
    world = mirrored.world
    world.upgrade("a100")
    world.documents.put("d00007", "quince")
    world.settle()
    world.documents.delete("d00008")
    index = world.project.stores.open_index("vectors", mirrored.aliases.leads_to("docs") or "", 64, IndexSpec())
    near = index.near(np.ones(64, np.float32), 100, exact=False)
    manual = (ROOT / "docs/stores.md").read_text(encoding="utf-8")
    [statement] = re.findall(r"```sql\n(-- what points.*?)```", manual, re.DOTALL)
    with world.engine.connect() as connection:
        found = connection.execute(sa.text(statement), {"attempts": [one.attempt for one in near]}).all()
    assert len(near) >= 31, "the superseded point of d00007 and the one of d00008 are still there"
    assert sorted(row.doc_id for row in found) == sorted({f"d{n:05d}" for n in range(30)} - {"d00008"})
