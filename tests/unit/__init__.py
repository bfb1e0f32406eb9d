"""Tests of single parts, without a host or a service."""
