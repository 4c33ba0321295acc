"""Owns whether the alias may move: what is measured for it, the verdict, and the evidence that is kept."""
