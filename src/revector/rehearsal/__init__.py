"""Owns trying a migration on a sample first: the copy, its trial, and what was found."""
