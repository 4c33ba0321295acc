"""The demo with images: what its application writes, what its judge sees, what it trains, what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="the images extra is not installed")

from PIL import Image

from pictures import COLOURS, ColourEncoder, image, words_and_colours
from revector.cli import run
from revector.encoders.loading import load_encoder
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, Document, Piece, whole_texts
from revector.labels import load_labels
from revector.local import application, emoji_towers, own_models
from revector.local.comparison import compare, expected
from revector.local.emoji import Emoji, EmojiSet, png, write_corpus
from revector.local.record import Record
from revector.sources import open_source
from revector.spec import ModelSpec
from worlds import QUERIES, World, document

FIRST = [
    *(document(n) for n in range(QUERIES)),
    *(Document(name, None, {"colour": name}, image=image(name)) for name in COLOURS),
]


@pytest.fixture
def gallery(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Images that are served, and half of them changed by the demo's application."""
    world.project.__dict__["encoders"] = Encoders(ColourEncoder)
    monkeypatch.setattr(world.project, "load_encoder", ColourEncoder)
    world.documents.put_many(FIRST)
    world.upgrade("a100")
    return world


def written(world: World, folder: Path, steps: int) -> Path:
    """Let the application write, and return its record."""
    file = io.StringIO()
    writer = application.Writer(world.documents, list(COLOURS), Record(file), seed=2)
    for _ in range(steps):
        writer.step()
    world.settle()
    record = folder / "application.jsonl"
    record.write_text(file.getvalue())
    return record


def test_images_that_an_application_turns_are_told_and_compared_as_texts_are(gallery: World, tmp_path: Path) -> None:
    record = written(gallery, tmp_path, 12)
    puts = [line for line in map(json.loads, record.read_text().splitlines()) if line["op"] == "put"]
    assert all(line["image"] for line in puts)
    held, changed, unknown = expected(FIRST, record)
    assert changed
    assert {kind for contents in held.values() for kind in (one.kind for one in contents)} == {"text", "image"}
    [sound] = compare(gallery.project, "docs", held, changed, unknown)
    assert (sound.lost, sound.stale, sound.resurrected) == ((), (), ())
    assert sound.compared >= len(held)


def test_another_image_than_the_one_that_was_acknowledged_is_stale(gallery: World, tmp_path: Path) -> None:
    held, _, _ = expected(FIRST, written(gallery, tmp_path, 0))
    gallery.documents.put("red", None, {"colour": "red"}, image=image("blue", (9, 9)))
    gallery.settle()
    [found] = compare(gallery.project, "docs", held, {"red"}, set())
    assert (found.lost, found.stale, found.resurrected) == ((), ("red",), ())


@pytest.fixture
def coloured() -> EmojiSet:
    """Squares of four colours, each twelve times, one of twelve held out."""
    emoji = tuple(Emoji(f"{n:04X}", f"a {name}") for n in range(12) for name in COLOURS)
    emoji = tuple(Emoji(f"{n:04X}", one.name) for n, one in enumerate(emoji))
    pictures = tuple(Image.new("RGB", (40, 40), COLOURS[one.name.removeprefix("a ")]) for one in emoji)
    return EmojiSet(emoji, pictures, frozenset(one.code for one in emoji[:4]))


def test_the_corpus_is_pictures_alone_and_asks_for_what_was_held_out(coloured: EmojiSet, tmp_path: Path) -> None:
    write_corpus(coloured, tmp_path)
    documents = list(open_source(str(tmp_path / "emoji.jsonl"), image_field="image"))
    first = documents[0]
    assert (first.id, first.text, first.meta) == ("0000", None, {"name": "a red"})
    read: Any = first.image
    assert read().startswith(b"\x89PNG")
    judged = {split: load_labels(tmp_path / "labels", split).qrels for split in ("test", "train")}
    assert judged["test"] == {f"q{code}": {code: 1} for code in sorted(coloured.held_out)}
    assert len(judged["train"]) == len(coloured.emoji) - len(coloured.held_out)
    assert "OpenMoji" in (tmp_path / "images" / "LICENCE.txt").read_text()


@pytest.mark.slow
def test_a_tower_that_is_trained_finds_the_names_and_the_lone_one_has_the_first_versions_eyes(
    coloured: EmojiSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"shallow": words_and_colours(tmp_path / "a"), "whole": words_and_colours(tmp_path / "b", texts=1)}

    def load(folder: Path, threads: int | None = None) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize

        return SentenceTransformer(modules=[SentenceTransformer(str(folder))[0].sub_modules["text"][0], Normalize()])

    monkeypatch.setattr(own_models, "load", load)
    monkeypatch.setattr(own_models, "package_folder", lambda: texts["whole"])
    monkeypatch.setattr(own_models, "make_shallow_model", texts["shallow"].rename)
    steps = {"first": emoji_towers.Recipe("shallow", 2), "second": emoji_towers.Recipe("whole", 20)}
    monkeypatch.setattr(emoji_towers, "VERSIONS", steps)
    emoji_towers.train_versions(coloured, tmp_path / "models")
    models = {
        name: load_encoder(ModelSpec(str(tmp_path / "models" / name), 8), root=Path(), device="cpu")
        for name in ("first", "second", emoji_towers.LONE)
    }
    towers: dict[str, Any] = {name: model.components["towers"] for name, model in models.items()}
    assert towers[emoji_towers.LONE] == {"text": towers["second"]["text"], "image": towers["first"]["image"]}
    assert towers["first"]["text"] != towers["second"]["text"]
    asked = models["second"].encode("query", whole_texts(f"a {name}" for name in COLOURS))
    seen = models["second"].encode("document", [Piece.whole(Content.image(png(one))) for one in coloured.pictures[:4]])
    assert (asked @ seen.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_without_its_pictures_nothing_is_started_and_two_acts_are_not_one(
    served: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revector.local.emoji.PACKAGE", "no_such_package")
    monkeypatch.setattr("revector.local.demo.refuse_configured_database", lambda project: None)
    assert run(["demo", "--images", "--project", str(served.root)]) == 2
    assert "make demo-images" in capsys.readouterr().err
    for words in (("--images", "--adopt"), ("--images", "--full"), ("--adopt", "--full")):
        assert run(["demo", *words, "--project", str(served.root)]) == 2
        assert "Nothing was started" in capsys.readouterr().err
