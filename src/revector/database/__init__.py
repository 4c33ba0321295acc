"""Owns connections to PostgreSQL: engine, sessions, its errors as ours, and the schema of revector's tables."""
