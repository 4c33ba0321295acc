"""Embedding providers by API: every fault of a server, what it costs, and a real server beside the local model."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pytest
from providers import HASHING, TEXTS, Made
from pydantic import ValidationError

from revector.encoders.api import Hybrid, load_api_encoder
from revector.encoders.api.fake import (
    FakeServer,
    Fault,
    error_code,
    reordered,
    short,
    status,
    twice,
    values,
    wider,
)
from revector.encoders.check import check_same_encoder, probe_vectors
from revector.encoders.hashing import HashingEncoder
from revector.encoders.references import resolve_model
from revector.errors import (
    BadVectors,
    ConfigError,
    EncoderError,
    EncoderMismatch,
    ProviderRefused,
    TextsRefused,
)
from revector.interfaces import whole_texts
from revector.spec import ModelSpec

# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_come_in_the_order_of_the_texts_whatever_the_form_and_the_batches(made: Made, form: str) -> None:
    encoder = made.encoder(encoding_format=form, max_batch_texts=3, concurrency=4)
    texts = [*TEXTS, TEXTS[0]]
    np.testing.assert_allclose(
        encoder.encode("document", whole_texts(texts)), HASHING.encode("document", whole_texts(texts)), atol=1e-6
    )
    assert {request["encoding_format"] for request in made.server.requests} == {form}
    assert sorted(made.server.texts) == sorted(TEXTS), "equal texts are sent once"


def test_no_texts_cost_no_request(made: Made) -> None:
    assert made.encoder().encode("query", whole_texts([])).shape == (0, 64)
    assert made.server.requests == []


def test_batches_keep_to_the_limits_of_texts_and_tokens(made: Made) -> None:
    made.encoder(max_batch_texts=4, max_batch_tokens=10).encode(
        "document",
        whole_texts(
            ["a"] + ["b c d e f g h i j k l m n"] + [f"word {n} of five here" for n in range(4)] + list("opqrstuv")
        ),
    )
    sizes = [(len(r["input"]), sum(len(text.split()) for text in r["input"])) for r in made.server.requests]
    assert all(texts <= 4 and (tokens <= 10 or texts == 1) for texts, tokens in sizes)
    assert (4, 4) in sizes
    assert (2, 10) in sizes


def test_prompts_stand_before_texts_and_texts_are_cut_at_max_tokens(made: Made) -> None:
    model = ModelSpec("api:fake/words", dim=64, max_tokens=8, query_prompt="query: ", document_prompt="passage: ")
    encoder = made.encoder(model)
    encoder.encode("query", whole_texts(["a b c d e f g h i j"]))
    encoder.encode("document", whole_texts(["a b c"]))
    assert made.server.texts == ["query: a b c d e f g h", "passage: a b c"]


def test_a_narrower_width_is_asked_of_the_server_or_cut_here(made: Made) -> None:
    model = ModelSpec("api:fake/words", dim=16, max_tokens=32)
    cut_here = made.encoder(model).encode("document", whole_texts(TEXTS))
    asked = made.encoder(model, send_dimensions=True).encode("document", whole_texts(TEXTS))
    assert [request.get("dimensions") for request in made.server.requests] == [None, 16]
    np.testing.assert_allclose(cut_here, asked, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1.0, atol=1e-5)


def test_the_key_goes_to_the_server_and_is_never_shown(
    made: Made, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    made.encoder().encode("query", whole_texts(["no key wanted"]))
    monkeypatch.setenv("FAKE_KEY", "sk-right")
    with FakeServer(key="sk-right") as locked:
        encoder = Made(locked, made.clock, tokenizer).encoder(api_key_env="FAKE_KEY")
        encoder.encode("query", whole_texts(["hello"]))
        locked.key = "sk-another"
        with pytest.raises(ProviderRefused, match="FAKE_KEY") as refused:
            encoder.encode("document", whole_texts(TEXTS))
    assert made.server.keys == ["none"]
    assert locked.keys == ["sk-right"] * 2, "a refused key is not tried again, nor on every text"
    assert "sk-right" not in "".join(traceback.format_exception(refused.value))
    assert not refused.value.retryable


# Answers that are refused ---------------------------------------------------------------------------------------------


def test_a_reordered_answer_is_put_in_order_by_its_index(made: Made) -> None:
    made.server.script += [reordered()]
    np.testing.assert_allclose(
        made.encoder().encode("document", whole_texts(TEXTS)), HASHING.encode("document", whole_texts(TEXTS)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (short(), "20 texts were sent, and 19 vectors"),
        (twice(), "for 1 of them"),
        (values(lambda row: [float("nan"), *row[1:]]), "NaN"),
        (values(lambda row: [float("inf"), *row[1:]]), "NaN or infinite"),
        (values(lambda row: [1e300, *row[1:]]), "NaN or infinite"),
        (values(lambda row: [None, *row[1:]]), "NaN"),
        (values(lambda row: [0.0] * len(row)), "only zero"),
        (values(lambda row: row[1:]), "vectors of"),
        (values(lambda row: ["x", *row[1:]]), "no table"),
        (Fault(edit=lambda reply: {"error": "overloaded"}), "no list of embeddings"),
    ],
)
def test_a_short_or_unusable_answer_is_refused(made: Made, fault: Fault, said: str) -> None:
    encoder = made.encoder()
    made.server.script += [fault]
    with pytest.raises(BadVectors, match=said):
        encoder.encode("document", whole_texts(TEXTS))


def test_a_width_that_changes_is_refused_even_where_vectors_are_cut(made: Made) -> None:
    encoder = made.encoder(ModelSpec("api:fake/words", dim=16, max_tokens=32))
    made.server.script += [None, wider()]
    encoder.encode("document", whole_texts(["one"]))
    with pytest.raises(BadVectors, match="65 numbers, wanted were 64"):
        encoder.encode("document", whole_texts(["two"]))


def test_a_model_narrower_than_dim_is_refused(made: Made) -> None:
    with pytest.raises(BadVectors, match=r"64 numbers, wanted were 100 \(model.dim is 100\)"):
        made.encoder(ModelSpec("api:fake/words", dim=100, max_tokens=32)).encode("document", whole_texts(["one"]))


# Poison ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_rejected_batch_is_bisected_to_the_poison_texts(made: Made, code: int) -> None:
    made.server.poison, made.server.poison_status = {TEXTS[3], TEXTS[11]}, code
    with pytest.raises(TextsRefused, match="2 of 20 texts are refused; the first: provider 'fake'") as refused:
        made.encoder().encode("document", whole_texts(TEXTS))
    assert set(refused.value.refused) == {TEXTS[3], TEXTS[11]}
    assert f"HTTP {code}" in refused.value.refused[TEXTS[3]]
    assert not refused.value.retryable
    assert len(made.server.requests) < 2 * 2 * 2 * 5 + 2, "a path of halves, and a probe, for each poison text"
    assert made.clock.slept == []


def test_a_text_that_breaks_the_server_is_given_up_after_five_more_tries_alone(made: Made) -> None:
    made.server.poison, made.server.poison_status = {TEXTS[5]}, 500
    with pytest.raises(TextsRefused, match="6 tries failed") as refused:
        made.encoder().encode("document", whole_texts(TEXTS))
    assert set(refused.value.refused) == {TEXTS[5]}
    assert made.clock.slept == [1, 2, 4, 8, 16] * 2, "for the whole batch, and for the text alone"


def test_a_server_that_rejects_everything_is_asked_one_probe_and_no_text_alone(made: Made) -> None:
    with FakeServer(base64=False) as plain:
        made.server = plain
        with pytest.raises(ProviderRefused, match=r"even a probe text.*base64 is not supported"):
            made.encoder(encoding_format="base64").encode("document", whole_texts(TEXTS))
    assert [len(request["input"]) for request in plain.requests] == [20, 1]


@pytest.mark.parametrize(
    "fault", [status(401), status(402), status(403), status(404), error_code(429, "insufficient_quota")]
)
def test_a_refused_key_model_or_account_fails_at_once(made: Made, fault: Fault) -> None:
    made.server.script += [fault]
    with pytest.raises(ProviderRefused, match=r"all work stays due; correct providers.fake"):
        made.encoder().encode("document", whole_texts(TEXTS))
    assert len(made.server.requests) == 1


# Settings and identity ------------------------------------------------------------------------------------------------


def test_a_reference_names_provider_and_model(made: Made) -> None:
    assert resolve_model("api:tei/BAAI/bge-small-en", Path()) == "api:tei/BAAI/bge-small-en"
    for wrong in ("api:", "api:openai", "api:openai/", "api:/model"):
        with pytest.raises(ConfigError, match="api:<provider>/<model>"):
            resolve_model(wrong, Path())
    made.encoder(ModelSpec("api:fake/BAAI/bge", dim=64)).encode("query", whole_texts(["x"]))
    assert made.server.requests[0]["model"] == "BAAI/bge"


def test_what_is_missing_is_told_before_anything_is_sent(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"not in revector.toml \(there: fake\)"):
        load_api_encoder(ModelSpec("api:other/x", dim=8), {"fake": made.provider()}, Path())
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        made.encoder(api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match=r"tokenizer is './nowhere'"):
        made.encoder(tokenizer="./nowhere")
    with pytest.raises(EncoderError, match="at most 30"):
        made.encoder(max_input_tokens=30)
    for wrong in ({"base_url": "https://host/v1?key=sk-1"}, {"api_key": "sk-1"}, {"price": 1}):
        with pytest.raises(ValidationError):
            made.provider(**wrong)
    assert made.server.requests == []


def test_a_moved_server_is_the_same_encoder_only_if_its_probe_vectors_are_the_same(made: Made, tokenizer: Path) -> None:
    encoder = made.encoder()
    stored = dict(encoder.components), probe_vectors(encoder)
    another = HashingEncoder(ModelSpec("hashing", dim=64), seed=2)
    with (
        FakeServer() as moved,
        FakeServer(lambda texts: another.encode("document", whole_texts(texts))) as other,
    ):
        same, changed = (Made(one, made.clock, tokenizer).encoder() for one in (moved, other))
        assert same.fingerprint == changed.fingerprint == encoder.fingerprint
        check_same_encoder(*stored, same)
        with pytest.raises(EncoderMismatch, match="endpoint"):
            check_same_encoder(*stored, changed)


def test_another_model_tokenizer_or_setting_is_another_encoder(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_text(made.tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    prints = [
        made.encoder().fingerprint,
        made.encoder(tokenizer=str(other)).fingerprint,
        made.encoder(send_dimensions=True).fingerprint,
        made.encoder(ModelSpec("api:fake/other", dim=64, max_tokens=32)).fingerprint,
        made.encoder(ModelSpec("api:fake/words", dim=64, max_tokens=31)).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_a_hybrid_is_the_local_encoder_and_embeds_by_api(made: Made) -> None:
    hybrid = Hybrid(HASHING, made.encoder(ModelSpec("api:fake/words", dim=64)))
    sent = len(made.server.requests)
    np.testing.assert_allclose(
        hybrid.encode("query", whole_texts(TEXTS)), HASHING.encode("query", whole_texts(TEXTS)), atol=1e-6
    )
    assert len(made.server.requests) == sent + 1
    assert (hybrid.fingerprint, hybrid.components) == (HASHING.fingerprint, HASHING.components)
    check_same_encoder(HASHING.components, probe_vectors(HASHING), hybrid, probe=True)


def test_a_hybrid_of_two_models_is_refused_with_the_worst_probe(made: Made) -> None:
    with pytest.raises(EncoderMismatch, match=r"probe 15 \('Paragraph 0"):  # 32 tokens of the longest probe, not all
        Hybrid(HASHING, made.encoder())
