"""Owns the way from a due item to a visible vector: worker, backfill, chunking, encoding, reuse and publish."""
