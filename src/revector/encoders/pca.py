"""Owns the rotation that lets any model be cut: principal components, fitted on vectors that exist already."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from revector.encoders.check import vectors_fp
from revector.errors import ConfigError, EncoderError
from revector.interfaces import Encoder, Vectors

MANIFEST = "revector.json"
"""Says beside a rotated model what it was made of."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """What turns vectors of the model ``base_fp`` (its ``vectors_fp``) into those of the rotated one, before a cut.

    ``matrix`` is float32 ``(width, width)`` with orthonormal rows, the most important first.
    """

    base_fp: str
    matrix: Vectors

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return ``vectors`` ``(n, width)`` in the new axes."""
        turned: Vectors = vectors @ self.matrix.T
        return turned


def rotation_of(encoder: Encoder) -> Rotation | None:
    """Return the rotation by which ``encoder``'s vectors come from another model's, or None."""
    found = getattr(encoder, "rotation", None)
    return found if isinstance(found, Rotation) else None


def read_rotation(folder: Path, components: Mapping[str, object]) -> Rotation | None:
    """Return the rotation in a model's ``folder``, or None where ``train_pca`` did not make it.

    The base is recognised by the hashes of the files that are its own (``components``), not by what the manifest says
    of it. Raises ``EncoderError`` for a manifest that cannot be read.
    """
    hashes = components.get("files")
    if not isinstance(hashes, Mapping) or MANIFEST not in hashes:
        return None
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        own, modules = f"{said['rotation']}/", said["base"]["modules.json"]
        matrix = _weights(folder / said["rotation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{folder / MANIFEST} is not what `revector train pca` wrote ({error}). Nothing was changed; make the "
            "model again."
        ) from error
    files = {name: sha for name, sha in hashes.items() if name != MANIFEST and not name.startswith(own)}
    return Rotation(vectors_fp({**components, "files": {**files, "modules.json": modules}}), matrix)


def _weights(module: Path) -> Vectors:
    from safetensors.numpy import load_file

    matrix: Vectors = load_file(module / "model.safetensors")["linear.weight"]
    return matrix


def train_pca(blocks: Iterable[Vectors], base: Path, folder: Path) -> npt.NDArray[np.float64]:
    """Save the model in ``base``, turned to the principal components of its vectors, as a sentence-transformers folder.

    ``blocks``: vectors of that model, ``(n, width)`` each, at least ``width`` in all; memory holds one block and a
    ``(width, width)`` matrix. What is saved is ``base``, file by file, and one linear map without bias: turned vectors
    have the same cosines, and their first ``dim`` numbers keep inner products as well as any projection to ``dim``
    dimensions can, in squares (Eckart & Young, "The approximation of one matrix by another of lower rank", 1936).
    The mean is not taken away: cosines are between vectors as they are.

    Returns the share (0 to 1) of the squared length that the first 1, 2, … dimensions keep, ``(width,)``. The folder
    appears whole or not at all. Raises ``ConfigError`` for an existing ``folder``, a ``base`` that is no folder of
    sentence-transformers or rotated itself, and for too few vectors.
    """
    from revector.encoders.files import file_hashes, new_folder, refuse_existing

    refuse_existing(folder)
    files = file_hashes(base)
    if "modules.json" not in files or MANIFEST in files:
        raise ConfigError(
            f"{base} {'is rotated already' if MANIFEST in files else 'has no modules.json'}. Nothing was saved; name a "
            "model that sentence-transformers saved, as it is."
        )
    axes, kept = _principal(blocks)
    with new_folder(folder) as temporary:
        for name in files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, temporary / name)
        _add_rotation(temporary, axes, {"base": files})
    return kept


def _principal(blocks: Iterable[Vectors]) -> tuple[Vectors, npt.NDArray[np.float64]]:
    """Return the eigenvectors of the vectors' second moments as rows, largest first, and the share up to each."""
    moments: npt.NDArray[np.float64] | None = None
    rows = 0
    for block in blocks:
        exact = block.astype(np.float64)
        product = exact.T @ exact
        moments = product if moments is None else moments + product
        rows += len(block)
    width = 1 if moments is None else len(moments)
    if moments is None or rows < width:
        raise ConfigError(
            f"principal components of {width} dimensions need at least {width} vectors, found {rows}. Nothing was "
            "saved; ingest more documents first, or take a larger --sample."
        )
    lengths, axes = np.linalg.eigh(moments)
    lengths = np.maximum(lengths[::-1], 0)
    return np.ascontiguousarray(axes.T[::-1], np.float32), np.cumsum(lengths) / lengths.sum()


def _add_rotation(folder: Path, axes: Vectors, manifest: dict[str, object]) -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    name = f"{len(modules)}_Dense"
    width = axes.shape[1]
    dense = Dense(width, width, bias=False, activation_function=torch.nn.Identity(), init_weight=torch.tensor(axes))
    (folder / name).mkdir()
    dense.save(str(folder / name))
    modules.append(
        {"idx": len(modules), "name": str(len(modules)), "path": name, "type": "sentence_transformers.models.Dense"}
    )
    (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps({"rotation": name, **manifest}, indent=1), encoding="utf-8")
