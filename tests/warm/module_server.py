"""Warm Ansible: the server on a host, which has imported what modules import, and forks for each.

Its arguments are its socket, the directory of Ansible's package, and either the directory of the
collections or one with further modules. A module whose zip contains a file that differs from the
imported one, or that is of another collection, runs in a Python of its own.
"""

from __future__ import annotations

import atexit
import base64
import gc
import importlib
import io
import os
import pkgutil
import re
import sys
import tempfile
import types
import zipfile
import zlib
from pathlib import Path

from tests.warm import forks

PYTHON = "/usr/bin/python3"
COLLECTION = "ansible_collections/virtplay/libvirt"
SUMS: dict[str, int] = {}
"""The checksum of each file whose import from a zip may be replaced by what is imported already."""


def main() -> None:
    """Warm up, then serve until the end of standard input."""
    ready = os.dup(1)
    os.dup2(2, 1)
    path, packages, more = map(Path, sys.argv[1:])
    warm_up(packages, more)
    forks.serve(path, ready, run_module, end)


def warm_up(packages: Path, more: Path) -> None:
    """Import everything of Ansible and of the collection that modules import on a host."""
    own = sys.path[1:]  # without this project
    sys.path += [str(more), str(packages)]
    for name in ("basic", "_internal._ansiballz._loader"):
        importlib.import_module(f"ansible.module_utils.{name}")
    note(packages, "ansible")
    if (more / COLLECTION).exists():
        utilities = importlib.import_module(f"{COLLECTION.replace('/', '.')}.plugins.module_utils")
        for found in pkgutil.walk_packages(utilities.__path__, f"{utilities.__name__}."):
            importlib.import_module(found.name)
        note(more, COLLECTION)
    else:
        library = types.ModuleType("ansible.legacy")
        library.__path__ = [str(more)]
        sys.modules[library.__name__] = library
        note(more, "", "ansible/legacy/")
    sys.path[:] = own
    gc.collect()
    gc.freeze()


def note(root: Path, folder: str, prefix: str = "") -> None:
    """Record the checksums of the files in a folder by their names in a module's zip."""
    for file in (root / folder).rglob("*.py"):
        SUMS[prefix + str(file.relative_to(root))] = zlib.crc32(file.read_bytes())


def run_module(request: forks.Request) -> int:
    """Run the module that Ansible has sent to standard input; return its exit status."""
    source = sys.stdin.buffer.read()
    if not is_imported(source):
        run_cold(source)
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    sys.argv[:] = [""]
    try:
        exec(compile(source, "<stdin>", "exec"), main_module.__dict__)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def is_imported(source: bytes) -> bool:
    """Return whether the files in the zip of this module are those that this process imports."""
    found = re.search(rb"zip_data='([A-Za-z0-9+/=]+)'", source)
    if found is None:
        return False
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(found[1]))) as archive:
        return all(
            SUMS.get(entry.filename) == entry.CRC
            for entry in archive.infolist()
            if entry.file_size and not entry.filename.endswith("__init__.py")
        )


def run_cold(source: bytes) -> None:
    """Become a Python that runs the module."""
    with tempfile.TemporaryFile() as file:
        file.write(source)
        file.seek(0)
        os.dup2(file.fileno(), 0)
    os.execv(PYTHON, [PYTHON])


def end(pid: int) -> None:
    """Kill a module with its process group."""
    os.killpg(pid, 9)
