"""What contents, pieces and probes promise: of text what was stored stays true, and the seam holds a kind that is none.

The images here are no pictures: by reference, embedded by hashing their SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from revector.encoders.check import probe_vectors, vectors_fp
from revector.encoders.hashing import HashingEncoder
from revector.encoders.probes import PROBE_TEXTS, PROBES, first_row, probes_of
from revector.errors import EncoderError, EncoderMismatch
from revector.indexing.chunking import make_chunker
from revector.indexing.publish import Applier
from revector.interfaces import Content, Kind, Piece, Side, Vectors, locators_of, whole_texts
from revector.registry import work
from revector.spec import Chunking, ModelSpec, Revision
from worlds import World

MODEL = ModelSpec("hashing", 64, normalize=False)
TEXT = "\n\n".join(f"apple{n} pear{n} and some more words." for n in range(12))


def image(of: str, **window: int) -> Content:
    whole = Content.image(of.encode())
    return Content("image", replace(whole.blob, **window))


# What is stored stays true --------------------------------------------------------------------------------------------


def test_identities_of_what_exists_are_what_they_were() -> None:
    encoder, revision = HashingEncoder(ModelSpec("hashing", 64)), Revision("a100", None, ModelSpec("hashing", 64))
    assert encoder.fingerprint == vectors_fp(encoder.components)
    assert encoder.fingerprint == "914ec1f0d53dba8d5a2f7f7a67cf5ec60d73c17e262258f9bf7101e68fd78525"
    assert revision.chunker_fp == "e6160193b9de0c853198039d49f0d8ad13f63e0c5c318ed95dc876ba13298bb1"
    assert revision.config_hash == "922ea35520b18e5a5237f0aece97ac51d7631ab68778900c3d0275c96a7680d5"


def test_the_probes_and_the_bytes_that_are_stored_of_them_are_what_they_were() -> None:
    assert hashlib.sha256("\0".join(PROBE_TEXTS).encode()).hexdigest() == (
        "ee8a79151bb045b4f4f163233791cce35c040ccea990555f0b3b2a2a65afe557"
    )
    assert hashlib.sha256(b"".join(one.content.blob.read() for one in PROBES["image"])).hexdigest() == (
        "9927cb307fa25d83865ec38f92ee2b3614d4ef0cef9be9de3dfc72da1fcf899a"
    )
    stored = probe_vectors(HashingEncoder(MODEL)).astype("<f4").tobytes()  # whole numbers, the same on every machine
    assert hashlib.sha256(stored).hexdigest() == "22409d905450ff01f37d4dd045c2c1dfd30233261a3931a242e973041e5fa72d"


def test_every_kind_has_probes_to_frame_a_batch_with() -> None:
    assert set(PROBES) == set(get_args(Kind))
    assert all(len({probe.content for probe in probes}) >= 2 for probes in PROBES.values())
    assert [probe.text for probe in probes_of(("text",))] == list(PROBE_TEXTS)


# Contents and pieces --------------------------------------------------------------------------------------------------


def test_the_hash_of_a_text_is_that_of_the_documents_table(served: World) -> None:
    served.documents.put("d", "naïve 機械 😀")
    [item] = work.read_items(served.engine, served.collection.cid, ["d"])
    assert [content.sha256 for content in item.contents] == [item.content_hash]
    served.documents.delete("d")
    assert work.read_items(served.engine, served.collection.cid, ["d"])[0].contents == ()


def test_the_same_bytes_are_one_content_wherever_they_are_kept() -> None:
    cat = image("cat").blob
    assert replace(cat, read=lambda: b"cat") == cat
    assert image("cat") != image("dog")
    assert image("cat", length=90).cut(20, 30) == image("cat", start=20, length=10)


def test_a_piece_of_any_content_is_found_again_by_its_locator() -> None:
    contents = [Content("text", f" {TEXT}\n"), image("cat"), image("clip", length=5_000), Content("text", "the end")]
    chunking, tokenizer = Chunking(max_tokens=16, overlap_tokens=0), HashingEncoder(MODEL).tokenizer
    chunker = make_chunker(chunking, tokenizer, ("text", "image"))
    pieces = chunker.pieces(contents)
    assert [piece.content.kind for piece in pieces][-4:] == ["text", "image", "image", "text"]
    assert len(pieces) > 6
    of_text = [piece for piece in pieces if piece.content.kind == "text"]
    assert make_chunker(chunking, tokenizer).pieces(contents) == of_text
    assert [Piece.at(contents, piece.locator) for piece in pieces] == pieces
    assert all(one.locator.end <= other.locator.start for one, other in pairwise(pieces))
    assert locators_of(pieces).tolist() == [list(piece.locator) for piece in pieces]
    assert locators_of([]).shape == (0, 2)


def test_an_encoder_of_text_alone_refuses_what_is_none() -> None:
    with pytest.raises(EncoderError, match="'image' has no text"):
        HashingEncoder(MODEL).encode("document", [*whole_texts(["a"]), Piece.whole(image("cat"))])


# A second kind through the applier ------------------------------------------------------------------------------------


class Pictures(HashingEncoder):
    """Embeds texts, and images by their hash; notes what it is given."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        self.asked: list[Sequence[Piece]] = []
        self.swaps_images = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("text", "image")

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        self.asked.append(pieces)
        kinds = [piece.content.kind for piece in pieces]
        texts = [one.text if kind == "text" else one.content.sha256 for one, kind in zip(pieces, kinds, strict=True)]
        vectors = super().encode(side, whole_texts(texts))
        images = [n for n, kind in enumerate(kinds) if kind != "text"]
        if self.swaps_images:
            vectors[images] = vectors[images[::-1]]
        return vectors


@pytest.fixture
def pictures(served: World) -> tuple[World, Pictures, Applier]:
    encoder, generation = Pictures(ModelSpec("hashing", 64)), served.generation()
    generation = replace(generation, probes=probe_vectors(encoder))
    chunker = make_chunker(generation.spec.chunking, encoder.tokenizer, encoder.kinds)
    return served, encoder, Applier(served.engine, generation, encoder, chunker)


def items_of(world: World, **contents: Content) -> list[work.Item]:
    """Documents that hold their text and one more content each."""
    read = work.read_items(world.engine, world.collection.cid, list(contents))
    return [replace(item, contents=(*item.contents, contents[item.doc_id])) for item in read]


def test_text_and_image_of_a_document_are_embedded_published_and_found(
    pictures: tuple[World, Pictures, Applier],
) -> None:
    world, encoder, applier = pictures
    for name in ("a", "b"):
        world.documents.put(name, "melon kiwi")
    prepared = applier.prepare(items_of(world, a=image("cat"), b=image("dog")))
    assert list(zip(prepared.part.chunk_starts, prepared.part.chunk_ends, strict=True)) == [(0, 10), (10, 11)] * 2
    assert applier.publish(prepared) == 2
    asked = encoder.encode("query", [Piece.whole(image("dog"))])[0]
    best = world.project.searcher("docs").search_given(asked.tolist(), encoder.fingerprint, 3).hits[0]
    assert (best.id, best.chunk, best.start, best.stop) == ("b", 1, 10, 11)


def test_equal_contents_are_embedded_once_between_probes_of_each_kind(
    pictures: tuple[World, Pictures, Applier],
) -> None:
    world, encoder, applier = pictures
    for name in ("a", "b"):
        world.documents.put(name, "melon kiwi")
    encoder.asked.clear()
    applier.prepare(items_of(world, a=image("cat"), b=image("cat")))
    [given] = encoder.asked
    assert [piece.content.data for piece in given] == [
        PROBE_TEXTS[0],
        PROBES["image"][0].content.data,
        "melon kiwi",
        image("cat").data,
        PROBE_TEXTS[1],
        PROBES["image"][1].content.data,
    ]
    assert first_row(encoder.kinds, "text") == 0
    assert first_row(encoder.kinds, "image") == len(PROBE_TEXTS)


def test_a_reply_whose_images_alone_are_reordered_is_refused(pictures: tuple[World, Pictures, Applier]) -> None:
    world, encoder, applier = pictures
    world.documents.put("a", "melon kiwi")
    encoder.swaps_images = True
    with pytest.raises(EncoderMismatch, match="replies are reordered"):
        applier.prepare(items_of(world, a=image("cat")))
    np.testing.assert_array_equal(
        applier.generation.probes[:16], probe_vectors(HashingEncoder(ModelSpec("hashing", 64)))
    )
