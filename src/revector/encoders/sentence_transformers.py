"""Owns encoding with sentence-transformers models on CPU, CUDA and MPS, of text, and of images where they can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector.encoders.check import check_vectors, fingerprint_of, settings_of, texts_of, unit_rows
from revector.encoders.code import check_code
from revector.encoders.files import file_hashes
from revector.encoders.images import ImageEngine, image_libraries, kinds_of, towers
from revector.encoders.libraries import first_line, import_sentence_transformers, missing_libraries, quiet
from revector.encoders.own import UNLIMITED, OwnSettings, read_own, text_tokens
from revector.encoders.pca import read_rotation
from revector.errors import ConfigError, EncoderError
from revector.interfaces import Kind, Piece, Side, Vectors
from revector.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

CPU_PADDED_TOKENS, GPU_PADDED_TOKENS = 2048, 32_768
"""Tokens of a padded batch where sentence-transformers itself runs the model: at 256 tokens 8 texts on CPU, where that
needs 13 % less processor time than 32, and 63 % less than 256 (padding)."""

_LOGGER = logging.getLogger(__name__)

LOADING = threading.Lock()
"""Held while a model is built: transformers sets torch's default dtype for the whole process meanwhile."""

_Engine = Callable[[Sequence[str], Side, str], npt.NDArray[np.float32]]
_LIBRARIES = ("torch", "sentence-transformers", "transformers", "tokenizers")
_INTEGERS = ("int8", "int7")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", ".model")


class SentenceTransformerEncoder:
    """A sentence-transformers model, checked against its specification when it is loaded.

    ``model.max_tokens`` counts tokens of the text alone: the special tokens and the prompt get room on top, so that a
    chunk within ``max_tokens`` is never cut; longer texts are cut at their end. Static embeddings have no limit of
    their own and are cut by their tokenizer. Only the prompts of ``model`` are used; those of its files are in ``own``.
    A width below the model's own is a cut to the first dimensions, then normalised again (Matryoshka representation
    learning, Kusupati et al., 2022). Calls from several threads wait for each other.

    Models of known architecture run on packed tokens (``revector.encoders.packed``), any other on sentence-transformers
    itself; ``engine`` says which, and why. In float32, bfloat16 and float16 both give the same vectors up to rounding,
    so the engine is no part of the identity, nor are ``device`` and ``batch_tokens`` (see ``load_encoder``).
    ``trust_code``: whether Python files in the folder are run; then they are part of the identity.
    """

    def __init__(
        self,
        model: ModelSpec,
        *,
        folder: Path,
        device: str = "auto",
        batch_tokens: int | None = None,
        packed: bool = True,
        trust_code: bool = False,
    ) -> None:
        self._model, self._folder, self._trust_code = model, folder, trust_code
        self._lock = threading.Lock()
        check_code(model.name, folder, trusted=trust_code)
        files = file_hashes(folder, code=trust_code)
        if not any(name.endswith(_TOKENIZERS) for name in files):
            # transformers would go on with an empty vocabulary: every word unknown, all texts alike.
            raise _unloadable(model, folder, "there is no tokenizer.json, vocab file or sentencepiece model.")
        self.own: OwnSettings = read_own(model.name, folder)
        """What the model's own files say of its use."""
        network, self._devices = _load(model, folder, device, trust_code=trust_code)
        self._kinds = kinds_of(network)
        self._towers = towers(network, files, model) if len(self._kinds) > 1 else {}
        self._images = ImageEngine(network, model.dim) if len(self._kinds) > 1 else None
        self._tokenizer = _plain_tokenizer(model, network)
        own = network.get_embedding_dimension()
        if own is None or own < model.dim:
            raise EncoderError(
                f"model.dim is {model.dim}, but model {model.name!r} gives {own} dimensions: a cut can only be "
                f"narrower. Nothing was changed; set model.dim to at most {own}, or name another model."
            )
        self._own_dim = own
        self.own = replace(self.own, dim=own, max_length=self.own.max_length or _length_of(network))
        self._limit_length(network)
        self._engine, self.engine = self._choose_engine(network, batch_tokens, packed=packed)
        self.slow = self._slow()
        """What of its settings does not make it faster on this machine, one clause each."""
        _LOGGER.info("model %s runs on %s by %s", model.name, self.device, self.engine)
        sees = self._images is not None
        self._components = {
            "kind": "sentence-transformers",
            "files": files,
            **settings_of(model),
            **({"trust_code": True} if trust_code else {}),
            **({"towers": self._towers} if sees else {}),
            "libraries": {name: version(name) for name in _LIBRARIES} | (image_libraries() if sees else {}),
        }
        self._fingerprint = fingerprint_of(self._components)
        self.rotation = read_rotation(folder, self._components)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Text, and images where the model has a tower for them."""
        return self._kinds

    @property
    def dim(self) -> int:
        """Width of the vectors, after the cut."""
        return self._model.dim

    @property
    def own_dim(self) -> int:
        """Width of the model itself, before the cut."""
        return self._own_dim

    @property
    def device(self) -> str:
        """Where the model runs: ``cpu``, ``cuda:0``, ``cuda:0,cuda:1``, …; no part of the identity."""
        return ",".join(map(str, self._devices))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files that shape vectors and of the settings, without library versions."""
        return self._fingerprint

    @property
    def components(self) -> Mapping[str, object]:
        """What went into the fingerprint, by name, and ``libraries`` with their versions."""
        return self._components

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer, as a copy without truncation and padding."""
        return self._tokenizer

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` without special tokens, untruncated."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed texts with the prompt of ``side``, and images: ``(len(pieces), dim)`` float32.

        Raises ``BadVectors``, ``DocumentError`` for an image that shows nothing.
        """
        blobs = [piece.content.blob for piece in pieces if piece.content.kind == "image"] if self._images else []
        texts = texts_of([piece for piece in pieces if piece.content.kind != "image"] if blobs else pieces)
        with self._lock:
            vectors = self._engine(texts, side, self._model.prompt_of(side))
            seen = self._images(blobs, side) if self._images and blobs else vectors[:0]
        if blobs:
            rows = {"text": iter(vectors), "image": iter(seen)}
            vectors = np.stack([next(rows[piece.content.kind]) for piece in pieces])
        checked = check_vectors(vectors, len(pieces), self.dim)
        # Unit length to float32 precision, whatever dtype the model computes in.
        return unit_rows(checked) if self._model.normalize else checked

    def reference(self) -> SentenceTransformerEncoder | None:
        """Return the model as its own files say, in float32 by sentence-transformers itself; None where that runs here.

        Prompts are those of the files, and texts are cut where the files say.
        """
        plain = replace(self.own.applied_to(self._model), dtype="float32")
        if self.engine != "packed" and plain == self._model:
            return None
        if (limit := self.own.max_length) is not None:
            own_tokens = text_tokens(self._tokenizer, limit, plain.query_prompt, plain.document_prompt)
            plain = replace(plain, max_tokens=min(plain.max_tokens, own_tokens))
        device = str(self._devices[0])
        with LOADING:
            return SentenceTransformerEncoder(
                plain, folder=self._folder, device=device, packed=False, trust_code=self._trust_code
            )

    def _choose_engine(
        self, network: SentenceTransformer, batch_tokens: int | None, *, packed: bool
    ) -> tuple[_Engine, str]:
        """Return what embeds (texts, side, prompt), and its name; the packed engine leaves ``network`` to be freed."""
        from revector.encoders.packed import PackedEngine, Unsupported

        model, dim = self._model, self.dim
        prompts = bool(model.query_prompt or model.document_prompt)
        if not packed:
            return self._padded(network, batch_tokens), "sentence-transformers: as the reference"
        try:
            engine = PackedEngine(
                network, devices=self._devices, dtype=model.dtype, batch_tokens=batch_tokens, prompts=prompts
            )
        except Unsupported as reason:
            if model.dtype in _INTEGERS:
                raise EncoderError(
                    f"{model.dtype} was asked for by model.dtype, but the packed engine cannot run model "
                    f"{model.name!r}: {reason}. Nothing was embedded; write a revision with model.dtype bfloat16 or "
                    "float32."
                ) from reason
            self._devices = self._devices[:1]
            return self._padded(network, batch_tokens), f"sentence-transformers: {reason}"
        return lambda texts, _side, prompt: engine.encode([prompt + text for text in texts], dim), "packed"

    def _slow(self) -> tuple[str, ...]:
        from revector.encoders.packed import no_faster

        clause = no_faster(self._model.dtype, self.device) if self.engine == "packed" else ""
        return (f"model.dtype: {clause}",) if clause else ()

    def _padded(self, network: SentenceTransformer, batch_tokens: int | None) -> _Padded:
        return _Padded(network.to(self._devices[0]), self._model, self._tokenizer, batch_tokens)

    def _limit_length(self, network: SentenceTransformer) -> None:
        """Make the model cut texts at ``max_tokens``, or refuse what exceeds its positions."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        model = self._model
        prompt = max(self.count_tokens(model.query_prompt), self.count_tokens(model.document_prompt))
        reader = _reader(network)
        if isinstance(reader, StaticEmbedding):
            reader.tokenizer.enable_truncation(max_length=model.max_tokens + prompt)
            return
        special = self._tokenizer.num_special_tokens_to_add(False)
        wanted, limit = model.max_tokens + special + prompt, _position_limit(network)
        if limit is not None and wanted > limit:
            raise EncoderError(
                f"model.max_tokens is {model.max_tokens}; with {special} special tokens and a prompt of {prompt} that "
                f"is {wanted}, but model {model.name!r} has {limit} positions. Nothing was changed; set "
                f"model.max_tokens to at most {limit - special - prompt}."
            )
        network.max_seq_length = wanted


class _Padded:
    """Embedding by sentence-transformers itself; where memory runs out, its batches halve for good."""

    def __init__(
        self, network: SentenceTransformer, model: ModelSpec, tokenizer: Tokenizer, batch_tokens: int | None
    ) -> None:
        self._budget = batch_tokens or (CPU_PADDED_TOKENS if network.device.type == "cpu" else GPU_PADDED_TOKENS)
        self._network, self._tokenizer, self._limit, self._dim = network, tokenizer, model.max_tokens, model.dim

    def __call__(self, texts: Sequence[str], side: Side, prompt: str) -> npt.NDArray[np.float32]:
        from revector.encoders.packed import is_out_of_memory

        if not len(texts):
            return np.empty((0, self._dim), dtype=np.float32)
        encode = self._network.encode_query if side == "query" else self._network.encode_document
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        longest = min(self._limit, max(1, *(len(one.ids) for one in encoded)))
        while True:
            rows = max(1, self._budget // longest)
            try:
                found = encode(list(texts), prompt=prompt, batch_size=rows, show_progress_bar=False)
                return np.asarray(found, dtype=np.float32)[:, : self._dim]
            except RuntimeError as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            self._budget //= 2


def _load(
    model: ModelSpec, folder: Path, device: str, *, trust_code: bool
) -> tuple[SentenceTransformer, list[torch.device]]:
    try:
        import torch
        from safetensors import SafetensorError

        import_sentence_transformers()
    except ImportError as error:
        raise missing_libraries(model.name) from error
    from sentence_transformers import SentenceTransformer

    devices = usable_devices(device)
    # Integers are rounded from the float32 weights.
    dtype: torch.dtype = torch.float32 if model.dtype in _INTEGERS else getattr(torch, model.dtype)
    # Loaded on the CPU first: a RuntimeError from there is the model's, one from the move is the device's (out of
    # memory) and may be retried.
    kwargs: dict[str, Any] = {"device": "cpu", "local_files_only": True, "trust_remote_code": trust_code}
    kwargs["model_kwargs"] = {"dtype": dtype, "weights_only": True}
    try:
        with quiet() as warnings:
            network = SentenceTransformer(str(folder), **kwargs)
    except UnpicklingError as error:
        raise _unloadable(
            model, folder, "its pickle holds more than weights, and was not unpacked (or it is damaged)."
        ) from error
    except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = f'it needs code of its own, for which [models."{model.name}"] in revector.toml has trust_code.'
        raise _unloadable(model, folder, reason) from error
    if invented := _invented_weights(warnings):
        raise _unloadable(
            model,
            folder,
            f"its file lacks {len(invented)} weights ({', '.join(invented[:3])}…), to be filled at random.",
        )
    network.to(dtype=dtype)
    network.eval()
    return network, devices


def _unloadable(model: ModelSpec, folder: Path, reason: str) -> EncoderError:
    return EncoderError(
        f"model {model.name!r} in {folder} cannot be loaded: {reason} Nothing was changed; check that the folder is "
        "complete (weights, tokenizer, config) and was saved by sentence-transformers."
    )


def _invented_weights(warnings: Sequence[str]) -> list[str]:
    """Return the weights that transformers reports as filled at random; a pooler is not used for sentence vectors."""
    rows = (line.split("|") for warning in warnings for line in warning.splitlines() if "|" in line)
    missing = sorted(row[0].strip() for row in rows if "MISSING" in row[1])
    return [name for name in missing if "pooler." not in name]


def usable_devices(names: str) -> list[torch.device]:
    """Return the devices that ``names`` asks for: ``auto``, ``all``, or names separated by commas.

    ``auto`` is the first CUDA device, else MPS, else the CPU; ``all`` is every CUDA device; a device named twice runs
    two batches at a time. Raises ``ConfigError`` for one that this machine does not have.
    """
    import torch

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    usable = ["cpu", *(["cuda", "all"] if cuda else []), *cuda, *mps]
    if names == "auto":
        return [torch.device([*cuda, *mps, "cpu"][0])]
    asked = [name.strip() for name in names.split(",")]
    if unusable := [name for name in asked if name not in usable or (name == "all" and len(asked) > 1)]:
        raise ConfigError(
            f"device {unusable[0]!r} cannot be used on this machine. Nothing was changed; usable here: auto, "
            f"{', '.join(usable)}; several names are separated by commas."
        )
    return [torch.device("cuda:0" if name == "cuda" else name) for name in (cuda if asked == ["all"] else asked)]


def _plain_tokenizer(model: ModelSpec, network: SentenceTransformer) -> Tokenizer:
    """Return a copy of the tokenizer: the original's truncation and padding change with every call."""
    from tokenizers import Tokenizer

    own = network.tokenizer
    backend = own if isinstance(own, Tokenizer) else getattr(own, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EncoderError(
            f"model {model.name!r} has no fast tokenizer (found {type(own).__name__}), which chunking by tokens needs. "
            "Nothing was changed; save the model with a tokenizer.json."
        )
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _length_of(network: SentenceTransformer) -> int | None:
    """Return how many tokens the model sees where its files do not say; None where nothing limits them."""
    limits = [network.max_seq_length, _position_limit(network)]
    return min((one for one in limits if one is not None and one < UNLIMITED), default=None)


def _reader(network: SentenceTransformer) -> Any:
    """Return the first module that a document's text goes through: behind a router, the first of its route."""
    from sentence_transformers.base.modules import Router

    first = network[0]
    if not isinstance(first, Router):
        return first
    routes: Any = first.sub_modules
    return routes[first._resolve_route("document", "text")][0]


def _position_limit(network: SentenceTransformer) -> int | None:
    """Return how many positions the transformer of texts has; None for relative positions and static embeddings."""
    transformer = getattr(_reader(network), "auto_model", None)
    if transformer is None:
        return None
    positions = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if positions is not None and hasattr(positions, "num_embeddings"):
        # RoBERTa and its kin number positions from padding_idx + 1.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        return int(positions.num_embeddings - first)
    limit = getattr(transformer.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None
