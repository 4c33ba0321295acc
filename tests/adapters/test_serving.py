"""`revector.guard`: an application does not start with a model that is not the one that serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import revector
from revector.errors import ConfigError, EncoderMismatch, StateError
from worlds import World


def documents_by(world: World, *, add: float = 0.0) -> Any:
    encoder = world.loader(world.generation().spec.model)
    return lambda texts: (np.asarray(encoder.documents(texts)) + add).tolist()


def test_the_model_that_serves_lets_an_application_start(served: World) -> None:
    generation = served.generation()
    for model in ("hashing", generation.encoder_fp, documents_by(served)):
        found = revector.guard("docs", model, project=served.project)
        assert (found.generation, found.revision, found.encoder_fp) == (generation.gen, "a100", generation.encoder_fp)
        assert (found.collection, found.model, found.dim) == ("docs", "hashing", 64)
    assert revector.guard("docs", "hashing", project=served.root).revision == "a100"
    assert revector.guard(
        "docs", lambda texts: [[3.0 * x for x in row] for row in documents_by(served)(texts)], project=served.project
    ), "a length says nothing"


@pytest.mark.parametrize(
    "model",
    [
        "hashing:seed2",
        "0" * 64,
        lambda texts: [[1.0] * 64] * len(texts),
        lambda texts: [[1.0] * 63] * len(texts),
        lambda texts: [[0.0] * 64] * len(texts),
        lambda texts: [],
        lambda texts: [[float("nan")] * 64] * len(texts),
    ],
)
def test_any_other_model_does_not(served: World, model: Any) -> None:
    with pytest.raises(EncoderMismatch, match=r"served by revision a100, model 'hashing'.*Nothing was started"):
        revector.guard("docs", model, project=served.project)


def test_a_model_that_is_nearly_the_same_is_another(served: World) -> None:
    with pytest.raises(EncoderMismatch, match="cosine"):
        revector.guard("docs", documents_by(served, add=0.02), project=served.project)


def test_a_model_of_other_lengths_is_another_where_the_index_compares_lengths(world: World) -> None:
    model = 'model = ModelSpec(name="hashing", dim=64, normalize=False)'
    world.revision("a100", None, model, 'index = IndexSpec(metric="l2")')
    world.put(60)
    world.upgrade("a100")
    encode = documents_by(world)
    assert revector.guard("docs", encode, project=world.project).revision == "a100"
    with pytest.raises(EncoderMismatch, match=r"3\.0000 to 3\.0000 of the lengths of the stored ones"):
        revector.guard("docs", lambda texts: (3 * np.array(encode(texts))).tolist(), project=world.project)


def test_after_a_swap_the_old_model_does_not_start_any_more(swapped: World) -> None:
    assert revector.guard("docs", "hashing:seed2", project=swapped.project).revision == "b200"
    with pytest.raises(EncoderMismatch):
        revector.guard("docs", "hashing", project=swapped.project)


def test_a_collection_that_serves_nothing_or_is_unknown_is_an_error_of_its_own(world: World) -> None:
    with pytest.raises(StateError):
        revector.guard("docs", "hashing", project=world.project)
    with pytest.raises(ConfigError):
        revector.guard("other", "hashing", project=world.project)
