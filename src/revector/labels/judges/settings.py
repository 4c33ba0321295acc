"""Owns the ``[judges.<name>]`` tables: which model judges, how it is asked, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from revector.encoders.api.settings import BaseUrl, read_key
from revector.labels.judges.prompt import ANSWER_TOKENS, FRAME, PROMPT
from revector.spec import stable_hash

CHARS_PER_TOKEN = 4
"""Of English, by which tokens are estimated before anything is sent; what the server counts is kept afterwards."""


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """A judge as its answers are kept: ``fingerprint`` changes with all that decides what it says, ``name`` does not.

    ``prompt``: the first part of the hash of what it is told, empty for a model that is told nothing.
    """

    name: str
    model: str
    prompt: str
    fingerprint: str

    @property
    def words(self) -> str:
        """Name, model and prompt, for people."""
        return f"{self.name} ({self.model}{f', prompt {self.prompt}' if self.prompt else ''})"


class OpenAIJudge(BaseModel):
    """A model behind ``POST <base_url>/chat/completions``, as OpenAI has it; one request for each document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["openai"]
    base_url: BaseUrl
    """Up to and without ``/chat/completions``: ``https://api.openai.com/v1``, ``http://localhost:8000/v1``."""
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None for a server that wants none."""
    prompt: str = Field(default=PROMPT, min_length=1)
    """What counts as relevant. How query and document are sent, and the form of the answer, is added to it."""
    max_document_chars: int = Field(default=8_000, ge=100)
    """Longer documents are cut."""
    strict_schema: bool = True
    """Send the form of the answer as a JSON schema; false for a server that refuses ``response_format``."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 50}
    """Sent with each request. A model that thinks before it answers wants more tokens, or another name for them."""
    price_per_million_input_tokens_usd: float = Field(default=0.0, ge=0)
    price_per_million_output_tokens_usd: float = Field(default=0.0, ge=0)
    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests under way at once."""
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=5, ge=0, le=10)
    """How often a request that failed for a passing reason is sent again, with growing pauses."""

    def identity(self, name: str) -> JudgeIdentity:
        """Return it under its name."""
        told = (self.prompt, FRAME)
        decides = (self.kind, self.model, *told, self.max_document_chars, self.strict_schema, self.options)
        return JudgeIdentity(name, self.model, stable_hash(told)[:8], stable_hash(decides))

    def input_tokens(self, query_chars: int, document_chars: int) -> int:
        """Return about how many tokens a request has."""
        chars = len(self.prompt) + len(FRAME) + query_chars + min(document_chars, self.max_document_chars)
        return -(-chars // CHARS_PER_TOKEN)

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """Return what tokens cost."""
        prices = self.price_per_million_input_tokens_usd, self.price_per_million_output_tokens_usd
        return (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6

    @property
    def output_tokens(self) -> int:
        """About how many tokens an answer has."""
        return ANSWER_TOKENS

    def api_key(self, name: str) -> str | None:
        """Return the key, None where none is wanted. Raises ``ConfigError`` for a variable that is not set."""
        return read_key(self.api_key_env, f"judges.{name}")


class CrossEncoderJudge(BaseModel):
    """A cross-encoder of sentence-transformers on this machine: it reads query and document together. It costs time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cross-encoder"]
    model: str = Field(min_length=1)
    """A folder (``./…`` from the project folder, or absolute), ``package:name[/folder]``, or a hub id."""
    relevant_from: float
    """The number from which a document counts as relevant: 0 for a model that gives logits, 0.5 behind a sigmoid."""
    max_document_chars: int = Field(default=8_000, ge=100)

    def identity(self, name: str) -> JudgeIdentity:
        """Return it under its name."""
        decides = (self.kind, self.model, self.relevant_from, self.max_document_chars)
        return JudgeIdentity(name, self.model, "", stable_hash(decides))

    def input_tokens(self, query_chars: int, document_chars: int) -> int:
        """Return about how many tokens a pair has."""
        return -(-(query_chars + min(document_chars, self.max_document_chars)) // CHARS_PER_TOKEN)

    def usd(self, tokens_in: int, tokens_out: int) -> float:  # noqa: ARG002 - as of an ``OpenAIJudge``
        """Return 0: it runs here."""
        return 0.0

    @property
    def output_tokens(self) -> int:
        """None."""
        return 0


JudgeSettings = Annotated[OpenAIJudge | CrossEncoderJudge, Field(discriminator="kind")]
