"""What a migration file imports: the four spec classes, and nothing heavy."""

from __future__ import annotations

from importlib.metadata import version

from revector.spec import Chunking, Gate, IndexSpec, ModelSpec

__all__ = ["Chunking", "Gate", "IndexSpec", "ModelSpec", "__version__"]

__version__ = version("revector")
