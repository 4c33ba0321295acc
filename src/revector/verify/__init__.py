"""Owns whether an index equals the documents: reading back, re-embedding a sample, and repair."""
