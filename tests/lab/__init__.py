"""Tests of the lab, and of the collection's modules on the lab's hosts."""
