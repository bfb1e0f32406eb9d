"""Tests of the filters that make libvirt's XML of networks and pools."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.virtplay.libvirt.plugins.filter.host_xml import FilterModule

FILTERS = FilterModule().filters()
network_differs, network_xml = FILTERS["network_differs"], FILTERS["network_xml"]
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
