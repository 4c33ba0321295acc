"""The exit codes of every command, in one table; the codes of errors stand in ``revector.errors``."""

from __future__ import annotations

from typing import Final

NOTHING_TO_DO: Final = 10
CHECK_FAILED: Final = 11
NO_GAIN: Final = 12
UNEXPECTED: Final = 70
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

EXITS: Final[dict[int, str]] = {
    0: "done, or done before",
    1: "an error without a code of its own",
    2: "an option, a setting, a query or a migration file is wrong; nothing has run",
    3: "the database is down, full, of another schema version or without pgvector",
    4: "the registry disagrees: step, window, slot or waiting work; nothing was changed",
    5: "the gate or the verification failed, or would (rehearse); the alias was not moved",
    6: "a person must approve first (revector approve)",
    7: "the encoder or an archive part cannot be used",
    8: "a source or document is refused",
    9: "the labelled queries cannot be used",
    NOTHING_TO_DO: "nothing to do (plan), nothing there (get)",
    CHECK_FAILED: (
        "a check found something (doctor, verify, labels check, history --check, plan with warnings, worker --once)"
    ),
    NO_GAIN: "no gain can be detected (finetune), or there is a loss; the model is saved",
    UNEXPECTED: "an unexpected error; REVECTOR_DEBUG=1 shows all of it",
    INTERRUPTED: "interrupted by Ctrl-C",
    BROKEN_PIPE: "the reader of the output went away",
}
"""Exit code and when a command ends with it."""


def epilog() -> str:
    """Return the table as it stands under ``revector --help``."""
    return "\n".join(("Exit codes:", *(f"{code:>3}  {meaning}" for code, meaning in EXITS.items())))


def is_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error: what it cut short may fail again while it is cleaned up.

    SQLAlchemy's ping, for one, switches autocommit back on a connection that is still busy, and raises that.
    """
    behind = (error.__cause__, error.__context__)
    return isinstance(error, KeyboardInterrupt) or any(one is not None and is_interrupted(one) for one in behind)
