"""API: the shapes of requests and answers, from which OpenAPI is drawn too."""

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationInfo,
    field_validator,
    model_validator,
)

from virtplay.console.opening import ConsoleType
from virtplay.states import HostStatus, JobOrigin, JobStatus, VmStatus
from virtplay.store.vms import SORTS

MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
NO_MAC = "00:00:00:00:00:00"
SSH_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@"
    r"openssh\.com) [A-Za-z0-9+/]+={0,3}( [^\x00-\x1f\x7f]*)?"
)
LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
DEVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BRIDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$"
USER_DATA_LIMIT = 65_536
YAML_DEPTH = 64
JOINERS = "\u200c\u200d"


def check_printable(text: str) -> str:
    """Refuse control characters, line ends and invisible marks (emoji's joiners are fine)."""
    bad = [c for c in text if not c.isprintable() and c not in JOINERS]
    if bad:
        names = ", ".join(sorted({f"U+{ord(c):04X}" for c in bad}))
        raise ValueError(f"holds characters that are not printable: {names}")
    return text


def check_not_blank(text: str) -> str:
    """Refuse text that is only space, or has space at its ends."""
    if text != text.strip() or not text:
        raise ValueError("must not be empty or begin or end with a space")
    return text


Name = Annotated[
    str,
    Field(min_length=1, max_length=64, examples=["my-vm"]),
    AfterValidator(check_printable),
    AfterValidator(check_not_blank),
]
Description = Annotated[str, Field(max_length=1024), AfterValidator(check_printable)]
Cpu = Annotated[int, Field(ge=1, le=512, description="vCPUs", examples=[2])]
Memory = Annotated[int, Field(ge=32, le=16_777_216, description="MiB", examples=[2048])]
Disk = Annotated[int, Field(ge=1, le=65_536, description="GiB", examples=[20])]
Labels = Annotated[
    dict[str, Annotated[str, Field(max_length=255), AfterValidator(check_printable)]],
    Field(max_length=64, description="text by key", examples=[{"team": "web"}]),
]


class Strict(BaseModel):
    """A request body: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Query(BaseModel):
    """A query string: text is converted, unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Refuse label keys that are not plain words."""
    wrong = [repr(key) for key in labels if not LABEL_KEY.fullmatch(key)]
    if wrong:
        raise ValueError(
            f"key {', '.join(wrong)} must be 1 to 63 letters, digits, '.', '_', '/', '-',"
            " with a letter or digit at both ends"
        )
    return labels


def check_address(text: str, *, prefix: bool) -> None:
    """Refuse what is not the IPv4 address of a guest, with its prefix length if asked."""
    wanted = "192.0.2.5/24 on a bridge" if prefix else "192.0.2.5"
    try:
        if prefix != ("/" in text):
            raise ValueError(text)
        ip = ipaddress.IPv4Interface(text).ip
    except ValueError:
        raise ValueError(f"must be an IPv4 address such as {wanted}") from None
    if ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved:
        raise ValueError(f"{ip} is not an address that a guest can have")


class NetworkBody(Strict):
    """Where a VM's network card is plugged in."""

    type: Literal["network", "bridge"] = Field(
        "network", description="a libvirt network, or a bridge of the host"
    )
    network: str | None = Field(
        None, pattern=DEVICE_NAME, description="libvirt network; default: default"
    )
    bridge: str | None = Field(
        None, pattern=BRIDGE_NAME, validate_default=True, description="host bridge"
    )
    model: Literal["virtio", "e1000e", "rtl8139"] | None = Field(None, description="card model")
    mac: str | None = Field(None, description="MAC address; drawn if absent")
    ip: str | None = Field(
        None,
        description="fixed IPv4 address: a DHCP reservation on a network; with prefix length"
        " (192.0.2.5/24) in the guest's network configuration on a bridge",
    )

    @field_validator("mac")
    @classmethod
    def _unicast(cls, value: str | None) -> str | None:
        if value is not None and (value == NO_MAC or not MAC.fullmatch(value.lower())):
            raise ValueError("must be a unicast MAC address such as 52:54:00:12:34:56")
        return value.lower() if value else value

    @field_validator("network", "bridge")
    @classmethod
    def _of_its_type(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("type")
        if value is not None and kind is not None and kind != info.field_name:
            raise ValueError(f"is allowed only when type is {info.field_name}")
        if value is None and kind == info.field_name == "bridge":
            raise ValueError("is required when type is bridge")
        return value

    @field_validator("ip")
    @classmethod
    def _address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "type" in info.data:
            check_address(value, prefix=info.data["type"] == "bridge")
        return value

    def as_variables(self) -> dict[str, Any]:
        """What the row and the playbooks take; absent fields are left out."""
        values = {key: value for key, value in self.model_dump().items() if value is not None}
        if self.type == "network":
            values.setdefault("network", "default")
        return values


class VmCreate(Strict):
    """The body of POST /vms."""

    name: Name
    template: str = Field(min_length=1, max_length=128, examples=["ubuntu22.04"])
    cpu: Cpu
    memory: Memory
    disk: Disk
    network: NetworkBody = NetworkBody()
    autoStart: bool = Field(  # noqa: N815 - the document's spelling
        False, description="start it now, and whenever its host starts"
    )
    host: str | None = Field(None, min_length=1, max_length=255, description="default: placed")
    labels: Annotated[Labels, AfterValidator(check_labels)] = Field(default_factory=dict)
    description: Description = ""
    sshKeys: list[str] = Field(  # noqa: N815
        default_factory=list, max_length=64, description="public keys for the guest's first user"
    )
    userData: str | None = Field(  # noqa: N815
        None, max_length=USER_DATA_LIMIT, description="cloud-init user-data, taken as it is"
    )
    clone: Literal["linked", "full"] = Field(
        "linked", description="linked: a qcow2 over the template; full: a copy of its own"
    )

    @field_validator("template", "host")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        return check_printable(value) if value is not None else None

    @field_validator("sshKeys")
    @classmethod
    def _ssh_keys(cls, value: list[str]) -> list[str]:
        for number, key in enumerate(value):
            # YAML takes U+0085 and U+2028 for line ends, so a comment must be printable.
            if not SSH_KEY.fullmatch(key) or not key.isprintable():
                raise ValueError(f"entry {number} is not an OpenSSH public key in one line")
        return value

    @field_validator("userData")
    @classmethod
    def _user_data(cls, value: str | None) -> str | None:
        if value is not None:
            check_user_data(value)
        return value


def check_user_data(text: str) -> None:
    """Refuse user-data that cloud-init would not take: neither cloud-config, script nor MIME."""
    first = text.split("\n", 1)[0].strip()
    if first == "#cloud-config":
        try:
            check_cloud_config(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f" (line {mark.line + 1})" if mark else ""
            raise ValueError(f"is not YAML{place}") from None
    elif not first.startswith(("#!", "MIME-Version:", "Content-Type: multipart/")):
        raise ValueError("must begin with #cloud-config, #! or a MIME multipart header")


def check_cloud_config(text: str) -> None:
    """Refuse what is not one YAML mapping of modest depth; yaml.YAMLError if it is not YAML.

    Events only, nothing is composed: a few bytes of aliases must not become gigabytes. The depth
    has a limit because libyaml's time grows with its square.
    """
    depth = documents = 0
    top: yaml.Event | None = None
    anchors: set[str] = set()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > YAML_DEPTH:
                raise ValueError(f"is nested deeper than {YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent):
            top = top or event
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise ValueError(f"is not YAML: alias {event.anchor} has no anchor")
            elif event.anchor:
                anchors.add(event.anchor)
    if documents != 1 or not isinstance(top, yaml.MappingStartEvent):
        raise ValueError("must be one YAML mapping after #cloud-config")


class VmUpdate(Strict):
    """The body of PUT /vms/{id}: only what is to change."""

    name: Name | None = None
    description: Description | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    disk: Disk | None = Field(None, description="GiB; can only grow")
    network: NetworkBody | None = Field(
        None,
        description="replaces the network; what is left out of mac and model stays, and ip too"
        " while the network is the same",
    )
    autoStart: bool | None = None  # noqa: N815
    labels: Annotated[Labels, AfterValidator(check_labels)] | None = Field(
        None, description="replaces all labels"
    )

    @model_validator(mode="before")
    @classmethod
    def _something(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("names no field to change")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        # Runs only for fields that were given: None as a default means "leave it".
        if value is None:
            raise ValueError("must not be null")
        return value


class ForceBody(Strict):
    """The body of stop and restart."""

    force: bool = Field(False, description="do not ask the guest: cut its power")


class EmptyBody(Strict):
    """No body, or {}."""


class NoQuery(Query):
    """No query parameter."""


class PageQuery(Query):
    """Paging."""

    page: int = Field(1, ge=1, le=1_000_000)
    limit: int = Field(10, ge=1, le=100)


class VmQuery(PageQuery):
    """The query of GET /vms."""

    status: VmStatus | None = None
    search: str | None = Field(None, max_length=128, description="in id, name, os and addresses")
    host: str | None = Field(None, max_length=255)
    label: str | None = Field(None, max_length=320, description="key, or key=value")
    sort: str = Field("id", description="field, with - for descending: " + ", ".join(SORTS))

    @field_validator("sort")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.removeprefix("-") not in SORTS:
            raise ValueError(f"must be one of {', '.join(SORTS)}, or one of them with a leading -")
        return value


class DeleteQuery(Query):
    """The query of DELETE /vms/{id}."""

    force: bool = Field(False, description="also when it runs")
    keepDisks: bool = Field(False, description="leave its disks in the pool")  # noqa: N815


class JobQuery(PageQuery):
    """The query of GET /jobs."""

    vm: str | None = Field(None, max_length=32, description="VM id")
    status: JobStatus | None = None
    action: str | None = Field(None, max_length=32)
    origin: JobOrigin | None = Field(None, description="who has it run, and where")


class Pagination(BaseModel):
    """Where in a list a page is."""

    page: int
    limit: int
    total: int
    pages: int

    @classmethod
    def of(cls, page: int, limit: int, total: int) -> Self:
        """The pagination of a list of `total` entries."""
        return cls(page=page, limit=limit, total=total, pages=-(-total // limit))


class VmOut(BaseModel):
    """A VM. Times RFC 3339 UTC, memory MiB, disk GiB."""

    id: str
    name: str
    status: VmStatus
    cpu: int
    memory: int
    disk: int
    os: str
    ip: str | None
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815
    host: str | None
    uuid: str
    template: str
    description: str
    labels: dict[str, str]
    network: dict[str, Any]
    addresses: list[dict[str, Any]]
    autoStart: bool  # noqa: N815
    pending: dict[str, Any] = Field(
        description="fields whose new value applies at the next boot → the value in force now"
    )
    error: dict[str, Any] | None
    startedAt: str | None  # noqa: N815
    observedAt: str | None = Field(description="when its host last showed it")  # noqa: N815


class VmPage(BaseModel):
    """A page of VMs."""

    vms: list[VmOut]
    pagination: Pagination


class AcceptedOut(BaseModel):
    """The answer to a mutation: follow it at /jobs/{jobId}."""

    id: str
    name: str
    status: VmStatus
    progress: int
    jobId: str  # noqa: N815


class JobError(BaseModel):
    """Why a job did not succeed."""

    code: str
    message: str
    task: str | None
    host: str | None


class JobOut(BaseModel):
    """A job."""

    id: str
    origin: JobOrigin = Field(description="cli: a run from a shell, which reports itself")
    action: str
    playbook: str
    vmId: str | None = Field(description="null when there is none, or several")  # noqa: N815
    vmIds: list[str]  # noqa: N815
    snapshotId: str | None = Field(description="the snapshot that it is about")  # noqa: N815
    host: str | None = Field(description="null when they are several")
    hosts: list[str]
    status: JobStatus
    progress: int
    step: str
    etaSeconds: float | None  # noqa: N815
    changed: bool | None
    dryRun: bool  # noqa: N815
    appliesAt: str | None = Field(description="now, next_boot, or null")  # noqa: N815
    changes: list[dict[str, Any]] | None
    requestedBy: str = Field(description="the token's name")  # noqa: N815
    user: str | None = Field(description="user@machine, as a run from a shell says")
    requestId: str  # noqa: N815
    command: str
    error: JobError | None
    attempt: int
    retryOf: str | None  # noqa: N815
    createdAt: str  # noqa: N815
    startedAt: str | None  # noqa: N815
    finishedAt: str | None  # noqa: N815


class JobPage(BaseModel):
    """A page of jobs."""

    jobs: list[JobOut]
    pagination: Pagination


class StatusOut(BaseModel):
    """What GET /vms/{id}/status answers."""

    id: str
    status: VmStatus
    observedAt: str | None  # noqa: N815
    job: JobOut | None = Field(description="the job that holds the VM")


class Amounts(BaseModel):
    """vCPUs, MiB, GiB."""

    cpu: int
    memory: int
    disk: int


class HostOut(BaseModel):
    """A hypervisor."""

    name: str
    status: HostStatus
    message: str
    observedAt: str | None  # noqa: N815
    vms: int
    virtType: str | None = Field(description="kvm, or qemu (emulation)")  # noqa: N815
    virtReason: str | None  # noqa: N815
    cpus: int | None
    cpuModel: str | None  # noqa: N815
    memory: int | None = Field(description="MiB")
    capacity: Amounts = Field(description="what may be promised, overcommit counted in")
    allocated: Amounts = Field(description="what VMs were promised")
    available: Amounts
    versions: dict[str, str]
    pools: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    bridges: list[str]


class HostList(BaseModel):
    """All hypervisors."""

    hosts: list[HostOut]


class TemplateHost(BaseModel):
    """Whether a template stands on a host already."""

    host: str
    ready: bool
    createdAt: str | None  # noqa: N815


class TemplateOut(BaseModel):
    """An entry of the image catalogue."""

    id: str
    os: str
    source: str
    minDisk: int | None = Field(description="GiB, known once it is on a host")  # noqa: N815
    hosts: list[TemplateHost]


class TemplateList(BaseModel):
    """The image catalogue."""

    templates: list[TemplateOut]


class ConsoleQuery(Query):
    """Which console of a VM."""

    type: ConsoleType = Field(
        ConsoleType.VNC, description="vnc: its screen; serial: its text console"
    )


class ConsoleOut(BaseModel):
    """A console that one client may connect to, shortly."""

    type: ConsoleType
    host: str | None = Field(
        description="where VNC listens on the VM's hypervisor, for an SSH tunnel; null for serial"
    )
    port: int | None = Field(examples=[5900])
    password: str | None = Field(
        description="for VNC, valid for a minute; null where none is asked for"
    )
    url: str = Field(
        description="websocket of binary frames, good for one connection until expiresAt",
        examples=["ws://localhost:3000/console/vm-001?ticket=…"],
    )
    expiresAt: str  # noqa: N815
    jobId: str  # noqa: N815


class HealthOut(BaseModel):
    """The service's own state."""

    status: str
    version: str
    checks: dict[str, Any] = Field(default_factory=dict)


class MetricsPart(StrEnum):
    """A part of the metrics."""

    SERVICE = "service"
    """What the service counts of itself."""
    HOSTS = "hosts"
    """All hosts and their VMs."""


class MetricsQuery(Query):
    """The query of GET /metrics."""

    host: str | None = Field(
        None, max_length=255, description="this host and its VMs only, nothing of the service"
    )
    part: MetricsPart | None = Field(
        None, description="service: what the service counts of itself; hosts: all hosts and VMs"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.host is not None and self.part is not None:
            raise ValueError("host and part exclude each other")
        return self


class TargetGroup(BaseModel):
    """One host as Prometheus' http_sd wants it."""

    targets: list[str]
    labels: dict[str, str]


class TargetList(RootModel[list[TargetGroup]]):
    """All hosts, in http_sd's own shape."""
