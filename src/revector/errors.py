"""Every error that revector raises on purpose, in one tree.

    RevectorError
    ├── ConfigError              revector.toml, an option or a name is wrong; nothing has run
    │   ├── QueryRefused         no answer to this query could mean anything; nothing was searched
    │   └── PipelineError        the project's own way from a query to documents fails; nothing was judged
    ├── SpecError                a migration file is wrong; nothing has run
    │   ├── UnknownRevision
    │   ├── GraphError           the files do not form one line of history
    │   └── EditedRevision       the file changed after its migration started
    ├── DatabaseError            the database cannot be used as it is
    │   ├── DatabaseUnavailable  down, full, or refusing connections
    │   ├── DatabaseReadOnly     a standby, or switched to take no writes
    │   ├── SearchTooLong        a search was cancelled, as it took longer than one may
    │   ├── SchemaMismatch       of another revector version, or parts of it are missing
    │   ├── IndexGone            the table of a generation is not there
    │   ├── NotAllowed           its role lacks a right
    │   ├── MissingExtension     pgvector is absent or too old
    │   └── NoRoom               a migration would not fit on a disk; it was not begun
    ├── StoreUnavailable         a store of vectors outside of the database does not answer
    │   └── StoreRefused         it is not known here, or refuses the key: a person must act
    ├── StateError               the registry disagrees with the request
    │   ├── IllegalStep          the step does not apply to the current phase
    │   ├── MigrationOpen        another migration is open on this collection
    │   ├── StaleRun             a newer run took this step over
    │   ├── NotCaughtUp          work is waiting, so the alias was not moved
    │   ├── WorkUnfinished       workers do not do what is due
    │   ├── EvidenceStale        verification or gate must be measured again
    │   ├── ServersCold          a serving process has not loaded the next encoder, so the alias was not moved
    │   ├── GateBusy             the gate could not be had in time; nothing was changed
    │   ├── WindowOpen           the old generation may still be needed
    │   ├── RollbackUnavailable  the window is over, or there is nothing to go back to
    │   └── ApprovalWanted       a person must approve first
    ├── GateFailed               the candidate measured below its gate
    ├── VerificationFailed       the index does not equal the documents
    ├── CanaryAlert              what is served got worse
    ├── EncoderError             an encoder cannot be used
    │   ├── EncoderMismatch      not the encoder that the generation was built with
    │   ├── BadVectors           wrong shape, NaN, infinite or zero
    │   ├── FidelityTooLow       as it runs here, its vectors are too far from float32
    │   ├── TextsRefused         it refuses some texts, whatever is sent with them
    │   └── EncoderUnavailable   it fails on every text for now
    │       └── ProviderUnavailable  … because the provider behind an API answers nothing
    │           ├── ProviderRefused  wrong key, model or settings: a person must act
    │           └── SpendCapReached  nothing more may be spent
    ├── ArchiveError             an HDF5 part is torn, foreign or not the one recorded
    ├── DocumentError            a document or id is refused; it was not stored
    │   ├── EmptyText            it has no text at all
    │   └── UnknownDocument      there is none of that id
    ├── SourceError              a source cannot be ingested; nothing was stored
    │   └── TooManyMissing       it has fewer documents than may be deleted at once
    └── LabelError               queries or judgements cannot be used
        └── JudgeUnavailable     a model that judges in place of people does not answer

Every message says what was asked, what was found against what is allowed, what state the world is in, and what to do
next. For schedulers: a ``RevectorError`` is final, retrying cannot help, except where ``retryable`` is true; anything
else (a lost connection, out of memory) may be retried.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping


class RevectorError(Exception):
    """Base of the tree.

    ``exit_code`` is what the CLI ends with, ``retryable`` is advice to schedulers, and ``runbook`` names the page of
    docs/runbook that says more, where there is one.
    """

    exit_code = 1
    retryable = False
    runbook = ""


class ConfigError(RevectorError):
    """A setting, option or name is wrong; nothing has run."""

    exit_code = 2


class QueryRefused(ConfigError):
    """No answer to the query could mean anything: it is empty, damaged or unknown to the model; nothing was asked."""


class PipelineError(ConfigError):
    """The pipeline that revector.toml names cannot be imported, fails, is too slow, or returns no ranking."""


class SpecError(RevectorError):
    """A migration file is wrong; nothing has run."""

    exit_code = 2


class UnknownRevision(SpecError):
    """No migration file carries the revision asked for."""


class GraphError(SpecError):
    """The migration files do not form one line of history."""


class EditedRevision(SpecError):
    """A migration file changed after a generation was registered from it."""

    runbook = "file-edited"


class DatabaseError(RevectorError):
    """The database cannot be used as it is."""

    exit_code = 3


class DatabaseUnavailable(DatabaseError):
    """The database is down, full or refusing connections; the call may be repeated."""

    retryable = True
    runbook = "database-down"


class DatabaseReadOnly(DatabaseError):
    """The database takes no writes: a standby, or switched to read-only; the call may be repeated after a failover."""

    retryable = True
    runbook = "database-down"


class SearchTooLong(DatabaseError):
    """A search took longer than one may, and was cancelled; it may be asked again when less is going on."""

    retryable = True


class SchemaMismatch(DatabaseError):
    """The tables belong to another version of revector, or someone dropped some."""


class IndexGone(DatabaseError):
    """A table of a generation is not there: it was retired meanwhile, or someone dropped the table by hand."""

    runbook = "wrong-rows"


class NotAllowed(DatabaseError):
    """The role that revector works as lacks a right; nothing of the transaction was kept."""


class MissingExtension(DatabaseError):
    """pgvector is absent or too old."""


class NoRoom(DatabaseError):
    """A migration would not fit on a disk of the database or the archive; it was not begun."""

    runbook = "no-room"


class StoreUnavailable(RevectorError):
    """A store of vectors outside of the database does not answer, or did not do what it acknowledged."""

    exit_code = 3
    retryable = True
    runbook = "store-down"


class StoreRefused(StoreUnavailable):
    """A store is not known here, lacks its client library, or refuses key or settings: a person must act."""

    retryable = False


class StateError(RevectorError):
    """The registry disagrees with the request."""

    exit_code = 4


class IllegalStep(StateError):
    """The step does not apply to the current phase."""


class MigrationOpen(StateError):
    """Another migration is open on this collection."""

    runbook = "upgrade-refused"


class StaleRun(StateError):
    """A newer run took this step over."""


class NotCaughtUp(StateError):
    """Work is waiting, so the alias was not moved; the call may be repeated."""

    retryable = True
    runbook = "work-waits"


class WorkUnfinished(StateError):
    """Workers do not do what was made due; the message says why. It stays due, and nothing need be repeated."""

    runbook = "work-waits"


class EvidenceStale(StateError):
    """Verification or gate is missing or has aged, so the alias was not moved; measured again, it may be."""

    retryable = True
    runbook = "swap-refused"


class ServersCold(StateError):
    """A process that answers queries has not loaded the next encoder; the alias was not moved; it may be repeated."""

    retryable = True
    runbook = "swap-refused"


class GateBusy(StateError):
    """The collection's gate could not be had in time; nothing was changed; the call may be repeated."""

    retryable = True


class WindowOpen(StateError):
    """The old generation may still be needed for a rollback."""

    runbook = "upgrade-refused"


class ClockJumped(WindowOpen):
    """The database's clock jumped inside the rollback window, so that only a person may end it."""


class RollbackUnavailable(StateError):
    """The rollback window is over, or there is nothing to go back to."""

    runbook = "go-back"


class ApprovalWanted(StateError):
    """A person must approve before the alias moves."""

    exit_code = 6


class GenerationGone(StateError):
    """The generation left its slot while it was being written: nothing was published, and nothing needs to be."""


class GateFailed(RevectorError):
    """The candidate measured below its gate; the alias was not moved."""

    exit_code = 5
    runbook = "gate-failed"


class CanaryAlert(RevectorError):
    """What is served got worse than it was, or its encoder is another one."""

    exit_code = 11
    runbook = "search-got-worse"


class VerificationFailed(RevectorError):
    """The index does not equal the documents; the alias was not moved."""

    exit_code = 5
    runbook = "wrong-rows"


class EncoderError(RevectorError):
    """An encoder cannot be used."""

    exit_code = 7


class EncoderMismatch(EncoderError):
    """This is not the encoder that the generation was built with."""

    runbook = "encoder-mismatch"


class FidelityTooLow(EncoderError):
    """As it runs here, the encoder's vectors are too far from the same model's in float32."""


class BadVectors(EncoderError):
    """An encoder returned vectors of the wrong shape, or NaN, infinite or zero ones."""


class EncoderUnavailable(EncoderError):
    """The encoder fails on every text for now; no document is to blame; the call may be repeated."""

    retryable = True


class ProviderUnavailable(EncoderUnavailable):
    """The provider behind an API answers nothing for now: no text need be tried alone, all work stays due."""

    runbook = "provider-fails"


class ProviderRefused(ProviderUnavailable):
    """The provider refuses the key, the model or the settings, whatever the text: a person must act."""

    retryable = False


class SpendCapReached(ProviderUnavailable):
    """The provider's ``max_spend_usd`` leaves no room for another request: a person must act."""

    retryable = False


class TextsRefused(EncoderError):
    """The encoder refuses some texts, whatever is sent with them, and takes others; ``refused`` maps text to reason."""

    def __init__(self, message: str, refused: Mapping[Hashable, str] | None = None) -> None:
        super().__init__(message)
        self.refused = refused or {}


class ArchiveError(RevectorError):
    """An HDF5 part is torn, foreign, or not the one whose hash was recorded."""

    exit_code = 7


class DocumentError(RevectorError):
    """A document or its id is refused; it was not stored."""

    exit_code = 8


class EmptyText(DocumentError):
    """The document has no text, or white space only."""


class UnknownDocument(DocumentError):
    """There is no document of that id, or it was deleted."""


class SourceError(RevectorError):
    """A source cannot be ingested; nothing was stored."""

    exit_code = 8


class TooManyMissing(SourceError):
    """More documents are gone from a source than may be deleted at once: a person must say that it is right."""

    runbook = "source-shrank"


class LabelError(RevectorError):
    """Queries or judgements cannot be used."""

    exit_code = 9


class JudgeUnavailable(LabelError):
    """A model that judges in place of people does not answer; what it had answered is kept, and it can be repeated."""

    retryable = True
