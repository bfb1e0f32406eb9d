"""The wheel on a Debian with systemd, installed by a user with sudo: up, upgrade, uninstall.

The machine has a VM and a configuration of its own, and they stay as they are. Each test goes on
where the one before it ended, as a machine's life does.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from scripts.release import build_wheel
from tests.installation.machine import Machine, MachineError, find_cgroups
from tests.installation.test_service_role import NEWER, copy_project, make_version
from tests.installation.wheels import WHEELS, fill_wheels

USER = "alice"
STATE = f"/home/{USER}/.local/share/virtplay"
PACKAGES = Path("/var/cache/virtplay/micro")
"""The packages of the guest micro, which the lab has downloaded."""
LIBVIRT = (
    *("libvirt-daemon-system", "libvirt-clients", "libvirt-daemon-driver-qemu"),
    *("qemu-system-x86", "qemu-utils", "dnsmasq-base", "iptables"),
)
"""What a machine with VMs has already; `up` adds the rest."""
THEIR_NETWORK = """<network><name>default</name><forward mode='nat'/><bridge name='virbr7'/>
<ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.9' end='10.77.0.99'/>
<host mac='52:54:00:00:00:07' name='old-web' ip='10.77.0.7'/></dhcp></ip></network>"""
THEIR_POOL = "<pool type='dir'><name>default</name><target><path>/srv/vms</path></target></pool>"
THEIR_VM = """<domain type='qemu'><name>old-web</name><memory unit='MiB'>64</memory>
<os><type machine='q35'>hvm</type></os><devices><disk type='volume' device='disk'>
<driver name='qemu' type='qcow2'/><source pool='default' volume='old-web.qcow2'/>
<target dev='vda' bus='virtio'/></disk><interface type='network'><source network='default'/>
<mac address='52:54:00:00:00:07'/></interface></devices></domain>"""
THEIR_FILES = {
    "etc/prometheus/prometheus.yml": "global: {scrape_interval: 30s}\n",
    "etc/grafana/provisioning/datasources/prometheus.yml": "apiVersion: 1\ndatasources: []\n",
}
THEIRS = """set -e
cat /run/libvirt/qemu/old-web.pid
virsh dumpxml old-web
virsh net-dumpxml default | sed "s/ connections='[0-9]*'//"
cat /etc/libvirt/qemu/old-web.xml /etc/libvirt/qemu/networks/*.xml /etc/libvirt/storage/default.xml
find /etc/prometheus /etc/grafana /etc/libvirt/*.conf -type f -exec sha256sum {} + | sort
stat --format='%n %a %U %G' /srv/vms /srv/vms/old-web.qcow2"""
"""What shows that a machine's VM runs on, and that what its owner has configured is the same."""

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("lab_machine"),
    pytest.mark.xdist_group("installation"),
]


@dataclass
class Site:
    """The machine, and the wheels of two versions on it."""

    machine: Machine
    wheels: list[str]
    before: str = ""
    """What THEIRS printed before Virtplay came."""

    def run(self, command: str, *, good: bool = True) -> str:
        """Run a line of shell as the user, in an empty directory; what it printed."""
        line = f"cd /tmp; export PATH=$PATH:$HOME/venv/bin; {command}"
        return self.machine.run("su", "-", USER, "-c", f"({line}) 2>&1", check=good)

    def theirs(self) -> str:
        """What the owner of the machine has, as text."""
        return self.machine.run("sh", "-c", THEIRS)

    def virtplay(self, command: str) -> str:
        """Run a command of `virtplay` as a client of the service."""
        return self.run(f"VIRTPLAY_TOKEN=$(cat {STATE}/token) virtplay {command}")

    def install(self, wheel: str) -> None:
        """Install a wheel into the user's virtual environment, as pipx does."""
        find = "--no-index --find-links=/srv/wheels --no-compile --quiet"
        self.run(f"$HOME/venv/bin/pip install {find} --force-reinstall --no-deps {wheel}")
        self.run(f"$HOME/venv/bin/pip install {find} {wheel}")


@pytest.fixture(scope="module")
def site(lab_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A bare machine on the network of a lab."""
    try:
        find_cgroups()
    except MachineError as error:
        pytest.fail(str(error), pytrace=False)
    fill_wheels()
    place = tmp_path_factory.mktemp("wheel")
    copy_project(place / "first")
    make_version(place / "first", place / "second", "0.1.1", NEWER)
    wheels = [build_wheel(place / f"dist-{name}", place / name) for name in ("first", "second")]
    with (
        Lab(hosts=1) as lab,
        Machine(place / "machine", lab.hosts[0].address, "single") as machine,
    ):
        shutil.copytree(WHEELS, machine.root / "srv/wheels")
        for wheel in wheels:
            shutil.copy(wheel, machine.root / "srv")
        shutil.copytree(PACKAGES, machine.root / "var/cache/virtplay/micro")
        machine.run("useradd", "--create-home", "--shell", "/bin/bash", USER)
        machine.run("tee", "/etc/sudoers.d/tests", text=f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        site = Site(machine, [f"/srv/{wheel.name}" for wheel in wheels])
        site.run("python3 -m venv $HOME/venv")
        make_theirs(machine)
        site.before = site.theirs()
        yield site


def make_theirs(machine: Machine) -> None:
    """Make the machine one with a VM that runs, a network, a pool, Prometheus and Grafana."""
    for name, text in THEIR_FILES.items():
        path = machine.root / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    machine.run("apt-get", "-qq", "update")
    machine.run("apt-get", "-qq", "--yes", "--no-install-recommends", "install", *LIBVIRT)
    machine.run("mkdir", "/srv/vms")
    machine.run("virsh", "net-undefine", "default")  # that of the package
    machine.run("virsh", "net-define", "/dev/stdin", text=THEIR_NETWORK)
    machine.run("virsh", "pool-define", "/dev/stdin", text=THEIR_POOL)
    for kind in ("net", "pool"):
        machine.run("virsh", f"{kind}-start", "default")
        machine.run("virsh", f"{kind}-autostart", "default")
    machine.run("virsh", "vol-create-as", "default", "old-web.qcow2", "16M", "--format", "qcow2")
    machine.run("virsh", "define", "/dev/stdin", text=THEIR_VM)
    machine.run("virsh", "start", "old-web")


def test_up_makes_a_hypervisor_with_a_service(site: Site) -> None:
    site.install(site.wheels[0])
    shown = site.run("virtplay up --systemd")
    assert "a VM has booted and is deleted again" in shown
    assert site.theirs() == site.before
    assert f"export VIRTPLAY_TOKEN=$(cat {STATE}/token)" in shown
    owner = site.machine.run("stat", "-c", "%U %a", f"{STATE}/token", f"{STATE}/virtplay.sqlite3")
    assert owner == f"{USER} 600\n" * 2
    token = site.machine.run("cat", f"{STATE}/token").strip()
    assert len(token) > 30
    assert token not in site.machine.run("journalctl", "--unit", "virtplay", "--no-pager")
    assert site.machine.run("systemctl", "is-enabled", "virtplay") == "enabled\n"
    assert site.machine.run("systemd-analyze", "verify", "virtplay.service") == ""
    site.virtplay("vm create web --template micro --memory 256 --disk 1 --start --wait")
    assert json.loads(site.virtplay("vm show web --json"))["status"] == "running"
    assert json.loads(site.virtplay("vm show old-web --json"))["status"] == "running"


def test_second_run_and_playbooks_work_from_any_directory(site: Site) -> None:
    assert "has booted" not in site.run("virtplay up --systemd")
    variables = "--become -e libvirt_domain_name=web"
    assert "changed=0" in site.run(f"virtplay playbook vm_start --limit localhost {variables}")


def test_another_version_saves_the_database_before_it_changes_it(site: Site) -> None:
    site.install(site.wheels[1])
    site.run("virtplay up --systemd")
    assert "0.1.1" in site.run("virtplay version")
    assert json.loads(site.virtplay("vm show web --json"))["status"] == "running"
    (saved,) = site.machine.run("ls", f"{STATE}/backups").split()
    query = "import sqlite3, sys; print(*(sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))"
    tables = "SELECT name FROM sqlite_master WHERE name IN ('newer', 'vm')"
    words = shlex.join(["python3", "-c", query, f"{STATE}/backups/{saved}", tables])
    assert site.run(words) == "('vm',)\n"


def test_uninstall_leaves_vms_and_database_and_purge_nothing(site: Site) -> None:
    shown = site.run("virtplay uninstall --yes")
    assert "VMs with their disks: " in shown
    assert "could not be found" in site.run("systemctl status virtplay", good=False)
    assert set(site.machine.run("ls", STATE).split()) >= {"backups", "virtplay.sqlite3"}
    assert "token" not in site.machine.run("ls", STATE).split()
    assert "running" in site.machine.run("virsh", "domstate", "web")
    site.run("virtplay uninstall --yes --purge")
    assert site.run(f"test -e {STATE} && echo there", good=False) == ""
    assert site.theirs() == site.before
