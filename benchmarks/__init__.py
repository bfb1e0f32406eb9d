"""Benchmarks: what `make bench` measures, a file a subject."""
