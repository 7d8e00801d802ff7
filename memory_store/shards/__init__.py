"""Codes on disk: formats, sealed files, reading and rewriting them."""
