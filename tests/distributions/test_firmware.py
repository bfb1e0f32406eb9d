"""Distributions: UEFI firmware of VMs whose definitions leave its choice to libvirt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lxml import etree

from lab import Host
from tests.acceptance.guests import domain_xml, traces
from tests.distributions.hosts import SMALL, Hypervisor
from tests.distributions.report import Row

DESCRIPTIONS = "/etc/qemu/firmware"


def forget_firmware(host: Host, identity: str) -> str | None:
    """Define a VM without a firmware, as once on Debian 12; return where its variables are then."""
    root = domain_xml(host, identity, "--inactive")
    system = root.find("os")
    for tag in ("loader", "nvram", "firmware"):
        for element in system.findall(tag):
            system.remove(element)
    system.set("firmware", "efi")
    wanted = etree.SubElement(system, "firmware")
    etree.SubElement(wanted, "feature", enabled="no", name="secure-boot")
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))
    found = domain_xml(host, identity, "--inactive").findtext("os/nvram")
    return str(found) if found else None


@pytest.fixture
def other_descriptions(hypervisor: Hypervisor) -> Iterator[None]:
    """The host as it was before the role named the firmware first."""
    host = hypervisor.host
    host.run("mv", DESCRIPTIONS, f"{DESCRIPTIONS}.aside")
    yield
    host.run("mv", f"{DESCRIPTIONS}.aside", DESCRIPTIONS)


@pytest.mark.usefixtures("other_descriptions")
def test_uefi_definition_of_before(hypervisor: Hypervisor, vm: str, release: str, row: Row) -> None:
    host, act = hypervisor.host, hypervisor.domain
    before = traces(host)
    act("create", **SMALL | {"memory": 192}, uuid=vm, name="before", firmware="efi")
    with row("definition without a firmware, as of Debian 12: start or update mend it; delete"):
        # libvirt 9.0 shows no choice before the start, 11.3 takes the usual firmware, 12.8 one
        # without variables.
        shown = forget_firmware(host, vm)
        assert (shown is not None) == (release == "trixie")
        assert act("start", "--check", uuid=vm).changed == 1
        assert act("start", uuid=vm).changed == 1
        variables = domain_xml(host, vm).findtext("os/nvram")
        assert variables
        assert act("start", uuid=vm).changed == 0
        host.run("virsh", "destroy", vm)
        forget_firmware(host, vm)
        assert act("update", uuid=vm, title="x").changed == 1
        assert act("update", uuid=vm, title="x").changed == 0
        host.run("test", "-e", variables)
        forget_firmware(host, vm)
        assert act("delete", uuid=vm).changed == 1
        assert traces(host) == before


def test_uefi_definition_of_somebody_else(hypervisor: Hypervisor, vm: str, row: Row) -> None:
    host = hypervisor.host
    hypervisor.domain("create", **SMALL | {"memory": 192}, uuid=vm, name="other", firmware="efi")
    with row("definition without a firmware on a prepared host: libvirt takes one with variables"):
        forget_firmware(host, vm)
        host.run("virsh", "-q", "start", vm)
        assert domain_xml(host, vm).findtext("os/nvram")
