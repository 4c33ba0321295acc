"""SQL knows what may be in another store before the store is touched, and what was given up stays given up."""

from __future__ import annotations

import sqlalchemy as sa

from revector.registry import intents
from worlds import World


def test_a_canary_that_was_given_up_meanwhile_does_not_count(served: World) -> None:
    """What was put under it may have been lost: the look that put it begins again."""
    gen, engine = served.generation().gen, served.engine
    with engine.begin() as connection:
        intents.create(connection, gen)
    before, late = (intents.open_canary(engine, gen) for _ in range(2))
    assert intents.publish_canary(engine, gen, before) is True
    with engine.begin() as connection:
        doom = "UPDATE intent SET state = 'doomed', doomed_at = clock_timestamp() WHERE attempt = :attempt"
        connection.execute(sa.text(doom), {"attempt": late})
    assert intents.publish_canary(engine, gen, late) is False
    with engine.connect() as connection:
        assert intents.canary(connection, gen) == before
        assert intents.is_canary(connection, gen, before)
        assert not intents.is_canary(connection, gen, late)
    newest = intents.open_canary(engine, gen)
    assert intents.publish_canary(engine, gen, newest) is True
    with engine.connect() as connection:
        assert not intents.is_canary(connection, gen, before), "the one before it counts no more"
    intents.give_up_canary(engine, gen)
    with engine.connect() as connection:
        assert intents.canary(connection, gen) is None


def test_a_canary_that_comes_beside_another_counts_only_while_that_one_does(served: World) -> None:
    """Else one that was under way would say that an index is whole whose documents are not all due again yet."""
    gen, engine = served.generation().gen, served.engine
    with engine.begin() as connection:
        intents.create(connection, gen)
    first, beside = (intents.open_canary(engine, gen) for _ in range(2))
    assert intents.publish_canary(engine, gen, first)
    assert intents.publish_canary(engine, gen, beside, beside=first)
    with engine.connect() as connection:
        assert intents.canary(connection, gen) == beside
        assert intents.is_canary(connection, gen, first), "a publisher under way may carry it"
    under_way = intents.open_canary(engine, gen)
    intents.give_up_canary(engine, gen)
    late = intents.open_canary(engine, gen)
    assert not intents.publish_canary(engine, gen, under_way, beside=beside)
    assert not intents.publish_canary(engine, gen, late, beside=beside)
    with engine.connect() as connection:
        assert intents.canary(connection, gen) is None
