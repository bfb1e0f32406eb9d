"""Tests of what `virtplay up` says of a VM that does not boot."""

from __future__ import annotations

from typing import Any

import pytest
from virtplay.files import PROJECT
from virtplay.machine.first_vm import NAME, explain


def said(**result: Any) -> dict[str, Any]:
    """What Ansible says when its last task ended like this."""
    created = {"task": {}, "hosts": {"localhost": {"changed": True}}}
    return {"plays": [{"tasks": [created, {"task": {}, "hosts": {"localhost": result}}]}]}


def seen(**vm: Any) -> dict[str, Any]:
    """What Ansible says of a VM that has got no address."""
    return said(failed=True, host_info={"domains": [{"name": NAME, "virt_type": "qemu", **vm}]})


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (said(changed=False), ""),
        (said(failed=True, msg="cannot start domain x: no KVM"), "cannot start domain x: no KVM"),
        ({"plays": [], "failure": {"msg": "ERROR! no inventory"}}, "ERROR! no inventory"),
        (seen(state="running"), "it runs but has got no address from network default; look at"),
        (seen(state="paused", state_reason="unknown"), "it is paused (unknown)"),
        (seen(name="other", state="running"), "the VM has vanished"),
    ],
)
def test_reason_of_a_vm_that_does_not_boot(output: dict[str, Any], reason: str) -> None:
    assert explain(output).startswith(reason)
    assert bool(explain(output)) == bool(reason)
    assert "libvirt_host_virt_type" not in explain(output)


def test_remedy_for_a_vm_with_kvm() -> None:
    text = explain(seen(state="paused", state_reason="unknown", virt_type="kvm"))
    assert text == (
        "it is paused (unknown); if KVM is at fault, set libvirt_host_virt_type: qemu in a copy of"
        f" {PROJECT / 'inventory/local.yml'}, and run virtplay up -i COPY"
    )
