"""Machine: makes sure that a VM boots on a host: creates one, waits for it, deletes it.

So the README's first commands cannot fail for the host's sake. The VM is deleted in any case, also
after Ctrl-C; an interrupted run that could not do so is cleaned up by the next one.
"""

import argparse
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from virtplay.files import PROJECT
from virtplay.jobs.processes import become_subreaper, end_descendants
from virtplay.machine.plays import ANSIBLE_PLAYBOOK, ansible_environment

PLAYBOOK = Path(__file__).with_name("first_vm.yml")
NAME = "virtplay-first-vm"
Result = dict[str, Any]


def main() -> int:
    """Boot a VM on the hosts of an inventory; return the exit status, with the reason printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", "--inventory", action="append", required=True)
    parser.add_argument("--limit", help="the hosts, by default all of the inventory")
    parser.add_argument("--log", type=Path, required=True, help="file for what Ansible prints")
    given, options = parser.parse_known_args()
    # A new MAC address each time: the lease of an earlier VM would be taken for this one's.
    mac = ":".join(["52", "54", "00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))])
    command = [ANSIBLE_PLAYBOOK, str(PLAYBOOK), "-e", f"first_vm_mac={mac}", *options]
    for source in given.inventory:
        command += ["-i", source]
    if given.limit:
        command += ["--limit", given.limit]
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    given.log.write_text("")
    print("starting a VM, to be sure that VMs run here …", flush=True)
    started = time.monotonic()
    reason: str | None = None
    try:
        reason = explain(run([*command, "--tags", "boot"], given.log))
    finally:
        # From here on, a signal must not keep the VM.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        booted = "-e", f"first_vm_booted={reason == ''}"
        kept = find_failure(run([*command, *booted, "--tags", "delete"], given.log))
    if kept is not None:
        print(f"cannot delete VM {NAME}: {kept.get('msg')}", file=sys.stderr)
        return 1
    if reason:
        print(f"cannot boot a VM on this machine: {reason}", file=sys.stderr)
        print(f"  details: {given.log}, /var/log/libvirt/qemu/{NAME}.log", file=sys.stderr)
        return 1
    print(f"  a VM has booted and is deleted again: {time.monotonic() - started:.0f} s")
    return 0


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def run(command: Sequence[str], log: Path) -> Result:
    """Run Ansible and return what its JSON callback prints; end it when this process must end."""
    environment = ansible_environment() | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    # In a session of its own, so that Ctrl-C reaches only this process.
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        end_descendants()  # Ansible's workers outlive it, and would go on
        raise
    with log.open("a") as file:
        file.write(output + errors)
    try:
        said: Result = json.loads(output)
    except ValueError:
        message = (errors or output).strip() or f"Ansible ended with status {process.returncode}"
        return {"plays": [], "failure": {"msg": message}}
    return said


def find_failure(said: Result) -> Result | None:
    """Return the result of the task that failed, None if none did."""
    if "failure" in said:
        return dict(said["failure"])
    for play in said["plays"]:
        for task in play["tasks"]:
            for result in task["hosts"].values():
                if result.get("failed") or result.get("unreachable"):
                    return dict(result)
    return None


def explain(said: Result) -> str:
    """Return why the VM did not boot and what to do, "" if it did."""
    failure = find_failure(said)
    if failure is None:
        return ""
    info = failure.get("host_info")
    if info is None:
        return f"{failure.get('msg')}{remedy(None)}"
    vm = next((domain for domain in info["domains"] if domain["name"] == NAME), None)
    if vm is None:
        return "the VM has vanished; does another program delete VMs here?"
    virt_type = vm.get("virt_type")
    if vm["state"] == "running":
        return (
            "it runs but has got no address from network default; look at its console with"
            " `virsh console`, and at `virsh net-info default`, dnsmasq and the firewall"
            + remedy(virt_type)
        )
    reason = f" ({vm['state_reason']})" if vm.get("state_reason") else ""
    return f"it is {vm['state']}{reason}{remedy(virt_type)}"


def remedy(virt_type: str | None) -> str:
    """Return what to do about a VM with KVM; "" for an emulated one."""
    if virt_type != "kvm":
        return ""
    return (
        "; if KVM is at fault, set libvirt_host_virt_type: qemu in a copy of"
        f" {PROJECT / 'inventory/local.yml'}, and run virtplay up -i COPY"
    )


if __name__ == "__main__":
    sys.exit(main())
