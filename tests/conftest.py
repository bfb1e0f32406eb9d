"""Tests: what all of them share."""

import os

pytest_plugins = ["tests.lab.fixtures", "tests.warm.environment"]

# What the person who runs the tests has set is for another service and other playbooks.
for _name in [name for name in os.environ if name.startswith(("VIRTPLAY_", "ANSIBLE_"))]:
    del os.environ[_name]
