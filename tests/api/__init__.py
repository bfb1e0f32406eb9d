"""Tests: the service through HTTP, on both databases."""
