"""What the tests of `test_api` and its neighbours share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extras import needs
from revector.encoders.api import Hybrid, MemoryMeter, Provider, ProviderSettings, load_api_encoder
from revector.encoders.api.fake import (
    FakeServer,
)
from revector.encoders.api.limits import Clock
from revector.encoders.hashing import HashingEncoder
from revector.indexing.encoding import Encoders
from revector.spec import ModelSpec
from worlds import World

needs("openai")

TEXTS = [f"text number {n} about moving an index" for n in range(20)]
MODEL = ModelSpec("api:fake/words", dim=64, max_tokens=32)
HASHING = HashingEncoder(ModelSpec("hashing", dim=64))


class FakeClock(Clock):
    """Time that passes only when it is slept."""

    def __init__(self) -> None:
        self.time, self.slept = 1_000_000.0, list[float]()
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, unless: threading.Event) -> None:
        self.slept.append(seconds)
        self.time += seconds
        self.on_sleep()


class Made:
    """Encoders of one provider, its clock and its meter."""

    def __init__(self, server: FakeServer, clock: FakeClock, tokenizer: Path) -> None:
        self.server, self.clock, self.tokenizer = server, clock, tokenizer
        self.meter = MemoryMeter()

    def provider(self, **changed: Any) -> Provider:
        settings = {"base_url": self.server.base_url, "tokenizer": str(self.tokenizer), "concurrency": 1}
        made = ProviderSettings(**{**settings, **changed})
        return Provider("fake", made, meter=self.meter, clock=self.clock, jitter=lambda: 0.0)

    def encoder(self, model: ModelSpec = MODEL, **changed: Any) -> Any:
        self.last = self.provider(**changed)
        return load_api_encoder(model, {"fake": self.last}, self.tokenizer.parent)


def host(world: World, made: Made, **changed: Any) -> World:
    api = made.encoder(ModelSpec("api:fake/words", dim=64), **changed)
    world.project.__dict__["encoders"] = Encoders(lambda _: Hybrid(HASHING, api))
    made.server.requests.clear()
    return world
