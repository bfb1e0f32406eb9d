"""What of libvirt's Python binding the collection touches, for machines that lack it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

NO_DOMAIN, NO_NETWORK, NO_VOLUME, NO_POOL, OTHER = 42, 43, 50, 49, 1
NO_SUPPORT, SYSTEM_ERROR, UNRESPONSIVE = 3, 38, 86
_CONSTANTS = {
    "VIR_ERR_NO_DOMAIN": NO_DOMAIN,
    "VIR_ERR_NO_NETWORK": NO_NETWORK,
    "VIR_ERR_NO_SUPPORT": NO_SUPPORT,
    "VIR_ERR_SYSTEM_ERROR": SYSTEM_ERROR,
    "VIR_ERR_NO_STORAGE_VOL": NO_VOLUME,
    "VIR_ERR_NO_STORAGE_POOL": NO_POOL,
    "VIR_ERR_NO_DOMAIN_SNAPSHOT": 72,
    "VIR_ERR_OPERATION_INVALID": 55,
    "VIR_ERR_OPERATION_TIMEOUT": 68,
    "VIR_ERR_AGENT_UNRESPONSIVE": UNRESPONSIVE,
    "VIR_DOMAIN_CONTROL_OCCUPIED": 2,
    "VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN": 1,
    "VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK": -2,
    "VIR_DOMAIN_GUEST_INFO_FILESYSTEM": 16,
    "VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT": 1,
    "VIR_CONNECT_LIST_DOMAINS_ACTIVE": 1,
    "VIR_CONNECT_LIST_DOMAINS_TRANSIENT": 8,
    "VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE": 256,
    "VIR_CONNECT_LIST_DOMAINS_AUTOSTART": 1024,
    "VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT": 4096,
    "VIR_DOMAIN_STATS_STATE": 1,
    "VIR_DOMAIN_STATS_INTERFACE": 16,
    "VIR_DOMAIN_STATS_BALLOON": 4,
    "VIR_DOMAIN_STATS_VCPU": 8,
    "VIR_DOMAIN_STATS_BLOCK": 32,
    "VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT": 1 << 29,
    "VIR_DOMAIN_XML_SECURE": 1,
    "VIR_DOMAIN_XML_INACTIVE": 2,
    "VIR_DOMAIN_AFFECT_LIVE": 1,
    "VIR_NETWORK_UPDATE_COMMAND_ADD_LAST": 3,
    "VIR_NETWORK_UPDATE_COMMAND_DELETE": 2,
    "VIR_NETWORK_UPDATE_COMMAND_MODIFY": 1,
    "VIR_NETWORK_SECTION_IP_DHCP_HOST": 4,
    "VIR_NETWORK_UPDATE_AFFECT_LIVE": 1,
    "VIR_NETWORK_UPDATE_AFFECT_CONFIG": 2,
}


class libvirtError(Exception):  # noqa: N801 - the binding's own name
    def __init__(self, message: str = "refused", code: int = OTHER, number: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.number = number

    def get_error_message(self) -> str:
        return str(self)

    def get_error_code(self) -> int:
        return self.code

    def get_int1(self) -> int:
        return self.number


def fake(monkeypatch: pytest.MonkeyPatch, *users: ModuleType) -> None:
    """Give these files, and the one that knows the error codes, libvirt's names."""
    from ansible_collections.virtplay.libvirt.plugins.module_utils.host import connection

    library: Any = ModuleType("libvirt")
    for name, value in _CONSTANTS.items():
        setattr(library, name, value)
    library.libvirtError = libvirtError
    for user in (connection, *users):
        monkeypatch.setattr(user, "libvirt", library)
