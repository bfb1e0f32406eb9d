"""Acceptance tests: a real `virtplay serve` over HTTP on two real hypervisors of the lab."""
