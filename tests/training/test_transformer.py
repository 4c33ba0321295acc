"""A transformer learns by the same way: its own rate, prompts, and batches in parts where memory is short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys import ASKING, TOPICS, WORDS, Documents, write_pairs

from extras import needs
from revector.encoders.loading import load_encoder
from revector.interfaces import NoProgress
from revector.training.finetune import TrainingRequest, TrainingSite, finetune

needs("torch", "sentence_transformers", "accelerate", "bm25s", "datasets")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TrainingSite:
    """A place with a BERT of one layer, which asks with a prompt."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", *WORDS]
    (root / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "plain")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, hidden_dropout_prob=0.0, **small)
    config.attention_probs_dropout_prob = 0.0
    BertModel(config).save_pretrained(root / "plain")
    transformer = Transformer(str(root / "plain"), max_seq_length=16)
    network = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu", prompts={"query": "query "})
    network.save(str(root / "bert"), create_model_card=False)
    write_pairs(root)
    return TrainingSite(root, Documents(), None, lambda model: load_encoder(model, root=root, device="cpu"), "cpu")


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_a_batch_in_parts_has_the_gradients_of_the_whole_and_the_rate_is_that_of_transformers(
    bert: TrainingSite,
) -> None:
    asked = TrainingRequest("./bert", "pairs.jsonl", Path("whole"), epochs=1)
    record = finetune(asked, bert, NoProgress())
    assert record.parameters["learning_rate"] == 2e-5
    assert record.base["model"]["query_prompt"] == "query "
    parts = TrainingRequest("./bert", "pairs.jsonl", Path("parts"), epochs=1, mini_batch=8)
    assert finetune(parts, bert, NoProgress()).version != record.version
    before, whole, cut = (weights(bert.root / name) for name in ("bert", "whole", "parts"))
    moved = max(float(np.abs(whole[name] - before[name]).max()) for name in before)
    apart = max(float(np.abs(whole[name] - cut[name]).max()) for name in before)
    assert moved > 1e-5
    assert apart < 0.1 * moved
    saved = json.loads((bert.root / "whole" / "config_sentence_transformers.json").read_text())
    assert saved["prompts"]["query"] == "query "
    assert len(ASKING) * TOPICS == record.data["read"]
