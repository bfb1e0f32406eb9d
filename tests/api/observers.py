"""Observers that a test makes, beside that of the service."""

from virtplay.hosts.inventory import HostConfig, Inventory
from virtplay.hosts.observer import Observer
from virtplay.hosts.placement import Overcommit
from virtplay.jobs.launcher import Launcher
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.history import History
from virtplay.settings import Settings


def make_observer(settings: Settings, *hosts: str) -> Observer:
    """Return an observer of these hosts, which does nothing yet."""
    inventory = Inventory({name: HostConfig(name, Overcommit(), {}) for name in hosts})
    return Observer(settings, Launcher(settings), inventory, Exposition(), History(settings))
