"""Lab: file systems of Debian releases, made by mmdebstrap and kept for a day.

They are below /var/cache/virtplay/releases, one directory a recipe and in it one a day. A file
system that was made today is used as it is; an older one is made anew, because packages have newer
versions by then, and is used only if that fails.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
CACHE = Path("/var/cache/virtplay/releases")
RELEASES = ("bookworm", "trixie", "forky")
ENVIRONMENT = "VIRTPLAY_LAB_RELEASE"
"""The variable with the releases of labs that are started without naming one."""
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*")
# Hosts reach no server, so everything that is wanted is installed before.
_LAB = (
    *("openssh-server", "python3", "procps", "busybox-static", "xz-utils", "dosfstools"),
    *("swtpm", "swtpm-tools"),
)
# What this machine's apt is told about servers holds for the release's apt as well.
_APT = ("Acquire::Check-Valid-Until", "Acquire::http::Proxy", "Acquire::https::Proxy")
_KEPT_DAYS = 7


class ReleaseError(Exception):
    """A file system cannot be made; the message gives the reason."""


@dataclass(frozen=True)
class Recipe:
    """A file system: what is installed, and the shell commands that finish it.

    `hooks` are hooks of mmdebstrap; `depends` are files whose content they use.
    """

    release: str
    installed: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    depends: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Root:
    """One day's file system of a recipe."""

    recipe: Recipe
    directory: Path

    @property
    def path(self) -> Path:
        """The file system itself, which nobody may change."""
        return self.directory / "root"

    @property
    def cache(self) -> Path:
        """The directory that hosts of this file system share as their /var/cache/virtplay."""
        return self.directory / "cache"

    @property
    def from_today(self) -> bool:
        """Whether it was made today."""
        return self.directory.name == _today()


def wanted_by_role() -> tuple[str, ...]:
    """Return the packages that the role libvirt_host installs on Debian."""
    text = (PROJECT / "roles/libvirt_host/vars/Debian.yml").read_text()
    return tuple(yaml.safe_load(text)["__libvirt_host_distribution_packages"])


def lab_recipe(release: str) -> Recipe:
    """Return the recipe of a lab host: everything that the role would install."""
    return Recipe(release, (*_LAB, *wanted_by_role()))


def find_root(recipe: Recipe) -> Root | None:
    """Return the newest file system of a recipe that is in the cache; makes none."""
    days = sorted(_place(recipe).glob("[0-9]*-[0-9]*-[0-9][0-9]"))
    return Root(recipe, days[-1]) if days else None


@contextmanager
def use_root(recipe: Recipe) -> Iterator[Root]:
    """Give today's file system of a recipe, made now if it is not there yet.

    It stays in the cache as long as the block runs. Raises ReleaseError if it cannot be made and
    there is no older one.
    """
    place = _place(recipe)
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        root = find_root(recipe)
        if root is None or not root.from_today:
            root = _make(recipe, root)
        used = os.open(root.directory, os.O_RDONLY)
        fcntl.flock(used, fcntl.LOCK_SH)
    try:
        yield root
    finally:
        os.close(used)


def _make(recipe: Recipe, older: Root | None) -> Root:
    place = _place(recipe)
    part = place / ".part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "cache").mkdir(parents=True)
    print(f"making the file system of {recipe.release}; this takes a minute …", file=sys.stderr)
    command = [*_words(recipe), recipe.release, str(part / "root")]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ReleaseError(
            f"cannot make the file system of {recipe.release} without mmdebstrap: "
            "run make setup-hosts"
        ) from None
    if done.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        reason = f"cannot make the file system of {recipe.release}: {done.stderr.strip()[-2000:]}"
        if older is None:
            raise ReleaseError(reason)
        print(f"{reason}\nthe one of {older.directory.name} is used", file=sys.stderr)
        return older
    root = Root(recipe, place / _today())
    part.rename(root.directory)
    _remove_unused(root)
    return root


def _words(recipe: Recipe) -> list[str]:
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"),
        f"--include={','.join(recipe.installed)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        '--aptopt=Acquire::Languages "none"',
        *(f"--aptopt={option}" for option in _apt_options()),
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*; : > "$1/etc/machine-id"',
        *(f"--customize-hook={hook}" for hook in recipe.hooks),
    ]


def _apt_options() -> list[str]:
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    return [
        line.rstrip(";")
        for line in shown.stdout.splitlines()
        if line.startswith(tuple(f"{name} " for name in _APT))
    ]


def _place(recipe: Recipe) -> Path:
    words = [shlex.join(_words(recipe)), *(file.read_text() for file in recipe.depends)]
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    return CACHE / f"{recipe.release}-{key}"


def _remove_unused(new: Root) -> None:
    """Remove the recipe's older file systems, and any that nobody has made for a week."""
    for directory in CACHE.glob("*/[0-9]*-[0-9]*-[0-9][0-9]"):
        age = datetime.date.fromisoformat(_today()) - datetime.date.fromisoformat(directory.name)
        if directory == new.directory or (
            directory.parent != new.directory.parent and age.days <= _KEPT_DAYS
        ):
            continue
        used = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its name goes first: what is removed half is not found.
            gone = directory.with_name(f".{directory.name}")
            directory.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        except BlockingIOError:
            pass  # a lab runs on it
        finally:
            os.close(used)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
