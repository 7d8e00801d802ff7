"""The write queue: one protocol, a durable queue and a dummy."""
