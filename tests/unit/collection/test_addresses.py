"""Addresses of guests: which source is believed for which network interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import (
    addresses as guest_addresses,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.addresses import (
    Sighting,
    booted_lately,
    choose_addresses,
    parse_neighbours,
    read_agent_addresses,
    read_leases,
    read_neighbours,
)

from tests.unit.collection.fake_libvirt import NO_NETWORK, fake, libvirtError

MAC = "52:54:00:e4:4e:35"
OTHER_MAC = "52:54:00:00:00:02"
COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"
AGES = {"used": 1, "confirmed": 30, "updated": 2, "probes": 1}


def entry(ip: str, device: str = "virbr0", **more: Any) -> dict[str, Any]:
    """An entry as `ip -json -statistics neighbour` prints it."""
    return {"dst": ip, "dev": device, "lladdr": MAC.upper(), **AGES, "state": ["STALE"], **more}


def test_neighbours_are_the_resolved_and_routable_ones() -> None:
    failed = {"dst": "203.0.113.51", "dev": "virbr0", **AGES, "state": ["FAILED"]}
    table = json.dumps([entry("203.0.113.50"), failed, entry("169.254.9.9")])
    address = {"mac": MAC, "ip": "203.0.113.50", "source": "arp"}
    assert parse_neighbours(table, 1000.0) == {("virbr0", MAC): [Sighting(address, 970.0)]}


def test_neighbours_on_a_vlan_are_on_its_bridge_too_and_those_on_a_bridge_on_its_ports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = json.dumps([entry("203.0.113.50", "br0.7")])
    (tmp_path / "br0.7" / "lower_br0").mkdir(parents=True)
    monkeypatch.setattr(guest_addresses, "NEIGHBOURS", ("echo", table))
    monkeypatch.setattr(guest_addresses, "NETWORK_DEVICES", tmp_path)
    assert read_neighbours().keys() == {("br0.7", MAC), ("br0", MAC)}


@pytest.mark.parametrize("command", [("false",), ("echo", "no JSON"), ("no-such-program",)])
def test_neighbours_that_cannot_be_read_are_none(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(guest_addresses, "NEIGHBOURS", command)
    assert read_neighbours() == {}


@pytest.mark.needs("ip")
def test_neighbours_of_this_machine_are_read(tmp_path: Path) -> None:
    program = (
        "ip link add v0 type bridge && ip link set v0 up && ip address add 198.51.100.1/24 dev v0"
        f" && ip neighbour add 198.51.100.2 lladdr {MAC} dev v0 nud reachable"
        f" && ip neighbour add 198.51.100.3 lladdr {OTHER_MAC} dev v0 nud stale"
        ' && exec "$0" -c "$1"'
    )
    look = (
        "import time; from ansible_collections.virtplay.libvirt.plugins.module_utils.observe"
        ".addresses import read_neighbours; print([(place, seen.address['ip'], seen.at"
        " > time.time() - 30) for place, [seen] in sorted(read_neighbours().items())])"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", program, sys.executable, look],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # The kernel counts as not confirmed what was only added.
    expected = [(("v0", OTHER_MAC), "198.51.100.3", False), (("v0", MAC), "198.51.100.2", True)]
    assert done.stdout == f"{expected}\n", done.stderr


BRIDGES = {"default": "virbr0", "lab": "virbr1"}


def nic(source: str | None = "default", kind: str = "network", mac: str = MAC) -> dict[str, Any]:
    return {"type": kind, "source": source, "mac": mac, "model": None, "target": "vnet0"}


def known(
    source: str, *places: tuple[str, str], at: float | None = None
) -> dict[tuple[str, str], list[Sighting]]:
    """An address for each place, a device of the host and a MAC address."""
    return {
        (device, mac): [Sighting({"mac": mac, "ip": f"{source}@{device}", "source": source}, at)]
        for device, mac in places
    }


def of_agent(*macs: str) -> dict[str, list[dict[str, str]]]:
    """What an agent reports of its interfaces."""
    seen = known("agent", *(("", mac) for mac in macs))
    return {mac: [one.address for one in entries] for (_, mac), entries in seen.items()}


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
        agent=of_agent(*agent),
        neighbours=known("arp", *((device, MAC) for device in arp)),
        booted=None,
    )
    assert [address["ip"] for address in found] == expected


BOOTED = 1000.0


@pytest.mark.parametrize(
    ("lease", "agent", "arp", "expected"),
    [
        (BOOTED + 5, [], None, ["lease@virbr0"]),
        # Leases are written, and starts are counted, in whole seconds.
        (BOOTED - 1, [], None, ["lease@virbr0"]),
        # Of the boot before: nobody can connect there yet.
        (BOOTED - 60, [], BOOTED - 30, []),
        (BOOTED - 60, [], BOOTED + 5, ["arp@virbr0"]),
        (BOOTED - 60, [MAC], BOOTED - 30, ["agent@"]),
        # For ever: when it was given is not known.
        (None, [], None, ["lease@virbr0"]),
    ],
)
def test_addresses_of_the_boot_before_are_not_believed(
    lease: float | None, agent: list[str], arp: float | None, expected: list[str]
) -> None:
    found = choose_addresses(
        [nic()],
        BRIDGES,
        leases=known("lease", ("virbr0", MAC), at=lease),
        agent=of_agent(*agent),
        neighbours=known("arp", ("virbr0", MAC), at=arp) if arp else {},
        booted=BOOTED,
    )
    assert [address["ip"] for address in found] == expected


def test_any_address_is_believed_some_time_after_the_boot() -> None:
    now = time.time()
    assert booted_lately(now - 10) == now - 10
    assert booted_lately(now - 130) is None
    assert booted_lately(None) is None


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

    def __init__(self, bridge: str, *leases: tuple[int, str], dhcp: str = "") -> None:
        self.bridge, self.leases, self.dhcp = bridge, leases, dhcp

    def DHCPLeases(self) -> list[dict[str, Any]]:  # noqa: N802
        return [
            {"expirytime": expiry, "mac": MAC.upper(), "ipaddr": ip} for expiry, ip in self.leases
        ]

    def bridgeName(self) -> str:  # noqa: N802
        if not self.bridge:
            raise libvirtError("Network not found", NO_NETWORK)
        return self.bridge

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return f"<network><ip address='203.0.113.1'><dhcp>{self.dhcp}</dhcp></ip></network>"


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
    assert {place: [seen.address["ip"] for seen in all_] for place, all_ in found.items()} == {
        ("virbr0", MAC): ["203.0.113.6", "203.0.113.5"],
        ("virbr1", MAC): ["198.51.100.5"],
    }


RANGE = "<range start='203.0.113.2' end='203.0.113.254'>{}</range>"


@pytest.mark.parametrize(
    ("dhcp", "expiry", "at"),
    [
        (RANGE.format(""), 10_000, 6_400),
        ("<host mac='52:54:00:00:00:01' ip='203.0.113.9'/>", 10_000, 6_400),
        (RANGE.format("<lease expiry='30'/>"), 10_000, 8_200),
        (RANGE.format("<lease expiry='12' unit='hours'/>"), 100_000, 56_800),
        # The shortest: a lease is rather believed than not.
        (RANGE.format("<lease expiry='12' unit='hours'/>") + RANGE.format(""), 10_000, 6_400),
        (
            RANGE.format("<lease expiry='12' unit='hours'/>")
            + "<host mac='52:54:00:00:00:01' ip='203.0.113.9'><lease expiry='600' unit='seconds'/>"
            "</host>",
            10_000,
            9_400,
        ),
        (RANGE.format("<lease expiry='0'/>"), 10_000, None),
        (RANGE.format(""), 0, None),
    ],
)
def test_a_lease_was_given_its_duration_before_it_expires(
    monkeypatch: pytest.MonkeyPatch, dhcp: str, expiry: int, at: float | None
) -> None:
    fake(monkeypatch, guest_addresses)
    found = read_leases([Leases("virbr0", (expiry, "203.0.113.5"), dhcp=dhcp)])
    assert [seen.at for seen in found["virbr0", MAC]] == [at]
