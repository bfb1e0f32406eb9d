"""Machine: removes what `virtplay up` and the service made, and names what stays."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from virtplay.errors import CannotStart
from virtplay.files import IS_WHEEL, PROJECT
from virtplay.machine import unit
from virtplay.machine.root import as_root
from virtplay.settings import Settings

MADE = (
    "token",
    "token.new",
    unit.ENVIRONMENT,
    "first-vm",
    "first-vm.log",
    "host_prepare.log",
    "image_prepare.log",
    "jobs",
    "last-backup",
    "launcher",
    "lock",
    "observation",
    "restore-*",
)
"""What the service and `virtplay up` make in the state directory, beside the database."""
DATABASE = ("virtplay.sqlite3*", "backups")
PROOF = ("virtplay.sqlite3", unit.ENVIRONMENT, "host_prepare.log", "first-vm")
"""Files of which one shows that the directory is ours: others may have files of the other names."""

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
    directory = unit.state_dir() or settings.state_dir
    is_ours = is_state_directory(directory)
    made = _find(directory, MADE) if is_ours else []
    database = _find(directory, DATABASE) if is_ours else []
    left = list(_describe_vms())
    if not is_ours and directory.exists():
        left.append(f"{directory}: it does not look like the state directory of a service")
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
    """Remove the files of a plan and the lock, and the state directory if it is empty then."""
    if not planned.paths:
        return
    for path in [*planned.paths, planned.directory / "lock"]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if planned.directory.is_dir() and not any(planned.directory.iterdir()):
        planned.directory.rmdir()


def is_state_directory(directory: Path) -> bool:
    """Whether `virtplay up` or the service has used a directory; CannotStart if it is unreadable.

    A service with PostgreSQL that `up` did not start leaves its lock beside what it observed.
    """
    try:
        files = [name for name in (*PROOF, "lock") if S_ISREG(_mode(directory / name))]
        observed = S_ISDIR(_mode(directory / "observation"))
    except PermissionError as error:
        raise CannotStart(
            f"cannot read the state directory {directory}: run the command as its owner, or as root"
        ) from error
    return any(name in PROOF or observed for name in files)


def _mode(path: Path) -> int:
    """Return the mode of a file, not of what a symbolic link points to; 0 without a file."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


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
