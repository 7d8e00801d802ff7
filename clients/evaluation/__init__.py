"""Answer quality, reconstruction, size and speed of a running endpoint, over HTTP alone."""
