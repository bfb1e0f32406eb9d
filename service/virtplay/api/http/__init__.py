"""HTTP: what turns a request into a call of a handler, and its answer into a response."""
