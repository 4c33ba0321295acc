"""Owns the files of a local model: which shape its vectors, their hashes, the download from the hub, a new folder."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from revector.encoders.libraries import first_line, missing_libraries, quiet
from revector.errors import ConfigError, EncoderError

_WEIGHTS = {".bin", ".pt", ".pth"}
_SHAPING = {".safetensors", ".json", ".txt", ".model", ".vocab", ".bpe"} | _WEIGHTS
_NOT_SHAPING = {"data_config.json", "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt"}
_NOT_SHAPING |= {"requirements.txt", "license.txt", "readme.txt", "train_results.json", "eval_results.json"}
_OTHER_BACKENDS = {"onnx", "openvino", "coreml"}
_NOT_DOWNLOADED = [f"{folder}/*" for folder in sorted(_OTHER_BACKENDS)] + ["*.onnx", "*.h5", "*.msgpack", "*.ot"]


@lru_cache(maxsize=4096)
def _file_sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, *, code: bool = False) -> dict[str, str]:
    """Return relative path to SHA-256 of every file in ``folder`` that shapes vectors.

    Weights, tokenizer and configurations, and Python files where its ``code`` is run; not texts about the model, hidden
    files, other runtimes' exports, or torch pickles beside safetensors. Cached per process by path, modification time
    and size.
    """
    shaping = _SHAPING | {".py"} if code else _SHAPING
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _shapes_vectors(path, folder, shaping))
    hashes: dict[str, str] = {}
    for path in files:
        stat = path.stat()
        hashes[path.relative_to(folder).as_posix()] = _file_sha256(path, stat.st_mtime_ns, stat.st_size)
    return hashes


def _shapes_vectors(path: Path, folder: Path, shaping: set[str]) -> bool:
    parts = path.relative_to(folder).parts
    if path.suffix == ".py":
        return ".py" in shaping  # wherever it lies: it may be imported
    if path.suffix not in shaping or path.name.lower() in _NOT_SHAPING:
        return False
    if any(part.startswith(".") or part in _OTHER_BACKENDS for part in parts):
        return False
    return path.suffix not in _WEIGHTS or not any(path.parent.glob("*.safetensors"))


def hub_folder(name: str, commit: str | None, *, code: bool = False) -> Path:
    """Return the local snapshot of hub model ``name``, downloaded where it is not cached. Raises ``EncoderError``.

    Python files are left out unless its ``code`` is run.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_libraries(name) from error
    ignored = _NOT_DOWNLOADED if code else [*_NOT_DOWNLOADED, "*.py"]
    try:
        with quiet():
            return Path(snapshot_download(name, revision=commit, ignore_patterns=ignored))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"model {name!r} (commit {commit or 'newest'}) is neither in the hub cache nor could it be downloaded: "
            f"{first_line(error)} Nothing was changed; check name, network and HF_HUB_OFFLINE, or give a folder: a "
            'local one is written "./folder".'
        ) from error


def refuse_existing(folder: Path) -> None:
    """Raise ``ConfigError`` where ``folder`` is there already."""
    if folder.exists():
        raise ConfigError(f"{folder} exists already and was left as it is; name another folder, or remove it first.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``, which becomes it at the end: whole or not at all, readable by everybody.

    Raises ``ConfigError`` where ``folder`` is there already.
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        # safetensors writes for the owner alone; workers may run as someone else.
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
