"""The SQL side: tables, write path, work set, control transactions and moves of the protocol."""
