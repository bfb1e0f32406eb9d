"""Unit tests: virtplay host and virtplay template."""

import json
from typing import Any

from virtplay.api.schemas.hosts import HostOut, TemplateOut

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import FakeService

AMOUNTS = {"cpu": 8, "memory": 4096, "disk": 100}


def make_host(**given: Any) -> dict[str, Any]:
    """A hypervisor as the API shows one."""
    values: dict[str, Any] = {
        "name": "kvm1",
        "connection": {"type": "ssh", "address": "kvm1", "port": None, "user": None},
        "status": "ready",
        "message": "",
        "observedAt": "2026-01-01T12:00:00Z",
        "vms": 3,
        "virtType": "qemu",
        "virtReason": "/dev/kvm does not exist",
        "cpus": 4,
        "cpuModel": "Fast",
        "memory": 4096,
        "capacity": AMOUNTS,
        "allocated": {"cpu": 2, "memory": 96, "disk": 10},
        "available": {"cpu": 6, "memory": 4000, "disk": 90},
        "overcommit": {"cpu": 2, "memory": 1, "disk": 1.5, "reservedMemory": 512},
        "stopped": {"vms": 2, "cpu": 6, "memory": 64},
        "unmanaged": {"vms": 1, "cpu": 1, "memory": 32, "disk": 5},
        "versions": {"libvirt": "9.0.0"},
        "pools": [
            {
                "name": "default",
                "path": "/pool",
                "active": True,
                "capacity_bytes": 100 * 1024**3,
                "available_bytes": 90 * 1024**3,
            },
            {"name": "off", "path": "/off", "active": False},
        ],
        "networks": [{"name": "default", "bridge": "virbr0", "active": False}],
        "bridges": ["br0"],
    }
    return HostOut.model_validate({**values, **given}).model_dump(mode="json")


def test_list_tells_free_and_whole(service: FakeService, run: Run) -> None:
    nothing = {"cpu": 0, "memory": 0, "disk": 0}
    never = make_host(
        name="kvm2", status="unknown", virtType=None, observedAt=None, cpus=None, memory=None,
        vms=0, capacity=nothing, available=nothing, stopped={"vms": 0, "cpu": 0, "memory": 0},
        unmanaged={"vms": 0, **nothing},
    )  # fmt: skip
    service.reply("GET", "/hosts", {"hosts": [make_host(), never]})
    lines = run("host", "list").out.splitlines()
    assert " 6 of 8 (4 x 2)  4000 of 4096 MiB  90 of 100 GiB (x 1.5)  " in lines[1]
    assert lines[1].split()[:5] == ["kvm1", "ready", "qemu", "3", "2"]
    assert lines[2].split() == ["kvm2", "unknown", "-", "0", "0", "-", "-", "-", "-"]
    assert run("host", "list", "-o", "unmanaged").out.split() == ["UNMANAGED", "1", "0"]


def test_list_ends_with_what_is_wrong_with_hosts(service: FakeService, run: Run) -> None:
    odd = make_host(name="kvm2", message="KVM has failed web-1\x1b[2J")
    service.reply("GET", "/hosts", {"hosts": [make_host(message=""), odd]})
    assert run("host", "list").err == "kvm2: KVM has failed web-1\\x1b[2J\n"


def test_show_of_a_host(service: FakeService, run: Run) -> None:
    service.reply("GET", "/hosts/kvm1", make_host())
    out = run("host", "show", "kvm1").out
    assert "reason:         /dev/kvm does not exist\n" in out
    assert "capacity:       8 vCPUs, 4096 MiB, 100 GiB (4 CPUs x 2, (4096 - 512) MiB x 1," in out
    assert "stopped vms:    2 with 6 vCPUs, which are not allocated, and 64 MiB, which are\n" in out
    assert "unmanaged vms:  1: 1 vCPUs, 32 MiB, 5 GiB\n" in out
    assert "default (/pool, 90 of 100 GiB free)\n" in out
    assert "off (/off, inactive)\n" in out
    assert "default (bridge virbr0, inactive)\n" in out
    assert json.loads(run("host", "show", "kvm1", "--json").out) == make_host()


def test_show_of_a_host_that_was_never_observed(service: FakeService, run: Run) -> None:
    unknown = dict.fromkeys(("virtType", "virtReason", "cpus", "cpuModel", "memory", "observedAt"))
    empty: dict[str, Any] = {"pools": [], "networks": [], "bridges": [], "versions": {}}
    service.reply("GET", "/hosts/kvm1", make_host(**unknown, **empty))
    lines = dict(line.split(maxsplit=1) for line in run("host", "show", "kvm1").out.splitlines()
                 if not line.startswith("cpu model"))  # fmt: skip
    for name in ("virtualization", "cpus", "memory", "capacity", "pools", "versions", "observed"):
        assert lines[f"{name}:"] == "-"
    assert "reason:" not in lines


def test_odd_host_names_stay_one_part_of_the_path(service: FakeService, run: Run) -> None:
    service.reply("GET", "/hosts/a b#?é", make_host())
    assert run("host", "show", "a b#?é").status == 0
    asked = len(service.requests)
    for odd in ("..", ".", ""):
        assert run("host", "show", odd).status == 2
    assert len(service.requests) == asked


def test_templates_and_where_they_are_ready(service: FakeService, run: Run) -> None:
    hosts = [
        {"host": "kvm1", "ready": True, "createdAt": "2026-01-01T12:00:00Z"},
        {"host": "kvm2", "ready": False, "createdAt": None},
    ]
    ready = TemplateOut.model_validate(
        {"id": "debian12", "os": "debian12", "source": "https://x", "minDisk": 2, "hosts": hosts}
    )
    absent = ready.model_copy(update={"id": "micro", "minDisk": None, "hosts": []})
    dumps = [template.model_dump(mode="json") for template in (ready, absent)]
    service.reply("GET", "/templates", {"templates": dumps})
    assert [line.split() for line in run("template", "list").out.splitlines()[1:]] == [
        ["debian12", "debian12", "2", "GiB", "kvm1", "https://x"],
        ["micro", "debian12", "-", "-", "https://x"],
    ]


def test_empty_lists_say_so(service: FakeService, run: Run) -> None:
    service.reply("GET", "/hosts", {"hosts": []})
    service.reply("GET", "/templates", {"templates": []})
    assert "no hosts" in run("host", "list").err
    assert "no templates" in run("template", "list").err
