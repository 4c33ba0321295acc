"""The least likeness of the model as it runs to its own files, judged before anything is embedded (``fidelity``)."""

from __future__ import annotations

from revector.gate.demand import Demand

DEMAND = Demand(
    field="min_fidelity",
    label="Least neighbours shared with the model's own files, before embedding",
    says=lambda gate: f"the model as it runs shares at least {gate.min_fidelity:g} of neighbours with its own files",
    off=0.0,
)
