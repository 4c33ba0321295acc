"""The alignment of two towers: one that changes alone is refused, or judged by whether texts and images agree."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("PIL", reason="the images extra is not installed")

from pictures import image
from revector.encoders.hashing import HashingEncoder
from revector.errors import GateFailed, SpecError
from revector.formats.images import picture
from revector.gate.cross_modal import EVIDENCE, CrossModal
from revector.indexing.encoding import Encoders
from revector.interfaces import Document, Kind, Piece, Side, Vectors, whole_texts
from revector.pages.gate_result import gate_page, kept_result
from revector.spec import ModelSpec
from worlds import QUERIES, World

BOTH = "max_drop=1.0, max_text_to_image_drop=0.1, max_image_to_text_drop=0.1"


class TwoTowers(HashingEncoder):
    """Embeds texts by their words, and an image of n + 1 pixels as the words of the n-th document.

    Its name says the seeds of both towers, "hashing:seed12": 1 of texts and 2 of images, which agree where equal.
    """

    def __init__(self, model: ModelSpec) -> None:
        seeds = model.name.partition("seed")[2] or "00"
        super().__init__(model, seed=int(seeds))
        self._towers = [HashingEncoder(model, seed=int(seed)) for seed in seeds]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("text", "image")

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        vectors: Vectors = self._towers[0].encode(side, whole_texts(["x"] * len(pieces)))
        for n, piece in enumerate(pieces):
            if piece.content.kind == "image":
                number = picture(piece.content.blob.read()).width - 1
                vectors[n] = self._towers[1].encode(side, whole_texts([f"apple{number} pear{number}"]))[0]
            else:
                vectors[n] = self._towers[0].encode(side, [piece])[0]
        return vectors


@pytest.fixture
def album(world: World) -> World:
    """Images that the labelled queries are the captions of, one each, and documents of text."""
    world.project.__dict__["encoders"] = Encoders(TwoTowers)
    world.put(60, start=100)
    world.documents.put_many([Document(f"d{n:05d}", None, image=image("red", (n + 1, 1))) for n in range(QUERIES)])
    world.revision("a100", None, model("11"))
    world.upgrade("a100")
    return world


def model(seeds: str) -> str:
    return f'model = ModelSpec(name="hashing:seed{seeds}", dim=64)'


def to(world: World, seeds: str, gate: str = "max_drop=0.1") -> None:
    world.revision("b200", "a100", model(seeds), f"gate = Gate({gate})")


@pytest.mark.parametrize(
    ("seeds", "gate", "said"),
    [
        ("21", "max_drop=1.0", "changes the tower for texts alone"),
        ("12", "max_drop=1.0", "changes the tower for images alone"),
        ("21", "max_drop=1.0, max_text_to_image_drop=0.1", "changes the tower for texts alone"),
        ("21", "max_drop=1.0, max_image_to_text_drop=0.1", "demand both directions"),
    ],
)
def test_one_tower_that_changes_alone_is_refused_unless_both_directions_are_demanded(
    album: World, seeds: str, gate: str, said: str
) -> None:
    to(album, seeds, gate)
    before = album.state()
    for ask in (lambda: album.migrator.plan("b200"), lambda: album.upgrade("b200", to="provision")):
        with pytest.raises(SpecError, match=said):
            ask()
    assert album.state() == before


def test_both_towers_that_change_together_are_not_and_pass(album: World) -> None:
    to(album, "22")
    assert album.migrator.plan("b200").revision == "b200"
    to(album, "22", BOTH)
    album.upgrade("b200")
    found = kept_result(album.project, "docs").evidence(EVIDENCE, CrossModal)
    assert found is not None
    assert (found.captions, found.captioned, found.images) == (QUERIES, QUERIES, QUERIES)
    assert found.old is not None
    assert {*found.new["text_to_image"], *found.old["image_to_text"]} == {1.0}


def test_a_space_that_was_turned_fails_in_both_directions_and_the_page_shows_it(album: World) -> None:
    to(album, "21", BOTH)
    with pytest.raises(GateFailed) as failed:
        album.upgrade("b200")
    assert "recall@10 of images by their captions goes from 1.0000 to 0." in str(failed.value)
    assert "recall@10 of captions by their images goes from 1.0000 to 0." in str(failed.value)
    assert album.generation().revision == "a100"
    page = gate_page(album.project, "docs")
    assert "Do texts and images find each other?" in page
    assert "60 captions, searched among 60 images" in page
    assert "images by their captions, old" in page


def test_labels_without_images_decide_nothing(album: World) -> None:
    album.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(100, 160))
    to(album, "22", BOTH)
    with pytest.raises(GateFailed, match="was not measured: no labelled query has a document with an image"):
        album.upgrade("b200")


def test_the_first_model_that_sees_images_has_nothing_to_fall_from(world: World) -> None:
    world.put(60)
    world.upgrade("a100")
    world.project.__dict__["encoders"] = Encoders(
        lambda spec: TwoTowers(spec) if "22" in spec.name else world.loader(spec)
    )
    world.documents.put("d00007", "apple7 pear7", image=image("red", (8, 1)))
    world.settle()
    to(world, "22", BOTH.replace("max_drop=1.0", "max_drop=0.2"))
    world.upgrade("b200")
    said = [one.sentence for one in kept_result(world.project, "docs").findings]
    assert "recall of images by their captions has nothing to fall from: what is served sees no images." in said


def alerts(world: World) -> dict[str, str]:
    found = {one.name: one.says for one in world.project.canary("docs").checks if one.alert}
    return {name: said for name, said in found.items() if name in ("text_to_image", "image_to_text")}


def test_the_canary_tells_where_images_and_captions_no_longer_find_each_other(album: World) -> None:
    assert alerts(album) == {}
    # New images, a changed one, and a deleted one are no fault of the index.
    album.documents.put_many([Document(f"n{n}", None, image=image("red", (n % 60 + 1, 1))) for n in range(40)])
    album.documents.put("d00001", None, image=image("red", (999, 1)))
    album.documents.delete("d00002")
    album.settle()
    assert alerts(album) == {}
    names = [check.name for check in album.project.canary("docs").checks]
    assert {"text_to_image", "image_to_text"} <= set(names)
    table = album.generation().physical_name
    album.sql(
        f"UPDATE {table} t SET embedding = o.embedding FROM {table} o WHERE t.doc_id BETWEEN 'd00010' AND 'd00039' "
        "AND o.doc_id = 'd00' || (substr(t.doc_id, 4)::int + 100)::text"
    )
    told = alerts(album)
    assert set(told) == {"text_to_image", "image_to_text"}
    assert "recall@10 of images by their captions fell from 1.0000 to 0." in told["text_to_image"]
    assert "on 58 captions" in told["text_to_image"]
