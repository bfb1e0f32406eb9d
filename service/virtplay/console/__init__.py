"""Consoles: tickets for one stream each, and the streams between a client and a guest."""
