"""DHCP reservations of guests: which addresses a network gives, and what is asked of libvirt."""

from __future__ import annotations

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import reservations
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.reservations import (
    add_reservation,
    check_reservation,
    list_reservations,
    remove_reservation,
    rename_reservation,
)

from tests.unit.collection.fake_libvirt import (
    NO_NETWORK,
    NO_SUPPORT,
    OTHER,
    SYSTEM_ERROR,
    fake,
    libvirtError,
)

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
ADD, DELETE, MODIFY = 3, 2, 1


class Network:
    """A network that answers with its XML and notes its updates."""

    def __init__(self, name: str = "default", hosts: str = "", *, active: bool = True) -> None:
        self._name, self._active = name, active
        self.xml = (
            f"<network><name>{name}</name>"
            "<ip address='203.0.113.1' netmask='255.255.255.0'><dhcp>"
            f"<range start='203.0.113.2' end='203.0.113.254'/>{hosts}</dhcp></ip>"
            "<ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp/></ip>"
            "<ip address='198.51.100.1' prefix='24'/></network>"
        )
        self.updates: list[tuple[int, str, int]] = []
        self.error: libvirtError | None = None
        self.gone: libvirtError | None = None

    def name(self) -> str:
        return self._name

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        if self.gone:
            raise self.gone
        return self.xml

    def isActive(self) -> bool:  # noqa: N802
        return self._active

    def isPersistent(self) -> bool:  # noqa: N802
        return True

    def update(self, command: int, _section: int, _index: int, xml: str, flags: int) -> None:
        if self.error:
            raise self.error
        self.updates.append((command, xml, flags))


class Connection:
    def __init__(self, *networks: Network) -> None:
        self.networks = {network.name(): network for network in networks}
        self.error: libvirtError | None = None

    def listAllNetworks(self, _flags: int) -> list[Network]:  # noqa: N802
        if self.error:
            raise self.error
        return list(self.networks.values())

    def networkLookupByName(self, name: str) -> Network:  # noqa: N802
        if name not in self.networks:
            raise libvirtError("Network not found", NO_NETWORK)
        return self.networks[name]


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, reservations)


def host(mac: str, ip: str, **more: str) -> str:
    given = "".join(f" {key}='{value}'" for key, value in {"mac": mac, "ip": ip, **more}.items())
    return f"<host{given}/>"


@pytest.mark.parametrize("address", ["203.0.113.5", "203.0.113.254"])
def test_address_of_a_subnet_with_dhcp_can_be_reserved(address: str) -> None:
    check_reservation(Network(), address, MAC)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("soon", "it is not an IP address"),
        ("203.0.113.5/24", "it is not an IP address"),
        ("203.0.113.1", "it assigns addresses of"),
        ("2001:db8::5", "libvirt reserves IPv6 addresses for DUIDs only"),
        ("198.51.100.5", "it assigns addresses of 203.0.113.0/24, 2001:db8::/64"),
        ("192.0.2.5", "it assigns addresses of"),
        ("203.0.113.9", "it is reserved for web-2"),
        ("203.0.113.10", f"it is reserved for {OTHER_MAC}"),
    ],
)
def test_address_that_cannot_be_reserved_says_why(address: str, words: str) -> None:
    taken = host(OTHER_MAC, "203.0.113.9", name="web-2") + host(OTHER_MAC, "203.0.113.10")
    with pytest.raises(Failure, match="cannot reserve") as caught:
        check_reservation(Network(hosts=taken), address, MAC)
    assert words in caught.value.message
    assert caught.value.code == "VALIDATION_ERROR"


def test_own_reservation_is_no_obstacle() -> None:
    check_reservation(Network(hosts=host(MAC.upper(), "203.0.113.9")), "203.0.113.9", MAC)


def test_reservations_are_found_in_every_network() -> None:
    connection = Connection(
        Network("a", host(MAC, "203.0.113.5")),
        Network("b", host(OTHER_MAC.upper(), "203.0.113.6") + "<host name='x'/>"),
    )
    assert list_reservations(connection, [MAC.upper(), OTHER_MAC]) == {
        MAC: ("a", "203.0.113.5"),
        OTHER_MAC: ("b", "203.0.113.6"),
    }
    assert list_reservations(connection, []) == {}


def test_reservation_is_made_live_and_for_good_with_escaped_text() -> None:
    network = Network()
    add_reservation(Connection(network), "default", mac=MAC, address="203.0.113.5", host="<web>&'")
    assert network.updates == [
        (ADD, f'<host mac="{MAC}" ip="203.0.113.5" name="&lt;web&gt;&amp;\'"/>', 1 | 2)
    ]


def test_reservation_of_an_inactive_network_is_for_good_only() -> None:
    network = Network(active=False)
    add_reservation(Connection(network), "default", mac=MAC, address="203.0.113.5", host="web")
    assert [flags for _command, _xml, flags in network.updates] == [2]


def test_reservation_that_is_there_is_left_alone() -> None:
    network = Network(hosts=host(MAC, "203.0.113.5"))
    add_reservation(Connection(network), "default", mac=MAC, address="203.0.113.5", host="web")
    assert network.updates == []


def test_name_that_an_entry_has_is_not_given_twice() -> None:
    network = Network(hosts=host(OTHER_MAC, "203.0.113.9", name="web"))
    add_reservation(Connection(network), "default", mac=MAC, address="203.0.113.5", host="web")
    assert network.updates == [(ADD, f'<host mac="{MAC}" ip="203.0.113.5"/>', 1 | 2)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (libvirtError("not supported by the driver: virConnectListAllNetworks", NO_SUPPORT), False),
        (libvirtError("Failed to connect socket to virtnetworkd-sock", SYSTEM_ERROR), False),
        (libvirtError("connection lost", OTHER), True),
    ],
)
def test_host_without_networks_has_no_reservations(error: libvirtError, raised: bool) -> None:
    connection = Connection()
    connection.error = error
    if not raised:
        assert list_reservations(connection, [MAC]) == {}
        return
    with pytest.raises(libvirtError):
        list_reservations(connection, [MAC])


def test_network_that_was_deleted_meanwhile_has_no_reservations() -> None:
    gone = Network("gone")
    gone.gone = libvirtError("Network not found", NO_NETWORK)
    connection = Connection(gone, Network("a", host(MAC, "203.0.113.5")))
    assert list_reservations(connection, [MAC]) == {MAC: ("a", "203.0.113.5")}


def test_reservation_moves_from_another_network() -> None:
    old, new = Network("old", host(MAC, "203.0.113.5")), Network("new")
    add_reservation(Connection(old, new), "new", mac=MAC, address="203.0.113.6", host="web")
    assert [command for command, _xml, _flags in old.updates] == [DELETE]
    assert [command for command, _xml, _flags in new.updates] == [ADD]


def test_missing_network_driver_is_said() -> None:
    class WithoutNetworks(Connection):
        def networkLookupByName(self, name: str) -> Network:  # noqa: N802
            raise libvirtError("not supported by the driver", NO_SUPPORT)

    with pytest.raises(Failure, match="has no network driver") as refusal:
        add_reservation(WithoutNetworks(), "lab", mac=MAC, address="203.0.113.5", host="web")
    assert refusal.value.code == "VALIDATION_ERROR"


def test_unknown_network_is_said() -> None:
    with pytest.raises(Failure, match="cannot use network 'none'"):
        add_reservation(Connection(), "none", mac=MAC, address="203.0.113.5", host="web")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (libvirtError("couldn't locate a matching dhcp host entry", OTHER), False),
        (libvirtError("Network not found", NO_NETWORK), False),
        (libvirtError("connection lost", OTHER), True),
    ],
)
def test_removal_of_what_is_gone_is_no_failure(error: libvirtError, raised: bool) -> None:
    network = Network()
    network.error = error
    if not raised:
        remove_reservation(Connection(network), MAC, ("default", "203.0.113.5"))
        return
    with pytest.raises(libvirtError):
        remove_reservation(Connection(network), MAC, ("default", "203.0.113.5"))


@pytest.mark.parametrize(
    ("hosts", "renamed"),
    [
        ([host(MAC, "203.0.113.5", name="web")], True),
        ([host(MAC.upper(), "203.0.113.5", name="web")], True),
        ([host(MAC, "203.0.113.5")], False),
        ([host(MAC, "203.0.113.5", name="mine")], False),
        ([host(OTHER_MAC, "203.0.113.6", name="web"), host(MAC, "203.0.113.5")], False),
        (
            [
                host(MAC, "203.0.113.5", name="web"),
                host(OTHER_MAC, "203.0.113.6", name="db"),
            ],
            False,
        ),
    ],
)
def test_a_reservation_gets_the_new_name_of_its_domain(hosts: list[str], renamed: bool) -> None:
    network = Network(hosts="".join(hosts))
    rename_reservation(Connection(network), ("default", "203.0.113.5"), MAC, "web", "db")
    entry = f'<host mac="{MAC}" ip="203.0.113.5" name="db"/>'
    assert network.updates == ([(MODIFY, entry, 3)] if renamed else [])
