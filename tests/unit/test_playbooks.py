"""Every playbook refuses wrong variables before it touches a host, and has its tags."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.actions import RULES

ROOT = Path(__file__).parents[2]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
FOR_MANY_HOSTS = {"host_observe", "host_prepare", "image_prepare", "service", "vm_power", "vms"}
NOWHERE: dict[str, dict[str, Any]] = {
    "hypervisors": {
        "vars": {"ansible_host": "192.0.2.1", "ansible_timeout": 1},
        "hosts": {"kvm1": None, "kvm2": None},
    }
}
"""Hosts whose address nobody answers at: whoever touches them fails in another way."""
VALUES = {"name": "web-1", "vcpus": 1, "memory": 64, "disk": 1}


def by_name(value: Any) -> str:
    """The id of a parameter: a playbook's name."""
    return value.stem if isinstance(value, Path) else str(value)


def run(tmp_path: Path, action: str | Path, *options: str, **variables: dict[str, str]) -> str:
    """What a playbook that has to fail says, one of ours or a file; hosts may have variables."""
    inventory = tmp_path / "hosts.yml"
    group = NOWHERE["hypervisors"]
    hosts = {**group["hosts"], **variables}
    inventory.write_text(yaml.safe_dump({"hypervisors": {**group, "hosts": hosts}}))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    path = action if isinstance(action, Path) else f"playbooks/{action}.yml"
    done = subprocess.run(
        [program, str(path), "-i", str(inventory), *options],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert "unreachable=1" not in done.stdout
    return done.stdout


def flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The tasks, and those of their blocks."""
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from flat(task.get(part, []))


@pytest.mark.parametrize("path", PLAYBOOKS, ids=by_name)
def test_playbook_begins_with_the_check_of_all_its_roles(path: Path) -> None:
    plays = yaml.safe_load(path.read_text())
    tasks: list[dict[str, Any]] = []
    for play in plays:
        tasks += [*play.get("pre_tasks", []), *play.get("tasks", [])]
    check, *others = flat(tasks)
    arguments = check["virtplay.libvirt.check_arguments"]
    assert check["tags"] == ["always", "validation"]
    assert bool(arguments.get("single_host")) == (path.stem not in FOR_MANY_HOSTS)
    imported = {}
    for task in others:
        if role := task.get("ansible.builtin.import_role"):
            imported[role["name"]] = role.get("tasks_from", "main")
            assert role["rolespec_validate"] is False
    assert imported.items() <= arguments["roles"].items()


@pytest.mark.slow
def test_wrong_variables_are_named_and_no_host_is_touched(tmp_path: Path) -> None:
    values = ["name=vm-1", "template=micro", "vcpus=many", "memroy=256", "state=runnin"]
    options = [word for value in values for word in ("-e", f"libvirt_domain_{value}")]
    said = run(tmp_path, "vm_create", "--limit", "kvm1", *options)
    assert "cannot use libvirt_domain_vcpus 'many': it must be a whole number" in said
    assert "value of libvirt_domain_state must be one of: stopped, running, got: runnin" in said
    assert "cannot use libvirt_domain_memroy" in said
    assert "did you mean libvirt_domain_memory?" in said
    assert "missing required arguments: libvirt_domain_memory" in said


@pytest.mark.slow
def test_what_is_missing_is_named_beside_all_other_faults(tmp_path: Path) -> None:
    values = {"vcpus": "many", "title": "{{ nowhere }}", "template": "win95"}
    variables = {f"libvirt_domain_{name}": value for name, value in values.items()}
    looks = tmp_path / "looks"
    variables["libvirt_image_catalogue_extra"] = (
        f"{{{{ lookup('pipe', 'echo look >> {looks}; echo {{}}') | from_json }}}}"
    )
    limit = ["--limit", "kvm1", "--check"]
    said = run(tmp_path, "vm_create", *limit, "-e", json.dumps(variables))
    assert "missing required arguments: libvirt_domain_memory, libvirt_domain_name" in said
    assert "cannot use libvirt_domain_vcpus 'many': it must be a whole number" in said
    assert "cannot use libvirt_domain_title: 'nowhere' is undefined" in said
    assert "cannot find template win95: the catalogue has debian12, " in said
    # A variable may cost something, as a lookup does: it is evaluated once.
    assert looks.read_text() == "look\n"
    said = run(tmp_path, "vm_start", "--limit", "kvm1")
    assert "libvirt_domain_name or libvirt_domain_uuid is required" in said
    said = run(tmp_path, "snapshot_create", "--limit", "kvm1", "-e", "libvirt_snapshot_name=a")
    assert "libvirt_snapshot_domain or libvirt_snapshot_uuid is required" in said


@pytest.mark.slow
def test_what_would_be_ignored_or_fail_on_the_host_is_refused_before(tmp_path: Path) -> None:
    vm = ["--limit", "kvm1", "-e", "libvirt_domain_name=vm-1"]
    said = run(tmp_path, "vm_update", *vm, "-e", "libvirt_domain_firmware=efi")
    assert "cannot use libvirt_domain_firmware for update: it is fixed at creation" in said
    said = run(tmp_path, "console_open", "--limit", "kvm1", "-e", "libvirt_console_domain=vm-1")
    assert "libvirt_console_password is required when libvirt_console_type is vnc" in said


@pytest.mark.slow
def test_playbook_of_ones_own_names_the_vm_by_the_roles_variable(tmp_path: Path) -> None:
    imported = {
        "import_playbook": str(ROOT / "playbooks/snapshot_create.yml"),
        "vars": {"libvirt_snapshot_domain": "web-1", "libvirt_snapshot_nmae": "one"},
    }
    own = tmp_path / "own.yml"
    own.write_text(yaml.safe_dump([imported]))
    said = run(tmp_path, own, "--limit", "kvm1")
    assert "did you mean libvirt_snapshot_name?" in said
    assert "libvirt_snapshot_uuid is required" not in said


@pytest.mark.slow
def test_serial_that_is_none_is_named_before_ansible_reads_it(tmp_path: Path) -> None:
    said = run(tmp_path, "vms", "-e", "libvirt_domain_vms_serial=abc")
    assert "cannot use libvirt_domain_vms_serial 'abc': it must be a number of hosts" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_fault_of_all_hosts_is_told_once(tmp_path: Path) -> None:
    vms = [{"name": f"web-{number}"} for number in range(5)]
    defaults = {"template": "mircro", "vcpus": 1, "memory": 256, "state": "{{ power }}"}
    hosts = {
        "kvm1": {"power": "running"},
        "kvm2": {"power": "off"},
    }
    said = run(
        tmp_path,
        "vms",
        "-e",
        json.dumps({"libvirt_domain_vms": vms, "libvirt_domain_vms_defaults": defaults}),
        **hosts,
    )
    fault = (
        "cannot find template mircro for VMs web-0, web-1, web-2, web-3, web-4, did you mean micro?"
    )
    (failed,) = [line for line in said.splitlines() if line.startswith("fatal: ")]
    assert failed.count(fault) == 1
    # What holds for one host alone is said with its name.
    assert "kvm2: libvirt_domain_vms_defaults: value of state must be one of" in failed
    assert "kvm1: " not in failed
    assert len(failed) < 1500


@pytest.mark.slow
def test_wrong_key_of_a_declared_vm_is_named(tmp_path: Path) -> None:
    vms = [{"name": "web-1", "vcpus": 1, "memory": 256, "memroy": 512, "state": "on"}]
    said = run(tmp_path, "vms", "-e", json.dumps({"libvirt_domain_vms": vms}))
    assert "cannot use libvirt_domain_vms[0].memroy of VM web-1: there is no such key" in said
    assert "did you mean memory?" in said
    assert "libvirt_domain_vms[0] of VM web-1: value of state must be one of: " in said
    vms = [{"name": "web-1", "vcpus": 1, "memory": "{{ nowhere }}"}]
    said = run(tmp_path, "vms", "-e", json.dumps({"libvirt_domain_vms": vms}))
    assert "cannot use libvirt_domain_vms[0] of VM web-1: 'nowhere' is undefined" in said


def test_page_names_the_actions_whose_variables_jobs_check() -> None:
    page = " ".join((ROOT / "docs/playbooks.md").read_text().split())
    named = re.search(r"the service skips it for every action but `(\w+)`: its API", page)
    assert named
    assert [named[1]] == [action for action, rules in RULES.items() if not rules.validated]


@pytest.mark.slow
def test_tags_are_those_that_are_documented() -> None:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    paths = [str(path) for path in PLAYBOOKS if path.stem != "service"]
    done = subprocess.run(
        [program, "--list-tags", "-i", "localhost,", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs/playbooks.md").read_text().split("## Tags", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| (.+) \| (`.+) \|$", page, re.M))
    for block in done.stdout.split("playbook: ")[1:]:
        name = Path(block.splitlines()[0]).stem
        tags = {
            tag for found in re.findall(r"TASK TAGS: \[(.*)\]", block) for tag in found.split(", ")
        }
        row = next(row for row in rows if re.search(f"`({name}|{name.split('_')[0]}_…)`", row))
        documented = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", rows[row])))
        assert tags - {"always", "never", "validation"} == documented, name


def play(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run playbooks for one VM on the first of the hosts that nobody answers at."""
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump(NOWHERE))
    values = {
        **{f"libvirt_domain_{key}": value for key, value in VALUES.items()},
        "libvirt_domain_power": {"kvm1": [{"name": "web-1", "state": "paused"}]},
        "libvirt_snapshot_domain": "web-1",
        "libvirt_snapshot_name": "one",
        "libvirt_console_domain": "web-1",
        "libvirt_console_password": "k4rT9wqz",
        "libvirt_image_name": "micro",
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    options = ["-i", str(inventory), "--limit", "kvm1", "-e", json.dumps(values)]
    return subprocess.run(
        [program, *arguments, *options],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_task_that_touches_a_host_has_a_documented_tag(tmp_path: Path) -> None:
    # vms compares in any case, and service has no tags.
    paths = [str(path) for path in PLAYBOOKS if path.stem not in ("service", "vms")]
    page = (ROOT / "docs/playbooks.md").read_text().split("## Tags", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| `.+ \| (`.+) \|$", page, re.M)
    tags = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", " ".join(cells))))
    done = play(tmp_path, *paths, "--skip-tags", ",".join(tags))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PLAY RECAP") == len(paths)
    assert "TASK [Check the variables]" in done.stdout
    assert "unreachable=1" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "tag", "first"),
    [
        ("--tags", "image", "libvirt_image"),
        ("--tags", "domain", "libvirt_domain"),
        ("--skip-tags", "image", "libvirt_domain"),
    ],
)
def test_tag_says_what_a_creation_begins_with(
    tmp_path: Path, option: str, tag: str, first: str
) -> None:
    template = ("-e", "libvirt_domain_template=micro")
    done = play(tmp_path, "playbooks/vm_create.yml", option, tag, *template)
    assert done.returncode == 4, done.stdout
    assert set(re.findall(r"^TASK \[(\w+) : ", done.stdout, re.M)) == {first}


@pytest.mark.slow
def test_action_on_several_hosts_asks_for_a_limit(tmp_path: Path) -> None:
    said = run(tmp_path, "vm_start", "-e", "libvirt_domain_name=vm-1")
    assert "cannot start a VM on 2 hosts: select one with --limit (kvm1, kvm2)" in said


def test_an_observation_by_the_service_is_one_task_for_each_host() -> None:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    for tags in ("observe_once", "observe_repeatedly"):
        options = ["--list-tasks", "--tags", tags, "--skip-tags", "always", "-i", "localhost,"]
        done = subprocess.run(
            [program, *options, "playbooks/host_observe.yml"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("TAGS: [") == 2, "that of the play, and one task"
