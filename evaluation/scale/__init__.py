"""Growth with the number of documents, the plan's estimates against what happened, and a simulation of many GPUs."""
