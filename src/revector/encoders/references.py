"""Owns where a model reference points: a hub id, a folder, a folder in a package, a model of an API, or hashing."""

from __future__ import annotations

import re
from pathlib import Path

from revector.encoders.packages import package_folder
from revector.errors import ConfigError
from revector.spec import ModelSpec

HASHING = re.compile(r"hashing(?::seed(\d{1,9}))?(:images)?")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_FORMS = (
    '"org/name" (hub), "./folder" or an absolute folder, "package:name[/folder]", "api:provider/model" or "hashing"'
)


def resolve_model(name: str, root: Path) -> str:
    """Return what ``name`` points to: the absolute path of a model folder, a hub id, ``hashing…`` or ``api:…``.

    Folders are relative to ``root``; a package's model is the named folder or ``model`` in it. Raises ``ConfigError``
    for an unknown form, a folder without a model, and a package that is not installed.
    """
    if HASHING.fullmatch(name):
        return name
    if name.startswith("api:"):
        from revector.encoders.api.settings import split_reference

        split_reference(name)
        return name
    if name.startswith("package:"):
        folder = package_folder(name)
        return str(_with_model(name, folder, folder / "model"))
    path = Path(name).expanduser()
    if name.startswith(("./", "../", "~")) or path.is_absolute():
        folder = (root / path).resolve()
        if not folder.is_dir():
            raise ConfigError(
                f"model {name!r}: there is no folder {folder}. Nothing was changed; correct model.name (relative "
                "folders start at the project folder) or put the model there."
            )
        return str(_with_model(name, folder))
    if _HUB_ID.fullmatch(name):
        return name
    raise ConfigError(f"model {name!r} is not a model reference. Nothing was changed; write {_FORMS}.")


def is_hub_id(reference: str) -> bool:
    """Whether a resolved reference is a hub id."""
    return not (HASHING.fullmatch(reference) or reference.startswith("api:") or Path(reference).is_absolute())


def model_folder(model: ModelSpec, root: Path, *, trust_code: bool = False) -> Path:
    """Return the folder of a local model's files, downloaded where it is a hub id. Raises as ``resolve_model``."""
    from revector.encoders.files import hub_folder

    reference = resolve_model(model.name, root)
    return hub_folder(reference, model.commit, code=trust_code) if is_hub_id(reference) else Path(reference)


def _with_model(name: str, *folders: Path) -> Path:
    for folder in folders:
        if any((folder / file).is_file() for file in ("modules.json", "config.json")):
            return folder
    raise ConfigError(
        f"model {name!r}: no modules.json or config.json in {' or '.join(map(str, folders))}, so no model is there. "
        "Nothing was changed; name the folder that a sentence-transformers model was saved to."
    )
