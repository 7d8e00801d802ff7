"""The SQLite catalogue: what is stored, in tables."""
