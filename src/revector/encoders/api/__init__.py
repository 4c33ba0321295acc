"""Owns encoders behind ``/v1/embeddings``: OpenAI, Text Embeddings Inference, vLLM, Infinity, Ollama and their like."""

from __future__ import annotations

from revector.encoders.api.client import Provider
from revector.encoders.api.encoder import ApiEncoder, load_api_encoder
from revector.encoders.api.hybrid import Hybrid
from revector.encoders.api.limits import MemoryMeter, Meter, Use
from revector.encoders.api.settings import PREFIX, ProviderSettings

__all__ = [
    "PREFIX",
    "ApiEncoder",
    "Hybrid",
    "MemoryMeter",
    "Meter",
    "Provider",
    "ProviderSettings",
    "Use",
    "load_api_encoder",
]
