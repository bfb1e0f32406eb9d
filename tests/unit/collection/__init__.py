"""Tests of the collection's Python, without a host."""
