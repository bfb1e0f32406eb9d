"""Pure: computes the room of hosts, and chooses the host for a VM."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from virtplay.errors import InsufficientResources, ValidationFailed
from virtplay.units import GIB


@dataclass(frozen=True)
class Need:
    """What a VM requires of a host: vCPUs, MiB of memory, GiB of disk, and a network or bridge."""

    cpu: int
    memory: int
    disk: int
    network_type: str = "network"
    network_name: str = "default"


@dataclass(frozen=True)
class Overcommit:
    """How many times a resource may be promised; `reserved_memory` MiB are left to the host."""

    cpu: float = 4.0
    memory: float = 1.0
    disk: float = 1.0
    reserved_memory: int = 512


@dataclass(frozen=True)
class HostRoom:
    """A host's capacity, and how much of it is promised to VMs."""

    name: str
    cpus: int
    memory: int
    """MiB of the host in total."""
    disk_free: int
    """Free bytes in the pool for VM disks."""
    promised_cpu: int = 0
    """To running VMs: a start is never refused for want of CPUs."""
    promised_memory: int = 0
    stopped_memory: int = 0
    """MiB of it that are promised to stopped VMs."""
    promised_disk: int = 0
    """Bytes by which VM disks may still grow."""
    used_disk: int = 0
    """Bytes that VM disks occupy."""
    overcommit: Overcommit = field(default_factory=Overcommit)
    networks: frozenset[str] = frozenset()
    bridges: frozenset[str] = frozenset()

    @property
    def cpu_total(self) -> int:
        """vCPUs that may be promised."""
        return int(self.cpus * self.overcommit.cpu)

    @property
    def memory_total(self) -> int:
        """MiB that may be promised."""
        return max(0, int((self.memory - self.overcommit.reserved_memory) * self.overcommit.memory))

    @property
    def disk_total(self) -> int:
        """GiB that may be promised: what VM disks occupy, and the free room."""
        return int((self.disk_free * self.overcommit.disk + self.used_disk) // GIB)

    @property
    def available(self) -> dict[str, int]:
        """What may still be promised: vCPUs, MiB, GiB."""
        disk = self.disk_free * self.overcommit.disk - self.promised_disk
        return {
            "cpu": max(0, self.cpu_total - self.promised_cpu),
            "memory": max(0, self.memory_total - self.promised_memory),
            "disk": max(0, int(disk // GIB)),
        }

    def lacks(self, need: Need) -> dict[str, dict[str, int]]:
        """Return resource → needed and available amount, for each that is short."""
        needed = {"cpu": need.cpu, "memory": need.memory, "disk": need.disk}
        available = self.available
        return {
            resource: {"needed": amount, "available": available[resource]}
            for resource, amount in needed.items()
            if amount > available[resource]
        }

    def reasons(self, need: Need) -> list[str]:
        """Return, for each resource that is short, what is allowed, promised and needed."""
        ratio, left = self.overcommit, self.overcommit.reserved_memory
        free, growth = self.disk_free // GIB, -(-self.promised_disk // GIB)
        stopped = f" ({self.stopped_memory} of it to stopped ones)" * (self.stopped_memory > 0)
        sentences = {
            "cpu": f"{self.cpus} CPUs × {OVERCOMMIT}cpu {ratio.cpu:g} = {self.cpu_total} vCPUs,"
            f" {self.promised_cpu} promised to VMs that run or are being created, {need.cpu} more"
            " needed",
            "memory": f"({self.memory} - {left} reserved) MiB × {OVERCOMMIT}memory"
            f" {ratio.memory:g} = {self.memory_total} MiB of memory, {self.promised_memory}"
            f" promised to VMs{stopped}, {need.memory} more needed",
            "disk": f"{free} GiB free in its pool default × {OVERCOMMIT}disk {ratio.disk:g},"
            f" {growth} promised to disks that may grow, {need.disk} more needed",
        }
        return [sentences[resource] for resource in self.lacks(need)]

    def has_network(self, need: Need) -> bool:
        """Return whether the host has the network or bridge."""
        names = self.bridges if need.network_type == "bridge" else self.networks
        return need.network_name in names

    def score(self, need: Need) -> tuple[float, float, str]:
        """Return the promised share of memory or CPU with the VM; the smallest is the best.

        Of hosts with the same share, that of the other decides: stopped VMs hold memory, no CPU.
        """
        memory = (self.promised_memory + need.memory) / max(1, self.memory_total)
        cpu = (self.promised_cpu + need.cpu) / max(1, self.cpu_total)
        return max(memory, cpu), memory + cpu, self.name


OVERCOMMIT = "virtplay_overcommit_"
REMEDIES = {
    "cpu": "stop a VM",
    "memory": "delete a VM or reduce its memory",
    "disk": "delete a VM or enlarge the pool",
}
MOST_NAMED = 5
"""Hosts whose figures the message of a refusal has; its details have those of all."""


def place(rooms: Sequence[HostRoom], need: Need, *, vm: str | None = None) -> str:
    """Return the name of the host that has the smallest promised share with the VM.

    Raise ValidationFailed if no host has the network, and InsufficientResources with the figures
    of every host if none has room. `vm` is the label of a VM that stays on its host and grows.
    """
    cannot = "cannot place the VM" if vm is None else f"cannot change VM {vm}"
    connected = [room for room in rooms if room.has_network(need)]
    if not connected:
        kind = need.network_type
        message = f"no usable host has {kind} {need.network_name}"
        raise ValidationFailed(
            f"{cannot}: {message}", [{"field": f"network.{kind}", "message": message}]
        )
    fitting = [room for room in connected if not room.lacks(need)]
    if fitting:
        return min(fitting, key=lambda room: room.score(need)).name
    tried: list[dict[str, Any]] = [
        {"host": room.name, "short": room.lacks(need), "available": room.available}
        for room in connected
    ]
    reasons = [
        f"{room.name} has {' and '.join(room.reasons(need))}" for room in connected[:MOST_NAMED]
    ]
    if len(connected) > MOST_NAMED:
        reasons.append(f"{len(connected) - MOST_NAMED} more hosts have no room either")
    short = {resource: None for room in connected for resource in room.lacks(need)}
    remedies = [REMEDIES[resource] for resource in short]
    remedies.append(f"raise {' or '.join(OVERCOMMIT + resource for resource in short)}")
    if vm is None:
        remedies.append("choose another host" if len(connected) == 1 else "add a host")
    raise InsufficientResources(
        f"{cannot}: {'; '.join(reasons)}; {', '.join(remedies[:-1])}, or {remedies[-1]}",
        needed={"cpu": need.cpu, "memory": need.memory, "disk": need.disk},
        hosts=tried,
    )
