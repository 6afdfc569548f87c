"""Short-lived processes, one module each: one JSON value on stdin, one on stdout."""
