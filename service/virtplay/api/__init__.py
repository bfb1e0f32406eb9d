"""API: HTTP and nothing else, a resource a file."""
