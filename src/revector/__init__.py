"""What a migration file imports, the four spec classes, and what an application asks first; nothing heavy.

They are loaded when they are asked for. The command learns of a lost Ctrl-C from the first line of ``revector.cli`` on;
until then, an interrupt that falls into a callback of Python's import system is thrown away by Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revector.adapters.serving import guard
    from revector.measure.vector_store import VectorStore
    from revector.spec import Chunking, Gate, IndexSpec, ModelSpec

    __version__: str

__all__ = ["Chunking", "Gate", "IndexSpec", "ModelSpec", "VectorStore", "__version__", "guard"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("revector")
    if name == "guard":
        from revector.adapters.serving import guard

        return guard
    if name == "VectorStore":
        from revector.measure.vector_store import VectorStore

        return VectorStore
    if name in __all__:
        from revector import spec

        return getattr(spec, name)
    raise AttributeError(f"module 'revector' has no attribute {name!r}")
