"""What the role libvirt_host installs and starts on each distribution, from faked facts.

Only Debian 12 can be tried on lab hosts; to the others the role is held by these tables. Its own
tasks run here, in check mode, on hosts that have nothing installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

FACTS = {
    "debian12": {"os_family": "Debian", "distribution": "Debian", "distribution_version": "12.11"},
    "ubuntu2204": {
        "os_family": "Debian",
        "distribution": "Ubuntu",
        "distribution_version": "22.04",
    },
    "ubuntu2404": {
        "os_family": "Debian",
        "distribution": "Ubuntu",
        "distribution_version": "24.04",
    },
    "rocky9": {"os_family": "RedHat", "distribution": "Rocky", "distribution_version": "9.6"},
}
DEBIAN = {
    "program": "dpkg-query",
    "packages": {
        *("dnsmasq-base", "iproute2", "iptables", "ovmf", "syslinux", "mtools", "tcpdump"),
        *("libvirt-clients", "libvirt-daemon-driver-qemu", "libvirt-daemon-system"),
        *("python3-apt", "python3-libvirt", "python3-lxml", "python3-pycdlib"),
        *("qemu-system-x86", "qemu-utils"),
    },
    "services": ["virtlogd.socket", "libvirtd.service"],
    "boot_services": [],
    "restarted": "libvirtd.service",
}
RED_HAT = {
    "program": "rpm",
    "packages": {
        *("dnsmasq", "iproute", "edk2-ovmf", "tcpdump", "syslinux", "mtools"),
        *("libvirt-client", "libvirt-daemon-config-network", "libvirt-daemon-kvm"),
        *("python3-libvirt", "python3-lxml", "python3-pycdlib"),
        *("qemu-img", "qemu-kvm"),
    },
    "services": [
        *("virtlogd.socket", "virtqemud.socket", "virtnetworkd.socket", "virtstoraged.socket"),
    ],
    "boot_services": ["virtqemud.service", "virtnetworkd.service", "virtstoraged.service"],
    "restarted": "virtqemud.service",
}
EXPECTED = {"debian12": DEBIAN, "ubuntu2204": DEBIAN, "ubuntu2404": DEBIAN, "rocky9": RED_HAT}

PLAYBOOK = [
    {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "vars": {"libvirt_host_packages": ["tcpdump"]},
        "tasks": [
            {
                "ansible.builtin.set_fact": {
                    **{f"ansible_{name}": f"{{{{ facts.{name} }}}}" for name in FACTS["rocky9"]},
                    "cacheable": True,
                }
            },
            {
                "ansible.builtin.include_role": {
                    "name": "libvirt_host",
                    "tasks_from": "packages",
                    "public": True,
                },
                "vars": {
                    # Nothing is installed, on whatever machine this runs.
                    "__libvirt_host_found": {"stdout_lines": []},
                },
            },
            {
                "name": "chosen",
                "ansible.builtin.debug": {
                    "msg": {
                        "program": "{{ __libvirt_host_query[0] }}",
                        "packages": "{{ __libvirt_host_wanted }}",
                        "services": "{{ __libvirt_host_services }}",
                        "boot_services": "{{ __libvirt_host_boot_services }}",
                        "restarted": "{{ __libvirt_host_qemu_service }}",
                    }
                },
            },
        ],
    }
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the role's tasks on four fake hosts; return what Ansible says of each task."""
    place = tmp_path_factory.mktemp("distributions")
    (place / "play.yml").write_text(json.dumps(PLAYBOOK))
    hosts = {name: {"facts": facts} for name, facts in FACTS.items()}
    (place / "inventory.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("--check", "-i", str(place / "inventory.yml"), str(place / "play.yml")),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: list[dict[str, Any]] = json.loads(done.stdout)["plays"][0]["tasks"]
    return result


@pytest.mark.parametrize("host", FACTS)
def test_role_chooses_by_the_distribution(tasks: list[dict[str, Any]], host: str) -> None:
    chosen = tasks[-1]["hosts"][host]["msg"]
    assert len(chosen["packages"]) == len(set(chosen["packages"]))
    assert chosen | {"packages": set(chosen["packages"])} == EXPECTED[host]


@pytest.mark.parametrize("host", FACTS)
def test_dry_run_says_what_it_would_install(tasks: list[dict[str, Any]], host: str) -> None:
    (said,) = [task for task in tasks if "Report the missing packages" in task["task"]["name"]]
    assert said["hosts"][host]["changed"]
    assert said["hosts"][host]["msg"].startswith("would install ")
    named = set(said["hosts"][host]["msg"].removeprefix("would install ").split(", "))
    assert named == EXPECTED[host]["packages"]


@pytest.mark.parametrize("family", ["Debian", "RedHat"])
def test_every_family_has_its_way_to_install(family: str) -> None:
    assert (ROOT / f"roles/libvirt_host/tasks/install_{family}.yml").is_file()
