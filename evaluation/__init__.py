"""Labelled sets and benchmarks of this repository; nothing of it is installed."""
