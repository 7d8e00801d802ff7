"""The HTTP service: routers over the store (writes) and an engine (answers)."""
