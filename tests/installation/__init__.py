"""Tests of installing the service, on a Debian whose first process is a real systemd."""
