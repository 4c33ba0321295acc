"""Owns asking a judge: a model behind OpenAI's chat completions, or a cross-encoder that runs here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from revector.encoders.files import file_hashes
from revector.encoders.references import model_folder
from revector.errors import ConfigError, JudgeUnavailable
from revector.labels.judges.prompt import RESPONSE_FORMAT, messages, read_score, shown
from revector.labels.judges.settings import CrossEncoderJudge, OpenAIJudge
from revector.spec import ModelSpec, stable_hash

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

_PAIR_REFUSED = (400, 413, 422)
"""HTTP status of a request that is refused for what is in it: too long, or filtered."""


@dataclass(frozen=True, slots=True)
class AskedPair:
    """The text of a query, and of a document."""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """A ``score``, or None and what was ``refused``: said instead. ``by``: which model says that it answered.

    ``tokens_in`` and ``tokens_out``: as the server counts them, 0 where it does not.
    """

    score: int | None
    refused: str | None
    by: str
    tokens_in: int = 0
    tokens_out: int = 0


class Judge(Protocol):
    """Answers ``at_once`` pairs in one call; ``workers`` threads may call it at the same time."""

    at_once: int
    workers: int

    def ask(self, pairs: Sequence[AskedPair]) -> list[JudgeAnswer]:
        """Return one answer for each pair. Raises ``JudgeUnavailable`` where no pair is to blame."""
        ...


def open_judge(name: str, settings: OpenAIJudge | CrossEncoderJudge, root: Path, *, device: str = "auto") -> Judge:
    """Return the judge of a table of revector.toml, ready to be asked.

    Raises ``ConfigError`` without its key, its package or its model's folder.
    """
    if isinstance(settings, OpenAIJudge):
        return _ChatJudge(name, settings)
    return _LocalJudge(settings, root, device)


class _ChatJudge:
    """Asks by ``POST /chat/completions``, one pair a request."""

    at_once = 1

    def __init__(self, name: str, settings: OpenAIJudge) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ConfigError(
                f"judge {name!r} needs the package openai, which is not installed here. Nothing was sent; run pip "
                "install 'revector[api]'."
            ) from error
        self._name, self._settings, self.workers = name, settings, settings.concurrency
        self._key = settings.api_key(name)
        # Without a key of its own, the client would send OPENAI_API_KEY to whatever server this is.
        self._client: OpenAI = OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            max_retries=settings.retries,
            timeout=settings.timeout_s,
        )

    def ask(self, pairs: Sequence[AskedPair]) -> list[JudgeAnswer]:
        return [self._ask(pair) for pair in pairs]

    def _ask(self, pair: AskedPair) -> JudgeAnswer:
        import openai

        settings = self._settings
        told = messages(settings.prompt, pair.query, pair.document[: settings.max_document_chars])
        body = {"model": settings.model, "messages": told, **settings.options}
        if settings.strict_schema:
            body["response_format"] = RESPONSE_FORMAT
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            reply = create(**body).http_response.json()
        except openai.APIStatusError as error:
            if error.status_code in _PAIR_REFUSED:
                return JudgeAnswer(None, f"HTTP {error.status_code}: {self._said(error)}", settings.model)
            raise self._unavailable(f"answers HTTP {error.status_code}: {self._said(error)}") from None
        except openai.APITimeoutError as error:
            raise self._unavailable(f"did not answer within {settings.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            raise self._unavailable(f"cannot be reached: {error.__cause__ or error}") from error
        except ValueError as error:
            raise self._unavailable(f"answers no JSON: {error}") from error
        return _read(reply, settings.model)

    def _said(self, error: APIStatusError) -> str:
        said = " ".join(error.message.split())
        return (said.replace(self._key, "…") if self._key else said)[:300]

    def _unavailable(self, what: str) -> JudgeUnavailable:
        return JudgeUnavailable(
            f"judge {self._name!r} ({self._settings.model} at {self._settings.base_url}) {what}. What it had "
            f"answered is kept and not asked again; correct judges.{self._name}, or run the same command again later."
        )


def _read(reply: Any, model: str) -> JudgeAnswer:
    """Return what of a reply is of use; anything that is not where it should be is refused."""
    said: Any = reply
    try:
        said = reply["choices"][0]["message"].get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        reply = reply if isinstance(reply, dict) else {}
    score = read_score(said) if isinstance(said, str) else None
    used = reply.get("usage")
    return JudgeAnswer(
        score,
        None if score is not None else shown(said),
        str(reply.get("model") or model)[:200],
        _count(used, "prompt_tokens"),
        _count(used, "completion_tokens"),
    )


def _count(used: object, name: str) -> int:
    found = used.get(name) if isinstance(used, Mapping) else None
    return found if isinstance(found, int) and 0 <= found < 2**31 else 0


class _LocalJudge:
    """Asks a cross-encoder in this process, many pairs at a time."""

    at_once, workers = 32, 1

    def __init__(self, settings: CrossEncoderJudge, root: Path, device: str) -> None:
        folder = model_folder(ModelSpec(settings.model, dim=1), root)
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise ConfigError(
                "a cross-encoder needs sentence-transformers, which is not installed here. Nothing was asked; run pip "
                "install 'revector[embed]'."
            ) from error
        self._settings = settings
        where = None if device == "auto" else device.partition(",")[0].replace("all", "cuda")
        self._model: Any = CrossEncoder(str(folder), device=where, local_files_only=True, trust_remote_code=False)
        self._by = stable_hash(file_hashes(folder))[:12]

    def ask(self, pairs: Sequence[AskedPair]) -> list[JudgeAnswer]:
        texts = [(pair.query, pair.document[: self._settings.max_document_chars]) for pair in pairs]
        found = self._model.predict(texts, batch_size=self.at_once, show_progress_bar=False)
        return [self._answer(float(number)) for number in found]

    def _answer(self, number: float) -> JudgeAnswer:
        if not math.isfinite(number):
            return JudgeAnswer(None, f"the number {number}", self._by)
        return JudgeAnswer(int(number >= self._settings.relevant_from), None, self._by)
