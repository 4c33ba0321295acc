"""Owns what a model's own files say about its use: prompts, length, width and similarity; read without loading it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from revector.encoders.pca import MANIFEST
from revector.errors import EncoderError
from revector.interfaces import Encoder, Side
from revector.spec import Metric, ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = "config_sentence_transformers.json"
_LENGTHS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers looks for ``max_seq_length``, in its order."""
_PADDED_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text", "xmod"}
"""Types of model that number positions from the padding token's id + 1, so that the first ones are never used."""
UNLIMITED = 1_000_000
"""Tokenizers without a limit say 10^30."""
_SAME_WIDTH = {"Normalize", "Dropout", "LayerNorm"}
_SIDES: Mapping[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts by what they are for, as sentence-transformers documents them, in its order."""
_LIKE: Mapping[Side, set[str]] = {
    "query": {"query", "queries", "question"},
    "document": {"document", "documents", "doc", "passage", "passages", "corpus"},
}
_RETRIEVAL = {"retrieval", "search", "s2p"}
_METRICS: Mapping[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
"""Metrics by sentence-transformers' names of similarities."""

_KIND = "SentenceTransformer"


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """How a model wants to be used, as far as its files say.

    ``dim``: width of its vectors; ``max_length``: tokens of a text with special tokens and prompt; None where the files
    do not say. A prompt is None where they name none for either side, and where they name several for this one, which
    is then in ``several``. ``similarity``: ``cosine``, ``dot``, ``euclidean`` or ``manhattan``; None where they name
    none, and sentence-transformers takes cosine. ``unit_length``: whether it normalizes its vectors itself. ``kind``:
    the class of sentence-transformers that it was saved from.
    """

    dim: int | None = None
    max_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    several: tuple[Side, ...] = ()
    similarity: str | None = None
    unit_length: bool = False
    kind: str = _KIND

    @property
    def metric(self) -> Metric:
        """The metric that the model was trained for; cosine where its files say none."""
        return _METRICS.get(self.similarity or "cosine", "cosine")

    def check(self, name: str) -> None:
        """Raise ``EncoderError`` where no index compares vectors of model ``name`` as it was trained to."""
        if self.kind != _KIND:
            raise EncoderError(
                f"model {name!r} is a {self.kind}, as {SETTINGS} in its folder says, and gives no vectors that can be "
                "compared. Nothing was changed; choose a model for embeddings."
            )
        if self.similarity is not None and self.similarity not in _METRICS:
            raise EncoderError(
                f'model {name!r}: {SETTINGS} in its folder says similarity_fn_name "{self.similarity}", and an index '
                f"compares by {', '.join(_METRICS)}: its results would be wrong. Nothing was changed; choose a model "
                "that was trained for one of these."
            )

    def ranked_otherwise_by(self, model: ModelSpec, metric: Metric) -> tuple[str, ...]:
        """Return a clause where an index of ``metric`` over vectors of ``model`` ranks otherwise than the files say.

        Vectors of length 1, the model's own or by ``model.normalize``, have one order by all metrics: that of cosine.
        """
        if self.similarity is None or self.unit_length or self.metric == ("cosine" if model.normalize else metric):
            return ()
        found = "model.normalize gives all vectors length 1" if model.normalize else f'index.metric is "{metric}"'
        meant = f'index.metric "{self.metric}"' + ("" if self.metric == "cosine" else " with model.normalize False")
        said = f'the model\'s own files say similarity_fn_name "{self.similarity}"'
        return (f"{found}, and {said}: it was trained for {meant}",)

    def applied_to(self, model: ModelSpec) -> ModelSpec:
        """Return ``model`` with the prompts that the files say, where they say one."""
        query, document = self.query_prompt, self.document_prompt
        return replace(
            model,
            query_prompt=model.query_prompt if query is None else query,
            document_prompt=model.document_prompt if document is None else document,
        )

    def ignored_by(self, model: ModelSpec) -> tuple[str, ...]:
        """Return a clause for each prompt of the files that ``model`` does not use."""
        own = self.applied_to(model)
        return tuple(
            f"model.{name} is {used!r}, and the model's own files say {prompt!r}"
            for name, used, prompt in (
                ("query_prompt", model.query_prompt, own.query_prompt),
                ("document_prompt", model.document_prompt, own.document_prompt),
            )
            if used != prompt
        )

    def exceeded_by(self, model: ModelSpec) -> tuple[str, ...]:
        """Return a clause where ``model`` takes longer texts than the files say."""
        if self.max_length is None or model.max_tokens <= self.max_length:
            return ()
        said = f"model.max_tokens is {model.max_tokens:,}, and the model's own files say max_seq_length"
        return (f"{said} {self.max_length:,}: it was not trained on longer texts",)


@runtime_checkable
class FromFiles(Protocol):
    """An encoder whose files say how the model wants to be used."""

    own: OwnSettings


def own_of(encoder: Encoder) -> OwnSettings:
    """Return what the files of ``encoder``'s model say of its use; nothing where it has none."""
    return encoder.own if isinstance(encoder, FromFiles) else OwnSettings()


def read_own(name: str, folder: Path) -> OwnSettings:
    """Return what the files of model ``name`` in ``folder`` say.

    Raises ``EncoderError`` for a file that cannot be read and for prompts that are no texts.
    """
    files = _Files(name, folder)
    said = files.read(SETTINGS)
    prompts: dict[Side, set[str]] = {side: _named(side, _prompts(name, said), said) for side in _SIDES}
    dim, cut = files.width(), said.get("truncate_dim")
    return OwnSettings(
        dim=min(dim, cut) if dim and isinstance(cut, int) else dim,
        max_length=files.length(),
        query_prompt=_only(prompts["query"], "" if prompts["document"] else None),
        document_prompt=_only(prompts["document"], "" if prompts["query"] else None),
        several=tuple(side for side, texts in prompts.items() if len(texts) > 1),
        similarity=str(said["similarity_fn_name"]) if said.get("similarity_fn_name") else None,
        unit_length=files.unit_length(),
        kind=str(said.get("model_type") or _KIND),
    )


def read_tokenizer(name: str, folder: Path) -> Tokenizer | None:
    """Return the tokenizer in ``folder`` without truncation and padding; None where there is no tokenizer.json."""
    from tokenizers import Tokenizer

    path = _Files(name, folder).tokenizer()
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise _unreadable(name, path, str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def text_tokens(tokenizer: Tokenizer, max_length: int, *prompts: str) -> int:
    """Return how many tokens special tokens and the longest of ``prompts`` leave of ``max_length``, at least 8."""
    taken = max(len(tokenizer.encode(prompt, add_special_tokens=False).ids) for prompt in prompts)
    return max(8, max_length - tokenizer.num_special_tokens_to_add(False) - taken)


# Prompts --------------------------------------------------------------------------------------------------------------


def _prompts(name: str, said: Mapping[str, Any]) -> dict[str, str]:
    found = said.get("prompts") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str | None) for text in found.values()):
        raise EncoderError(
            f"model {name!r}: prompts in {SETTINGS} is no table of names and texts. Nothing was changed; correct the "
            "file."
        )
    return {prompt: text or "" for prompt, text in found.items()}


def _named(side: Side, prompts: Mapping[str, str], said: Mapping[str, Any]) -> set[str]:
    """Return the prompt for a side: by the names that sentence-transformers knows, by a name like them, by default.

    Empty ones are passed over, for sentence-transformers writes ``"document": ""`` beside a model's own ``passage``.
    ``default_prompt_name`` counts where no prompt is named after this side, unless it is named after the other one.
    """
    named = {prompt: text for prompt, text in prompts.items() if text}
    for known in _SIDES[side]:
        if known in named:
            return {named[known]}
    alike = {prompt: text for prompt, text in named.items() if _is_for(side, prompt)}
    retrieval = {prompt: text for prompt, text in alike.items() if _RETRIEVAL & set(_words(prompt))}
    if alike:
        return set((retrieval or alike).values())
    default = said.get("default_prompt_name")
    if (
        not isinstance(default, str)
        or default not in named
        or _is_for("document" if side == "query" else "query", default)
    ):
        return set()
    return {named[default]}


def _only(texts: set[str], otherwise: str | None) -> str | None:
    return otherwise if not texts else next(iter(texts)) if len(texts) == 1 else None


def _words(prompt: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", prompt.lower())


def _is_for(side: Side, prompt: str) -> bool:
    """Whether a prompt's name says so: ``search_query``, ``retrieval.passage``, ``Retrieval-document``."""
    return _words(prompt)[-1:] != [] and _words(prompt)[-1] in _LIKE[side]


# Width, length, similarity --------------------------------------------------------------------------------------------


class _Files:
    """The JSON files of a model folder; what is absent is empty."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        found = self._json(folder / "modules.json", list)
        # Without modules.json sentence-transformers takes the transformer and the mean of its tokens.
        self._modules = [("Transformer", "")] if found is None else [_module(entry) for entry in found]

    def read(self, *parts: str) -> dict[str, Any]:
        return self._json(self._folder.joinpath(*parts), dict) or {}

    def _json(self, path: Path, kind: type[Any]) -> Any:
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _unreadable(self._name, path, str(error)) from error
        if not isinstance(found, kind):
            raise _unreadable(self._name, path, f"it holds no {'list' if kind is list else 'table'}")
        return found

    def width(self) -> int | None:
        for kind, path in reversed(self._modules):
            if kind in _SAME_WIDTH:
                continue
            match kind:
                case "Pooling":
                    return _pooled(self.read(path, "config.json"))
                case "Dense":
                    return _positive(self.read(path, "config.json").get("out_features"))
                case "StaticEmbedding":
                    return _columns(self._folder / path / "model.safetensors")
                case "Transformer":
                    return _positive(self.read(path, "config.json").get("hidden_size"))
            return None
        return None

    def unit_length(self) -> bool:
        # The rotation of `revector train pca` keeps lengths.
        rotated = self._modules[-1:] if (self._folder / MANIFEST).is_file() else []
        kinds = [kind for kind, _ in (self._modules[:-1] if rotated else self._modules)]
        return bool(kinds) and kinds[-1] == "Normalize"

    def length(self) -> int | None:
        """Return how many tokens sentence-transformers lets the model see, within its positions."""
        kind, path = self._modules[0] if self._modules else ("", "")
        if kind != "Transformer":
            return None
        config = self.read(path, "config.json")
        said = next(filter(None, (self.read(path, name) for name in _LENGTHS)), {}).get("max_seq_length")
        if said is None:
            said = self.read(path, "tokenizer_config.json").get("model_max_length")
        limits = [_positive(said), _positions(config)]
        return min((one for one in limits if one is not None and one < UNLIMITED), default=None)

    def tokenizer(self) -> Path:
        return self._folder / (self._modules[0][1] if self._modules else "") / "tokenizer.json"


def _unreadable(name: str, path: Path, reason: str) -> EncoderError:
    return EncoderError(
        f"model {name!r}: {path} cannot be read: {reason}. Nothing was changed; the folder must be as "
        "sentence-transformers saved it."
    )


def _module(entry: Any) -> tuple[str, str]:
    """Return class and folder of an entry of modules.json."""
    entry = entry if isinstance(entry, dict) else {}
    return str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))


def _positive(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < float("inf") else None


def _pooled(config: Mapping[str, Any]) -> int | None:
    """Return the width after pooling: as many times that of a token as there are modes."""
    width = _positive(config.get("embedding_dimension", config.get("word_embedding_dimension")))
    mode = config.get("pooling_mode")
    if mode is None:
        modes = sum(value is True for name, value in config.items() if name.startswith("pooling_mode_"))
    else:
        modes = 1 if isinstance(mode, str) else len(mode)
    return None if width is None else width * max(1, modes)


def _positions(config: Mapping[str, Any]) -> int | None:
    limit = _positive(config.get("max_position_embeddings"))
    if limit is not None and config.get("model_type") in _PADDED_POSITIONS:
        padding = config.get("pad_token_id", 1)
        limit -= (padding if isinstance(padding, int) else 1) + 1
    return limit


def _columns(path: Path) -> int | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            shape = file.get_slice("embedding.weight").get_shape()
    except (OSError, SafetensorError):
        return None
    return int(shape[1]) if len(shape) == 2 else None
