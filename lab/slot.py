"""Lab: the slots of labs that run side by side: a /27 network and a bridge each.

A supervisor claims a slot by binding an abstract Unix socket: the kernel releases it when the
supervisor ends, however it ends, and no file remains. The bridge has the lab's directory as its
alias, so the next supervisor that claims the slot of a killed lab finds what that lab left behind.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

MAX_HOSTS = 20
PREFIX = 27
# For documentation (RFC 5737) and for benchmarks (RFC 2544), so in use nowhere else.
_NETWORKS = [ipaddress.IPv4Network(each) for each in ("198.51.100.0/24", "198.18.0.0/24")]
_SHARES = [share for each in _NETWORKS for share in each.subnets(new_prefix=PREFIX)]
SLOTS = len(_SHARES)
_ALIAS = "virtplay-lab "


class SlotError(Exception):
    """Every slot belongs to a running lab, or its addresses are in use elsewhere."""


@dataclass(frozen=True)
class Slot:
    """The part of this machine's network that one lab uses, number 0 to 15."""

    number: int

    @property
    def bridge(self) -> str:
        """The name of the lab's bridge in this machine's network namespace."""
        return f"vlab{self.number:x}"  # one digit: vlab1 must not begin the name of another

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The /27 network of the lab's hosts."""
        return _SHARES[self.number]

    def veth(self, index: int) -> str:
        """Return this machine's end of the veth pair of host `index` (from 1)."""
        return f"{self.bridge}h{index}"

    def address(self, index: int) -> str:
        """Return the address of host `index` (from 1): 198.51.100.11 is the first of slot 0."""
        return str(self.network[10 + index])

    def create_bridge(self, directory: Path) -> None:
        """Create the bridge with this machine's address; its alias is the lab's directory."""
        _ip("link", "add", self.bridge, "type", "bridge", "forward_delay", "0")
        _ip("link", "set", self.bridge, "alias", f"{_ALIAS}{directory}")
        _ip("link", "set", self.bridge, "addrgenmode", "none", "up")
        _ip("address", "add", f"{self.network[1]}/{PREFIX}", "dev", self.bridge)

    def connect(self, index: int, pid: int) -> None:
        """Connect the bridge to the network namespace of process `pid` (eth0) by a veth pair."""
        veth = self.veth(index)
        _ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("link", "set", veth, "master", self.bridge, "addrgenmode", "none", "up")

    def remove_links(self) -> None:
        """Delete the bridge and the veth pairs that exist."""
        for name in [*_links(f"{self.bridge}h"), *_links(self.bridge)]:
            # The kernel may be deleting a veth pair with its host's network namespace.
            _ip("link", "delete", name, check=False)

    def claimed_directory(self) -> Path | None:
        """Return the directory of the lab whose bridge is in this slot, if any."""
        alias = _links(self.bridge).get(self.bridge, "")
        return Path(alias.removeprefix(_ALIAS)) if alias.startswith(_ALIAS) else None

    def taken_by_other(self) -> bool:
        """Return whether an interface that is not a lab's has the bridge's name or addresses."""
        alias = _links(self.bridge).get(self.bridge)
        if alias is not None:
            return not alias.startswith(_ALIAS)
        return any(network.overlaps(self.network) for network in _local_networks())


def claim_slot() -> tuple[Slot, socket.socket]:
    """Claim the first free slot; the claim ends when the returned socket is closed."""
    for number in range(SLOTS):
        slot = Slot(number)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0virtplay-lab-{number}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        if slot.taken_by_other():
            claim.close()
            continue
        return slot, claim
    raise SlotError(f"cannot start another lab: all {SLOTS} slots are in use")


def _ip(*arguments: str, check: bool = True) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        raise OSError(f"cannot run ip {' '.join(arguments)}: {result.stderr.strip()}")


def _local_networks() -> list[ipaddress.IPv4Network]:
    """Return the IPv4 networks in which this machine has addresses."""
    shown = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True)
    return [
        ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
        for link in json.loads(shown.stdout)
        for address in link.get("addr_info", [])
    ]


def _links(prefix: str) -> dict[str, str]:
    """Return name → alias of the interfaces named `prefix`, or `prefix` and a number."""
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True)
    return {
        link["ifname"]: link.get("ifalias", "")
        for link in json.loads(shown.stdout)
        if link["ifname"] == prefix
        or (link["ifname"].startswith(prefix) and link["ifname"][len(prefix) :].isdigit())
    }
