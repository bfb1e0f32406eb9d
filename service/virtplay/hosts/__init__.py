"""Hosts: the inventory, the placement of VMs, and the observation that keeps the rows true."""
