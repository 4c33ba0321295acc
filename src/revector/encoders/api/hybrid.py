"""Owns the proof that an API and a local model are one encoder, so that each can do what it does best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from revector.encoders.check import check_vectors, probe_vectors, unit_rows
from revector.encoders.probes import probes_of
from revector.errors import EncoderMismatch
from revector.interfaces import Encoder, Kind, Piece, Side, Vectors

MIN_COSINE = 0.999


class Hybrid:
    """Embeds through ``api`` under the identity of ``local``: for queries and the live lane; bulk takes ``local``.

    ``probes``: vectors of the probes, (n, dim), stored when a generation was registered; None embeds them with
    ``local``. Raises ``EncoderMismatch`` unless every probe's vector by ``api`` has a cosine of at least
    ``MIN_COSINE`` to that.
    """

    def __init__(self, local: Encoder, api: Encoder, probes: npt.ArrayLike | None = None) -> None:
        self._local, self._api = local, api
        if local.dim != api.dim:
            raise EncoderMismatch(
                f"the local model has {local.dim} dimensions, the API {api.dim}: no hybrid. Nothing was embedded; "
                "set the same dim, or use one of them for all."
            )
        if local.kinds != api.kinds:
            raise EncoderMismatch(
                f"the local model embeds {' and '.join(local.kinds)}, the API {' and '.join(api.kinds)}: no hybrid. "
                "Nothing was embedded; use one of them for all."
            )
        asked = probes_of(local.kinds)
        stored = probe_vectors(local) if probes is None else check_vectors(probes, len(asked), local.dim)
        cosines = np.sum(unit_rows(stored) * unit_rows(probe_vectors(api)), axis=1)
        worst = int(cosines.argmin())
        if cosines[worst] < MIN_COSINE:
            said = str(asked[worst].content.data)[:40]
            raise EncoderMismatch(
                f"the API does not embed as the local model does: probe {worst} ({said!r}) has cosine "
                f"{cosines[worst]:.5f}, a hybrid needs {MIN_COSINE} or above for all {len(asked)}. Nothing was "
                "embedded; serve the same model, max_tokens and prompts, or use one of them for all."
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The local model's."""
        return self._local.kinds

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._local.dim

    @property
    def fingerprint(self) -> str:
        """The local model's."""
        return self._local.fingerprint

    @property
    def components(self) -> Mapping[str, object]:
        """The local model's."""
        return self._local.components

    @property
    def tokenizer(self) -> Any:
        """The local model's."""
        return self._local.tokenizer

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` by the local model's tokenizer, without special tokens, untruncated."""
        return self._local.count_tokens(text)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed through the API: ``(len(pieces), dim)``. Raises as ``ApiEncoder.encode``."""
        return self._api.encode(side, pieces)
