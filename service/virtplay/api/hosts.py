"""API: /hosts and /templates."""

from collections.abc import Mapping
from typing import Any

from virtplay.api.http.envelope import ApiResponse, json_list, json_object
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.hosts import (
    Amounts,
    ConnectionOut,
    HostOut,
    Overcommit,
    StoppedVms,
    TemplateHost,
    TemplateList,
    TemplateOut,
    UnmanagedVms,
)
from virtplay.hosts.placement import HostRoom
from virtplay.store import vms as store
from virtplay.store.models import Host
from virtplay.store.vms import Promised
from virtplay.times import time_text
from virtplay.units import GIB, MIB


def host_out(
    host: Host, room: HostRoom, promised: Promised, connection: Mapping[str, Any]
) -> HostOut:
    """Return a hypervisor in the format of the API."""
    facts = host.facts.get("host", {})
    memory = facts.get("memory_bytes")
    versions = {
        name: str(facts[key])
        for name, key in (
            ("libvirt", "libvirt_version"),
            ("qemu", "qemu_version"),
            ("kernel", "kernel"),
            ("os", "os"),
        )
        if facts.get(key)
    }
    return HostOut(
        name=host.name,
        connection=ConnectionOut(**connection),
        status=host.status,
        message=host.message,
        observedAt=time_text(host.observed_at),
        vms=promised.vms,
        virtType=facts.get("virt_type"),
        virtReason=facts.get("virt_reason"),
        cpus=facts.get("cpus"),
        cpuModel=facts.get("cpu_model"),
        memory=memory // MIB if memory else None,
        capacity=Amounts(
            cpu=room.cpu_total,
            memory=room.memory_total,
            disk=room.disk_total,
        ),
        allocated=Amounts(
            cpu=room.promised_cpu,
            memory=room.promised_memory,
            disk=-(-promised.disk_size // GIB),
        ),
        available=Amounts(**room.available),
        overcommit=Overcommit(
            cpu=room.overcommit.cpu,
            memory=room.overcommit.memory,
            disk=room.overcommit.disk,
            reservedMemory=room.overcommit.reserved_memory,
        ),
        stopped=StoppedVms(
            vms=promised.stopped_vms,
            cpu=promised.stopped_cpu,
            memory=promised.stopped_memory,
        ),
        unmanaged=UnmanagedVms(
            vms=promised.unmanaged_vms,
            cpu=promised.unmanaged_cpu,
            memory=promised.unmanaged_memory,
            disk=-(-promised.unmanaged_disk_size // GIB),
        ),
        versions=versions,
        pools=host.facts.get("pools", []),
        networks=host.facts.get("networks", []),
        bridges=host.facts.get("bridges", []),
    )


async def list_hosts(request: ApiRequest) -> ApiResponse:
    """GET /hosts."""
    promised = await store.promised_by_host()
    room = request.services.vms.room

    def render(host: Host) -> str:
        login = request.services.vms.inventory.login(host.name)
        out = host_out(host, room(host, promised), promised.get(host.name, Promised()), login)
        return out.model_dump_json()

    return ApiResponse(json_object(hosts=await json_list(await store.list_hosts(), render)))


async def get_host(request: ApiRequest) -> ApiResponse:
    """GET /hosts/{name}."""
    host = await store.find_host(request.path["name"])
    promised = await store.promised_by_host(host.name)
    room = request.services.vms.room(host, promised)
    login = request.services.vms.inventory.login(host.name)
    out = host_out(host, room, promised.get(host.name, Promised()), login)
    return ApiResponse(out.model_dump(mode="json"))


async def list_templates(request: ApiRequest) -> ApiResponse:
    """GET /templates."""
    hosts = await store.list_hosts()
    templates = [
        _template_out(name, entry, hosts)
        for name, entry in sorted(request.services.vms.inventory.templates().items())
    ]
    return ApiResponse(TemplateList(templates=templates).model_dump(mode="json"))


def _template_out(name: str, entry: dict[str, Any], hosts: list[Host]) -> TemplateOut:
    images = {
        host.name: next((i for i in host.facts.get("templates", []) if i["name"] == name), None)
        for host in hosts
    }
    sizes = [int(image["virtual_size_bytes"]) for image in images.values() if image]
    return TemplateOut(
        id=name,
        os=str(entry.get("os", name)),
        source="micro" if entry.get("micro") else str(entry.get("url") or entry.get("path") or ""),
        minDisk=-(-max(sizes) // GIB) if sizes else None,
        hosts=[
            TemplateHost(
                host=host,
                ready=image is not None,
                createdAt=image.get("created_at") if image else None,
            )
            for host, image in images.items()
        ],
    )
