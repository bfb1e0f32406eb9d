"""A user who has nothing but the built collection."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.collection import build

BIN = Path(sys.executable).parent
PATH = [str(BIN), os.environ["PATH"]]


@dataclass
class Elsewhere:
    """A user's directory with the collection, from which nothing leads to the checkout."""

    home: Path

    def run(
        self, program: str, *arguments: str, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Ansible's programs there; programs of the directory path come first."""
        paths = [str(path), *PATH] if path else PATH
        return subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.home,
            env={
                "HOME": str(self.home),
                "PATH": os.pathsep.join(paths),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_NOCOLOR": "true",
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def installed(self) -> Path:
        """Where the collection is."""
        return self.home / ".ansible/collections/ansible_collections/virtplay/libvirt"


def install_collection(home: Path, output: Path) -> Elsewhere:
    """Build the collection into output and install it for a user with this home."""
    user = Elsewhere(home)
    tarball = build(output)
    done = user.run("ansible-galaxy", "collection", "install", "--offline", str(tarball))
    assert done.returncode == 0, done.stderr
    return user
