"""Owns which queries can be searched for: checked as documents are, refused where a model could not tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from revector.documents.text import clean_query
from revector.encoders.vocabulary import Vocabulary, excerpt
from revector.errors import DocumentError, QueryRefused
from revector.formats.images import ImageLimits, check_image
from revector.interfaces import Content, Kind, Piece
from revector.spec import Revision

NAMED = 10


def ready(query: str, revision: Revision, vocabulary: Vocabulary) -> str:
    """Return the query as it is searched for in an index of ``revision``, whose model knows ``vocabulary``.

    Raises ``QueryRefused`` where it has no text, or where more of its tokens are unknown to the model than
    ``max_unknown_tokens``: it would have the vector of any other such query, and hits that mean nothing.
    """
    cleaned, model = clean_query(query), revision.model
    tally = vocabulary.tallies([cleaned], first=model.max_tokens)[0]
    if tally.share > model.max_unknown_tokens:
        raise QueryRefused(
            f"{tally.share:.0%} of the tokens of the query {excerpt(cleaned)} are unknown to the model of revision "
            f"{revision.revision}, max_unknown_tokens allows {model.max_unknown_tokens:.0%}: it would find what any "
            "other such query finds. Nothing was searched; ask in words that the model knows, or serve a model that "
            "knows these."
        )
    return cleaned


def check_query(query: str | bytes, limits: ImageLimits) -> str | bytes:
    """Return a text cleaned, or the bytes of an image as they are. Raises ``QueryRefused`` for what cannot be asked."""
    if isinstance(query, str):
        return clean_query(query)
    try:
        return check_image(query, limits)
    except DocumentError as error:
        reason = str(error).partition(" The document was not stored;")[0]
        raise QueryRefused(f"{reason} Nothing was searched; ask by another image, or by a text.") from error


def check_seen(revision: Revision, kinds: Sequence[Kind]) -> None:
    """Raise ``QueryRefused`` for an image where the encoder of ``revision`` embeds none."""
    if "image" not in kinds:
        raise QueryRefused(
            f"an image was asked for, and the model of revision {revision.revision}, {revision.model.name!r}, embeds "
            "text alone. Nothing was searched; ask by a text, or serve a model of texts and images."
        )


def piece_of(query: str | bytes) -> Piece:
    """Return a query as the one piece that it is."""
    return Piece.whole(Content("text", query) if isinstance(query, str) else Content.image(query))


def askable(
    queries: Mapping[str, str], revision: Revision, vocabulary: Vocabulary
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the queries that ``ready`` takes (id → text as searched for), and why others are refused, by id."""
    taken, refused = dict[str, str](), dict[str, str]()
    for query, text in queries.items():
        try:
            taken[query] = ready(text, revision, vocabulary)
        except QueryRefused as error:
            refused[query] = str(error)
    return taken, refused


def named(refused: Mapping[str, str]) -> dict[str, object]:
    """Return refused queries as plain data: how many, and the first of them with the reason."""
    return {"count": len(refused), "first": dict(sorted(refused.items())[:NAMED])}
