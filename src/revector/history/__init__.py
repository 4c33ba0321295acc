"""Owns what happened: events, their audit and sentences, notices to others, and the series of the canary."""
