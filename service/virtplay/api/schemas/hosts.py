"""Schemas: hypervisors and the image catalogue."""

from typing import Any

from pydantic import BaseModel, Field

from virtplay.states import HostStatus


class Amounts(BaseModel):
    """Amounts of vCPUs, memory in MiB and disk in GiB."""

    cpu: int
    memory: int
    disk: int


class Overcommit(BaseModel):
    """How many times each resource of the host may be allocated."""

    cpu: float
    memory: float
    disk: float
    reservedMemory: int = Field(description="MiB that are never allocated")  # noqa: N815


class StoppedVms(BaseModel):
    """The VMs of a host that are not running."""

    vms: int
    cpu: int = Field(description="vCPUs, which are not allocated until the VMs run")
    memory: int = Field(description="MiB, which are a part of the allocated memory")


class UnmanagedVms(Amounts):
    """What is allocated to VMs that Virtplay has neither created nor changed."""

    vms: int


class ConnectionOut(BaseModel):
    """How the service reaches a hypervisor: what the inventory says plainly, null otherwise."""

    type: str = Field(description="Ansible's connection plugin; local: the service's own machine")
    address: str | None
    port: int | None
    user: str | None


class HostOut(BaseModel):
    """A hypervisor."""

    name: str
    connection: ConnectionOut = Field(description="how the service reaches it")
    status: HostStatus
    message: str = Field(
        description="why it is not ready; of a ready host, what could not be read of it, and that"
        " KVM has failed a VM there"
    )
    observedAt: str | None  # noqa: N815
    vms: int
    virtType: str | None = Field(description="kvm, or qemu (emulation)")  # noqa: N815
    virtReason: str | None = Field(description="why it is kvm or qemu")  # noqa: N815
    cpus: int | None
    cpuModel: str | None  # noqa: N815
    memory: int | None = Field(description="MiB")
    capacity: Amounts = Field(description="what may be allocated, including overcommit")
    allocated: Amounts = Field(
        description="what is allocated to VMs: the vCPUs of those that are running, being created"
        " or being started; memory and disk of all"
    )
    available: Amounts = Field(description="what is left for new VMs")
    overcommit: Overcommit
    stopped: StoppedVms
    unmanaged: UnmanagedVms = Field(description="the part of allocated of unmanaged VMs")
    versions: dict[str, str]
    pools: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    bridges: list[str]


class HostList(BaseModel):
    """All hypervisors."""

    hosts: list[HostOut]


class TemplateHost(BaseModel):
    """Whether a template has been downloaded to a host."""

    host: str
    ready: bool
    createdAt: str | None  # noqa: N815


class TemplateOut(BaseModel):
    """An entry of the image catalogue."""

    id: str
    os: str
    source: str
    minDisk: int | None = Field(description="GiB; null until a host has the template")  # noqa: N815
    hosts: list[TemplateHost]


class TemplateList(BaseModel):
    """The image catalogue."""

    templates: list[TemplateOut]
