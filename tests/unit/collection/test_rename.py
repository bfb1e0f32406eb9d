"""A rename that libvirt refuses: the domain keeps its name, and all else that has it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import update
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Applies,
    Change,
    Current,
    UpdatePlan,
    plan_name,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import reservations
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import DomainState

from tests.unit.collection.fake_libvirt import fake, libvirtError
from tests.unit.collection.test_reservations import MAC, Connection, Network, host

ADDRESS = "203.0.113.5"


class Domain:
    """A domain with checkpoints, which only libvirt knows of."""

    def rename(self, _name: str, _flags: int) -> None:
        raise libvirtError("cannot rename domain with checkpoints")


class Renaming(Network):
    """A network whose one reservation is changed."""

    def update(self, command: int, section: int, index: int, xml: str, flags: int) -> None:
        super().update(command, section, index, xml, flags)
        name = xml.partition('name="')[2].partition('"')[0]
        self.xml = Network(hosts=host(MAC, ADDRESS, name=name)).xml


def test_a_domain_that_libvirt_does_not_rename_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(monkeypatch, update, reservations)
    network = Renaming(hosts=host(MAC, ADDRESS, name="web"))
    definition: dict[str, Any] = {"name": "web"}
    current = Current(DomainState.STOPPED, {}, True, definition, definition)
    current.reservations = {MAC: ("default", ADDRESS)}
    title = Change("title", "a", "b", Applies.OFFLINE)
    plan = UpdatePlan(changes=[title])
    plan_name(plan, current, "db")
    assert update._rename(Connection(network), Domain(), current, plan) == [
        "cannot rename web to db: cannot rename domain with checkpoints; it keeps its name"
    ]
    assert (plan.changes, plan.name) == ([title], None)
    assert network.xml == Network(hosts=host(MAC, ADDRESS, name="web")).xml
    assert len(network.updates) == 2
