"""What goes over the wire: request bodies (strict) and results."""
