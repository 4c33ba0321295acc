"""What the engine benchmark compares: the ways to embed, who runs each, and what its process gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT = "sentence-transformers float32, default batch"
PEERS, INFINITY = "peers_python", "infinity_python"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to embed: who runs it, what it is told, and what pip would need where it is missing."""

    name: str
    kind: str
    options: Mapping[str, Any]
    python: str | None = None
    install: str = "revector[embed]"

    @property
    def ours(self) -> bool:
        """Whether revector itself is measured."""
        return self.kind == "revector"


ONNX, OPENVINO = "sentence-transformers[onnx]", "sentence-transformers[openvino] nncf"
OURS = ("float32", "bfloat16", "int8", "int7")
CPU_WAYS = (
    *(Way(f"revector {dtype}", "revector", {"dtype": dtype, "batch": 1}) for dtype in OURS),
    Way(DEFAULT, "sentence_transformers", {"dtype": "float32", "batch": 32}),
    Way("sentence-transformers float32, best batch", "sentence_transformers", {"dtype": "float32"}),
    Way("sentence-transformers bfloat16, best batch", "sentence_transformers", {"dtype": "bfloat16"}),
    Way("sentence-transformers ONNX float32", "onnx", {"file": "model.onnx"}, PEERS, ONNX),
    Way("sentence-transformers ONNX int8", "onnx", {"file": "model_int8.onnx"}, PEERS, ONNX),
    Way(
        "sentence-transformers OpenVINO float32",
        "openvino",
        {"file": "openvino_model.xml", "precision": "f32"},
        PEERS,
        OPENVINO,
    ),
    Way(
        "sentence-transformers OpenVINO bfloat16",
        "openvino",
        {"file": "openvino_model.xml", "precision": "bf16"},
        PEERS,
        OPENVINO,
    ),
    Way("sentence-transformers OpenVINO int8", "openvino", {"file": "openvino_model_int8.xml"}, PEERS, OPENVINO),
    Way("ONNX Runtime by tokens, float32", "onnxruntime", {"file": "model.onnx", "batch": 1}, PEERS, ONNX),
    Way("ONNX Runtime by tokens, int8", "onnxruntime", {"file": "model_int8.onnx", "batch": 1}, PEERS, ONNX),
    Way("Infinity float32", "infinity", {"dtype": "float32", "batch": 32}, INFINITY, "infinity-emb"),
)


def cuda_ways(dtype: str) -> tuple[Way, ...]:
    """Return what is compared on a CUDA device."""
    peer = "sentence_transformers"
    return (
        Way(f"revector {dtype}", "revector", {"dtype": dtype, "batch": 1}),
        Way(DEFAULT, peer, {"dtype": "float32", "batch": 32}),
        Way(f"sentence-transformers {dtype}, best batch", peer, {"dtype": dtype}),
    )


@dataclass(slots=True)
class Seen:
    """What a path gave, round by round; ``missing`` says why nothing came."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    batch: int = 0
    missing: str = ""
