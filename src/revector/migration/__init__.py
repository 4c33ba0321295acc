"""Owns a migration from its opening to its end: the steps, the moves, the catch-up and what is left over."""
