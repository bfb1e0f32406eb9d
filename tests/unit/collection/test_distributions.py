"""What the roles install and start on each distribution, from faked facts.

Ubuntu and Rocky Linux cannot be tried on lab hosts; to these the roles are held by these tables.
The own tasks of libvirt_host run here, in check mode, on hosts that have nothing installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

RELEASES = {
    "debian12": ("Debian", "12.11", "bookworm"),
    "debian13": ("Debian", "13.8", "trixie"),
    # Before its release Debian 14 reports its name where others have a number.
    "debian14": ("Debian", "forky/sid", "forky"),
    "ubuntu2204": ("Ubuntu", "22.04", "jammy"),
    "ubuntu2404": ("Ubuntu", "24.04", "noble"),
    "ubuntu2604": ("Ubuntu", "26.04", "resolute"),
    "rocky9": ("Rocky", "9.6", "9"),
    "rocky10": ("Rocky", "10.1", "10"),
}
"""Distribution, version as the facts report it, and the name of the release in meta/main.yml."""
FAMILIES = {"Debian": "Debian", "Ubuntu": "Debian", "Rocky": "RedHat"}
FACTS = {
    name: {
        "os_family": FAMILIES[distribution],
        "distribution": distribution,
        "distribution_version": version,
    }
    for name, (distribution, version, _) in RELEASES.items()
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
        *("python3-libvirt", "python3-lxml"),
        *("qemu-img", "qemu-kvm"),
    },
    "services": [
        *("virtlogd.socket", "virtqemud.socket", "virtnetworkd.socket", "virtstoraged.socket"),
    ],
    "boot_services": ["virtqemud.service", "virtnetworkd.service", "virtstoraged.service"],
    "restarted": "virtqemud.service",
}
EXPECTED = {"Debian": DEBIAN, "RedHat": RED_HAT}
SERVICE = {
    "Debian": {
        "packages": {"ca-certificates", "openssh-client", "python3-apt", "python3-venv"},
        "python": "/usr/bin/python3",
    },
    # python3 is 3.9 there.
    "rocky9": {
        "packages": {"ca-certificates", "openssh-clients", "python3.11", "tar"},
        "python": "/usr/bin/python3.11",
    },
    "rocky10": {
        "packages": {"ca-certificates", "openssh-clients", "python3", "tar"},
        "python": "/usr/bin/python3",
    },
}
TOO_OLD_FOR_THE_SERVICE = {"ubuntu2204"}
"""Its Python is 3.10."""

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
            {
                "ansible.builtin.include_vars": str(
                    ROOT / "roles/virtplay_service/vars/{{ ansible_facts.os_family }}.yml"
                )
            },
            {
                "name": "chosen for the service",
                "ansible.builtin.debug": {
                    "msg": {
                        "packages": "{{ __virtplay_service_packages }}",
                        "python": "{{ __virtplay_service_default_python }}",
                    }
                },
            },
        ],
    }
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the role's tasks on fake hosts; return what Ansible says of each task."""
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


def said_by(tasks: list[dict[str, Any]], name: str, host: str) -> Any:
    """Return the message of the task of this name."""
    (task,) = [task for task in tasks if task["task"]["name"] == name]
    return task["hosts"][host]["msg"]


@pytest.mark.parametrize("host", FACTS)
def test_role_chooses_by_the_distribution(tasks: list[dict[str, Any]], host: str) -> None:
    chosen = said_by(tasks, "chosen", host)
    assert len(chosen["packages"]) == len(set(chosen["packages"]))
    wanted = EXPECTED[FACTS[host]["os_family"]]
    assert chosen | {"packages": set(chosen["packages"])} == wanted


@pytest.mark.parametrize("host", sorted(FACTS.keys() - TOO_OLD_FOR_THE_SERVICE))
def test_service_gets_a_python_that_is_new_enough(tasks: list[dict[str, Any]], host: str) -> None:
    chosen = said_by(tasks, "chosen for the service", host)
    wanted = SERVICE.get(host) or SERVICE[FACTS[host]["os_family"]]
    assert chosen | {"packages": set(chosen["packages"])} == wanted


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_role_names_the_releases_of_these_tables(role: str) -> None:
    meta = yaml.safe_load((ROOT / "roles" / role / "meta/main.yml").read_text())["galaxy_info"]
    named = {
        (platform["name"], version)
        for platform in meta["platforms"]
        for version in platform["versions"]
    }
    left = TOO_OLD_FOR_THE_SERVICE if role == "virtplay_service" else set()
    assert named == {
        ("EL" if distribution == "Rocky" else distribution, release)
        for name, (distribution, _, release) in RELEASES.items()
        if name not in left
    }


@pytest.mark.parametrize("host", FACTS)
def test_dry_run_says_what_it_would_install(tasks: list[dict[str, Any]], host: str) -> None:
    (said,) = [task for task in tasks if "Report the missing packages" in task["task"]["name"]]
    assert said["hosts"][host]["changed"]
    assert said["hosts"][host]["msg"].startswith("would install ")
    named = set(said["hosts"][host]["msg"].removeprefix("would install ").split(", "))
    assert named == EXPECTED[FACTS[host]["os_family"]]["packages"]


@pytest.mark.parametrize("family", ["Debian", "RedHat"])
def test_every_family_has_its_way_to_install(family: str) -> None:
    assert (ROOT / f"roles/libvirt_host/tasks/install_{family}.yml").is_file()
