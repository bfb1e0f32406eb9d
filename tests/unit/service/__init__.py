"""Tests: the pure parts of the service."""
