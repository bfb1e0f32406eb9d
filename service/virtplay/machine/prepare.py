"""Machine: makes this machine a hypervisor on which a VM boots, and says how to use the service."""

import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from virtplay.errors import CannotStart
from virtplay.files import PACKAGE, PROJECT
from virtplay.jobs.processes import become_subreaper, end_descendants
from virtplay.machine.database import has_database
from virtplay.machine.packages import install_packages
from virtplay.machine.plays import ANSIBLE_PLAYBOOK, ansible_environment, project_dir
from virtplay.machine.programs import Program, run
from virtplay.machine.root import as_root, require_root
from virtplay.settings import Settings

LOCAL = PROJECT / "inventory/local.yml"
"""This machine as the only hypervisor."""
HOST_FILE = "/etc/virtplay/host.json"
TEMPLATE_FILE = "/var/lib/libvirt/templates/micro.json"
CLIENT_URL = "http://localhost:3000"
"""Where the command line expects a service unless VIRTPLAY_URL says otherwise."""
UNTRIED = "/dev/kvm exists but was not tried"


def prepare(settings: Settings, inventories: list[str], *, serving: bool) -> None:
    """Make the hosts of the inventories hypervisors, and this machine ready for the service.

    Without inventories, this machine is the host. `serving`: whether our service has the port
    already. CannotStart if a step fails, with its output printed.
    """
    check_inventory(settings)
    check_directory(settings.state_dir)
    if not serving:
        check_port(settings)
    require_root("prepare this machine")
    keep_foreign_files_clean()
    install_packages()
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    print(
        "preparing this machine as a hypervisor; the first time takes a minute or more …",
        flush=True,
    )
    sources = inventories or [str(LOCAL)]
    play("host_prepare", sources, settings.state_dir)
    play("image_prepare", sources, settings.state_dir, "-e", "libvirt_image_name=micro")
    if UNTRIED in read_as_root(HOST_FILE):
        # On a machine without a kernel of its own, KVM is tried with that of the template.
        play("host_prepare", sources, settings.state_dir, "--tags", "acceleration")
    boot_first_vm(sources, settings.state_dir)


def check_inventory(settings: Settings) -> None:
    """Raise CannotStart if a source of the inventory does not exist."""
    for source in settings.inventory_sources:
        if not Path(source).exists():
            raise CannotStart(f"cannot find the inventory {source}: see VIRTPLAY_INVENTORY")


def check_directory(directory: Path) -> None:
    """Raise CannotStart if the state directory is that of another user's service."""
    if directory.exists() and directory.stat().st_uid != os.geteuid():
        raise CannotStart(
            f"cannot use the state directory {directory}: it belongs to {directory.owner()}, whose"
            " service may run here already; set VIRTPLAY_STATE_DIR to another one"
        )


def check_port(settings: Settings) -> None:
    """Raise CannotStart if the service cannot listen on its address."""
    place = f"{settings.host}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {place}: {error.strerror or error}; stop the program that"
            " listens there, or set VIRTPLAY_PORT"
        ) from error


def keep_foreign_files_clean() -> None:
    """Let root write no compiled Python into the environment of another user, who owns it."""
    if PACKAGE.stat().st_uid != os.geteuid():
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def play(name: str, sources: list[str], logs: Path, *options: str) -> None:
    """Run a playbook, and print its messages and how long it took; CannotStart if it fails."""
    started = time.monotonic()
    log = logs / f"{name}.log"
    command = [ANSIBLE_PLAYBOOK, str(project_dir() / f"playbooks/{name}.yml"), *words_of(sources)]
    with log.open("w") as output:
        status = run(
            [*command, *options],
            _end_play,
            env=ansible_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    text = log.read_text(errors="replace")
    if status != 0:
        print(text, file=sys.stderr)
        raise CannotStart(f"cannot prepare this machine: playbook {name} failed (see above)")
    for message in re.findall(r'^ *"msg": "(.*)"$', text, re.M):
        print(f"  {message}")
    print(f"  playbook {name}: {time.monotonic() - started:.0f} s", flush=True)


def _end_play(_ansible: Program) -> None:
    """End Ansible and its tasks, which outlive it; not the daemons that they have started."""
    become_subreaper()
    end_descendants()


def words_of(sources: list[str]) -> list[str]:
    """Return the options of Ansible for inventories."""
    return [word for source in sources for word in ("-i", source)]


def read_as_root(path: str) -> str:
    """Return the content of a file of this machine, "" if there is none."""
    return subprocess.run(as_root("cat", path), capture_output=True, text=True, check=False).stdout


def boot_first_vm(sources: list[str], state: Path) -> None:
    """Make sure that a VM boots, once as long as KVM and the template are the same; CannotStart."""
    digest = hashlib.sha256((read_as_root(HOST_FILE) + read_as_root(TEMPLATE_FILE)).encode())
    done = state / "first-vm"
    if done.exists() and done.read_text() == digest.hexdigest():
        return
    # A process of its own: it changes how it handles signals, and deletes the VM after one.
    program = (sys.executable, "-m", "virtplay.machine.first_vm")
    log = ("--log", str(state / "first-vm.log"))
    if run([*program, *words_of(sources), *log], Program.terminate) != 0:
        raise CannotStart("cannot use this machine as a hypervisor: no VM boots on it (see above)")
    done.write_text(digest.hexdigest())


def explain_use(settings: Settings) -> str:
    """Return how to make a first VM from another terminal."""
    virtplay = own_program()
    lines = ["", "Once Virtplay is ready, from another terminal:", ""]
    if settings.local_url != CLIENT_URL:
        lines.append(f"  export VIRTPLAY_URL={settings.local_url}")
    if settings.bootstrap_token is not None:
        lines.append("  export VIRTPLAY_TOKEN=…   # the one in VIRTPLAY_BOOTSTRAP_TOKEN")
    elif settings.token_file.exists() or not has_database(settings):
        lines.append(f"  export VIRTPLAY_TOKEN=$(cat {shlex.quote(str(settings.token_file))})")
    else:
        lines.append(f"  export VIRTPLAY_TOKEN=$({virtplay} token create ANY-NAME)")
    lines += [
        f"  {virtplay} vm create my-vm --template micro --memory 256M --disk 1G --start --wait",
        f"  {virtplay} vm ssh my-vm",
        "",
    ]
    return "\n".join(lines)


def own_program() -> str:
    """Return the word that runs the command line: its name if the shell finds it, else its path."""
    path = Path(sys.executable).with_name("virtplay")
    found = shutil.which("virtplay")
    return (
        "virtplay" if found and Path(found).resolve() == path.resolve() else shlex.quote(str(path))
    )
