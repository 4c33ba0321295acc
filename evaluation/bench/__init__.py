"""Benchmarks: each module is one command, and keeps its figures in ``results/``."""
