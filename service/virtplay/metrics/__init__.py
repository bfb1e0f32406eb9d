"""Metrics: usage history, and the exposition for Prometheus."""
