"""The role virtplay_service on a Debian with systemd, beside a hypervisor of the lab.

Each test goes on where the one before it ended, as a machine's life does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from lab import Lab
from lab.lab import Host
from tests.acceptance.service import MICRO, UNFINISHED, wait_for
from tests.installation.machine import Machine, MachineError, find_cgroups
from tests.installation.wheels import PROJECT, WHEELS, fill_wheels

BIN = Path(sys.executable).parent
NGINX_PORT = 8080
CERTIFICATE, KEY = "/etc/ssl/virtplay.pem", "/etc/ssl/private/virtplay.key"
STATE = "/var/lib/virtplay/service"
MIGRATION = '''"""Store: for a test, what an older release does not know."""

from tortoise import migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Statements that the release before it would not survive."""

    dependencies = [("virtplay", "{last}")]
    operations = [{operations}]
'''
NEWER = 'ops.RunSQL("CREATE TABLE newer (id INTEGER PRIMARY KEY)", "DROP TABLE newer")'
RUINOUS = (
    'ops.RunSQL("DROP TABLE newer", ""), ops.RunSQL("UPDATE vm SET name = \'ruined\'", ""),'
    ' ops.RunSQL("CREATE TABLE newest (id INTEGER PRIMARY KEY)", "")'
)

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("lab_machine"),
    pytest.mark.xdist_group("installation"),
]


def copy_project(target: Path) -> None:
    """What git knows of this checkout, and the console page's packages if they are here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)
    packages = PROJECT / "service/web/node_modules"
    if packages.is_dir():
        shutil.copytree(packages, target / "service/web/node_modules")


def make_version(source: Path, target: Path, version: str, operations: str) -> None:
    """A later version of a project, with a migration."""
    shutil.copytree(source, target)
    about = target / "service/virtplay/__init__.py"
    about.write_text(re.sub('__version__ = ".*"', f'__version__ = "{version}"', about.read_text()))
    migrations = target / "service/virtplay/store/migrations"
    last = max(path.stem for path in migrations.glob("0*.py"))
    (migrations / f"{int(last[:4]) + 1:04d}_test.py").write_text(
        MIGRATION.format(last=last, operations=operations)
    )


@dataclass
class Site:
    """The machine, the versions of the service, and what the role is told."""

    machine: Machine
    projects: Path
    host: Host
    variables: dict[str, Any]
    token: str = ""
    vm: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.projects / "ansible.log"

    def play(self, version: str, *arguments: str, good: bool = True, **variables: Any) -> str:
        """Run playbooks/service.yml of a version's checkout; what it printed."""
        inventory = {
            "virtplay": {
                "hosts": {
                    "service": {
                        "ansible_host": self.machine.address,
                        "ansible_user": "root",
                        "ansible_ssh_common_args": " ".join(self.machine.ssh_options[:8]),
                        **self.variables,
                        **variables,
                    }
                }
            }
        }
        path = self.projects / "inventory.json"
        path.write_text(json.dumps(inventory))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTPLAY_", "ANSIBLE_"))}
        done = subprocess.run(
            [BIN / "ansible-playbook", "playbooks/service.yml", "-i", path, *arguments],
            cwd=self.projects / version,
            env={**clean, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"== {version} {variables}\n{done.stdout}{done.stderr}\n")
        assert (done.returncode == 0) == good, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def unchanged(self, version: str, *arguments: str, **variables: Any) -> None:
        """Run it again: nothing may be changed."""
        shown = self.play(version, *arguments, **variables)
        assert re.search(r"changed=0 .*failed=0", shown), shown[-6000:]

    @property
    def http(self) -> httpx.Client:
        """A client that reaches the service by way of nginx."""
        return httpx.Client(
            base_url=f"http://{self.machine.address}:{NGINX_PORT}",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
        )

    def get(self, path: str) -> Any:
        """The data of a GET that has to succeed."""
        with self.http as http:
            answer = http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def version(self) -> str:
        """The version that answers."""
        return str(self.get("/healthz")["version"])

    def read_token(self) -> None:
        """Take the first admin token from where the role put it."""
        self.token = self.machine.run("cat", f"{STATE}/token").strip()

    def query(self, statement: str) -> str:
        """What the machine's SQLite file says."""
        program = (
            "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2])"
            ".fetchall())"
        )
        return self.machine.run(
            "python3", "-c", program, f"{STATE}/virtplay.sqlite3", statement
        ).strip()


@pytest.fixture(scope="module")
def site(lab_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A bare machine beside a prepared hypervisor."""
    try:
        find_cgroups()
    except MachineError as error:
        pytest.fail(str(error), pytrace=False)
    fill_wheels()
    projects = tmp_path_factory.mktemp("projects")
    copy_project(projects / "first")
    make_version(projects / "first", projects / "second", "0.1.1", NEWER)
    make_version(projects / "second", projects / "broken", "0.1.2", RUINOUS)
    inventory = projects / "broken/service/virtplay/hosts/inventory.py"
    inventory.write_text(inventory.read_text() + "\nraise RuntimeError('this release is broken')\n")
    with Lab(hosts=1) as lab:
        host = lab.hosts[0]
        with Machine(projects / "machine", host.address) as machine:
            shutil.copytree(WHEELS, machine.root / "srv/wheels")
            hypervisors = projects / "hypervisors"
            hypervisors.mkdir()
            (hypervisors / "hosts.json").write_text(
                json.dumps(
                    {
                        "hypervisors": {
                            "hosts": {host.name: {"ansible_host": host.address}},
                            "vars": {"ansible_user": "root"},
                        }
                    }
                )
            )
            machine.run(
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=service", "-addext", "subjectAltName=DNS:service"),
                *("-out", CERTIFICATE, "-keyout", KEY),
            )
            machine.run("chmod", "600", KEY)
            key = host.run("cat", "/etc/ssh/host_key.pub").stdout.strip()
            site = Site(
                machine,
                projects,
                host,
                {
                    "virtplay_service_inventory": str(hypervisors),
                    "virtplay_service_known_hosts": [f"{host.address} {key}"],
                    # Compiling the Ansible packages takes a minute a release.
                    "virtplay_service_pip_arguments": [
                        "--no-index", "--find-links=/srv/wheels", "--no-compile",
                    ],
                    "virtplay_service_settings": {"VIRTPLAY_OBSERVE_INTERVAL": 3},
                    "virtplay_service_tls_certificate": CERTIFICATE,
                    "virtplay_service_tls_key": KEY,
                    "virtplay_service_public_url": f"http://{machine.address}:{NGINX_PORT}",
                    "virtplay_service_nginx": True,
                    "virtplay_service_nginx_port": NGINX_PORT,
                },
            )  # fmt: skip
            yield site


def test_dry_run_on_a_bare_machine_changes_nothing(site: Site) -> None:
    shown = site.play("first", "--check", "--diff")
    assert "would install release 0.1.0-" in shown
    assert site.machine.run("ls", "/opt").strip() == ""
    assert "no such user" in site.machine.run("sh", "-c", "id virtplay 2>&1", check=False)


def test_installation_serves_behind_nginx(site: Site) -> None:
    shown = site.play("first")
    site.read_token()
    assert site.token not in shown
    assert site.version() == "0.1.0"
    assert site.machine.run("systemctl", "is-enabled", "virtplay").strip() == "enabled"
    assert site.machine.run("stat", "-c", "%U %a", "/etc/virtplay/virtplay.env") == "root 640\n"
    assert site.machine.run("stat", "-c", "%U %a", f"{STATE}/virtplay.sqlite3") == "virtplay 600\n"
    assert "bootstrap" in site.machine.run("virtplay", "token", "list")
    assert site.machine.run("systemd-analyze", "verify", "virtplay.service") == ""
    exposure = site.machine.run("systemd-analyze", "security", "--no-pager", "virtplay.service")
    found = re.search(r"exposure level for virtplay.service: ([0-9.]+)", exposure)
    assert found
    assert float(found[1]) < 2


def test_second_run_and_dry_run_change_nothing(site: Site) -> None:
    site.unchanged("first")
    site.unchanged("first", "--check", "--diff")


def test_jobs_and_consoles_run_inside_the_hardened_unit(site: Site) -> None:
    """Ansible, SSH and the stream to VNC, all of which the unit's restrictions must let through."""
    public = site.machine.run("cat", f"{STATE}/.ssh/id_ed25519.pub")
    site.host.run("sh", "-c", "cat >> /etc/ssh/authorized_keys", stdin=public)
    wait_for(
        "a hypervisor that lets the service in",
        lambda: site.get("/api/v1/hosts")["hosts"][0]["status"] == "ready",
        60,
    )
    with site.http as http:
        made = http.post("/api/v1/vms", json={"name": "first", **MICRO, "autoStart": True})
        assert made.status_code == 202, made.text
        site.vm = made.json()["data"]["id"]
        job = made.json()["data"]["jobId"]

        def ended() -> Any:
            found = site.get(f"/api/v1/jobs/{job}")
            return None if found["status"] in UNFINISHED else found

        done = wait_for("the end of the creation", ended, 180)
        assert done["status"] == "succeeded", (done, http.get(f"/api/v1/jobs/{job}/log").text)
    opened = site.get(f"/api/v1/vms/{site.vm}/console")
    assert opened["url"].startswith(f"ws://{site.machine.address}:{NGINX_PORT}/console/")
    page = Origin(f"http://{site.machine.address}:{NGINX_PORT}")
    with connect(opened["url"], origin=page) as socket:
        greeting = socket.recv(timeout=20)
    assert greeting == b"RFB 003.008\n"


def test_settings_that_cannot_be_are_taken_back(site: Site) -> None:
    shown = site.play(
        "first",
        good=False,
        virtplay_service_settings={"VIRTPLAY_LOG_LEVEL": "CHATTY"},
    )
    assert "VIRTPLAY_LOG_LEVEL" in shown
    assert "0.1.0-" in shown
    assert "runs again" in shown
    assert site.get(f"/api/v1/vms/{site.vm}")["name"] == "first"
    site.unchanged("first")


def test_release_is_installed_anew_for_another_python(site: Site) -> None:
    """As an upgrade of the distribution leaves it: the packages are those of the old Python."""
    old = "for d in /opt/virtplay/current/.venv/lib/python3.*; do mv $d ${d%.*}.1; done"
    site.machine.run("sh", "-ec", f"systemctl stop virtplay; {old}")
    site.play("first", "--check")
    site.play("first")
    assert site.get(f"/api/v1/vms/{site.vm}")["name"] == "first"
    site.unchanged("first")


def test_upgrade_brings_the_database_along(site: Site) -> None:
    site.play("second")
    assert site.version() == "0.1.1"
    assert site.get(f"/api/v1/vms/{site.vm}")["name"] == "first"
    assert site.query("SELECT count(*) FROM newer") == "[(0,)]"
    assert "0.1.0-" in site.machine.run("ls", f"{STATE}/backups")
    site.unchanged("second")


def test_broken_release_is_rolled_back_with_its_migrations(site: Site) -> None:
    shown = site.play("broken", good=False)
    assert "this release is broken" in shown
    assert re.search(r"cannot switch service to release 0\.1\.2-\w+; 0\.1\.1-\w+ runs again", shown)
    assert site.version() == "0.1.1"
    assert site.get(f"/api/v1/vms/{site.vm}")["name"] == "first"
    assert site.query("SELECT count(*) FROM newer") == "[(0,)]"
    assert site.query("SELECT name FROM sqlite_master WHERE name = 'newest'") == "[]"
    site.unchanged("second")


def test_postgresql_is_saved_and_brought_back_as_well(site: Site) -> None:
    site.variables["virtplay_service_postgresql"] = True
    site.play("second")
    site.read_token()
    site.unchanged("second")
    # The hosts tell a new database which VMs there are.
    wait_for("the VM in the new database", lambda: site.get("/api/v1/vms")["vms"], 30)
    shown = site.play("broken", good=False)
    assert "with the restored database" in shown
    assert site.version() == "0.1.1"
    assert site.get(f"/api/v1/vms/{site.vm}")["name"] == "first"
    tables = site.machine.run("runuser", "-u", "virtplay", "--", "psql", "-c", "\\dt")
    assert "newer" in tables
    assert "newest" not in tables
    site.unchanged("second")
