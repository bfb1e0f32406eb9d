"""Consoles: tickets for one connection each, and the streams between clients and VMs."""
