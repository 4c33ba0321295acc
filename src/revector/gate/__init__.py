"""Owns whether the alias may move: what is measured for it, the verdict, its evidence and its page of figures."""
