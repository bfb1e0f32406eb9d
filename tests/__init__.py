"""Tests: everything that checks Virtplay; `tests.lab` is also run by hand."""
