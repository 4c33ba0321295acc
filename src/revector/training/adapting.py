"""Owns fitting an adapter on captions that the gate does not judge by, embedded by the old and the new tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from revector.encoders.adapter import RIDGE_FROM, fit
from revector.encoders.check import unit_rows
from revector.errors import ConfigError
from revector.interfaces import Encoder, Progress, Vectors
from revector.labels import in_random_order
from revector.training.judging import embed
from revector.training.pairs import same_query
from revector.training.parts import among_or_near

LEAST_CAPTIONS = 100

_APART = 5
"""Of so many captions one is kept apart to see how well the map does; the map that is saved is fitted on all."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedAdapter:
    """A map ``(old width, new width)``, fitted on ``captions``; ``left_out`` others are, or are near, labelled queries.

    ``before``, ``after``: the mean cosine (-1 to 1) of captions kept apart to where the old tower puts them.
    """

    matrix: Vectors
    captions: int
    left_out: int
    before: float
    after: float

    @property
    def way(self) -> str:
        """How it was fitted."""
        return "ridge regression" if self.captions > RIDGE_FROM else "a rotation"


def fit_adapter(
    captions: Iterable[str], judged: Iterable[str], old: Encoder, new: Encoder, progress: Progress
) -> FittedAdapter:
    """Fit a map from where ``new`` puts captions to where ``old`` does.

    Those among ``judged``, or near one, are left out, and what differs in case and white space counts once. Raises
    ``ConfigError`` for models that are not of one width, or embed no images, and for too few captions.
    """
    for name, encoder in (("served", old), ("new", new)):
        if "image" not in encoder.kinds or encoder.dim != old.dim:
            raise ConfigError(
                f"an adapter brings the texts of one model to the images of another; the {name} one embeds "
                f"{' and '.join(encoder.kinds)} at {encoder.dim} dimensions, the served one has {old.dim}. Nothing was "
                "saved; name a model of texts and images of that width."
            )
    named, asked = ({same_query(one): one for one in texts} for texts in (captions, judged))
    left_out = among_or_near(set(named), set(asked))
    texts = [named[one] for one in in_random_order(named.keys() - left_out, seed=0)]
    if len(texts) < LEAST_CAPTIONS:
        raise ConfigError(
            f"an adapter is fitted on at least {LEAST_CAPTIONS} captions; {len(named):,} were named, and "
            f"{len(left_out):,} of them are, or are near, labelled queries by which the gate judges. Nothing was "
            "saved; name more."
        )
    progress.start("embed captions by both models", 2 * len(texts), unit="captions")
    ours, wanted = (unit_rows(embed(encoder, "query", texts, progress)) for encoder in (new, old))
    progress.done()
    ridge = len(texts) > RIDGE_FROM
    matrix = fit(ours, wanted, ridge=ridge)
    tried = np.arange(len(texts)) % _APART == 0
    partly = fit(ours[~tried], wanted[~tried], ridge=ridge)
    return FittedAdapter(
        matrix,
        len(texts),
        len(left_out),
        _cosine(ours[tried], wanted[tried]),
        _cosine(unit_rows(ours[tried] @ partly.T), wanted[tried]),
    )


def _cosine(one: Vectors, other: Vectors) -> float:
    return float(np.sum(one * other, axis=1).mean())
