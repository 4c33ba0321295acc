"""Takes over a table that an application owns: its rows become documents, and its vectors the first index."""
