"""Owns what is done by night: stale entries, a source read again, dead letters tried again, new metadata."""
