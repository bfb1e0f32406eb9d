"""Adds to the wheel what the service brings beside its Python code, and the versions it runs with.

The files are those that the role virtplay_service installs from a checkout; in the wheel they are
below virtplay/share, where service/virtplay/files.py finds them. The source tree is not changed.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("service/virtplay/", "warm/")
"""What the wheel contains as Python packages."""


class ShareHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """A build hook of Hatch."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Complete the wheel; an editable installation needs nothing, as it finds the checkout."""
        if version != "standard":
            return
        root = Path(self.root)
        for name in load_packer(root).read_directory(root):
            if not name.startswith(PACKAGES):
                build_data["force_include"][str(root / name)] = f"virtplay/share/{name}"
        build_data["dependencies"] += read_pins(root)


def load_packer(root: Path) -> ModuleType:
    """Import the role's program that knows which files belong to an installation."""
    path = root / "roles/virtplay_service/files/pack_release.py"
    specification = importlib.util.spec_from_file_location("pack_release", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def read_pins(root: Path) -> list[str]:
    """Return the versions that the tests ran with, as requirements: pipx reads no constraints."""
    lines = (root / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
