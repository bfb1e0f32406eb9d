"""Virtplay: a REST API for KVM hypervisors in which every change is an Ansible job."""

__version__ = "0.1.0"
