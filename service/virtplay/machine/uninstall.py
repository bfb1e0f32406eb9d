"""Machine: removes what `virtplay up` and the service made, and names what stays."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from virtplay.files import IS_WHEEL, PROJECT
from virtplay.machine import unit
from virtplay.machine.root import as_root
from virtplay.settings import Settings

MADE = (
    "token",
    "token.new",
    unit.ENVIRONMENT,
    "first-vm",
    "*.log",
    "jobs",
    "launcher",
    "lock",
    "observation",
    "restore-*",
)
"""What the service and `virtplay up` make in the state directory, beside the database."""
DATABASE = ("virtplay.sqlite3*", "backups")


HYPERVISOR = (
    "libvirt, QEMU and the other Debian packages",
    "the network default and the storage pools default and templates, with their images",
    "what roles keep in /etc/virtplay, /etc/qemu/firmware, /var/lib/virtplay/fence and firmware",
)
"""What `virtplay up` has made of the machine, and its VMs need."""


@dataclass(frozen=True)
class Uninstallation:
    """What is to be removed, and what stays."""

    unit: bool
    paths: list[Path]
    left: list[str]
    directory: Path

    def describe(self) -> str:
        """Return both as lines of text."""
        removed = [f"systemd unit {unit.FILE}"] if self.unit else []
        removed += [str(path) for path in self.paths]
        lines = ["This removes:", *(f"  {each}" for each in removed or ["nothing: there is none"])]
        return "\n".join([*lines, "This stays:", *(f"  {each}" for each in self.left)])


def plan(settings: Settings, *, purge: bool) -> Uninstallation:
    """Return what is to be removed; with `purge`, the SQLite database and its backups too."""
    directory = settings.state_dir
    made, database = _find(directory, MADE), _find(directory, DATABASE)
    left = list(_describe_vms())
    left += HYPERVISOR
    if settings.database_url:
        left.append("the database of VIRTPLAY_DATABASE_URL")
    if database and not purge:
        left.append(f"the database and its backups in {directory}; --purge removes them too")
    left.append(
        "the program itself: remove it with `pipx uninstall virtplay`"
        if IS_WHEEL
        else f"the program itself: delete the checkout {PROJECT}"
    )
    return Uninstallation(unit.is_ours(), made + database if purge else made, left, directory)


def remove(planned: Uninstallation) -> None:
    """Remove the files of a plan, and the state directory if it is empty then."""
    for path in planned.paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if planned.directory.is_dir() and not any(planned.directory.iterdir()):
        planned.directory.rmdir()


def _find(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


def _describe_vms() -> list[str]:
    """Return a line about the VMs of this machine, none if libvirt does not name them."""
    command = as_root("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name")
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    names = shown.stdout.split()
    return [f"VMs with their disks: {', '.join(names)}"] if names else []
