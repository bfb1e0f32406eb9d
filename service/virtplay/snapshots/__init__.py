"""Snapshots: what may happen to them, their schedules, and what schedules keep."""
