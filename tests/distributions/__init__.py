"""Tests of hosts of other Debian releases; `python -m tests.distributions` runs them on each."""
