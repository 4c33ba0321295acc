"""Owns encoders: what a model reference means, loading it, its fingerprint, and the ways of running it."""
