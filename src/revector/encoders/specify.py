"""Owns how a model's own settings become those of a migration file: taken over unless something else is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revector.encoders.own import OwnSettings, own_of, read_own, read_tokenizer, text_tokens
from revector.encoders.references import is_hub_id, model_folder, resolve_model
from revector.errors import ConfigError, EncoderError
from revector.interfaces import Encoder
from revector.spec import Metric, ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TAKEN = {"dim", "max_tokens", "query_prompt", "document_prompt"}
_SHORTEST = 8
_SEARCHING = "Represent this sentence for searching relevant passages: "
_CUSTOMARY = (
    (r"\be5-(?!.*instruct)", "query: ", "passage: "),
    (r"\bbge-(small|base|large)-en", _SEARCHING, ""),
    (r"\bnomic-embed-text", "search_query: ", "search_document: "),
    (r"\bsnowflake-arctic-embed-(xs|s|m|l)$", _SEARCHING, ""),
    (r"\bmxbai-embed-large", _SEARCHING, ""),
)
"""Prompts that families of models were trained with and say in their README alone, by the model's name."""
_DOT = r"-dot-|-tas-b\b|\bcontriever\b"
"""Names of models that were trained for dot products, which their files do not say."""


@dataclass(frozen=True, slots=True)
class SpecifiedModel:
    """A model for a migration file: ``taken`` says what came from its own files, ``notes`` what it does otherwise.

    ``metric``: that of its index; None where any would do, for all of them rank vectors of length 1 alike.
    """

    model: ModelSpec
    taken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metric: Metric | None = None


HASHING_DIM = 256
"""Width of the hashing encoder, which has none of its own, where no vectors say one."""


def specify_width(name: str, dim: int | None, root: Path, load: Callable[[ModelSpec], Encoder]) -> ModelSpec:
    """Return a model as its own files say, narrower where vectors of ``dim`` numbers are. Raises as ``specify``."""
    if name.startswith("hashing"):  # any width is its own
        return ModelSpec(name, dim or HASHING_DIM)
    own = specify(name, root, load).model
    return own if dim is None or dim > own.dim else replace(own, dim=dim)


def specify(
    name: str, root: Path, load: Callable[[ModelSpec], Encoder], *, metric: Metric | None = None, **given: Any
) -> SpecifiedModel:
    """Return the model called ``name``; what is not ``given`` (fields of ``ModelSpec``) is as its own files say.

    So is the ``metric``, with the lengths of vectors, which inner products and distances depend on.
    The model is loaded, by ``load``, only where its files do not say its width or have no tokenizer.json. Raises
    ``ConfigError`` for a name that leads nowhere, for a model without a width of its own, and where the files name
    several prompts for the same use; ``EncoderError`` where there is no metric for it.
    """
    reference = resolve_model(name, root)
    if not (is_hub_id(reference) or Path(reference).is_absolute()):
        return SpecifiedModel(ModelSpec(name, **{"dim": _loaded_width(name, load, given), **given}), metric=metric)
    try:
        folder = model_folder(ModelSpec(name, 1, given.get("commit")), root)
    except EncoderError:  # not downloaded, and no way to
        if not given.keys() >= _TAKEN:
            raise
        return SpecifiedModel(
            ModelSpec(name, **given), notes=("its files are not here and were not compared",), metric=metric
        )
    own, tokenizer = read_own(name, folder), read_tokenizer(name, folder)
    own.check(name)
    if tokenizer is None or (own.dim is None and "dim" not in given):
        loaded = load(ModelSpec(name, 1, given.get("commit"), _SHORTEST))
        own, tokenizer = own_of(loaded), loaded.tokenizer
    fields = _own_fields(name, own, tokenizer, given)
    if own.metric != "cosine" and not own.unit_length and metric in (None, own.metric):
        fields["normalize"] = False
    model = ModelSpec(name, **{**fields, **given})
    metric = metric or (None if own.unit_length or model.normalize else own.metric)
    notes = (*own.ignored_by(model), *own.exceeded_by(model), *own.ranked_otherwise_by(model, metric or "cosine"))
    return SpecifiedModel(model, _taken(own, model, given), (*notes, *_by_name(name, own, given)), metric)


def compare(model: ModelSpec, metric: Metric, root: Path) -> tuple[str, ...]:
    """Return what ``model`` does otherwise than its own files say; nothing where they are not on this machine."""
    own = _own_here(model, root)
    return (*own.ignored_by(model), *own.exceeded_by(model), *own.ranked_otherwise_by(model, metric))


def metric_for(model: ModelSpec, root: Path) -> Metric:
    """Return the metric for an index over vectors of ``model``, as its own files say; cosine where they do not."""
    return "cosine" if model.normalize else _own_here(model, root).metric


def _own_here(model: ModelSpec, root: Path) -> OwnSettings:
    """Return what the files of a model say; nothing where they are not on this machine."""
    try:
        reference = resolve_model(model.name, root)
        if is_hub_id(reference) or not Path(reference).is_absolute():
            return OwnSettings()
        return read_own(model.name, Path(reference))
    except (ConfigError, EncoderError):
        return OwnSettings()


def _loaded_width(name: str, load: Callable[[ModelSpec], Encoder], given: dict[str, Any]) -> int:
    if "dim" in given:
        return int(given["dim"])
    if name.startswith("hashing"):
        raise ConfigError(f"model {name!r} has no width of its own. Nothing was written; give one with --dim.")
    loaded: Any = load(ModelSpec(name, **{"dim": 1, **given}))
    return int(loaded.own_dim)


def _own_fields(name: str, own: OwnSettings, tokenizer: Tokenizer, given: dict[str, Any]) -> dict[str, Any]:
    for role in own.several:
        if f"{role}_prompt" not in given:
            raise ConfigError(
                f"model {name!r} names several prompts for a {role} in its own files. Nothing was written; say which "
                f"text with --{role}-prompt."
            )
    prompts = {"query_prompt": own.query_prompt or "", "document_prompt": own.document_prompt or ""}
    fields: dict[str, Any] = {**prompts, "dim": own.dim}
    if own.max_length is not None:
        used = ({**prompts, **given}[role] for role in prompts)
        fields["max_tokens"] = text_tokens(tokenizer, own.max_length, *used)
    return fields


def _by_name(name: str, own: OwnSettings, given: dict[str, Any]) -> list[str]:
    """Return what a model's name says and its files do not: said to a person, never taken over."""
    called, said = name.rsplit("/", 1)[-1].lower(), []
    if (
        own.query_prompt is None
        and own.document_prompt is None
        and not {"query_prompt", "document_prompt"} & given.keys()
    ):
        for family, query, document in _CUSTOMARY:
            if re.search(family, called):
                said.append(
                    "its files name no prompts, and models of this name were trained with "
                    f"--query-prompt {query!r} --document-prompt {document!r}"
                )
    if own.similarity is None and not own.unit_length and given.get("normalize", True) and re.search(_DOT, called):
        said.append(
            "its files name no similarity, and models of this name were trained for dot products, which cosine ranks "
            "otherwise: --metric dot --no-normalize"
        )
    return said


def _taken(own: OwnSettings, model: ModelSpec, given: dict[str, Any]) -> tuple[str, ...]:
    said = {
        "query_prompt": f"query prompt {model.query_prompt!r}" if model.query_prompt else "",
        "document_prompt": f"document prompt {model.document_prompt!r}" if model.document_prompt else "",
        "max_tokens": f"{model.max_tokens:,} tokens of text (max_seq_length {own.max_length:,})"
        if own.max_length
        else "",
        "dim": f"{model.dim:,} dimensions",
        "normalize": f'metric "{own.metric}" over vectors of any length' if not model.normalize else "",
    }
    return tuple(text for name, text in said.items() if text and name not in given)
