"""Finding memories by vector: a cache over the shards."""
