"""A model is used as its own files say: prompts, length and width are taken over, another similarity is refused."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from typer.testing import CliRunner

from folders import NORMALIZE, POOLING, SETTINGS, TRANSFORMER, minilm, write
from revector.cli.app import app
from revector.encoders.loading import load_encoder
from revector.encoders.own import OwnSettings, read_own
from revector.encoders.specify import metric_for, specify
from revector.errors import ConfigError, EncoderError, FidelityTooLow
from revector.interfaces import whole_texts
from revector.revisions import RevisionGraph
from revector.spec import ModelSpec, Revision
from worlds import World

E5 = {"query": "query: ", "document": "passage: "}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def never(model: ModelSpec) -> Any:
    raise AssertionError(f"{model.name} was loaded")


@pytest.mark.parametrize(
    ("settings", "query", "document"),
    [
        ({}, None, None),
        ({"prompts": None}, None, None),
        ({"prompts": {"query": "", "document": ""}}, None, None),
        ({"prompts": {"clustering": "cluster: "}}, None, None),
        ({"prompts": E5}, "query: ", "passage: "),
        ({"prompts": E5, "default_prompt_name": "query"}, "query: ", "passage: "),
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, "query: ", "passage: "),
        ({"prompts": {"query": "query: ", "document": "", "passage": "passage: "}}, "query: ", "passage: "),
        ({"prompts": {"query": "q: ", "document": None, "corpus": "c: "}}, "q: ", "c: "),
        ({"prompts": {"query": "Represent this sentence: "}}, "Represent this sentence: ", ""),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "q: ", ""),
        ({"prompts": {"s2s": "same: "}, "default_prompt_name": "s2s"}, "same: ", "same: "),
        ({"prompts": {"s2s": "same: ", "query": "q: "}, "default_prompt_name": "s2s"}, "q: ", "same: "),
        ({"prompts": {"search_query": "sq: ", "search_document": "sd: ", "clustering": "c: "}}, "sq: ", "sd: "),
        ({"prompts": {"retrieval.query": "rq: ", "retrieval.passage": "rp: ", "separation": "s: "}}, "rq: ", "rp: "),
        ({"prompts": {"s2p_query": "find: ", "s2s_query": "alike: "}}, "find: ", ""),
        ({"prompts": {"code_query": "code: ", "web_query": "web: "}}, None, ""),
    ],
)
def test_the_prompts_of_a_model_are_found_under_the_names_in_use(
    tmp_path: Path, settings: dict[str, Any], query: str | None, document: str | None
) -> None:
    write(tmp_path / SETTINGS, settings)
    own = read_own("m", tmp_path)
    assert (own.query_prompt, own.document_prompt) == (query, document)


@pytest.mark.parametrize(
    ("files", "dim", "length"),
    [
        ({"config.json": {"hidden_size": 24, "max_position_embeddings": 512}}, 24, 512),
        ({"config.json": {"hidden_size": 24, "max_position_embeddings": 514, "model_type": "roberta"}}, 24, 512),
        ({"modules.json": [TRANSFORMER, POOLING], "1_Pooling/config.json": {"word_embedding_dimension": 32}}, 32, None),
        ({"modules.json": [TRANSFORMER, POOLING], "1_Pooling/config.json": {
            "embedding_dimension": 32, "pooling_mode": ["cls", "mean"]}}, 64, None),
        ({"modules.json": [TRANSFORMER, POOLING], "1_Pooling/config.json": {
            "word_embedding_dimension": 32, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": True}}, 64, None),
        ({"modules.json": [TRANSFORMER, POOLING, DENSE, NORMALIZE], "2_Dense/config.json": {"out_features": 16},
          "sentence_bert_config.json": {"max_seq_length": 128},
          "config.json": {"max_position_embeddings": 512}}, 16, 128),
        ({"config.json": {"hidden_size": 24}, SETTINGS: {"truncate_dim": 8},
          "tokenizer_config.json": {"model_max_length": 1e30}}, 8, None),
        ({"modules.json": [{"type": "custom.Net", "path": ""}], "config.json": {"hidden_size": 24}}, None, None),
    ],
)  # fmt: skip
def test_width_and_length_are_read_from_the_files(
    tmp_path: Path, files: dict[str, Any], dim: int | None, length: int | None
) -> None:
    for name, data in files.items():
        write(tmp_path / name, data)
    own = read_own("m", tmp_path)
    assert (own.dim, own.max_length) == (dim, length)


def test_a_model_is_specified_without_loading_torch(tmp_path: Path) -> None:
    minilm(tmp_path / "m", prompts=E5)
    code = f"""
import sys, pathlib
from revector.encoders.specify import specify
print(specify("./m", pathlib.Path({str(tmp_path)!r}), None).model.dim, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["384", "False"]


def test_a_model_whose_files_do_not_say_is_loaded(tmp_path: Path) -> None:
    folder = minilm(tmp_path / "m", prompts=E5)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(AssertionError, match=r"\./m was loaded"):
        specify("./m", tmp_path, never)
    assert specify("./m", tmp_path, never, dim=64).model.dim == 64
    (folder / "tokenizer.json").unlink()
    minilm_again = minilm(tmp_path / "whole", prompts=E5)
    (minilm_again / "tokenizer.json").unlink()
    found = specify("./whole", tmp_path, lambda model: load_encoder(model, root=tmp_path, device="cpu"))
    assert (found.model.dim, found.model.max_tokens, found.model.query_prompt) == (384, 252, "query: ")


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": E5, "default_prompt_name": "query", "similarity_fn_name": "dot"},
        {"prompts": {"query": "Represent this sentence for searching relevant passages: "}},
        {},
    ],
)
def test_vectors_of_what_was_taken_over_are_those_of_sentence_transformers(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = minilm(tmp_path / "m", **settings)
    encoder = load_encoder(specify("./m", tmp_path, never).model, root=tmp_path, device="cpu")
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = ["How are models replaced?", "a word " * 400, "Ein Satz auf Deutsch."]
    for ours, wanted in (
        (encoder.encode("query", whole_texts(texts)), theirs.encode_query(texts)),
        (encoder.encode("document", whole_texts(texts)), theirs.encode_document(texts)),
    ):
        assert np.sum(ours * wanted, axis=1).min() > 0.99999


@pytest.mark.parametrize(
    ("similarity", "normalizes", "right"),
    [
        (None, False, {"cosine", "dot", "l2"}),
        ("cosine", False, {"cosine", "normalized"}),
        ("dot", True, {"cosine", "dot", "l2", "normalized"}),
        ("euclidean", True, {"cosine", "dot", "l2", "normalized"}),
        ("dot", False, {"dot"}),
        ("euclidean", False, {"l2"}),
    ],
)
def test_an_index_that_ranks_otherwise_than_the_model_was_trained_to_is_named(
    tmp_path: Path, similarity: str | None, normalizes: bool, right: set[str]
) -> None:
    write(tmp_path / "modules.json", [TRANSFORMER, POOLING, *([NORMALIZE] if normalizes else [])])
    write(tmp_path / SETTINGS, {"similarity_fn_name": similarity})
    own = read_own("m", tmp_path)
    own.check("m")
    as_it_is = ModelSpec("m", 384, normalize=False)
    said = {metric: own.ranked_otherwise_by(as_it_is, metric) for metric in ("cosine", "dot", "l2")}
    said["normalized"] = own.ranked_otherwise_by(ModelSpec("m", 384), "dot")
    assert {name for name, found in said.items() if not found} - {"normalized"} == right - {"normalized"}
    assert bool(said["normalized"]) == (similarity in ("dot", "euclidean") and not normalizes)
    for (found,) in filter(None, said.values()):
        assert f'similarity_fn_name "{similarity}": it was trained for index.metric' in found


def test_a_similarity_that_no_index_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path / SETTINGS, {"similarity_fn_name": "manhattan"})
    with pytest.raises(EncoderError, match='similarity_fn_name "manhattan", and an index compares by cosine, dot, euc'):
        read_own("m", tmp_path).check("m")


def test_a_cross_encoder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / SETTINGS, {"model_type": "CrossEncoder"})
    with pytest.raises(EncoderError, match="is a CrossEncoder"):
        read_own("m", tmp_path).check("m")


@pytest.mark.parametrize("prompts", [["query: "], {"query": 1}, "query: "])
def test_prompts_that_are_no_texts_are_refused(tmp_path: Path, prompts: object) -> None:
    write(tmp_path / SETTINGS, {"prompts": prompts})
    with pytest.raises(EncoderError, match="no table of names and texts"):
        read_own("m", tmp_path)


# The command ----------------------------------------------------------------------------------------------------------


def project(root: Path) -> Path:
    (root / "revector.toml").write_text('[collections.docs]\nsource = "docs.jsonl"\n')
    return root


def revision(root: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output, and the model in the file that was written."""
    before = set((root / "migrations").rglob("*.py"))
    ended = CliRunner().invoke(app, ["revision", "-m", "x", "--project", str(root), *options])
    written = set((root / "migrations").rglob("*.py")) - before
    if not written:
        return ended.exit_code, " ".join(ended.output.split()), {}
    call = next(
        node.value
        for node in ast.parse(written.pop().read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == "model"
    )
    return ended.exit_code, ended.output, {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}


def newest(root: Path) -> Revision:
    """The newest migration file."""
    return RevisionGraph.from_folder(root / "migrations" / "docs").head


def test_revision_takes_the_models_own_settings_over_and_says_so(tmp_path: Path) -> None:
    minilm(project(tmp_path) / "m", prompts=E5, default_prompt_name="query", similarity_fn_name="dot")
    code, said, model = revision(tmp_path, "--model", "./m")
    assert code == 0
    assert (model["query_prompt"], model["document_prompt"]) == ("query: ", "passage: ")
    assert (model["dim"], model["max_tokens"], model["normalize"]) == (384, 252, True)
    assert "Taken over from the model's own files: query prompt 'query: ', document prompt 'passage: '" in said


def test_options_win_over_the_models_own_settings_and_the_difference_is_said(tmp_path: Path) -> None:
    minilm(project(tmp_path) / "m", prompts=E5)
    options = ("--query-prompt", "", "--document-prompt", "text: ", "--max-tokens", "300", "--no-normalize")
    code, said, model = revision(tmp_path, "--model", "./m", *options)
    assert code == 0
    assert (model["query_prompt"], model["document_prompt"]) == ("", "text: ")
    assert (model["max_tokens"], model["normalize"]) == (300, False)
    assert "model.query_prompt is '', and the model's own files say 'query: '" in said
    assert "max_seq_length 256" in said
    _, said, model = revision(tmp_path, "--document-prompt", "passage: ")
    assert (model["query_prompt"], model["document_prompt"], model["normalize"]) == ("", "passage: ", False)
    assert "model.query_prompt is ''" in said
    assert "model.document_prompt" not in said


@pytest.mark.parametrize(("similarity", "metric"), [("dot", "dot"), ("euclidean", "l2")])
def test_revision_takes_the_metric_of_a_model_over_with_the_lengths_of_its_vectors(
    tmp_path: Path, similarity: str, metric: str
) -> None:
    minilm(project(tmp_path) / "m", modules=[TRANSFORMER, POOLING], similarity_fn_name=similarity)
    code, said, model = revision(tmp_path, "--model", "./m")
    assert (code, model["normalize"]) == (0, False)
    assert f'metric "{metric}" over vectors of any length' in said
    assert "Note:" not in said
    assert newest(tmp_path).index.metric == metric
    assert metric_for(newest(tmp_path).model, tmp_path) == metric  # what an adoption writes
    # The next file keeps it; another metric or length is written, and said to be otherwise.
    assert revision(tmp_path, "--unit", "sentences")[0] == 0
    assert newest(tmp_path).index.metric == metric
    for options in (("--metric", "cosine"), ("--metric", metric, "--normalize")):
        code, said, _ = revision(tmp_path, *options)
        assert code == 0
        assert f'it was trained for index.metric "{metric}" with model.normalize False' in " ".join(said.split())
        assert newest(tmp_path).index.metric == options[1]


def test_revision_refuses_a_metric_that_there_is_not_and_one_that_bits_have_not(tmp_path: Path) -> None:
    project(tmp_path)
    model = ("--model", "hashing", "--dim", "64")
    for options, wanted in (
        (("--metric", "ndcg"), "is not one of 'cosine'"),
        (("--metric", "l2", "--quantize", "bit"), "bits keep"),
    ):
        code, said, found = revision(tmp_path, *model, *options)
        assert (code != 0, found) == (True, {})
        assert wanted in said


def test_prompts_of_ones_own_are_no_difference_where_the_models_files_name_none(tmp_path: Path) -> None:
    """The first E5 models say theirs only in a README."""
    minilm(tmp_path / "m")
    found = specify("./m", tmp_path, never, query_prompt="query: ", document_prompt="passage: ")
    assert (found.model.query_prompt, found.model.document_prompt, found.notes) == ("query: ", "passage: ", ())


def test_a_hub_model_that_is_not_here_needs_every_setting_from_a_person(tmp_path: Path) -> None:
    every = {"dim": 8, "max_tokens": 64, "query_prompt": "", "document_prompt": ""}
    found = specify("org/none-of-this-name", tmp_path, never, **every)
    assert (found.model.dim, found.notes) == (8, ("its files are not here and were not compared",))
    with pytest.raises(EncoderError, match="neither in the hub cache"):
        specify("org/none-of-this-name", tmp_path, never, dim=8)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("e5-small-v2", r"--query-prompt 'query: ' --document-prompt 'passage: '"),
        ("multilingual-e5-large-instruct", ""),
        ("bge-small-en-v1.5", "--query-prompt 'Represent this sentence"),
        ("all-MiniLM-L6-v2", ""),
        ("multi-qa-mpnet-base-dot-v1", "trained for dot products"),
    ],
)
def test_what_only_the_name_of_a_model_says_is_a_note(tmp_path: Path, name: str, note: str) -> None:
    minilm(tmp_path / name, modules=[TRANSFORMER, POOLING])
    found = specify(f"./{name}", tmp_path, never)
    assert (found.model.query_prompt, found.model.document_prompt) == ("", "")
    assert bool(found.notes) == bool(note)
    assert note in "".join(found.notes)


def test_several_prompts_for_a_query_are_asked_about(tmp_path: Path) -> None:
    minilm(tmp_path / "m", prompts={"code_query": "code: ", "web_query": "web: "})
    with pytest.raises(ConfigError, match=r"several prompts for a query .*--query-prompt"):
        specify("./m", tmp_path, never)
    assert specify("./m", tmp_path, never, query_prompt="web: ").model.query_prompt == "web: "


# Hand-written migration files -----------------------------------------------------------------------------------------


def says(served: World, monkeypatch: pytest.MonkeyPatch, own: OwnSettings) -> None:
    """The files of the next model say ``own``; its reference is the model as they say."""
    encoder = served.loader["hashing:seed2"]
    monkeypatch.setattr(encoder, "own", own, raising=False)
    reference = type(encoder._inner)(own.applied_to(ModelSpec("hashing", 64)), seed=2)
    monkeypatch.setattr(encoder, "reference", lambda: reference, raising=False)


@pytest.mark.parametrize("prompt", ["query_prompt", "document_prompt"])
def test_a_revision_that_ignores_a_prompt_is_refused_with_what_that_changes(
    served: World, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    says(
        served,
        monkeypatch,
        OwnSettings(**{"query_prompt": "", "document_prompt": "", prompt: "apple1 pear2 number 3 words: "}),
    )
    before = served.state()
    with pytest.raises(FidelityTooLow, match=rf"model\.{prompt} is '', and the model's own files say 'apple1"):
        served.upgrade("b200")
    assert served.state() == before
    warnings = served.migrator.plan("b200").warnings
    assert any("it will be refused" in warning and f"model.{prompt}" in warning for warning in warnings)


def test_a_revision_that_means_its_own_prompts_lowers_the_bar_and_is_told(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(served, monkeypatch, OwnSettings(query_prompt="apple1 pear2 number 3 words: "))
    served.revision(
        "b200",
        "a100",
        'model = ModelSpec(name="hashing:seed2", dim=64)',
        "gate = Gate(max_drop=0.1, min_fidelity=0.0)",
    )
    plan = served.migrator.plan("b200")
    assert any("model.query_prompt is ''" in risk for risk in plan.risks)
    assert not any("will be refused" in warning for warning in plan.warnings)
    served.upgrade("b200")
    kept = served.generation().fidelity
    assert kept["query_overlap_at_10"] < 0.99
    assert "model.query_prompt" in kept["ignored"][0]
    assert served.events("provision")[0]["detail"]["fidelity"] == kept


def test_plan_warns_of_a_metric_that_the_model_was_not_trained_for(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(served, monkeypatch, OwnSettings(similarity="dot"))
    assert any(
        'it was trained for index.metric "dot" with model.normalize False' in said
        for said in served.migrator.plan("b200").risks
    )


def test_plan_and_upgrade_refuse_a_model_of_manhattan_distances(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    says(served, monkeypatch, OwnSettings(similarity="manhattan"))
    before = served.state()
    for refused in (served.migrator.plan, served.upgrade, served.project.rehearsal("docs").run):
        with pytest.raises(EncoderError, match="and an index compares by"):
            refused("b200")
    assert served.state() == before


def test_what_is_served_already_goes_on_and_gets_another_index(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = served.loader["hashing"]
    monkeypatch.setattr(encoder, "own", OwnSettings(similarity="manhattan", query_prompt="other: "), raising=False)
    monkeypatch.setattr(encoder, "reference", lambda: encoder, raising=False)
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(storage="halfvec")')
    assert served.search("apple7 pear7")[0] == "d00007"
    assert any("model.query_prompt" in risk for risk in served.migrator.plan("b200").risks)
    assert served.project.rehearsal("docs").run("b200", size=60).refusals == ()
    served.upgrade("b200")
    assert served.generation().revision == "b200"
