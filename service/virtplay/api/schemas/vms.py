"""Schemas: VMs, and the responses to accepted requests."""

import ipaddress
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from virtplay.api.schemas.fields import (
    Cpu,
    Description,
    Disk,
    Labels,
    Memory,
    Name,
    PageQuery,
    Pagination,
    Query,
    Strict,
    check_labels,
    check_printable,
)
from virtplay.api.schemas.jobs import JobOut
from virtplay.api.schemas.seed import USER_DATA_LIMIT, check_key, check_user_data
from virtplay.states import VmStatus
from virtplay.store.vm_list import SORTS
from virtplay.vm_fields import CardModel
from virtplay.vms import MOST_TOGETHER

MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
NO_MAC = "00:00:00:00:00:00"

DEVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BRIDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$"


def check_address(text: str, *, prefix: bool) -> None:
    """Raise ValueError unless a guest can have the IPv4 address, with its prefix if `prefix`."""
    example = "192.0.2.5/24 on a bridge" if prefix else "192.0.2.5"
    try:
        if prefix != ("/" in text):
            raise ValueError(text)
        ip = ipaddress.IPv4Interface(text).ip
    except ValueError:
        raise ValueError(f"must be an IPv4 address such as {example}") from None
    if ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved:
        raise ValueError(f"{ip} is not an address that a guest can have")


class NetworkChange(Strict):
    """What a VM's network card is to be connected to."""

    type: Literal["network", "bridge"] = Field(
        "network", description="a libvirt network, or a bridge of the host"
    )
    network: str | None = Field(
        None, pattern=DEVICE_NAME, description="libvirt network; default: default"
    )
    bridge: str | None = Field(
        None, pattern=BRIDGE_NAME, validate_default=True, description="host bridge"
    )
    model: str | None = Field(
        None,
        pattern=r"^[a-z0-9_-]{1,32}$",
        description=f"card model: {', '.join(get_args(CardModel))}, or the one that the card has",
    )
    mac: str | None = Field(None, description="MAC address; default: derived")
    ip: str | None = Field(
        None,
        description="fixed IPv4 address: a DHCP reservation on a libvirt network, or part of the"
        " guest's network configuration on a bridge; on a bridge, include the prefix length"
        " (192.0.2.5/24)",
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

    @model_serializer
    def as_variables(self) -> dict[str, Any]:
        """Return the fields for the row and the playbooks, without absent ones."""
        values = {key: value for key, value in self if value is not None}
        if self.type == "network":
            values.setdefault("network", "default")
        return values


class NetworkBody(NetworkChange):
    """What the network card of a new VM is connected to."""

    model: CardModel | None = Field(None, description="card model")


class VmCreate(Strict):
    """The body of POST /vms."""

    name: Name
    template: str = Field(min_length=1, max_length=128, examples=["ubuntu22.04"])
    cpu: Cpu
    memory: Memory
    disk: Disk
    network: NetworkBody = NetworkBody()
    autoStart: bool = Field(  # noqa: N815 - the API's spelling
        False, description="start it after creation, and whenever its host starts"
    )
    start: bool = Field(False, description="start it after creation")
    host: str | None = Field(
        None, min_length=1, max_length=255, description="default: chosen by placement"
    )
    labels: Annotated[Labels, AfterValidator(check_labels)] = Field(default_factory=dict)
    description: Description = ""
    sshKeys: list[str] = Field(  # noqa: N815
        default_factory=list, max_length=64, description="public keys for the guest's first user"
    )
    userData: str | None = Field(  # noqa: N815
        None, max_length=USER_DATA_LIMIT, description="cloud-init user-data, passed on unchanged"
    )
    clone: Literal["linked", "full"] = Field(
        "linked", description="linked: a qcow2 overlay of the template; full: a copy"
    )

    @field_validator("template", "host")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        return check_printable(value) if value is not None else None

    @field_validator("sshKeys")
    @classmethod
    def _ssh_keys(cls, value: list[str]) -> list[str]:
        keys = []
        for number, key in enumerate(value):
            try:
                keys.append(check_key(key))
            except ValueError as error:
                raise ValueError(f"entry {number} {error}") from None
        return keys

    @field_validator("userData")
    @classmethod
    def _user_data(cls, value: str | None) -> str | None:
        if value is not None:
            check_user_data(value)
        return value


class VmUpdate(Strict):
    """The body of PUT /vms/{id}: the fields to change."""

    name: Name | None = None
    description: Description | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    disk: Disk | None = Field(None, description="GiB; can only grow")
    network: NetworkChange | None = Field(
        None,
        description="replaces the network; omitted mac and model keep their values; an omitted ip"
        " too, if the network is unchanged",
    )
    autoStart: bool | None = None  # noqa: N815
    labels: Annotated[Labels, AfterValidator(check_labels)] | None = Field(
        None, description="replaces all labels"
    )

    @model_validator(mode="before")
    @classmethod
    def _something(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("must name at least one field to change")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        # Runs only for given fields; the default None means "unchanged".
        if value is None:
            raise ValueError("must not be null")
        return value


class ForceBody(Strict):
    """The body of stop and restart."""

    force: bool = Field(
        False,
        description="cut the power instead of asking the guest OS, also while a stop or restart"
        " without force waits, which is then cancelled; a stop of a saved VM drops its memory",
    )


class ActionsBody(Strict):
    """The body of POST /vms/actions: one power action for many VMs."""

    action: Literal["start", "stop", "restart", "pause", "resume"]
    vms: list[Annotated[str, Field(min_length=1, max_length=255)]] | None = Field(
        None,
        min_length=1,
        max_length=MOST_TOGETHER,
        description="ids, UUIDs, domains or names of VMs; or use label",
    )
    label: str | None = Field(
        None, min_length=1, max_length=320, description="VMs with this label: key, or key=value"
    )
    atOnce: int | None = Field(  # noqa: N815
        None, ge=1, le=MOST_TOGETHER, description="how many of its jobs run at once; default: all"
    )
    force: bool = Field(
        False,
        description="of stop and restart: cut the power instead of asking the guest OS, also while"
        " one without force waits; a stop of a saved VM drops its memory",
    )

    @field_validator("vms")
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        twice = sorted({vm for vm in value or () if (value or []).count(vm) > 1})
        if twice:
            raise ValueError(f"must not have {', '.join(twice)} twice")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.vms is None) == (self.label is None):
            raise ValueError("must have either vms or label")
        if self.force and self.action not in ("stop", "restart"):
            raise ValueError("force is allowed only with stop and restart")
        return self


class VmQuery(PageQuery):
    """The query of GET /vms."""

    status: VmStatus | None = None
    search: str | None = Field(
        None,
        max_length=128,
        description="in id, name, domain, os and addresses; or the UUID's beginning",
    )
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

    force: bool = Field(
        False, description="delete it even if it is running or saved, or has snapshots"
    )
    keepDisks: bool = Field(False, description="keep its disks in the pool")  # noqa: N815


class VmOut(BaseModel):
    """A VM: times in RFC 3339 UTC, memory in MiB, disk in GiB."""

    id: str
    name: str
    status: VmStatus
    statusReason: str | None = Field(  # noqa: N815
        description="why it is running, paused, stopped or error, as libvirt says: user, io_error,"
        " shutdown, destroyed, crashed, saved, migration and others; null if it is not known"
    )
    cpu: int
    memory: int
    disk: int
    os: str
    ip: str | None
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815
    host: str | None
    domain: str = Field(description="libvirt's name of the VM on its host")
    managed: bool = Field(description="false if Virtplay has neither created nor changed it")
    uuid: str
    template: str
    description: str
    labels: dict[str, str]
    network: dict[str, Any]
    addresses: list[dict[str, Any]]
    autoStart: bool  # noqa: N815
    pending: dict[str, Any] = Field(
        description="field whose new value applies at the next boot → its current value"
    )
    error: dict[str, Any] | None = Field(
        description="why its creation failed, or what is wrong with it: GUEST_NOT_RUNNING,"
        " DEFINED_TWICE, ID_IN_USE"
    )
    startedAt: str | None  # noqa: N815
    observedAt: str | None = Field(description="when an observation last showed it")  # noqa: N815


class VmPage(BaseModel):
    """A page of VMs."""

    vms: list[VmOut]
    pagination: Pagination


class AcceptedOut(BaseModel):
    """The response to an accepted request, whose progress is at /jobs/{jobId}."""

    id: str
    name: str
    status: VmStatus
    progress: int
    jobId: str  # noqa: N815


class ErrorOut(BaseModel):
    """An error, as in the envelope."""

    code: str
    message: str
    details: dict[str, Any]


class RefusedOut(BaseModel):
    """A VM of a request for many that was refused."""

    id: str
    error: ErrorOut


class ActionsOut(BaseModel):
    """The response to an action for many VMs: each has a job, or the error of its refusal."""

    jobs: list[AcceptedOut]
    refused: list[RefusedOut]


class StatusOut(BaseModel):
    """The response to GET /vms/{id}/status."""

    id: str
    status: VmStatus
    statusReason: str | None  # noqa: N815
    observedAt: str | None  # noqa: N815
    job: JobOut | None = Field(description="the job that holds the VM")
