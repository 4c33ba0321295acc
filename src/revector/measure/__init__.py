"""Owns pure numbers about rankings: metrics, intervals, comparisons, agreement, thresholds, exact search."""
