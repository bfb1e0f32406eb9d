"""Lab tests: one VM through the playbooks of its actions, on a real hypervisor over SSH."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Host
from lab.lab import Lab
from tests.lab.modules import run_module, run_modules
from tests.lab.plays import IMAGES, Play, run_tasks

TEMPLATES = "/var/lib/libvirt/templates"
CREATE = "Create the VM"
DOWNLOAD = "Download the template to the host"

pytestmark = pytest.mark.lab


def new(identity: str, **values: Any) -> dict[str, Any]:
    """The variables of a small VM."""
    return {
        "name": f"vm-{identity[:8]}",
        "template": "micro",
        "vcpus": 1,
        "memory": 192,
        "disk": 1,
        **values,
    }


def volumes(host: Host, identity: str) -> set[str]:
    listed = host.run("ls", IMAGES).stdout.split()
    return {name.removeprefix(f"{identity}-") for name in listed if name.startswith(identity)}


def fields(result: dict[str, Any]) -> dict[str, str]:
    return {change["field"]: change["applies"] for change in result["changes"]}


def told(result: dict[str, Any]) -> tuple[list[str], str]:
    """The words of a diff, those of before and then those of after, and its XML of after."""
    words, *xml = result["diff"]
    after = xml[0]["after"] if xml else ""
    return (words["before"] + words["after"]).splitlines(), after


def test_life_of_a_vm(host: Host, identity: str, play: Play) -> None:
    made = play("vm_create", **new(identity, state="running", title="Web Server", job="job-1"))
    domain = made["domain"]
    assert (domain["state"], domain["title"], domain["metadata"]["job"]) == (
        "running",
        "Web Server",
        "job-1",
    )
    again = play("vm_create", **new(identity, state="running", title="Web Server", job="job-1"))
    assert again["changed"] is False
    assert again["domain"]["started_at"] == domain["started_at"]

    assert play("vm_pause")["domain"]["state"] == "paused"
    assert play("vm_resume")["domain"]["state"] == "running"
    assert play("vm_delete")["code"] == "VM_ALREADY_RUNNING"

    grown = play("vm_update", vcpus=2, disk=2, title="Other", labels={"a": "b"}, id="vm-999")
    assert grown["domain"]["metadata"]["id"] == "vm-999"
    assert fields(grown) == {
        "title": "live",
        "metadata.id": "live",
        "metadata.labels": "live",
        "vcpus": "live",
        "disks.vda.size": "live",
    }
    assert grown["applies_at"] == "now"
    later = play("vm_update", memory=256)
    assert later["applies_at"] == "next_boot"
    assert later["domain"]["pending"] == {"memory": 256, "memory_max": 256}

    restarted = play("vm_restart", timeout=240)["domain"]
    assert restarted["started_at"] > domain["started_at"]
    assert (restarted["memory"], restarted["vcpus"], restarted["disks"][0]["size"]) == (256, 2, 2)
    for kept in ("uuid", "metadata"):
        assert restarted[kept] == grown["domain"][kept]
    assert restarted["interfaces"][0]["mac"] == domain["interfaces"][0]["mac"]

    assert play("vm_stop", timeout=240)["domain"]["state"] == "stopped"
    assert play("vm_pause")["code"] == "VM_ALREADY_STOPPED"
    assert volumes(host, identity) == {"vda.qcow2", "seed.iso"}
    assert play("vm_delete")["domain"] is None
    assert volumes(host, identity) == set()
    assert play("vm_delete")["changed"] is False
    assert play("vm_start")["code"] == "VM_NOT_FOUND"


def test_a_template_that_the_host_lacks_is_prepared(
    lab: Lab, host: Host, identity: str, tmp_path: Path
) -> None:
    name, uuids = f"t-{identity[:8]}", iter(str(uuid.uuid4()) for _ in range(20))
    micro = json.loads(host.run("cat", f"{TEMPLATES}/micro.json").stdout)["file"]
    images = [f"/var/tmp/{name}-{number}.qcow2" for number in range(3)]

    def create(image: str, *options: str, **values: Any) -> list[tuple[str, dict[str, Any]]]:
        catalogue = {"libvirt_image_catalogue_extra": {name: {"path": image}}}
        options = ("-e", json.dumps(catalogue), *options)
        wanted = {"uuid": next(uuids), **new(identity, template=name, **values)}
        return run_tasks(lab, host, tmp_path / "variables.json", "vm_create", options, wanted)

    def backing(tasks: list[tuple[str, dict[str, Any]]]) -> str:
        domain = tasks[-1][1]["domain"]
        info = host.run("qemu-img", "info", "--output=json", domain["disks"][0]["path"])
        host.run("virsh", "undefine", domain["uuid"], "--remove-all-storage")
        return str(json.loads(info.stdout)["backing-filename"])

    try:
        for number, image in enumerate(images):
            size = f"{1024 + number}M"  # each has another content
            host.run("cp", f"{TEMPLATES}/{micro}", image)
            host.run("qemu-img", "resize", "-q", image, size)
        for tags in (("--skip-tags", "image"), ("--skip-tags", "always"), ("--tags", "domain")):
            refused = create(images[0], *tags)[-1][1]
            assert (refused["code"], refused["missing_templates"]) == ("TEMPLATE_NOT_FOUND", [name])
        planned = create(images[0], "--check")
        assert [task for task, result in planned if result.get("changed")] == [CREATE, DOWNLOAD]
        prepared = create(images[0], disk=2)
        assert [task for task, result in prepared if result.get("changed")] == [DOWNLOAD, CREATE]
        first = backing(prepared)
        usual = create(images[0], disk=2)
        assert [task for task, _result in usual] == ["Check the variables", CREATE]
        assert backing(usual) == first
        newer = backing(create(images[1], disk=2))
        assert newer != first
        assert backing(create(images[2], "--skip-tags", "image", disk=2)) == newer
        only = create(images[2], "--tags", "image")
        assert [task for task, result in only if result.get("changed")] == [DOWNLOAD]
        host.run("rm", f"{TEMPLATES}/{name}.json", images[2])
        failed = create(images[2])[-1]
        assert (failed[0], failed[1]["results"][0]["code"]) == (DOWNLOAD, "TEMPLATE_NOT_FOUND")
    finally:
        host.run("sh", "-c", f"rm -f {TEMPLATES}/{name}* {TEMPLATES}/.{name}* /var/tmp/{name}-*")


def test_text_of_users_is_kept_and_runs_nothing(
    host: Host, identity: str, play: Play, tmp_path: Path
) -> None:
    # The controller and the host share no directory, but both have this one to write in.
    def trap(name: str) -> str:
        return f"{{{{ lookup('pipe', 'touch {tmp_path}/{name}') }}}}; $(touch {tmp_path}/{name})"

    made = play(
        "vm_create",
        **new(
            identity,
            title=trap("title"),
            description=trap("description") + "\n</description>\t<devices/>\n",
            os=trap("os"),
            ssh_keys=[f"ssh-ed25519 AAAA {trap('key')}"],
            user_data=f"#cloud-config\n# SECRET {trap('data')}\n",
            labels={"label": trap("label")},
            job=trap("job"),
        ),
    )
    domain = made["domain"]
    assert domain["title"] == trap("title")
    assert domain["description"] == trap("description") + "\n</description>\t<devices/>\n"
    assert domain["metadata"]["os"] == trap("os")
    assert domain["metadata"]["labels"] == {"label": trap("label")}
    seed = host.run("grep", "-a", "-c", "SECRET {{ lookup", f"{IMAGES}/{identity}-seed.iso")
    assert seed.stdout.strip() == "1"
    for wrong in (
        {"network": {"type": "network", "network": trap("network")}},
        {"labels": {trap("label name"): "text"}},
    ):
        refused = play("vm_update", **wrong)
        assert refused["code"] == "VALIDATION_ERROR"
        assert "lookup" in refused["msg"]
    assert [path.name for path in tmp_path.iterdir()] == ["variables.json"]
    assert host.run("test", "!", "-e", f"{tmp_path}/title").returncode == 0


def test_module_takes_the_short_form_and_the_words_of_the_api(host: Host, identity: str) -> None:
    short = {
        "uuid": identity,
        "name": f"vm-{identity[:8]}",
        "cpu": 2,
        "memory": 128,
        "template": "micro",
        "disk": 1,
        "network": {"network": "default"},
        "labels": {"tier": "web"},
        "autoStart": True,
    }
    made = run_module(host, "domain", **short)["domain"]
    assert (made["vcpus"], made["autostart"], made["disks"][0]["size"]) == (2, True, 1)
    assert made["interfaces"][0]["source"] == "default"
    assert made["metadata"]["labels"] == {"tier": "web"}
    assert made["metadata"]["template"] == "micro"
    assert run_module(host, "domain", **short)["changed"] is False
    both = run_module(host, "domain", **short, disks=[{"target": "vda"}])
    assert "mutually exclusive" in both["msg"]
    (listed,) = run_module(host, "domains", domains=[{**short, "disk": 2}])["vms"]
    assert [change["field"] for change in listed["changes"]] == ["disks.vda.size"]


def test_dry_run_says_what_would_change_and_changes_nothing(
    host: Host, identity: str, play: Play
) -> None:
    values = new(identity, state="running", labels={"a": "b"}, user_data="#!SECRET")
    planned = play("vm_create", "--check", "--diff", **values)
    assert planned["changed"] is True
    words, xml = told(planned)
    assert words == [
        "state: absent",
        "state: running  (at once)",
        "vcpus: 1",
        "memory: 192",
        "virt_type: qemu",
        "disks.vda.size: 1",
        "disks.vda.template: micro",
        "interfaces[0].network: default",
        'metadata.labels: {"a": "b"}',
        'seed: ["user_data"]',
    ]
    assert xml == ""
    assert "<domain" in told(play("vm_create", "--check", "--diff", "-vv", **values))[1]
    assert volumes(host, identity) == set()
    play("vm_create", **new(identity))
    before = host.run("virsh", "dumpxml", identity).stdout
    for action, values in (
        ("vm_update", {"vcpus": 4, "disk": 5}),
        ("vm_start", {}),
        ("vm_delete", {}),
    ):
        assert play(action, "--check", **values)["changed"] is True
    assert [c["destroys"] for c in play("vm_delete", "--check")["changes"]] == [False, True]
    assert host.run("virsh", "dumpxml", identity).stdout == before
    assert volumes(host, identity) == {"vda.qcow2", "seed.iso"}


def test_dry_run_says_in_words_when_each_change_acts_and_what_it_destroys(
    host: Host, identity: str, play: Play
) -> None:
    def dry(action: str, *options: str, **values: Any) -> tuple[list[str], str]:
        return told(play(action, "--check", "--diff", *options, **values))

    made = play("vm_create", **new(identity, state="running", user_data="#!SECRET"))["domain"]
    mac, disk = made["interfaces"][0]["mac"], made["disks"][0]["path"]
    address = {"type": "network", "network": "default", "ip": "203.0.113.252"}
    assert dry("vm_update", disk=5) == (["disks.vda.size: 1", "disks.vda.size: 5  (live)"], "")
    assert dry("vm_update", network=address) == (
        [f"interfaces.{mac}.ip: none", f"interfaces.{mac}.ip: 203.0.113.252  (at next boot)"],
        "",
    )
    words, xml = dry("vm_update", "-vv", vcpus=2, memory=512, disk=5, labels={"a": "b: +c"})
    assert words[-5:] == [
        'metadata.labels: {"a": "b: +c"}  (live)',
        "vcpus: 2  (live)",
        "memory_max: 512  (at next boot)",
        "memory: 512  (at next boot)",
        "disks.vda.size: 5  (live)",
    ]
    assert 'current="2"' in xml
    assert dry("vm_restart") == (["state: running", "state: restarted  (live)"], "")
    lost = "  (live, DESTROYS unsaved data)"
    assert dry("vm_stop", force=True) == (["state: running", f"state: stopped{lost}"], "")
    host.run("virsh", "snapshot-create-as", identity, "one")
    deleted = play("vm_delete", "--check", "--diff", force=True)
    assert [(c["field"], c["destroys"]) for c in deleted["changes"]] == [
        ("state", True),
        ("disks.vda", True),
        ("snapshots", True),
    ]
    words, xml = told(deleted)
    assert words == [
        "state: running",
        f"disks.vda: {disk}",
        "snapshots: 1",
        f"state: absent{lost}",
        "disks.vda: none  (DESTROYED)",
        "snapshots: none  (DESTROYED)",
    ]
    assert xml == ""
    # The same in the real run.
    assert told(play("vm_stop", "--diff", force=True))[0][1] == f"state: stopped{lost}"


@pytest.fixture
def broken_pool(host: Host) -> Iterator[None]:
    """A pool that is active and whose directory is gone: libvirt cannot refresh it."""
    directory = "/srv/broken"
    host.run("mkdir", "-p", directory)
    host.run("virsh", "-q", "pool-create-as", "broken", "dir", "--target", directory)
    host.run("rmdir", directory)
    yield
    host.run("virsh", "-q", "pool-destroy", "broken", check=False)


def test_failed_creation_leaves_nothing(
    host: Host, identity: str, play: Play, broken_pool: None
) -> None:
    fixed = {"type": "network", "network": "default", "ip": "203.0.113.250"}
    # QEMU cannot get that much memory: it fails at the start, when all else has been made.
    failed = play("vm_create", **new(identity, state="running", memory=16_777_216, network=fixed))
    assert failed["code"] == "INSUFFICIENT_RESOURCES"
    assert failed["msg"].startswith("cannot create vm-")
    assert "not undone" not in failed["msg"]
    assert volumes(host, identity) == set()
    assert identity not in host.run("virsh", "list", "--all", "--uuid").stdout
    assert "203.0.113.250" not in host.run("virsh", "net-dumpxml", "default").stdout


def test_full_pool_is_insufficient_resources(host: Host, identity: str, play: Play) -> None:
    with host.small_pool(16 << 20):
        host.fill_pool(leave=1 << 20)
        assert play("vm_create", **new(identity))["code"] == "INSUFFICIENT_RESOURCES"
        assert volumes(host, identity) == set()


def test_creation_that_crashed_is_completed(host: Host, identity: str, play: Play) -> None:
    # What a killed module leaves: a note of what it was making, and half a disk.
    disk = f"{IMAGES}/{identity}-vda.qcow2"
    note = json.dumps({"generation": 1, "creating": [disk]})
    host.run("sh", "-c", f"echo half > {disk}; mkdir -p /var/lib/virtplay/fence")
    host.run("tee", f"/var/lib/virtplay/fence/{identity}.json", stdin=note)
    stale = play("vm_create", **new(identity, generation=0))
    assert stale["code"] == "STALE_GENERATION"
    play("vm_create", **new(identity, generation=2))
    assert "micro-" in host.run("qemu-img", "info", disk).stdout
    assert play("vm_start", generation=1)["code"] == "STALE_GENERATION"


def test_disk_without_that_note_is_never_overwritten(host: Host, identity: str, play: Play) -> None:
    play("vm_create", **new(identity))
    disk = f"{IMAGES}/{identity}-vda.qcow2"
    host.run("qemu-io", "-c", "write -P 7 0 64k", disk)
    assert play("vm_delete", keep_disks=True)["changed"] is True
    assert volumes(host, identity) == {"vda.qcow2"}
    play("vm_create", **new(identity))
    assert "pattern" not in host.run("qemu-io", "-c", "read -P 7 0 64k", disk).stdout


def test_guest_that_does_not_answer_is_not_killed(host: Host, identity: str, play: Play) -> None:
    made = play("vm_create", **new(identity, state="running"))
    name = made["domain"]["name"]
    host.freeze(name)
    try:
        failed = play("vm_stop", timeout=3)
        assert failed["code"] == "GUEST_NOT_RESPONDING"
        assert "still running" in failed["msg"]
        assert host.run("virsh", "domstate", name).stdout.strip() == "running"
    finally:
        host.thaw(name)
    forced = play("vm_stop", force=True)
    assert forced["domain"]["state"] == "stopped"


def test_name_that_somebody_has_taken_is_no_failure_of_a_job(
    host: Host, identity: str, play: Play
) -> None:
    name = f"vm-{identity[:8]}"
    blank = "<memory>65536</memory><os><type>hvm</type></os></domain>"
    blank = f"<domain type='qemu'><name>{name}</name>{blank}"
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=blank)
    try:
        refused = play("vm_create", **new(identity))
        assert refused["code"] == "VALIDATION_ERROR"
        assert refused["msg"].endswith("has that name")
        made = play("vm_create", **new(identity, job="job-1"))["domain"]
    finally:
        host.run("virsh", "-q", "undefine", name)
    assert (made["name"], made["metadata"]["id"]) == (f"{name}-2", name)


def test_fixed_address_is_reserved_and_given_back(host: Host, identity: str, play: Play) -> None:
    # Two cards in one network, which has an entry of the VM's name that somebody has made.
    cards = [{"source": "default", "ip": f"203.0.113.{last}"} for last in (251, 249)]
    other = f"<host mac='52:54:00:00:00:fe' name='vm-{identity[:8]}' ip='203.0.113.248'/>"
    update = ("virsh", "-q", "net-update", "default", "VERB", "ip-dhcp-host", other, "--live")
    host.run(*(word.replace("VERB", "add") for word in update))
    network = {"type": "network", "network": "default", "ip": "203.0.113.251"}
    refused = play("vm_create", **new(identity, interfaces=[cards[0], cards[0]]))
    assert refused["msg"].endswith("two of its interfaces have the address 203.0.113.251")
    made = play("vm_create", **new(identity, interfaces=cards))
    reserved = host.run("virsh", "net-dumpxml", "default").stdout
    for nic, card in zip(made["domain"]["interfaces"], cards, strict=True):
        assert f"<host mac='{nic['mac']}' ip='{card['ip']}'/>" in reserved
    mac = made["domain"]["interfaces"][0]["mac"]
    for wrong in ("198.51.100.7", "203.0.113.1", "2001:db8::5", "x"):
        refused = play("vm_update", network={**network, "ip": wrong})
        assert refused["code"] == "VALIDATION_ERROR"
    # A domain that was copied with its definition has a card with the same address.
    shared = made["domain"]["interfaces"][1]["mac"]
    extra = f"<interface type='network'><source network='default'/><mac address='{shared}'/>"
    copy = foreign(f"copy-{identity[:8]}", "file", f"file='{IMAGES}/none.qcow2'")
    copy = copy.replace("</devices>", f"{extra}</interface></devices>")
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=copy)
    deleted = play("vm_delete")
    assert mac in str(deleted["changes"])
    assert shared not in str(deleted["changes"])
    reserved = host.run("virsh", "net-dumpxml", "default").stdout
    assert (mac in reserved, shared in reserved) == (False, True)
    assert play("vm_delete")["changed"] is False
    host.run("virsh", "-q", "undefine", f"copy-{identity[:8]}")
    assert play("vm_delete")["changed"] is True
    assert shared not in host.run("virsh", "net-dumpxml", "default").stdout
    host.run(*(word.replace("VERB", "delete") for word in update))


def test_renaming_takes_along_what_has_the_name(host: Host, identity: str, play: Play) -> None:
    old, name = f"vm-{identity[:8]}", f"db-{identity[:8]}"
    address = "203.0.113.247"
    network = {"type": "network", "network": "default", "ip": address}
    play("vm_create", **new(identity, network=network, autostart=True))
    rename = {"new_name": name, "title": "DB"}

    def traces() -> tuple[bool, ...]:
        """Whether the old name, and then the new one, is where libvirt has it."""
        links = host.run("ls", "/etc/libvirt/qemu/autostart").stdout.split()
        reserved = host.run("virsh", "net-dumpxml", "default").stdout
        return tuple(
            found
            for each in (old, name)
            for found in (f"{each}.xml" in links, f"name='{each}' ip='{address}'" in reserved)
        )

    planned = play("vm_update", "--check", "--diff", **rename)
    assert fields(planned) == {"title": "offline", "name": "offline"}
    assert planned["domain"]["name"] == name
    assert f"name: {name}  (at once)" in told(planned)[0]
    assert traces() == (True, True, False, False)
    renamed = play("vm_update", **rename)
    assert (renamed["changes"], renamed["domain"]["name"]) == (planned["changes"], name)
    assert traces() == (False, False, True, True)
    assert play("vm_update", **rename)["changed"] is False
    again = run_module(host, "domain", name=old, new_name=name, title="DB")
    assert (again["changed"], again["domain"]["uuid"]) == (False, identity)

    # Where libvirt cannot rename, everything else changes.
    assert play("vm_start")["domain"]["name"] == name
    stays = play("vm_update", new_name=old, title="DB 2")
    assert (fields(stays), stays["domain"]["name"]) == ({"title": "live"}, name)
    assert stays["warnings"] == [
        f"cannot rename {name} to {old}: it is running; stop it first; it keeps its name"
    ]
    play("vm_stop", force=True)
    host.run("virsh", "-q", "snapshot-create-as", identity, "one")
    stays = play("vm_update", new_name=old)
    assert (stays["changed"], "it has 1 snapshot;" in stays["warnings"][0]) == (False, True)
    host.run("virsh", "-q", "snapshot-delete", identity, "one")

    # A name that somebody else has is an error by hand; a job takes the next one.
    blank = f"<domain type='qemu'><name>{old}</name><memory>65536</memory><os><type>hvm</type></os>"
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=f"{blank}</domain>")
    try:
        assert play("vm_update", new_name=old)["msg"].endswith("has that name")
        for changed in (True, False):
            numbered = play("vm_update", new_name=old, job="job-1")
            assert (numbered["changed"], numbered["domain"]["name"]) == (changed, f"{old}-2")
    finally:
        host.run("virsh", "-q", "undefine", old)
    play("vm_delete", force=True)
    assert address not in host.run("virsh", "net-dumpxml", "default").stdout


def test_domain_of_somebody_else_is_managed_by_uuid_and_keeps_its_disk(
    host: Host, identity: str, play: Play
) -> None:
    disk = f"{IMAGES}/of-another.qcow2"
    host.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "10M")
    xml = f"""<domain type='qemu'><name>old one {identity[:4]}</name><uuid>{identity}</uuid>
      <memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type machine='pc'>hvm</type></os>
      <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    assert play("vm_start")["domain"]["state"] == "running"
    changed = play("vm_update", title="Mine", labels={"a": "b"})["domain"]
    assert (changed["title"], changed["metadata"]["labels"]) == ("Mine", {"a": "b"})
    deleted = play("vm_delete", force=True)
    assert deleted["domain"] is None
    assert disk in deleted["warnings"][0]
    host.run("rm", disk)


def foreign(name: str, kind: str, source: str, bus: str = "virtio") -> str:
    """The XML of a domain that somebody else defined, with one disk."""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
      <os><type machine='q35'>hvm</type></os><devices><disk type='{kind}'>
      <driver name='qemu' type='qcow2'/><source {source}/>
      <target dev='{bus[:1]}da' bus='{bus}'/></disk></devices></domain>"""


def test_first_disk_grows_whatever_its_target_and_kind(host: Host) -> None:
    """A file that libvirt has not seen yet, on SATA, and a volume that is named by its pool."""
    host.run("qemu-img", "create", "-q", "-f", "qcow2", f"{IMAGES}/found.qcow2", "1G")
    host.run("virsh", "-q", "vol-create-as", "default", "named.qcow2", "1G", "--format", "qcow2")
    kinds = {
        "found": foreign("found", "file", f"file='{IMAGES}/found.qcow2'", "sata"),
        "named": foreign("named", "volume", "pool='default' volume='named.qcow2'"),
    }
    for xml in kinds.values():
        host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    try:
        runs = [({"name": name, "disks": [{"size": size}]}, 0) for name in kinds for size in (1, 2)]
        results = run_modules(host, *runs, module="domain")
        assert [result and result["changed"] for result in results] == [False, True] * 2
        for name, result in zip(kinds, results[1::2], strict=True):
            assert result is not None
            (disk,) = result["domain"]["disks"]
            assert (disk["path"], disk["size"]) == (f"{IMAGES}/{name}.qcow2", 2)
            assert f"({2 << 30} bytes)" in host.run("qemu-img", "info", disk["path"]).stdout
    finally:
        for name in kinds:
            host.run("virsh", "-q", "undefine", name)
            host.run("virsh", "-q", "vol-delete", f"{IMAGES}/{name}.qcow2")


def test_what_another_domain_is_based_on_is_neither_deleted_nor_used_again(
    host: Host, identity: str, play: Play
) -> None:
    name = f"vm-{identity[:8]}"
    given: dict[str, Any] = {"uuid": identity, "name": name, "vcpus": 1, "memory": 64}
    disk, top = f"{IMAGES}/{identity}-vda.qcow2", f"{IMAGES}/over-{identity}.top"
    run_modules(host, ({**given, "disks": [{"size": 1}], "interfaces": []}, 0), module="domain")
    # The other domain is stopped: only the header of its image shows what it is based on.
    for above, below in ((f"{top}1", disk), (f"{top}2", f"{top}1")):
        host.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", above)
    xml = foreign(f"on-{name}", "file", f"file='{top}2'")
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    try:
        (deleted,) = run_modules(host, ({"uuid": identity, "state": "absent"}, 0), module="domain")
        assert deleted is not None
        assert [change["field"] for change in deleted["changes"]] == ["state"]
        assert volumes(host, identity) == {"vda.qcow2"}
        # Nor may a new domain write to it.
        refused = play("vm_create", **new(identity))
        assert refused["code"] == "VALIDATION_ERROR"
        assert f"domain on-{name} uses it" in refused["msg"]
    finally:
        host.run("virsh", "-q", "undefine", f"on-{name}")
        host.run("sh", "-c", f"rm {top}*")


def test_disk_that_a_qemu_of_another_host_has_open_is_not_deleted(
    host: Host, identity: str
) -> None:
    given: dict[str, Any] = {"uuid": identity, "name": f"vm-{identity[:8]}", "vcpus": 1}
    given |= {"memory": 64, "disks": [{"size": 1}], "interfaces": []}
    absent = {"uuid": identity, "state": "absent"}
    run_modules(host, (given, 0), module="domain")
    # No domain of this host tells of it, only the locks that every QEMU program sets.
    place = f"/run/{identity}"
    image = f"{IMAGES}/{identity}-vda.qcow2"
    export = ("--fork", "--persistent", "-k", f"{place}.sock", "--pid-file", f"{place}.pid")
    host.run("qemu-nbd", *export, image)
    try:
        for gone in (False, True):
            (deleted,) = run_modules(host, (absent, 0), module="domain")
            assert deleted is not None
            assert [change["field"] for change in deleted["changes"]] == ["state"][gone:]
            assert volumes(host, identity) == {"vda.qcow2"}
    finally:
        host.run(
            "sh", "-ec", f"pid=$(cat {place}.pid); kill $pid; while [ -d /proc/$pid ]; do :; done"
        )
    run_modules(host, (absent, 0), module="domain")
    assert volumes(host, identity) == set()


def forget_loader(host: Host, identity: str) -> None:
    """Define a VM as it was before it asked for firmware that stores variables."""
    xml = host.run("virsh", "dumpxml", "--inactive", identity).stdout
    assert "<loader" in xml
    wanted = "<firmware><feature enabled='no' name='secure-boot'/></firmware>"
    old = re.sub(
        "(?s)<loader[^>]*/>|<loader.*</loader>|<firmware>.*</firmware>|<nvram.*</nvram>", "", xml
    )
    old = re.sub("<os[^>]*>", f"<os firmware='efi'>{wanted}", old)
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=old)


def test_uefi_guest_of_before_is_made_to_keep_its_variables(
    host: Host, identity: str, play: Play
) -> None:
    play("vm_create", **new(identity, firmware="efi", state="stopped"))
    for action, values in (("vm_start", {}), ("vm_update", {"title": "x"})):
        forget_loader(host, identity)
        planned = play(action, "--check", **values)
        changed = play(action, **values)
        for result in (planned, changed):
            fields = [change["field"] for change in result["changes"]]
            assert fields.count("keeps_variables") == 1
        assert "stateless='no'" in host.run("virsh", "dumpxml", "--inactive", identity).stdout
        assert play(action, **values)["changed"] is False


def test_uefi_guest_is_made_started_and_removed(host: Host, identity: str, play: Play) -> None:
    made = play("vm_create", **new(identity, firmware="efi", state="running"))
    assert made["domain"]["firmware"] == "efi"
    assert play("vm_update", vcpus=1)["changed"] is False
    # Somebody has copied the system of its definition, and with it the path of its variables.
    name = made["domain"]["name"]
    xml = host.run("virsh", "dumpxml", identity).stdout
    loader, nvram = (re.search(f"<{tag}.*>(.*)</{tag}>", xml) for tag in ("loader", "nvram"))
    assert loader
    assert nvram
    variables = nvram[1]
    assert variables.startswith(f"/var/lib/libvirt/qemu/nvram/{name}_VARS.")
    copy = f"""<domain type='qemu'><name>{name}-copy</name><memory unit='MiB'>64</memory>
      <os><type machine='q35'>hvm</type>{loader[0]}<nvram>{variables}</nvram></os>
      <features><acpi/><smm state='on'/></features></domain>"""
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=copy)
    deleted = play("vm_delete", force=True)
    assert f"{variables} (domain {name}-copy uses it)" in deleted["warnings"][0]
    assert identity not in host.run("virsh", "list", "--all", "--uuid").stdout
    host.run("test", "-e", variables)
    host.run("virsh", "-q", "undefine", f"{name}-copy", "--nvram")
