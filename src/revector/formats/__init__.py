"""Owns reading and writing the formats of others safely: JSON, CSV, packed files and the values in them."""
