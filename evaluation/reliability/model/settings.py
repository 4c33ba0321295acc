"""What is explored: the settings of each protocol, small ones for every change and large ones before a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evaluation.reliability.model.class_a import ClassA
from evaluation.reliability.model.class_b import ClassB
from evaluation.reliability.model.explore import Model
from evaluation.reliability.model.native import NativeAlias
from evaluation.reliability.model.state_a import Setting

Make = Callable[[frozenset[str]], Model]
"""Makes a setting's model without the guards that are named."""

MIGRATES = ("workers", "seeder", "moves")
IN_FLIGHT = ("evidence", "one measurement", "slow commits", "backfilled")


def _a(name: str, *writes: str, actors: tuple[str, ...], **bounds: int) -> Setting:
    return Setting(f"A {name}", writes, frozenset(actors), **bounds)


def _b(name: str, *writes: str, actors: tuple[str, ...], **bounds: int) -> Setting:
    return Setting(f"B {name}", writes, frozenset(actors), **bounds)


SHORT = (
    _a("writes", "0b 0- 0b 0a", actors=("workers", "queries", "repairs"), generations=1, workers=2),
    _a("migration", "0b 0-", actors=(*MIGRATES, "queries", "drops", "force")),
    _a("two workers", "0b 0a", actors=(*MIGRATES, "drops"), workers=2),
    _a("first migration", "0b 0-", actors=(*MIGRATES, "queries", "first migration")),
    _a("repeatable read", "0b 0-", actors=(*MIGRATES, "repeatable read")),
    _a("two writers", "0b 0-", "0c", actors=MIGRATES),
    _a("two documents", "0b", "1-", actors=MIGRATES, documents=2),
    _a("three generations", "0b", actors=(*MIGRATES, "drops"), generations=3),
    _a("dead letters", "0b", actors=(*MIGRATES, "dead letters", "queries")),
    _a("waivers", "0b 0c", actors=("workers", "moves", "dead letters", "backfilled")),
    _a("sealed parts", "0b 0-", actors=(*MIGRATES, "parts")),
    _a("repairs", "0b 0-", actors=(*MIGRATES, "repairs")),
    _a("runs", "0b", actors=(*MIGRATES, "runs")),
    _a("retirements", "0b", actors=(*MIGRATES, "retirements", "force")),
    _a("aborts", actors=(*MIGRATES, "aborts"), generations=3),
    _a("evidence", "0b", actors=("workers", "moves", "evidence", "backfilled")),
    _a("evidence and aborts", actors=(*MIGRATES, "evidence", "one measurement", "aborts"), generations=3),
    _a("writes in flight", "0b", "1b", actors=("workers", "moves", *IN_FLIGHT), documents=2),
    _b("writes", "0- 0c", actors=("workers", "3 attempts"), generations=1, workers=2),
    _b("queries", "0b", actors=("workers", "queries", "3 attempts"), generations=1, workers=2),
    _b("migration", "0b", actors=(*MIGRATES, "3 attempts")),
    _b("swap", "0b", actors=("workers", "moves", "queries", "drops", "backfilled", "3 attempts")),
    _b("two workers", "0b", actors=("workers", "moves", "backfilled", "4 attempts"), workers=2),
    _b("slow store", "0b 0c", actors=("workers", "queries", "slow store", "3 attempts"), generations=1),
)

ALL = (*MIGRATES, "queries", "drops", "force")

LONG = (
    _a("writes", "0b 0- 0b 0a 0- 0c", actors=("workers", "queries", "repairs"), generations=1, workers=3),
    _a("migration", "0b 0- 0c", actors=(*ALL, "repairs"), workers=2),
    _a("first migration", "0b 0- 0c", actors=(*ALL, "first migration"), workers=2),
    _a("repeatable read", "0b 0-", "0c", actors=(*ALL, "repeatable read"), workers=2),
    _a("two writers", "0b 0-", "0c", actors=(*MIGRATES, "queries"), workers=2),
    _a("two documents", "0b 0-", "1- 1c", actors=ALL, documents=2),
    _a("three generations", "0b 0-", actors=ALL, workers=2, generations=3),
    _a("two documents, three generations", "0b 0-", "1-", actors=(*MIGRATES, "drops"), documents=2, generations=3),
    _a("dead letters", "0b 0c", actors=(*ALL, "dead letters"), workers=2),
    _a("sealed parts", "0b 0- 0b", actors=(*ALL, "parts"), workers=2),
    _a("runs and retirements", "0b 0c", actors=(*MIGRATES, "drops", "force", "runs", "retirements"), workers=2),
    _a("aborts", "0b 0-", actors=(*MIGRATES, "aborts"), generations=3, workers=2),
    _a("evidence", "0b", "1b", actors=(*MIGRATES, "evidence", "slow commits"), documents=2),
    _b("writes", "0b 0- 0c", actors=("workers", "queries", "3 attempts"), generations=1, workers=2),
    _b("migration", "0b 0-", actors=(*MIGRATES, "queries", "drops", "3 attempts")),
    _b("two workers", "0b 0-", actors=(*MIGRATES, "3 attempts"), workers=2),
    _b("three generations", "0b", actors=(*MIGRATES, "queries", "drops", "3 attempts"), generations=3),
    _b("slow store", "0b 0c 0-", actors=("workers", "queries", "slow store", "3 attempts"), generations=1),
)


def models(settings: tuple[Setting, ...]) -> Mapping[str, Make]:
    """Return what makes the models of some settings, by name; the native alias has but one."""

    def maker(setting: Setting) -> Make:
        kind = ClassA if setting.name.startswith("A ") else ClassB
        return lambda off: kind(setting, off)

    return {setting.name: maker(setting) for setting in settings} | {"native alias": NativeAlias}
