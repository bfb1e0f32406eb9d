"""Snapshots: requests to change them, their schedules, and which of them schedules keep."""
