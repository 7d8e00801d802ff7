"""Turns jobs into memories: the worker process, and the writers it runs."""
