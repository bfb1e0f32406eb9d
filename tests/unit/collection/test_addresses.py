"""Addresses of guests: which source is believed for which network interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import (
    addresses as guest_addresses,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.addresses import (
    choose_addresses,
    parse_neighbours,
    read_agent_addresses,
    read_leases,
    read_neighbours,
)

from tests.unit.collection.fake_libvirt import NO_NETWORK, fake, libvirtError

MAC = "52:54:00:e4:4e:35"
NEIGHBOURS = """\
IP address       HW type     Flags       HW address            Mask     Device
203.0.113.50     0x1         0x2         52:54:00:E4:4E:35     *        virbr0
203.0.113.51     0x1         0x0         00:00:00:00:00:00     *        virbr0
169.254.9.9      0x1         0x2         52:54:00:e4:4e:35     *        virbr0
nonsense
"""


def test_neighbours_are_the_complete_and_routable_ones() -> None:
    assert parse_neighbours(NEIGHBOURS) == {
        ("virbr0", MAC): [{"mac": MAC, "ip": "203.0.113.50", "source": "arp"}]
    }


def test_neighbours_on_a_vlan_are_on_its_bridge_too_and_those_on_a_bridge_on_its_ports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = "203.0.113.50 0x1 0x2 52:54:00:E4:4E:35 * br0.7\n"
    (tmp_path / "arp").write_text("header\n" + line)
    (tmp_path / "br0.7" / "lower_br0").mkdir(parents=True)
    monkeypatch.setattr(guest_addresses, "NEIGHBOURS", tmp_path / "arp")
    monkeypatch.setattr(guest_addresses, "NETWORK_DEVICES", tmp_path)
    assert read_neighbours().keys() == {("br0.7", MAC), ("br0", MAC)}
    monkeypatch.setattr(guest_addresses, "NEIGHBOURS", tmp_path / "none")
    assert read_neighbours() == {}


OTHER_MAC = "52:54:00:00:00:02"
BRIDGES = {"default": "virbr0", "lab": "virbr1"}


def nic(source: str | None = "default", kind: str = "network", mac: str = MAC) -> dict[str, Any]:
    return {"type": kind, "source": source, "mac": mac, "model": None, "target": "vnet0"}


def known(source: str, *places: tuple[str, str]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """An address for each place, a device of the host and a MAC address."""
    return {
        (device, mac): [{"mac": mac, "ip": f"{source}@{device}", "source": source}]
        for device, mac in places
    }


@pytest.mark.parametrize(
    ("nics", "leases", "agent", "arp", "expected"),
    [
        ([nic()], ["virbr0"], [MAC], ["virbr0"], ["lease@virbr0"]),
        ([nic(mac=MAC.upper())], ["virbr0"], [], [], ["lease@virbr0"]),
        ([nic()], [], [MAC], ["virbr0"], ["agent@"]),
        ([nic()], [], [OTHER_MAC], ["virbr0"], ["arp@virbr0"]),
        # Another guest has the same MAC address in another network.
        ([nic()], ["virbr1"], [], ["virbr1"], []),
        ([nic("lab")], ["virbr0", "virbr1"], [], [], ["lease@virbr1"]),
        # On the bridge of a network without being of that network.
        ([nic("virbr0", "bridge")], ["virbr0"], [], [], ["lease@virbr0"]),
        ([nic("br0", "bridge")], ["virbr0"], [], ["virbr0", "br0"], ["arp@br0"]),
        ([nic("eth0", "direct")], ["virbr0"], [], ["eth0"], ["arp@eth0"]),
        ([nic(None, "ethernet")], ["virbr0"], [], ["vnet0"], ["arp@vnet0"]),
        ([nic(None, "user")], ["virbr0"], [], ["virbr0"], []),
        ([nic("gone")], ["virbr0"], [MAC], ["virbr0"], ["agent@"]),
        ([nic(), nic("lab", mac=OTHER_MAC)], [], [MAC, OTHER_MAC], [], ["agent@", "agent@"]),
        ([nic(mac="")], ["virbr0"], [""], ["virbr0"], []),
    ],
)
def test_source_is_believed_only_for_interfaces_that_it_can_know(
    nics: list[dict[str, Any]],
    leases: list[str],
    agent: list[str],
    arp: list[str],
    expected: list[str],
) -> None:
    found = choose_addresses(
        nics,
        BRIDGES,
        leases=known("lease", *((bridge, MAC) for bridge in leases)),
        agent={mac: entry for (_, mac), entry in known("agent", *(("", m) for m in agent)).items()},
        neighbours=known("arp", *((device, MAC) for device in arp)),
    )
    assert [address["ip"] for address in found] == expected


class Agent:
    """A domain whose guest agent reports these addresses of one interface."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def interfaceAddresses(self, _source: int) -> dict[str, Any]:  # noqa: N802
        return {"eth0": {"hwaddr": MAC.upper(), "addrs": [{"addr": ip} for ip in self.texts]}}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["203.0.113.5", "2001:db8::5"], ["203.0.113.5", "2001:db8::5"]),
        (["203.0.113.5", "203.0.113.5"], ["203.0.113.5"]),
        (["127.0.0.1", "169.254.1.1", "fe80::1", "0.0.0.0", "224.0.0.1", "::", "soon", ""], []),
        # What Python takes as a zone is any text.
        (["2001:db8::5%-oProxyCommand=x", "2001:db8::5%" + 99 * "x"], []),
    ],
)
def test_agent_gives_addresses_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, texts: list[str], expected: list[str]
) -> None:
    fake(monkeypatch, guest_addresses)
    found = read_agent_addresses(Agent(*texts)).get(MAC, [])
    assert [address["ip"] for address in found] == expected


def test_agent_cannot_give_any_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, guest_addresses)
    many = (f"198.51.{high}.{low}" for high in range(9) for low in range(1, 250))
    assert len(read_agent_addresses(Agent(*many))[MAC]) == guest_addresses.MOST_ADDRESSES


class Leases:
    """A network with DHCP leases of MAC, or one that was deleted meanwhile."""

    def __init__(self, bridge: str, *leases: tuple[int, str]) -> None:
        self.bridge, self.leases = bridge, leases

    def DHCPLeases(self) -> list[dict[str, Any]]:  # noqa: N802
        return [
            {"expirytime": expiry, "mac": MAC.upper(), "ipaddr": ip} for expiry, ip in self.leases
        ]

    def bridgeName(self) -> str:  # noqa: N802
        if not self.bridge:
            raise libvirtError("Network not found", NO_NETWORK)
        return self.bridge


def test_leases_are_those_of_their_bridge_the_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(monkeypatch, guest_addresses)
    found = read_leases(
        [
            Leases("virbr0", (1, "203.0.113.5"), (2, "203.0.113.6")),
            Leases(""),
            Leases("virbr1", (1, "198.51.100.5")),
        ]
    )
    assert {place: [entry["ip"] for entry in entries] for place, entries in found.items()} == {
        ("virbr0", MAC): ["203.0.113.6", "203.0.113.5"],
        ("virbr1", MAC): ["198.51.100.5"],
    }
