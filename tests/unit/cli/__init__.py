"""Unit tests: the command line, driven as a whole against a server on loopback."""
