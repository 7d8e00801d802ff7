"""Back ends that turn a query and its memories into tokens, behind one protocol."""
