"""Owns what should be searchable: documents as they are written, refused, cleaned and counted."""
