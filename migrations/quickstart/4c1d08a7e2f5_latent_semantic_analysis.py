"""Latent semantic analysis of the corpus itself.

Why: the first index of the quickstart. It needs no download, is weak, and is honest about it.
"""

from revector import Chunking, Gate, IndexSpec, ModelSpec

revision = "4c1d08a7e2f5"
down_revision = None

model = ModelSpec(name="./.revector/models/quickstart-lsa", dim=256, max_tokens=256)
chunking = Chunking(max_tokens=256, overlap_tokens=32)
index = IndexSpec(kind="hnsw", storage="vector", m=16, ef_construction=100, ef_search=100)
gate = Gate(min_recall=0.05, max_drop=0.02, k=10, min_queries=300)
