"""Machine: the Debian packages that the service needs beside its Python packages."""

import os
import shutil
import subprocess

from virtplay.errors import CannotStart
from virtplay.files import PROJECT
from virtplay.machine.programs import run
from virtplay.machine.root import as_root

GROUP = "service"
"""A line of scripts/packages.txt."""


def install_packages() -> None:
    """Install what is missing with apt; on other distributions, name it. CannotStart on failure."""
    names = read_group(GROUP)
    if shutil.which("dpkg-query") is None:
        print(
            "cannot find dpkg-query: Virtplay installs packages on Debian and Ubuntu only; install"
            f" {', '.join(names)} by hand"
        )
        return
    missing = [name for name in names if not is_installed(name)]
    if not missing:
        return
    print(f"installing Debian packages: {', '.join(missing)}", flush=True)
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq")
    for words in (("update",), ("install", "-y", "--no-install-recommends", *missing)):
        # Without an end: packages that are half installed would have to be repaired by hand.
        command = as_root(*quiet, *words)
        if run(command, None, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) != 0:
            raise CannotStart(
                f"cannot install the Debian packages {', '.join(missing)}: apt-get failed (see"
                " above)"
            )


def read_group(group: str) -> list[str]:
    """Return the packages of a group."""
    for line in (PROJECT / "scripts/packages.txt").read_text().splitlines():
        name, _, packages = line.partition(": ")
        if name == group:
            return packages.split()
    raise KeyError(group)


def is_installed(package: str) -> bool:
    """Whether any version of a package is installed."""
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.returncode == 0 and shown.stdout == "installed"
