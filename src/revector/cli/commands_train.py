"""The commands of `revector train`: models made from what a collection holds, or is served by."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, model_reference, open_session
from revector.cli.output import pairs
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.interfaces import Encoder
    from revector.registry.collections import Generation as ServedGeneration
    from revector.spec import ModelSpec
    from revector.training.adapting import FittedAdapter


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    models = typer.Typer(
        help="Models made from the collection's own documents, vectors or model.", no_args_is_help=True
    )
    models.command("lsa")(train)
    models.command("pca")(rotate)
    models.command("adapter")(adapt)
    app.add_typer(models, name="train", rich_help_panel="Search")


def train(
    folder: Annotated[Path, typer.Argument(help="New folder of the model, from the project folder.")],
    *,
    dim: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 256,
    vocabulary: Annotated[int, typer.Option(min=256, help="Most tokens of its tokenizer.")] = 20_000,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Train a small model on the collection's own documents: latent semantic analysis, no download, seconds on a CPU.

    For example:
      revector train lsa models/lsa --dim 128
      revector revision -m first --model ./models/lsa
    """
    from revector.encoders.lsa import train_lsa

    session = open_session(project, collection, as_json=json)
    target = session.project.root / folder.expanduser()
    documents = session.project.documents(session.collection)
    with reporting(quiet=json) as progress:
        progress.start("read", documents.count())

        def counted() -> Iterator[str]:
            for _, text in documents.each():
                progress.advance()
                yield text
            progress.done()

        train_lsa(counted(), target, dim=dim, vocabulary=vocabulary)
    reference = model_reference(session, target)
    session.out.show(
        {"folder": str(target), "model": reference, "dim": dim},
        lambda console: console.print(
            f"Saved {target}. Use it: revector revision -m first --model {reference} --dim {dim}", soft_wrap=True
        ),
    )


def rotate(
    folder: Annotated[Path, typer.Argument(help="New folder of the model, from the project folder.")],
    *,
    sample: Annotated[int, typer.Option(min=1, help="Roughly how many stored vectors to look at.")] = 50_000,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Rotate the served model's vectors to their principal components, so that they can be cut shorter.

    A Matryoshka model may be cut as it is; any other loses less where it is cut after this. Nothing is embedded, now or
    by the revision that cuts: stored vectors are turned.

    For example:
      revector train pca models/minilm-pca
      revector revision -m "128 of 384" --model ./models/minilm-pca --dim 128
    """
    from revector.encoders.pca import train_pca
    from revector.encoders.references import model_folder
    from revector.registry.lanes import lane_of

    session = open_session(project, collection, as_json=json)
    opened, target = session.project, session.project.root / folder.expanduser()
    served = opened.searcher(session.collection).resolve()
    encoder, model = opened.encoders.of(served), served.spec.model
    _check_turnable(encoder, served)
    with opened.engine.connect() as connection:
        kept = train_pca(lane_of(served).sample(connection, sample), model_folder(model, opened.root), target)
    widths = {dim: round(float(kept[dim - 1]), 4) for dim in (32, 64, 128, 256, 512, 1_024, 2_048) if dim < model.dim}
    reference = model_reference(session, target)

    def page(console: Console) -> None:
        console.print(f"Saved {target}. Of the squared length of the vectors is kept by a cut to:")
        pairs(console, {f"{dim:,}": f"{share:.1%}" for dim, share in widths.items()})
        console.print(
            f"Use it: revector revision -m cut --model {reference} --dim N {_same_settings(model)}; with dtype and "
            f"chunking as in {served.revision}, too, nothing is embedded again.",
            soft_wrap=True,
        )

    session.out.show({"folder": str(target), "model": reference, "width": model.dim, "kept": widths}, page)


def adapt(
    folder: Annotated[Path, typer.Argument(help="New folder of the model, from the project folder.")],
    *,
    model: Annotated[str, typer.Option(help="The model whose tower for texts is new: org/name or ./folder.")],
    source: Annotated[
        str, typer.Option("--pairs", metavar="PAIRS", help="Captions: FILE.jsonl or FOLDER/qrels/SPLIT.tsv.")
    ],
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Bring a new tower for texts to where the served one puts them by a linear map, so that images stay found.

    It is fitted on captions that both embed: a rotation, beyond 1,000 captions ridge regression. The queries of pairs
    are the captions. Those by which the gate judges are left out.

    For example:
      revector train adapter models/adapted --model ./models/new-words --pairs labels/qrels/train.tsv
      revector revision -m adapted --model ./models/adapted
    """
    from revector.encoders.adapter import save_adapted
    from revector.encoders.files import refuse_existing
    from revector.encoders.references import model_folder
    from revector.encoders.specify import specify
    from revector.labels import load_labels
    from revector.training.adapting import fit_adapter
    from revector.training.pairs import read_pairs

    session = open_session(project, collection, as_json=json)
    opened, target = session.project, session.project.root / folder.expanduser()
    refuse_existing(target)
    labels = opened.labels(session.collection)
    captions = [pair.query for pair in read_pairs(source, opened.root, labels)]
    judged = [] if labels is None else load_labels(labels).queries.values()
    served = opened.searcher(session.collection).resolve()
    new = specify(model, opened.root, opened.encoders.fresh).model
    with reporting(quiet=json) as progress:
        old = opened.encoders.of(served)
        found = fit_adapter(captions, judged, old, opened.encoders.fresh(new), progress)
        save_adapted(model_folder(new, opened.root), found.matrix, target)
    reference = model_reference(session, target)
    told = {name: getattr(found, name) for name in ("way", "captions", "left_out", "before", "after")}

    session.out.show(
        {"folder": str(target), "model": reference, **told},
        lambda console: _adapted_page(console, found, reference, served.revision, new),
    )


def _adapted_page(console: Console, found: FittedAdapter, reference: str, served: str, new: ModelSpec) -> None:
    console.print(
        f"Saved {reference}: {found.way}, fitted on {found.captions:,} captions; {found.left_out:,} were left out, as "
        f"the gate judges by them or by one like them. Captions kept apart have a mean cosine of {found.after:.2f} "
        f"to where {served} puts them; without the adapter it is {found.before:.2f}.",
        soft_wrap=True,
    )
    console.print(
        f"Use it: revector revision -m adapted --model {reference} {_same_settings(new)}; its gate has to demand "
        "max_text_to_image_drop and max_image_to_text_drop, for one tower changes alone.",
        soft_wrap=True,
    )


def _check_turnable(encoder: Encoder, served: ServedGeneration) -> None:
    """Raise ``ConfigError`` for a model that cannot be copied and turned."""
    model = served.spec.model
    if encoder.components["kind"] != "sentence-transformers" or getattr(encoder, "own_dim", 0) != model.dim:
        raise ConfigError(
            f"revision {served.revision} serves {model.name!r} at {model.dim} dimensions; only a local model at its "
            "full width can be turned. Nothing was saved."
        )
    if encoder.components.get("trust_code"):
        raise ConfigError(
            f"model {model.name!r} runs code of its own (trust_code), which is not copied. Nothing was saved; only a "
            "model without can be turned."
        )


def _same_settings(model: ModelSpec) -> str:
    """Return the options that make another model see texts as this one does."""
    options = [f"--max-tokens {model.max_tokens}", "" if model.normalize else "--no-normalize"]
    options += [f"--query-prompt {shlex.quote(model.query_prompt)}"]
    options += [f"--document-prompt {shlex.quote(model.document_prompt)}"]
    return " ".join(filter(None, options))
