"""What a model says in place of people, query by query, on real pairs of models: what ``gate_proxy`` draws from.

No cross-encoder's weights are in the packages that may be installed, so the judge is another model's cosine: a document
is relevant from the number on that lets as many through as people do. MiniLM judges TF-IDF and LSA on cosqa, and
all-mpnet-base-v2 judges MiniLM on cranfield, which is a relative of it, as a judge often is.

  python -m evaluation.bench.gate_proxy_pairs --keep FOLDER --mpnet FOLDER
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench import gate_pairs
from evaluation.bench import reference_search as search
from evaluation.bench.common import PROXY_PAIRS_FILE, machine, parser
from evaluation.bench.sets import refuse_absent, take_folder

PAIRS = {
    "cosqa": (("LSA 256", "LSA 128"), ("TF-IDF", "LSA 256"), ("word vectors", "LSA 256")),
    "cranfield": (("LSA 256", "MiniLM"), ("MiniLM", "cut 256")),
}

Change = tuple[float, float]
"""New minus old by people, and by the judge."""


def main(argv: Sequence[str] | None = None) -> int:
    """Search, judge and count; return 2 if a set is not there."""
    options = parser("evaluation.bench.gate_proxy_pairs", __doc__)
    options.set_defaults(output=PROXY_PAIRS_FILE)
    take_folder(options)
    options.add_argument("--keep", type=Path, required=True, metavar="FOLDER", help="vectors are kept here")
    options.add_argument("--mpnet", type=Path, required=True, metavar="FOLDER", help="of all-mpnet-base-v2")
    chosen = options.parse_args(argv)
    refuse_absent(options, chosen.folder, list(PAIRS))
    before, pairs = machine(), list[dict[str, Any]]()
    for name, judge, model in (("cosqa", "MiniLM", gate_pairs.minilm()), ("cranfield", "mpnet", chosen.mpnet)):
        pairs += _pairs(chosen.folder / name, chosen.keep, judge, model)
    told = {"command": "python -m evaluation.bench.gate_proxy_pairs", "machine": before, "pairs": pairs}
    chosen.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


def _pairs(folder: Path, keep: Path, judge: str, model: Path) -> list[dict[str, Any]]:
    judged, qrels = gate_pairs.judged_queries(folder)
    texts = [text for _, text in judged]
    corpus = search.read_texts(folder / "corpus.jsonl")
    place = {document: at for at, document in enumerate(corpus.ids)}
    queries, documents = search.encode(model, texts, keep), search.encode(model, corpus.texts, keep)
    found, made = gate_pairs.runs(folder, texts, keep, None), list[dict[str, Any]]()
    for old, new in PAIRS[folder.name]:
        cosines = {
            (query, document): float(queries[at] @ documents[place[document]])
            for at, (query, _) in enumerate(judged)
            for document in {*found[old][at], *found[new][at]}
            if set(found[old][at]) != set(found[new][at])
        }
        people = {pair for pair in cosines if pair[1] in qrels[pair[0]]}
        least = np.sort(list(cosines.values()))[-max(1, len(people))]
        said = {pair for pair, cosine in cosines.items() if cosine >= least}
        changes = Counter[Change]()
        for at, (query, _) in enumerate(judged):
            before, after = set(found[old][at]), set(found[new][at])
            if before != after:
                by_judge = {document for document in before | after if (query, document) in said}
                changes[_change(qrels[query], before, after), _change(by_judge, before, after)] += 1
        made.append(
            {
                "set": folder.name,
                "old": old,
                "new": new,
                "judge": judge,
                "queries": len(judged),
                "same": len(judged) - changes.total(),
                "agreement": 1 - len(people ^ said) / len(cosines),
                "relevant": {"people": len(people), "both": len(people & said), "documents": len(cosines)},
                "changes": [[*change, count] for change, count in sorted(changes.items())],
            }
        )
    return made


def _change(relevant: Mapping[str, int] | set[str], before: set[str], after: set[str]) -> float:
    """Return by how much recall changes where these documents are the relevant ones; 0 where none is."""
    there = set(relevant)
    return round((len(there & after) - len(there & before)) / max(1, len(there)), 6)


if __name__ == "__main__":
    raise SystemExit(main())
