"""The routes of the HTTP contract, a file a resource."""
