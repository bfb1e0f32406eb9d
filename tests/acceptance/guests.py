"""Acceptance tests: reads the state of lab hosts and their guests without the service."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from lxml import etree

from lab import LabError
from lab.lab import Host
from tests.acceptance.service import PATIENCE, wait_for

POOL = "/var/lib/libvirt/images"
BOOT_SECONDS = 60
"""The time to boot under emulation on a busy machine with two cores."""
LOOK_SECONDS = 0.7
"""Between two looks at a guest that boots: each starts a virsh, which takes CPU from the guest."""


def agent(host: Host, domain: str, command: str, **arguments: Any) -> Any:
    """Return the response of the guest agent; raise LabError if it does not respond."""
    request: dict[str, Any] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    said = host.run(
        "virsh", "-q", "qemu-agent-command", "--timeout", "10", domain, json.dumps(request)
    )
    return json.loads(said.stdout)["return"]


def booted(host: Host, domain: str, seconds: float = BOOT_SECONDS) -> None:
    """Wait until the guest agent responds, so the guest has booted."""
    wait_for(
        f"the boot of {domain}", lambda: agent_answers(host, domain), seconds, pause=LOOK_SECONDS
    )


def agent_answers(host: Host, domain: str) -> bool:
    """Return whether the guest agent responds now."""
    try:
        agent(host, domain, "guest-ping")
    except LabError:
        return False
    return True


def networked(host: Host, domain: str, words: str, seconds: float = BOOT_SECONDS) -> None:
    """Wait until the guest has booted, and its IPv4 addresses and routes contain `words`."""
    booted(host, domain, seconds)
    show = ("/bin/sh", "-c", "ip -4 address; ip route")
    wait_for(f"{words} in {domain}", lambda: words in in_guest(host, domain, *show), seconds)


def in_guest(host: Host, domain: str, *command: str, seconds: float = 30) -> str:
    """Run a command in the guest through its agent; return its output (both streams)."""
    started = agent(
        host,
        domain,
        "guest-exec",
        path=command[0],
        arg=list(command[1:]),
        **{"capture-output": True},
    )
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        status = agent(host, domain, "guest-exec-status", pid=started["pid"])
        if status["exited"]:
            parts = (status.get("out-data", ""), status.get("err-data", ""))
            return "".join(base64.b64decode(part).decode(errors="replace") for part in parts)
        assert time.monotonic() < deadline, f"{command} did not end in {domain}"
        time.sleep(0.1)


def domain_xml(host: Host, domain: str, *options: str) -> Any:
    """Return a domain's XML, parsed."""
    return etree.fromstring(host.run("virsh", "dumpxml", *options, domain).stdout)


def power(host: Host, domain: str) -> str:
    """Return libvirt's name of a domain's state."""
    return host.run("virsh", "-q", "domstate", domain).stdout.strip()


def domains(host: Host) -> set[str]:
    """Return the names of all domains of a host."""
    return set(host.run("virsh", "-q", "list", "--all", "--name").stdout.split())


def traces(host: Host) -> dict[str, set[str]]:
    """Return everything that VMs can leave on a host, for a comparison before and after."""
    network = etree.fromstring(host.run("virsh", "net-dumpxml", "default").stdout)
    return {
        "domains": domains(host),
        "pool": set(host.run("ls", POOL).stdout.split()),
        "nvram": set(host.run("ls", "/var/lib/libvirt/qemu/nvram", check=False).stdout.split()),
        "reservations": {f"{e.get('mac')} {e.get('ip')}" for e in network.findall("ip/dhcp/host")},
        "autostart": set(host.run("ls", "/etc/libvirt/qemu/autostart", check=False).stdout.split()),
        # The lock files of template names remain; partial downloads must not.
        "templates": {
            name
            for name in host.run("ls", "-A", "/var/lib/libvirt/templates").stdout.split()
            if not name.endswith("@lock")
        },
    }


def qemu_pid(host: Host, domain: str) -> int:
    """Return the process id, inside the host, of a running domain's QEMU."""
    return int(host.run("cat", f"/run/libvirt/qemu/{domain}.pid").stdout)


def own_file(directory: Path, host: Host, path: str) -> Path:
    """Return the path on this machine of a file in a lab host's /var or /etc."""
    return directory / host.name / path.lstrip("/")
