"""Tests of the filters that make libvirt's XML of networks and pools."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.virtplay.libvirt.plugins.filter.host_xml import FilterModule

FILTERS = FilterModule().filters()
network_differs, network_xml = FILTERS["network_differs"], FILTERS["network_xml"]
network_choice = FILTERS["network_choice"]
pool_xml = FILTERS["pool_xml"]
NAT = {"name": "default", "cidr": "203.0.113.0/24", "bridge": "virbr0"}
# As the distribution's package defines it, and as libvirt gives back a running one.
DISTRIBUTION = """<network connections='1'><name>default</name><uuid>u</uuid><forward mode='nat'>
<nat><port start='1024' end='65535'/></nat></forward><bridge name='virbr0' stp='on' delay='0'/>
<mac address='52:54:00:00:00:01'/><ip address='192.168.122.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.122.2' end='192.168.122.254'/>
<host mac='52:54:00:00:00:02' ip='192.168.122.9'/></dhcp></ip></network>"""


def test_network_has_the_host_first_and_gives_out_the_rest() -> None:
    assert network_xml(NAT) == (
        '<network><name>default</name><forward mode="nat" />'
        '<bridge name="virbr0" stp="on" delay="0" />'
        '<ip address="203.0.113.1" prefix="24"><dhcp>'
        '<range start="203.0.113.2" end="203.0.113.254" /></dhcp></ip></network>'
    )


def test_isolated_network_without_dhcp() -> None:
    xml = network_xml(
        {"name": "lan", "cidr": "203.0.113.0/28", "forward": "isolated", "dhcp": False}
    )
    assert xml == '<network><name>lan</name><ip address="203.0.113.1" prefix="28" /></network>'


@pytest.mark.parametrize(
    ("network", "differs"),
    [
        ({"cidr": "192.168.122.0/24"}, False),
        ({"cidr": "192.168.122.0/24", "bridge": "virbr0"}, False),
        ({"cidr": "192.168.122.0/24", "bridge": "virbr1"}, True),
        ({"cidr": "192.168.122.0/25"}, True),
        ({"cidr": "203.0.113.0/24"}, True),
        ({"cidr": "192.168.122.0/24", "forward": "route"}, True),
        ({"cidr": "192.168.122.0/24", "dhcp": False}, True),
        ({"cidr": "192.168.122.0/24", "dhcp_start": "192.168.122.100"}, True),
    ],
)
def test_network_differs_only_in_what_is_set(network: dict[str, Any], differs: bool) -> None:
    assert network_differs(DISTRIBUTION, {"name": "default"} | network) is differs


@pytest.mark.parametrize("change", [{}, {"forward": "isolated"}, {"dhcp": False}])
def test_network_is_not_different_from_itself(change: dict[str, Any]) -> None:
    assert network_differs(network_xml(NAT | change), NAT | change) is False


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a<b"},
        {"name": ""},
        {"cidr": "203.0.113.1/24"},
        {"cidr": "203.0.113.0/31"},
        {"cidr": "nonsense"},
        {"bridge": "much-too-long-for-linux"},
        {"forward": "open"},
        {"dhcp_end": "198.51.100.1"},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="cannot define network"):
        network_xml(NAT | change)


def test_pool_is_a_directory_and_its_text_never_markup() -> None:
    assert pool_xml({"name": "p", "path": "/srv/a&b"}) == (
        '<pool type="dir"><name>p</name><target><path>/srv/a&amp;b</path></target></pool>'
    )
    for path in ("relative", "/a/../b", ""):
        with pytest.raises(AnsibleFilterError, match="cannot define pool p"):
            pool_xml({"name": "p", "path": path})


AUTO = {"name": "default", "cidr": "auto", "bridge": "virbr0", "forward": "nat"}
DEFAULT = "192.168.122.0/24"
UPLINK = {"device": "eth0", "address": "192.168.122.50/24"}


def libvirt_network(cidr: str, name: str = "default", **values: Any) -> dict[str, Any]:
    """What the host shows of a network: by default an active one."""
    bridge = "virbr0" if name == "default" else "virbr7"
    xml = network_xml({"name": name, "cidr": cidr, "bridge": bridge})
    return {"name": name, "xml": xml, "active": True, "used": True, **values}


def chosen(network: dict[str, Any] = AUTO, **host: Any) -> dict[str, Any]:
    """The choice on a host with this."""
    empty: dict[str, Any] = {"addresses": [], "routes": [], "needed": [], "networks": []}
    choice: dict[str, Any] = network_choice({**empty, **host}, network)
    return choice


@pytest.mark.parametrize(
    ("host", "cidr", "message"),
    [
        ({}, DEFAULT, ""),
        ({"addresses": [{"device": "eth0", "address": "192.0.2.9/24"}]}, DEFAULT, ""),
        # A VM of another hypervisor whose own default network is its uplink.
        ({"addresses": [UPLINK]}, "192.168.123.0/24",
         "network default is 192.168.123.0/24, because 192.168.122.0/24 contains address"
         " 192.168.122.50/24 of eth0"),
        ({"addresses": [{"device": "eth0", "address": "192.168.1.9/16"}]}, "10.122.122.0/24",
         "192.168.122.0/24 is in 192.168.0.0/16 of eth0"),
        ({"routes": [{"device": "tun0", "destination": "192.168.122.64/26"}]}, "192.168.123.0/24",
         "192.168.122.0/24 contains the route to 192.168.122.64/26 through tun0"),
        ({"routes": [{"device": "tun0", "destination": "192.168.0.0/16"}]}, "10.122.122.0/24",
         "192.168.122.0/24 is in 192.168.0.0/16, which is routed through tun0"),
        # A VPN that takes all traffic.
        ({"routes": [{"device": "tun0", "destination": "128.0.0.0/1"}]}, DEFAULT, ""),
        ({"needed": [{"what": "a name server", "address": "192.168.122.1"}]}, "192.168.123.0/24",
         "192.168.122.0/24 contains 192.168.122.1, a name server"),
        ({"addresses": [{"device": "eth0", "address": "fd00::2/64"}],
          "needed": [{"what": "a name server", "address": "fe80::1%eth0"}]}, DEFAULT, ""),
        ({"networks": [libvirt_network(DEFAULT, "other", active=False)]}, "192.168.123.0/24",
         "192.168.122.0/24 overlaps with network other, 192.168.122.0/24"),
    ],
)  # fmt: skip
def test_a_new_network_gets_addresses_that_overlap_nothing(
    host: dict[str, Any], cidr: str, message: str
) -> None:
    choice = chosen(**host)
    assert (choice["network"]["cidr"], choice["define"], choice["replace"]) == (cidr, True, False)
    assert message in choice["message"]
    assert bool(message) == bool(choice["message"])
    assert not choice["fault"]
    assert f'address="{cidr.removesuffix("0/24")}1"' in network_xml(choice["network"])


def test_a_new_network_leaves_the_bridge_of_another_alone() -> None:
    other = libvirt_network("192.0.2.0/24", "other")
    other["xml"] = other["xml"].replace("virbr7", "virbr0")
    assert "bridge" not in chosen(networks=[other])["network"]
    assert chosen()["network"]["bridge"] == "virbr0"


@pytest.mark.parametrize(
    ("values", "overlaps", "replace", "cidr"),
    [
        ({}, False, False, DEFAULT),
        ({}, True, False, DEFAULT),
        ({"active": False}, False, False, DEFAULT),
        # As a package defined it, on a host where libvirt could never start it.
        ({"active": False, "used": False}, True, True, "192.168.123.0/24"),
        ({"active": False, "used": False}, False, False, DEFAULT),
    ],
)
def test_an_existing_network_is_left_alone_unless_it_was_never_active(
    values: dict[str, Any], overlaps: bool, replace: bool, cidr: str
) -> None:
    known = libvirt_network(DEFAULT, **values)
    own = [{"device": "virbr0", "address": "192.168.122.1/24"}] if known["active"] else []
    choice = chosen(networks=[known], addresses=[*own, *([UPLINK] if overlaps else [])])
    assert (choice["replace"], choice["define"]) == (replace, replace)
    assert choice["network"]["cidr"] == cidr
    assert bool(choice["message"]) is overlaps
    assert not choice["fault"]


@pytest.mark.parametrize(
    ("network", "host", "fault"),
    [
        (NAT | {"cidr": DEFAULT}, {"addresses": [UPLINK]},
         "cannot create network default: its range 192.168.122.0/24 contains address"
         " 192.168.122.50/24 of eth0; set another cidr in libvirt_host_networks"),
        (AUTO, {"addresses": [UPLINK], "networks": [libvirt_network(DEFAULT, active=False)]},
         "cannot start network default: its range 192.168.122.0/24 contains address"),
        (NAT | {"cidr": DEFAULT}, {"networks": [libvirt_network("192.168.122.128/25", "other")]},
         "contains addresses of network other, 192.168.122.128/25"),
        (NAT, {"needed": [{"what": "the SSH client", "address": "203.0.113.9"}]},
         "contains 203.0.113.9, the SSH client"),
        # Its range is a part of the host's network, as somebody chose.
        (NAT, {"addresses": [{"device": "eth0", "address": "203.0.112.5/20"}]}, ""),
        # The SSH client is a guest.
        (NAT, {"networks": [libvirt_network("203.0.113.0/24")],
               "needed": [{"what": "the SSH client", "address": "203.0.113.9"}]}, ""),
    ],
)  # fmt: skip
def test_a_range_with_what_the_host_needs_is_refused(
    network: dict[str, Any], host: dict[str, Any], fault: str
) -> None:
    choice = chosen(network, **host)
    assert fault in choice["fault"]
    assert bool(fault) == bool(choice["fault"])


def test_no_free_range_is_said() -> None:
    everywhere = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
    routes = [{"device": "tun0", "destination": destination} for destination in everywhere]
    with pytest.raises(AnsibleFilterError, match="cannot choose addresses for network default"):
        chosen(routes=routes)
