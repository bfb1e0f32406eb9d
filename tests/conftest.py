"""Tests: what all of them share."""

pytest_plugins = ["tests.lab.fixtures"]
