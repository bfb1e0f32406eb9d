"""Acceptance tests: a real distribution with cloud-init, as cloud images have it.

Debian 12 is built with mmdebstrap beside the other tests and offered over HTTP; its guest boots
under emulation, which takes a minute or two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from lab.lab import Host, Lab
from tests.acceptance.guests import agent, booted, in_guest
from tests.acceptance.service import Api, wait_for

USER_DATA = """#cloud-config
write_files:
  - path: /etc/virtplay-test
    content: "written by cloud-init: {{ no template }} $(no shell)\\n"
runcmd:
  - [sh, -c, "echo ran > /etc/virtplay-ran"]
"""


def test_debian_with_cloud_init(
    debian: Path, api: Api, lab: Lab, two: Host, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public_key = key.with_suffix(".pub").read_text().strip()
    vm = api.create(
        seconds=240,
        template="debian12-cloud",
        name="Debian VM",
        host=two.name,
        cpu=1,
        memory=512,
        disk=3,
        sshKeys=[public_key],
        userData=USER_DATA,
        autoStart=True,
    )
    assert (vm["os"], vm["status"]) == ("debian12", "running")
    booted(two, vm["domain"], 400)

    def done() -> bool:
        # What `cloud-init status` reads; starting that takes the guest many seconds each time.
        return '"errors": []' in in_guest(
            two, vm["domain"], "/bin/cat", "/run/cloud-init/result.json"
        )

    wait_for("the end of cloud-init", done, 300)
    assert agent(two, vm["domain"], "guest-get-host-name")["host-name"] == "debian-vm"
    assert "Debian" in agent(two, vm["domain"], "guest-get-osinfo")["pretty-name"]
    assert public_key in in_guest(
        two, vm["domain"], "/bin/cat", "/home/debian/.ssh/authorized_keys"
    )
    text = in_guest(two, vm["domain"], "/bin/cat", "/etc/virtplay-test")
    assert text == "written by cloud-init: {{ no template }} $(no shell)\n"
    assert in_guest(two, vm["domain"], "/bin/cat", "/etc/virtplay-ran") == "ran\n"
    wait_for("its address in the list", lambda: api.vm(vm["id"])["ip"], 30)
    expect_ping(lab, two, vm["domain"], key)
    size = int(in_guest(two, vm["domain"], "/bin/cat", "/sys/block/vda/size")) * 512
    assert size == 3 * 1024**3
    # With real file systems: how full they are, and a snapshot that freezes them.
    root = next(
        each for each in agent(two, vm["domain"], "guest-get-fsinfo") if each["mountpoint"] == "/"
    )
    share = root["used-bytes"] / root["total-bytes"] * 100

    def shown() -> bool:
        usage = api.get(f"/vms/{vm['id']}/metrics")["disk"]["usage"]
        return usage is not None and abs(usage - share) < 5

    wait_for("the use of its file systems", shown, 60)
    api.run("POST", f"/vms/{vm['id']}/snapshots", {"name": "frozen"})
    (snapshot,) = api.get(f"/vms/{vm['id']}/snapshots")["snapshots"]
    assert (snapshot["frozen"], snapshot["hasMemory"]) == (True, True)
    assert agent(two, vm["domain"], "guest-fsfreeze-status") == "thawed"
    path = f"/vms/{vm['id']}/snapshots/{snapshot['id']}"
    api.run("POST", f"{path}/restore", {"force": True})
    assert agent(two, vm["domain"], "guest-fsfreeze-status") == "thawed"
    api.run("DELETE", path)


def expect_ping(lab: Lab, host: Host, name: str, key: Path) -> None:
    """Go straight into the guest with nothing but the inventory of VMs."""
    jump = f"-o ProxyCommand='{lab.ssh_program} {host.name} -W %h:%p'"
    checks = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    inventory = key.with_name("libvirt.yml")
    config = {
        "plugin": "virtplay.libvirt.libvirt",
        "inventory": [str(lab.inventory)],
        "require_address": True,
        "compose": {
            "ansible_user": "'debian'",
            "ansible_python_interpreter": "'/usr/bin/python3'",
            "ansible_ssh_private_key_file": repr(str(key)),
            "ansible_ssh_common_args": f'"{jump} {checks}"',
        },
    }
    inventory.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), name, "-i", inventory, "-m", "ping"],
        cwd=Path(__file__).parents[2],
        # A guest under emulation takes its time.
        env=os.environ | {"ANSIBLE_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"ping": "pong"' in done.stdout, done.stdout + done.stderr
