"""Owns the way from a question to its answer: the searcher, what bounds it, and who may ask."""
