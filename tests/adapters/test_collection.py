"""What the frameworks' stores share: documents go in and out in batches, and all of them are waited for."""

from __future__ import annotations

import pytest

from revector.adapters import collection
from revector.adapters.collection import OpenCollection, no_more
from revector.errors import ConfigError, NotCaughtUp
from worlds import World, document, working


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "BATCH", 2)


def test_every_batch_is_written_waited_for_and_found_whole(served: World) -> None:
    opened = OpenCollection("docs", served.project, 60.0)
    with working(served):
        opened.put(document(n) for n in range(1_000, 1_005))
    for n in range(1_000, 1_005):
        [(hit, text)] = opened.whole(opened.searcher.search(f"apple{n} pear{n}", 1))
        assert (hit.id, text) == (document(n).id, document(n).text)
    with pytest.raises(NotCaughtUp, match=r"5 of 5 written documents were not served.*They are stored"):
        OpenCollection("docs", served.project, 0.1).put(document(n) for n in range(2_000, 2_005))
    assert [one.id for one in opened.get(["d02004", "nobody", "d02004"])] == ["d02004"]


def test_every_batch_is_deleted_though_an_id_is_named_twice(served: World) -> None:
    opened = OpenCollection("docs", served.project, None)
    opened.delete(["d00001", "d00002", "d00001", "nobody", "d00003"])
    assert list(opened.get(["d00001", "d00002", "d00003"])) == []
    assert opened.documents.count() == 117


def test_an_option_of_another_store_is_refused_by_name() -> None:
    no_more({})
    with pytest.raises(ConfigError, match="namespace, top: not an option"):
        no_more({"top": 1, "namespace": "x"})
