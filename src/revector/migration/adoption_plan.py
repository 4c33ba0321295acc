"""Owns what an adoption would do, and what one did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.adoption.copying import CopyReport
from revector.adoption.look import AdoptionLook
from revector.adoption.presets import AdoptionRequest
from revector.adoption.proof import ModelProof
from revector.adoption.rows import PlaceLook
from revector.errors import ConfigError, EncoderMismatch
from revector.lifecycle import Outcome
from revector.migration_files import migration_files
from revector.planning import constants
from revector.spec import Chunking, IndexSpec, ModelSpec, Revision
from revector.stores.opening import stores_of


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """What an adoption would do. ``refusals`` keep it from being done; ``model`` is what the first revision names."""

    collection: str
    request: AdoptionRequest
    look: AdoptionLook
    model: ModelSpec
    chunking: Chunking
    proof: ModelProof
    needed_bytes: int
    refusals: tuple[str, ...]

    def check(self) -> None:
        """Raise ``EncoderMismatch`` where the vectors are not the model's, ``ConfigError`` for any other refusal."""
        if self.refusals:
            kind = EncoderMismatch if self.proof.verdict in ("mixture", "other", "family") else ConfigError
            raise kind(f"{self.look.terms.table} is not adopted: {'; '.join(self.refusals)}. Nothing was changed.")

    @property
    def embeds(self) -> int:
        """Documents that are embedded: without a vector to be taken or, as the sample says, longer than is read."""
        taken = self.look.taken if self.proof.verdict == "same" else 0
        return self.look.documents - round(taken * (1 - self.proof.longer))

    @property
    def needed_s(self) -> float | None:
        """Seconds until it is served: embedding as fast as for the proof, the rest as in `revector capacity`.

        None where much is embedded and no proof has shown how fast the model is.
        """
        if self.embeds and not self.proof.text_s:
            return None
        documents, index = self.look.documents, IndexSpec()
        rows = documents * constants.CONSTANTS["adopt_cpu_s"].value + constants.publish_cpu_s(documents)
        built = constants.build_cpu_s(documents, self.model.dim, index)
        checked = documents * constants.CONSTANTS["verify_cpu_s"].value
        return self.embeds * self.proof.text_s + rows + built + checked

    def as_data(self) -> dict[str, Any]:
        """Return it for ``--json`` and the history."""
        found = self.look
        return {
            "collection": self.collection,
            "terms": found.terms.model_dump(mode="json"),
            "rows": found.rows,
            "documents": found.documents,
            "without_text": found.without_text,
            "without_vector": found.without_vector,
            "bad_vectors": found.bad_vectors,
            "widths": found.widths,
            "chunked": found.chunked,
            "embeds": self.embeds,
            "vector_form": found.form if isinstance(found, PlaceLook) else None,
            "model": asdict(self.model),
            "chunking": asdict(self.chunking),
            "proof": self.proof.as_data(),
            "needed_bytes": self.needed_bytes,
            "needed_s": self.needed_s,
            "refusals": list(self.refusals),
            "notes": found.notes,
            "grants": found.grants,
        }


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What an adoption did: rows copied by this call, the migration file, and the steps of the migration to it."""

    collection: str
    table: str
    documents: int
    reused: int
    """Documents whose vectors were taken from the table, by this call."""
    copied: CopyReport
    file: Path | None
    steps: Sequence[Outcome]
    is_copy: bool = False
    """Whether it is a file, another database or a vector store, whose writes are not followed."""
    again: bool = False
    """Whether it had been read to its end before."""

    def as_data(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


def check_store(engine: sa.Engine, migrations: Path, store: str | None, model: ModelSpec, chunking: Chunking) -> None:
    """Raise unless the store that is named answers and takes such vectors, and no file says already where they lie.

    Raises ``ConfigError``, ``SpecError`` and ``StoreUnavailable``.
    """
    if store is None:
        return
    if migration_files(migrations):
        raise ConfigError(
            f"a store was named ({store}), and the migration files say already where the index lies. Nothing was "
            "changed; leave --store out."
        )
    stores_of(engine).check_revision(Revision("(first)", None, model, chunking, IndexSpec(store=store)), answers=True)
