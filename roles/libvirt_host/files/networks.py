"""Role libvirt_host: reads what decides which addresses a virtual network may have on this host.

Prints {"addresses", "routes", "needed", "networks"}, see network_choice in the collection's
plugin_utils/host_xml.py. Changes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt

DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
"""libvirt writes NAME.conf here when it starts a network, and keeps it afterwards."""


def main() -> int:
    """Print everything as one JSON object; returns the exit status."""
    routes = read_ip("-4", "route") + read_ip("-6", "route")
    found = {
        "addresses": [
            {
                "device": link["ifname"],
                "address": f"{address['local']}/{address['prefixlen']}",
            }
            for link in read_ip("address", "show")
            for address in link.get("addr_info", ())
            if address.get("scope") != "link" and "local" in address
        ],
        "routes": [
            {"device": route.get("dev", ""), "destination": route["dst"]}
            for route in routes
            if route.get("dst", "default") != "default"
            and route.get("type", "unicast") == "unicast"
        ],
        "needed": [
            *(
                {
                    "what": f"the gateway of {route['dev']}",
                    "device": route["dev"],
                    "address": route["gateway"],
                }
                for route in routes
                if {"dev", "gateway"} <= route.keys()
            ),
            *({"what": "a name server", "address": server} for server in read_name_servers()),
            *({"what": "the SSH client", "address": client} for client in read_ssh_client()),
        ],
        "networks": read_networks(),
    }
    print(json.dumps(found))
    return 0


def read_ip(*arguments: str) -> list[dict[str, Any]]:
    """Return what `ip` prints; [] where the host has no IPv6, for example."""
    done = subprocess.run(["ip", "-json", *arguments], capture_output=True, check=False)
    try:
        found = json.loads(done.stdout or b"[]")
    except ValueError:
        return []
    return [entry for entry in found if entry]


def read_name_servers() -> list[str]:
    """Return the addresses of the host's name servers."""
    try:
        lines = Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        return []
    entries = [line.split() for line in lines if line.startswith("nameserver")]
    return [words[1] for words in entries if len(words) > 1]


def read_ssh_client() -> list[str]:
    """Return the address from which this program was started, if that was by SSH."""
    return os.environ.get("SSH_CONNECTION", "").split()[:1]


def read_networks() -> list[dict[str, Any]]:
    """Return libvirt's networks: name, xml, active, and used (whether it was ever active)."""
    connection = libvirt.open("qemu:///system")
    return [
        {
            "name": network.name(),
            "xml": network.XMLDesc(0),
            "active": bool(network.isActive()),
            "used": bool(network.isActive()) or (DNSMASQ / f"{network.name()}.conf").exists(),
        }
        for network in connection.listAllNetworks(0)
    ]


if __name__ == "__main__":
    sys.exit(main())
