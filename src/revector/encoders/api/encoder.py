"""Owns encoding through a provider: texts cut, batched, sent side by side, and poison texts found by bisection."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.encoders.api.client import GaveUp, Provider, RequestRejected
from revector.encoders.api.settings import split_reference
from revector.encoders.check import check_vectors, fingerprint_of, settings_of, texts_of, unit_rows
from revector.encoders.probes import PROBE_TEXTS
from revector.errors import BadVectors, ConfigError, EncoderError, TextsRefused
from revector.interfaces import Kind, Piece, Side, Vectors
from revector.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SHOWN_CHARS = 40


def load_api_encoder(model: ModelSpec, providers: Mapping[str, Provider], root: Path) -> ApiEncoder:
    """Return the encoder behind ``api:<provider>/<model>``; nothing is sent yet. ``root``: where ``./…`` begins.

    Raises ``ConfigError`` for a reference, provider, key or tokenizer that is not there.
    """
    name, _ = split_reference(model.name)
    if name not in providers:
        known = ", ".join(sorted(providers)) or "none"
        raise ConfigError(
            f"model {model.name!r} names the provider {name!r}, which is not in revector.toml (there: {known}). "
            f"Nothing was changed; add a [providers.{name}] table with base_url and tokenizer."
        )
    return ApiEncoder(model, providers[name], root=root)


@dataclass(frozen=True, slots=True)
class _Input:
    text: str
    sent: str
    tokens: int


@dataclass(slots=True)
class _Call:
    """What one call has found so far; ``abandoned`` is set once it has failed."""

    found: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    refused: dict[Hashable, str] = field(default_factory=dict)
    abandoned: threading.Event = field(default_factory=threading.Event)


class ApiEncoder:
    """A model behind ``/v1/embeddings``. Calls from several threads share the provider's limits.

    Texts are cut here, at ``model.max_tokens`` tokens of their own, so that every server sees the same; prompts are put
    before them here. Equal texts of a call are sent once. A width below the model's own is asked of the server
    (``send_dimensions``) or cut here. The identity is model name, tokenizer and settings. The address is no part of
    it but counts as a library version does: where it changed, ``check_same_encoder`` has the probe texts re-embedded.
    """

    def __init__(self, model: ModelSpec, provider: Provider, *, root: Path) -> None:
        self._model, self._provider = model, provider
        self._name = split_reference(model.name)[1]
        self._own_dim: int | None = None
        self._lock = threading.Lock()
        provider.connect()
        path = tokenizer_file(provider.settings.tokenizer, root, provider.name)
        self._tokenizer = _plain_tokenizer(path)
        self._special = self._tokenizer.num_special_tokens_to_add(False)
        self._refuse_cut_texts()
        settings = provider.settings
        self._components = {
            "kind": "api",
            "model": self._name,
            "tokenizer": hashlib.sha256(path.read_bytes()).hexdigest(),
            "send_dimensions": settings.send_dimensions,
            **settings_of(model),
            "libraries": {"endpoint": settings.base_url},
        }
        self._fingerprint = fingerprint_of(self._components)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Text alone."""
        return ("text",)

    @property
    def dim(self) -> int:
        """Width of the vectors, after the cut."""
        return self._model.dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of model name, tokenizer and settings, without the server's address."""
        return self._fingerprint

    @property
    def components(self) -> Mapping[str, object]:
        """What went into the fingerprint, by name, and as ``libraries`` the server's address."""
        return self._components

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the provider's settings name, without truncation and padding."""
        return self._tokenizer

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` without special tokens, untruncated."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed texts with the prompt of ``side``: ``(len(pieces), dim)`` float32.

        Raises ``TextsRefused`` once all other texts went through, ``BadVectors``, and ``ProviderUnavailable`` or a
        child of it when no text is to blame.
        """
        texts, prompt, call = texts_of(pieces), self._model.prompt_of(side), _Call()
        self._run(list(self._batches(self._inputs(list(dict.fromkeys(texts)), prompt))), call)
        if call.refused:
            raise self._refusal(call)
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = check_vectors(np.stack([call.found[text] for text in texts])[:, : self.dim], len(texts), self.dim)
        return unit_rows(vectors) if self._model.normalize else vectors

    def _inputs(self, texts: Sequence[str], prompt: str) -> Iterator[_Input]:
        around = self.count_tokens(prompt) + self._special
        for text, encoding in zip(texts, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            count, limit = len(encoding.ids), self._model.max_tokens
            kept = text if count <= limit else text[: encoding.offsets[limit - 1][1]]
            yield _Input(text, prompt + kept, min(count, limit) + around)

    def _batches(self, inputs: Iterator[_Input]) -> Iterator[list[_Input]]:
        settings, batch, tokens = self._provider.settings, list[_Input](), 0
        for one in inputs:
            if batch and (len(batch) == settings.max_batch_texts or tokens + one.tokens > settings.max_batch_tokens):
                yield batch
                batch, tokens = [], 0
            batch.append(one)
            tokens += one.tokens
        if batch:
            yield batch

    def _run(self, batches: Sequence[list[_Input]], call: _Call) -> None:
        """Embed all batches, side by side where there are several; the first failure ends the call."""
        if len(batches) == 1:  # a query need not wait for a thread that a backfill's batches queue for
            self._embed(batches[0], call)
            return
        futures = [self._provider.pool.submit(self._embed, batch, call) for batch in batches]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            call.abandoned.set()
            for future in futures:
                future.cancel()
            raise

    def _embed(self, batch: Sequence[_Input], call: _Call, *, retry: bool = True) -> None:
        """Embed one batch; where the server refuses it but takes a probe text, bisect down to the texts at fault."""
        try:
            vectors = self._request(batch, retry=retry, abandoned=call.abandoned)
        except (RequestRejected, GaveUp) as error:
            self._require_alive(error)
            if len(batch) == 1:
                call.refused[batch[0].text] = self._reason(batch[0].text, error)
                return
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                # Halves that fail are halved again at once; a text alone gets all its tries before it is given up.
                self._embed(half, call, retry=len(half) == 1)
            return
        call.found.update(zip((one.text for one in batch), vectors, strict=True))

    def _request(self, batch: Sequence[_Input], *, retry: bool, abandoned: threading.Event | None = None) -> Vectors:
        vectors = self._provider.embed(
            self._name,
            [one.sent for one in batch],
            tokens=sum(one.tokens for one in batch),
            dimensions=self.dim if self._provider.settings.send_dimensions else None,
            retry=retry,
            abandoned=abandoned,
        )
        self._check_width(vectors.shape[1])
        return vectors

    def _check_width(self, width: int) -> None:
        with self._lock:
            if self._own_dim is None and width >= self.dim and not self._provider.settings.send_dimensions:
                self._own_dim = width
            wanted = self._own_dim or self.dim
        if width != wanted:
            raise BadVectors(
                f"provider {self._provider.name!r} answered with vectors of {width} numbers, wanted were {wanted} "
                f"(model.dim is {self.dim}). None was stored; check model.name, model.dim and send_dimensions."
            )

    def _require_alive(self, error: RequestRejected | GaveUp) -> None:
        """Raise unless the server takes a probe text: else the whole corpus would be refused, one by one."""
        text = PROBE_TEXTS[0]
        probe = _Input(text, text, self.count_tokens(text) + self._special)
        try:
            self._request([probe], retry=False)
        except RequestRejected as refused:
            raise self._provider.refused(f"refuses even a probe text ({refused})") from error
        except GaveUp:
            raise self._provider.down(str(error)) from error

    def _reason(self, text: str, error: RequestRejected | GaveUp) -> str:
        shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
        return f"provider {self._provider.name!r} takes other texts, but not {shown!r} alone: {error}"

    def _refusal(self, call: _Call) -> TextsRefused:
        count, first = len(call.refused), next(iter(call.refused.values()))
        return TextsRefused(
            f"{count} of {count + len(call.found)} texts are refused; the first: {first}. Nothing was stored; fix or "
            "leave out these texts.",
            call.refused,
        )

    def _refuse_cut_texts(self) -> None:
        """Raise unless a text of ``model.max_tokens`` fits the server's limit: it would cut, or refuse, silently."""
        prompts = (self._model.query_prompt, self._model.document_prompt)
        around = self._special + max(self.count_tokens(prompt) for prompt in prompts)
        limit = self._provider.settings.max_input_tokens
        if self._model.max_tokens + around > limit:
            raise EncoderError(
                f"model.max_tokens is {self._model.max_tokens}; with {around} special and prompt tokens that exceeds "
                f"providers.{self._provider.name}.max_input_tokens ({limit}). Nothing was changed; set "
                f"model.max_tokens to at most {limit - around}."
            )


def tokenizer_file(reference: str, root: Path, provider: str) -> Path:
    """Return the ``tokenizer.json`` that ``reference`` means: a file, a folder, ``package:…`` or a hub id.

    Raises ``ConfigError`` where there is none.
    """
    from revector.encoders.references import resolve_model

    path = Path(reference).expanduser()
    if reference.startswith("package:"):
        path = Path(resolve_model(reference, root))
    elif not (reference.startswith(("./", "../", "~")) or path.is_absolute()):
        return _hub_tokenizer(reference, provider)
    path = (root / path).resolve()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"providers.{provider}.tokenizer is {reference!r}, and there is no {file}. Nothing was changed; name the "
            "model's tokenizer.json or its folder."
        )
    return file


def _hub_tokenizer(reference: str, provider: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(reference, "tokenizer.json"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"providers.{provider}.tokenizer {reference!r} is neither in the hub cache nor could it be downloaded: "
            f"{(str(error).splitlines() or ['?'])[0]} Nothing was changed; check name, network and HF_HUB_OFFLINE, or "
            'give a folder: a local one is written "./folder".'
        ) from error


def _plain_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception for a file it cannot read
        raise ConfigError(f"{path} is no tokenizer.json: {error}. Nothing was changed; name another.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
