"""What revector reports for exact search equals a reference that shares nothing with it, on labels of real people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from evaluation.bench import reference_search as independent
from evaluation.bench.common import Figure, revision
from evaluation.bench.reference import (
    EQUAL,
    Space,
    View,
    compared,
    independent_space,
    our_space,
    searched,
    views,
)
from evaluation.bench.sets import FOLDER, MINILM, K, published, published_languages

from revector.cli import run as revector
from revector.config import Project, load_project
from revector.labels import Labels
from revector.measure.metrics import evaluate
from revector.sources import open_source

pytestmark = pytest.mark.skipif(find_spec("ranx") is None, reason="ranx, which scores the reference, is not installed")

QUICKSTART = Path(__file__).parents[2] / "evaluation" / "quickstart"
HASHING = 'model = ModelSpec(name="hashing", dim=256)'
EXACT = 'chunking = Chunking(unit="document", max_tokens=256)\nindex = IndexSpec(kind="exact")'
Serve = Callable[[Path, str, str], Project]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (FOLDER / name).is_dir(), reason=f"the labelled set {name} is not in ../shared/data")


@pytest.fixture
def serve(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Makes a project in the working folder that serves a source, one chunk a document, by exact search."""
    made = list[Project]()

    def load(name: str, setting: str) -> Project:
        (tmp_path / "revector.toml").write_text(
            f"database_url = {json.dumps(database_url)}\ndrain_s = 0\n[encoder]\nthreads = 1\n"
            f"[collections.{name}]\n{setting}\n"
        )
        made.append(load_project(tmp_path))
        return made[-1]

    def build(labels: Path, source: str, model: str) -> Project:
        monkeypatch.chdir(tmp_path)
        revision(tmp_path, labels.name, "a000", None, f"{model}\n{EXACT}")
        project = load(labels.name, "")
        project.init()
        project.documents(labels.name).put_many(list(open_source(source)))
        project.migrator(labels.name, actor="tester").upgrade("a000")
        # Only now: the gate would measure everything first.
        return load(labels.name, f"qrels = {json.dumps(str(labels))}")

    yield build
    for project in made:
        project.engine.dispose()


@pytest.mark.long
def test_figures_of_the_quickstart_equal_the_reference(serve: Serve) -> None:
    project, queries = serve(QUICKSTART, "docstrings:", HASHING), independent.read_texts(QUICKSTART / "queries.jsonl")
    ours, (view,) = our_space(project, "quickstart", queries), views(QUICKSTART, queries)
    run, scores = searched(project, "quickstart", view, ours)
    assert len(run) == len(queries.ids)
    assert missed(compared("quickstart", view, (run, scores), ours, {})) == []


@needs("cranfield")
def test_figures_of_every_split_and_of_the_command_line_equal_the_reference(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FOLDER / "cranfield"
    project, queries = serve(folder, str(folder), HASHING), independent.read_texts(folder / "queries.jsonl")
    ours = our_space(project, "cranfield", queries)
    found = {view.name: (view, searched(project, "cranfield", view, ours)) for view in views(folder, queries)}
    assert set(found) == {"cranfield", "cranfield, graded"}
    for name, (view, measured) in found.items():
        assert missed(compared(name, view, measured, ours, {})) == []
    graded, binary = (found[name][1][1]["ndcg"] for name in ("cranfield, graded", "cranfield"))
    assert graded != binary
    assert revector(["eval", "--exact", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["metrics"]
    for metric, of_query in found["cranfield"][1][1].items():
        assert told[metric]["mean"] == pytest.approx(fmean(of_query.values()), abs=EQUAL)


@needs("imgcap")
def test_everything_equals_a_reference_with_another_encoder(serve: Serve, tmp_path: Path) -> None:
    folder = FOLDER / "imgcap"
    project, queries = serve(folder, str(folder), MINILM), independent.read_texts(folder / "queries.jsonl")
    ours, theirs = our_space(project, "imgcap", queries), independent_space(folder, tmp_path)
    (view,) = views(folder, queries)
    measured = searched(project, "imgcap", view, ours)
    for space in (ours, theirs):
        assert missed(compared("imgcap", view, measured, space, {})) == []
    for query in queries.ids:
        assert ours.queries[query] @ theirs.queries[query] > 1 - EQUAL


def test_a_comparison_tells_what_differs(tmp_path: Path) -> None:
    vectors = np.eye(3)
    space = Space(["a", "b", "c"], vectors, {"q": np.array([0.8, 0.6, 0.0])})
    labels = Labels("three", {"q": "?"}, {"q": {"a": 1}}, "")
    view = View("three", "all", labels, {"q": {"a": 1}}, {"q": None})
    ranked = {"q": ["a", "b", "c"]}
    assert missed(compared("x", view, (ranked, evaluate(view.qrels, ranked, K)), space, {})) == []
    turned = {"q": ["b", "a", "c"]}
    found = missed(compared("x", view, (turned, evaluate(view.qrels, turned, K)), space, {}))
    assert [name.removeprefix("x: ") for name in found] == [
        "largest difference of a mean",
        "largest difference of a query's figure",
        "largest gap of cosines where they do",
    ]
    short = {"q": ["a", "b"]}
    (gap,) = missed(compared("x", view, (short, evaluate(view.qrels, short, K)), space, {}))
    assert gap.endswith("largest gap of cosines where they do")


def test_what_a_readme_states_is_found(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "| system | recall@10 | recall@100 | nDCG@10 | MRR@10 |\n| BM25 (k1 0.9) | 0.1 | 0.2 | 0.3 | 0.4 |\n"
        "| all-MiniLM-L6-v2 (fp32, cosine) | 0.5 | 0.6 | 0.7 | 0.8 |\n"
    )
    assert published(tmp_path) == {"recall": 0.5, "ndcg": 0.7, "mrr": 0.8}
    (tmp_path / "README.md").write_text(
        "| language | TF-IDF | own | pooled | to English |\n| en | 0.9 / 0.8 | 0.7 / 0.6 | 0.5 / 0.4 |  |\n"
        "| de | 0.9 / 0.8 | 0.7 / 0.6 | 0.5 / 0.4 | 0.3 / 0.2 |\n"
    )
    assert published(tmp_path) == {}
    stated = published_languages(tmp_path)
    assert set(stated["own"]) == set(stated["all"]) == {"en", "de"}
    assert stated["en"] == {"de": {"recall": 0.3, "ndcg": 0.2}}


def missed(figures: Iterable[Figure]) -> list[str]:
    return [figure.name for figure in figures if figure.holds is False]
