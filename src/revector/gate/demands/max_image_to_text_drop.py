"""The largest drop of the recall of captions by their images, against the active revision."""

from __future__ import annotations

from revector.gate.demand import Demand
from revector.gate.demands.max_text_to_image_drop import judged

DEMAND = Demand(
    field="max_image_to_text_drop",
    label="Largest drop of captions found by their images",
    says=lambda gate: f"captions found by their images at most {gate.max_image_to_text_drop:g} below the active one",
    judge=judged("image_to_text", lambda gate: gate.max_image_to_text_drop),
    against_old=True,
)
