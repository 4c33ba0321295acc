"""Owns the way from a loaded sentence-transformers model to a packed network, and what cannot go it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from revector.encoders.packed.attention import Shape, choose_attention
from revector.encoders.packed.layout import ALIGNMENT
from revector.encoders.packed.linears import Linear, compute_dtype, make_linear
from revector.encoders.packed.network import POOLINGS, Layer, Map, Network, RotaryEmbedding, Transformer

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_FAMILIES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "mpnet": "MPNetModel",
    "modernbert": "ModernBertModel",
}


class Unsupported(Exception):
    """The model cannot be reproduced exactly; the message says why."""


def _want(ok: object, otherwise: str) -> None:
    if not ok:
        raise Unsupported(otherwise)


def check_supported(network: SentenceTransformer, *, prompts: bool) -> None:
    """Raise ``Unsupported`` unless every module of ``network`` is reproduced; ``prompts``: whether one is used."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
    from sentence_transformers.sentence_transformer.modules import Transformer as Wrapper

    modules = list(network)
    names = [type(module).__name__ for module in modules]
    _want(type(modules[0]) is Wrapper, f"its first module is {names[0]}, not Transformer")
    _want(len(modules) > 1 and type(modules[1]) is Pooling, f"its modules are {', '.join(names)}, without Pooling")
    for module in modules[2:]:
        _want(type(module) in (Dense, Normalize), f"its module {type(module).__name__} is not reproduced")
        places = {str(module.module_input_name), str(module.module_output_name)}
        _want(places == {"sentence_embedding"}, f"its {type(module).__name__} works on {' and '.join(sorted(places))}")
    _want(modules[1].include_prompt or not prompts, "its pooling leaves the prompt out")
    _check_wrapper(modules[0])
    _check_transformer(modules[0].model)


def _check_wrapper(wrapper: Any) -> None:
    """Refuse what sentence-transformers would do beside tokens in, last hidden states out."""
    text = wrapper.modality_config.get("text", {})
    plain = text.get("method") == "forward" and text.get("method_output_name") in (
        "last_hidden_state",
        ("last_hidden_state",),
    )
    _want(plain and wrapper.module_output_name == "token_embeddings", "it does not give last hidden states")
    _want("message" not in wrapper.modality_config, "it takes messages")
    special = ("processing_kwargs", "query_length", "document_length", "query_expansion")
    for name in special:
        _want(not getattr(wrapper, name, None), f"its transformer module sets {name}")
    tokenizer = wrapper.tokenizer
    _want(tokenizer.padding_side == "right", "its tokenizer pads on the left")
    _want(tokenizer.num_special_tokens_to_add(), "its tokenizer adds no special tokens, so that texts may be empty")
    types = tokenizer("token types", return_token_type_ids=True)["token_type_ids"]
    _want(not any(types), "its tokenizer gives token types other than 0")


def _check_transformer(model: Any) -> None:
    config = model.config
    family = _FAMILIES.get(config.model_type)
    _want(family, f"its architecture {config.model_type!r} is not one of {', '.join(_FAMILIES)}")
    original = type(model).__name__ == family and type(model).__module__.startswith("transformers.models.")
    _want(original, f"its class {type(model).__name__} is not transformers' own")
    _want(not getattr(config, "is_decoder", False), "it is a decoder")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    _want(positions == "absolute", f"its position embeddings are {positions}")
    activation = config.hidden_activation if config.model_type == "modernbert" else config.hidden_act
    _want(activation in _ACTIVATIONS, f"its activation is {activation!r}")
    if config.model_type == "modernbert":
        for kind in set(config.layer_types):
            rope = config.rope_parameters[kind]["rope_type"]
            _want(rope == "default", f"its rotary embedding is {rope!r}")


def padding_id(network: SentenceTransformer) -> int | None:
    """Return the padding id from which the model numbers positions, or None where it counts from 0."""
    model: Any = network.transformers_model
    if model.config.model_type in ("bert", "modernbert"):
        return None
    return int(model.embeddings.padding_idx)


def extract(network: SentenceTransformer, *, device: torch.device, dtype: str) -> Network:
    """Return the packed network of a supported ``network``, on ``device``, for texts up to its ``max_seq_length``.

    Tensors are shared where device and layout allow; the caller drops ``network`` afterwards, so that nothing fused
    or laid out again is kept twice.
    """
    modules: list[Any] = list(network)
    model, pooling = modules[0].model, modules[1]
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    _want(set(modes) <= set(POOLINGS), f"its pooling is {modes}")
    source = _Source(model, device, dtype, max(int(network.max_seq_length or 0), ALIGNMENT))
    transformer = source.transformer()
    return Network(transformer, modes, tuple(deepcopy(module).float().to(device) for module in modules[2:]))


@dataclass(frozen=True)
class _Source:
    """A transformers model that is being turned into a packed one."""

    model: Any
    device: torch.device
    dtype: str
    longest: int

    def transformer(self) -> Transformer:
        config = self.model.config
        heads = config.num_attention_heads
        family = config.model_type
        make = {"mpnet": self._mpnet_layers, "modernbert": self._modern_layers}.get(family, self._bert_layers)
        attend = choose_attention(
            self.device,
            compute_dtype(self.dtype, self.device),
            width=config.hidden_size // heads,
            biased=family == "mpnet",
        )
        modern = family == "modernbert"
        return Transformer(
            embed=self._modern_embeddings() if modern else self._embeddings(),
            layers=list(make()),
            final_norm=self._norm(self.model.final_norm) if modern else None,
            heads=heads,
            attend=attend,
        )

    def _bert_layers(self) -> Iterator[Layer]:
        for n, layer in enumerate(self.model.encoder.layer):
            attention = layer.attention
            own = attention.self
            yield self._post_layer(
                n, layer, [own.query, own.key, own.value], attention.output.dense, attention.output.LayerNorm, Shape()
            )

    def _mpnet_layers(self) -> Iterator[Layer]:
        import torch

        encoder = self.model.encoder
        length = torch.empty(1, self.longest, device=encoder.relative_attention_bias.weight.device)
        shape = Shape(bias=self._kept(encoder.compute_position_bias(length)[0]))
        for n, layer in enumerate(encoder.layer):
            attention = layer.attention
            own = attention.attn
            yield self._post_layer(n, layer, [own.q, own.k, own.v], own.o, attention.LayerNorm, shape)

    def _post_layer(self, n: int, layer: Any, qkv: list[Any], out: Any, norm: Any, shape: Shape) -> Layer:
        activation = _ACTIVATIONS[self.model.config.hidden_act]
        return Layer(
            qkv=self._linear(qkv, f"layer{n}.attention.qkv"),
            out=self._linear([out], f"layer{n}.attention.out"),
            up=self._linear([layer.intermediate.dense], f"layer{n}.ffn.up", activation),
            down=self._linear([layer.output.dense], f"layer{n}.ffn.down"),
            attention_norm=self._norm(norm),
            feed_norm=self._norm(layer.output.LayerNorm),
            shape=shape,
        )

    def _modern_layers(self) -> Iterator[Layer]:
        config = self.model.config
        activation = _ACTIVATIONS[config.hidden_activation]
        rotations = {kind: self._rotation(kind) for kind in set(config.layer_types)}
        for n, layer in enumerate(self.model.layers):
            local = layer.attention_type == "sliding_attention"
            up, gate = layer.mlp.Wi.weight.chunk(2)
            biases = (None, None) if layer.mlp.Wi.bias is None else layer.mlp.Wi.bias.chunk(2)
            yield Layer(
                qkv=self._linear([layer.attn.Wqkv], f"layer{n}.attention.qkv"),
                out=self._linear([layer.attn.Wo], f"layer{n}.attention.out"),
                up=self._map(up, biases[0], f"layer{n}.ffn.up", activation),
                gate=self._map(gate, biases[1], f"layer{n}.ffn.gate"),
                down=self._linear([layer.mlp.Wo], f"layer{n}.ffn.down"),
                attention_norm=self._norm(layer.attn_norm),
                feed_norm=self._norm(layer.mlp_norm),
                shape=Shape(window=config.sliding_window if local else None),
                pre_norm=True,
                rotation=rotations[layer.attention_type],
            )

    def _rotation(self, kind: str) -> RotaryEmbedding:
        import torch

        positions = torch.arange(self.longest)[None]
        cos, sin = self.model.rotary_emb(torch.empty(0), positions, kind)
        return RotaryEmbedding(cos[0].to(self.device), sin[0].to(self.device))

    def _linear(self, modules: list[Any], role: str, activation: str = "none") -> Linear:
        import torch

        _want(all(type(module) is torch.nn.Linear for module in modules), f"its {role} is no plain linear map")
        if len(modules) == 1:
            return self._map(modules[0].weight, modules[0].bias, role, activation)
        weight = torch.cat([module.weight for module in modules])
        bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules])
        return self._map(weight, bias, role, activation)

    def _map(self, weight: Tensor, bias: Tensor | None, role: str, activation: str = "none") -> Linear:
        weight = weight.detach().to(self.device)
        bias = None if bias is None else bias.detach().to(self.device)
        return make_linear(weight, bias, dtype=self.dtype, role=role, activation=activation)

    def _norm(self, module: Any) -> Map:
        import torch
        import torch.nn.functional as F  # noqa: N812

        if type(module) is torch.nn.Identity:
            return lambda hidden: hidden
        _want(type(module) is torch.nn.LayerNorm, f"its norm {type(module).__name__} is no LayerNorm")
        weight, bias = self._kept(module.weight), None if module.bias is None else self._kept(module.bias)
        return partial(F.layer_norm, normalized_shape=module.normalized_shape, weight=weight, bias=bias, eps=module.eps)

    def _embeddings(self) -> Callable[[Tensor, Tensor], Tensor]:
        import torch.nn.functional as F  # noqa: N812

        own = self.model.embeddings
        words, places = self._kept(own.word_embeddings.weight), own.position_embeddings.weight
        if hasattr(own, "token_type_embeddings"):
            # Every text is of token type 0 (checked), so one table serves for both.
            places = places.float() + own.token_type_embeddings.weight[0].float()
        places, norm = self._kept(places), self._norm(own.LayerNorm)
        return lambda ids, positions: norm(F.embedding(ids, words).add_(F.embedding(positions, places)))

    def _modern_embeddings(self) -> Callable[[Tensor, Tensor], Tensor]:
        import torch.nn.functional as F  # noqa: N812

        own = self.model.embeddings
        words, norm = self._kept(own.tok_embeddings.weight), self._norm(own.norm)
        return lambda ids, _positions: norm(F.embedding(ids, words))

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, compute_dtype(self.dtype, self.device))
