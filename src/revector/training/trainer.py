"""Owns the training itself: contrastive, by sentence-transformers' trainer, with checkpoints that outlive a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from revector.crash import crash_at
from revector.encoders.libraries import import_sentence_transformers, quiet
from revector.errors import ConfigError
from revector.interfaces import Progress
from revector.spec import Metric, ModelSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ModelKind = Literal["static", "transformer"]

LEARNING_RATES: Mapping[ModelKind, float] = {"static": 2e-2, "transformer": 2e-5}
"""By kind of model. A static model is one table of vectors, whose numbers each step must move far: at 2e-5 nothing can
be detected after three epochs (recall@10 on CoSQA .324 → .326), at 2e-2 it is .436. A transformer forgets at that."""

CHECKPOINT_STEPS = 500
"""A checkpoint, and a look at the loss, after each epoch, or after so many steps where an epoch is longer."""
BEST = "eval_stop_rank_ndcg@10"
_SCALES: Mapping[Metric, float] = {"cosine": 20.0, "dot": 1.0, "l2": 1.0}
"""What similarities are multiplied by in the loss: cosines, which end at 1, as sentence-transformers does."""
_STATE = "trainer_state.json"
"""Written last into a checkpoint: one without it is torn."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is trained and how: texts in columns, one row a pair, and the settings of the trainer.

    ``train`` has the columns ``anchor``, ``positive`` and ``negative_1`` …, all of one length. ``stop`` are queries by
    which the best weights are chosen, with the rows of their answers in ``stop_texts``. ``mini_batch``: rows in memory
    at once, with the gradients of the whole batch; None: all of them. ``patience``: looks without a better one.
    ``metric``: that of the model's index.
    """

    model: ModelSpec
    metric: Metric
    train: Mapping[str, Sequence[str]]
    stop: Mapping[str, set[int]]
    stop_texts: Mapping[int, str]
    epochs: int
    learning_rate: float
    batch: int
    mini_batch: int | None
    patience: int
    seed: int
    device: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What training came to: steps done, the step of the weights that are kept, and nDCG@10 at each look by the way."""

    steps: int
    best_step: int
    looks: tuple[float, ...]


def kind_of(network: SentenceTransformer) -> ModelKind:
    """Return the kind of a loaded model, which its learning rate depends on."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return "static" if isinstance(network[0], StaticEmbedding) else "transformer"


def load_network(base: Path, device: str) -> SentenceTransformer:
    """Load a model folder in float32, to be trained on ``device``."""
    import_sentence_transformers()
    import torch
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"device": device, "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
    with quiet():
        network = SentenceTransformer(str(base), **options)
    network.model_card_data.local_files_only = True  # a card would be made by asking the hub
    return network


def train(network: SentenceTransformer, lesson: Lesson, work: Path, progress: Progress) -> Learned:
    """Train ``network`` by InfoNCE on hard and in-batch negatives; it keeps the weights that rank ``stop`` best.

    Not those of the least loss there: that rises while ranking still gets better (on CoSQA from the first epoch on).
    Checkpoints lie in ``work``: after a kill, the same lesson goes on from the newest that is whole. Numbers are
    float32, on a CUDA device bfloat16 where it has that, else float16.

    Source: van den Oord et al., *Representation Learning with Contrastive Predictive Coding*, arXiv:1807.03748; in
    mini-batches by gradient caching: Gao et al., arXiv:2101.06983.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import EarlyStoppingCallback, PrinterCallback

    class Trainer(SentenceTransformerTrainer):
        """Makes no model card, for which texts would be drawn and the hub be asked."""

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """Do nothing."""

    resumed = newest_checkpoint(work)
    with quiet():
        trainer = Trainer(
            model=network,
            args=_arguments(lesson, work),
            train_dataset=Dataset.from_dict(dict(lesson.train)),
            evaluator=_evaluator(lesson),
            loss=_loss(network, lesson),
            callbacks=[EarlyStoppingCallback(lesson.patience), _reporting(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    state = trainer.state
    looks = [entry[BEST] for entry in state.log_history if BEST in entry]
    return Learned(state.global_step, state.best_global_step or state.global_step, tuple(looks))


def _evaluator(lesson: Lesson) -> Any:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    ids = {query: str(n) for n, query in enumerate(lesson.stop)}
    return InformationRetrievalEvaluator(
        queries={ids[query]: query for query in lesson.stop},
        corpus={str(row): text for row, text in lesson.stop_texts.items()},
        relevant_docs={ids[query]: set(map(str, rows)) for query, rows in lesson.stop.items()},
        query_prompt=lesson.model.query_prompt or None,
        corpus_prompt=lesson.model.document_prompt or None,
        ndcg_at_k=[10],
        map_at_k=[10],
        accuracy_at_k=[10],
        precision_recall_at_k=[10],
        mrr_at_k=[10],
        score_functions={"rank": _similarity(lesson.metric)},
        name="stop",
        write_csv=False,
    )


def newest_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint in ``work`` that is whole, or None; those that a kill tore are removed."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder)
        else:
            whole.append(folder)
    return max(whole, key=lambda folder: int(folder.name.partition("-")[2]), default=None)


def _arguments(lesson: Lesson, work: Path) -> Any:
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers

    rows = len(lesson.train["anchor"])
    every = min(CHECKPOINT_STEPS, math.ceil(rows / lesson.batch))
    cuda = lesson.device.startswith("cuda")
    bfloat16 = cuda and torch.cuda.is_bf16_supported()
    columns = [name for name in lesson.train if name != "anchor"]
    prompts = {"anchor": lesson.model.query_prompt} | dict.fromkeys(columns, lesson.model.document_prompt)
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        num_train_epochs=lesson.epochs,
        learning_rate=lesson.learning_rate,
        per_device_train_batch_size=lesson.batch,
        warmup_steps=0.1,
        seed=lesson.seed,
        data_seed=lesson.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # another pair's answer is a negative, unless it is this one's
        prompts={name: prompt for name, prompt in prompts.items() if prompt} or None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=BEST,
        greater_is_better=True,
        bf16=bfloat16,
        fp16=cuda and not bfloat16,
        use_cpu=lesson.device == "cpu",
        dataloader_pin_memory=cuda,
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )


def _loss(network: SentenceTransformer, lesson: Lesson) -> Any:
    from sentence_transformers.sentence_transformer import losses

    near: dict[str, Any] = {"similarity_fct": _similarity(lesson.metric), "scale": _SCALES[lesson.metric]}
    if lesson.mini_batch is None:
        return losses.MultipleNegativesRankingLoss(network, **near)
    if kind_of(network) == "static":
        raise ConfigError(
            "a mini-batch was asked for, and the model is static: its batches take no memory worth saving. Nothing was "
            "trained; leave it out."
        )
    return losses.CachedMultipleNegativesRankingLoss(network, mini_batch_size=lesson.mini_batch, **near)


def _similarity(metric: Metric) -> Any:
    from sentence_transformers import util

    return {"cosine": util.cos_sim, "dot": util.dot_score, "l2": util.euclidean_sim}[metric]


def _reporting(progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        """Tells the progress of ours of each step, and passes the crash point behind each checkpoint."""

        def on_train_begin(self, args: object, state: Any, control: object, **_: object) -> None:  # noqa: ARG002
            progress.start("train", state.max_steps, "steps")
            progress.advance(state.global_step)

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:  # noqa: ARG002
            progress.advance()

        def on_save(self, args: object, state: object, control: object, **_: object) -> None:  # noqa: ARG002
            crash_at("train.after_checkpoint")

        def on_train_end(self, args: object, state: object, control: object, **_: object) -> None:  # noqa: ARG002
            progress.done()

    return Reporting()
