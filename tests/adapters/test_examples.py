"""The example applications of LangChain and LlamaIndex, as docs/examples has them, through a migration and back."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from evaluation.bench.common import revision

from adoption.conftest import Application, Call, caller

pytest.importorskip("langchain_postgres", reason="`make test-adapters` installs it")
pytest.importorskip("llama_index.vector_stores.postgres", reason="`make test-adapters` installs it")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
COUNT = 60
Ask = Callable[..., list[str]]


def line(n: int) -> str:
    return f"apple{n} pear{n} some words here"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of different width, as an application has them on its disk."""
    from revector.encoders.lsa import train_lsa

    folder = tmp_path_factory.mktemp("models")
    for name, dim in (("first", 32), ("second", 48)):
        train_lsa([*map(line, range(COUNT)), "quince and medlar"], folder / name, dim=dim, vocabulary=400)
    return folder


@pytest.fixture
def application(tmp_path: Path, database_url: str, models: Path) -> Iterator[Application]:
    (tmp_path / "models").symlink_to(models)
    made = Application(tmp_path, database_url, "faq")
    (tmp_path / "labels" / "qrels").mkdir(parents=True)
    (tmp_path / "revector.toml").open("a").write('qrels = "labels"\n')
    yield made
    made.close()


@pytest.fixture
def call(application: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(application, monkeypatch, capsys)


def labels(application: Application) -> None:
    """Say of each line that it answers its own words; its id is the application's business."""
    ids = {content: doc_id for doc_id, (content, _) in application.documents().items()}
    folder = application.root / "labels"
    asked = [json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) for n in range(COUNT)]
    (folder / "queries.jsonl").write_text("\n".join(asked) + "\n")
    judged = [f"q{n}\t{ids[line(n)]}\t1" for n in range(COUNT)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


@pytest.mark.parametrize(
    ("example", "table", "like"),
    [("langchain_app", "langchain_pg_embedding", "langchain"), ("llama_index_app", "data_faq", "llamaindex")],
)
def test_an_example_goes_on_writing_its_table_and_its_searches_follow_a_migration_and_back(
    example: str, table: str, like: str, application: Application, call: Call, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root, url = application.root, sa.make_url(application.project.database_url)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("MODEL", str(root / "models" / "first"))
    monkeypatch.setenv("REVECTOR_CONFIG", str(root / "revector.toml"))
    found = importlib.util.spec_from_file_location(example, EXAMPLES / f"{example}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)

    def ask(question: str) -> list[str]:
        capsys.readouterr()
        module.main("ask", question)
        return capsys.readouterr().out.splitlines()

    (root / "faq.txt").write_text("\n".join(map(line, range(COUNT))))
    module.main("add", str(root / "faq.txt"))
    own = ask("apple7 pear7")
    assert own[0] == line(7)
    adopted = ("adopt", table, "-c", "faq", "--like", like, "--model", "./models/first", "--yes", "--json")
    code, out, err = call(*adopted)
    assert (code, err, json.loads(out)["reused"]) == (0, "", COUNT)
    monkeypatch.setenv("SEARCH", "revector")
    assert ask("apple7 pear7")[0] == own[0]

    (root / "more.txt").write_text("quince and medlar")
    module.main("add", str(root / "more.txt"))
    application.settle()
    assert ask("quince and medlar")[0] == "quince and medlar"

    labels(application)
    [first] = application.project.migrations("faq").glob("*.py")
    body = 'model = ModelSpec(name="./models/second", dim=48)\ngate = Gate(max_drop=1.0, min_overlap=None)'
    revision(root, "faq", "b200", first.name.partition("_")[0], body)
    for words in (("upgrade", "b200"), ("rollback", "--reason", "a test")):
        code, _, err = call(*words, "-c", "faq", "--json")
        assert code == 0, err
        assert ask("apple7 pear7")[0] == line(7)
        assert ask("quince and medlar")[0] == "quince and medlar"
