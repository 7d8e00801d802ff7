"""The load test: the same requests, at the same times, against one endpoint or two."""
