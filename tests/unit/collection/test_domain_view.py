"""What the next boot brings, and whether a guest's agent is there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.view import (
    agent_is_connected,
    pending_values,
)

LIVE = {"vcpus": 2, "vcpus_max": 4, "memory": 512, "memory_max": 1024, "name": "vm-001"}


@pytest.mark.parametrize(
    ("config", "pending"),
    [
        ({}, {}),
        ({"memory": 1024}, {"memory": 1024}),
        ({"vcpus": 1, "vcpus_max": 8}, {"vcpus": 1, "vcpus_max": 8}),
        ({"name": "renamed"}, {}),
    ],
)
def test_pending_values(config: dict[str, Any], pending: dict[str, Any]) -> None:
    assert pending_values(LIVE, {**LIVE, **config}) == pending


@pytest.mark.parametrize(
    ("channel", "connected"),
    [
        ("", False),
        ("<target type='virtio' name='org.qemu.guest_agent.0'/>", False),
        ("<target name='org.qemu.guest_agent.0' state='disconnected'/>", False),
        ("<target name='org.qemu.guest_agent.0' state='connected'/>", True),
        ("<target name='com.redhat.spice.0' state='connected'/>", False),
    ],
)
def test_agent_is_there_when_the_guest_has_opened_its_channel(
    channel: str, connected: bool
) -> None:
    xml = f"<domain><devices><channel type='unix'>{channel}</channel></devices></domain>"
    assert agent_is_connected(xml) is connected
