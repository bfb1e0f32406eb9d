"""Warm Ansible: the server on a host, which has imported what modules import, and forks for each.

Its arguments are the directory of the collections, that of Ansible's package, and its socket. A
module whose zip contains a file that differs from the imported one, or that is of another
collection, runs in a Python of its own.
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
    warm_up(Path(sys.argv[1]), Path(sys.argv[2]))
    forks.serve(Path(sys.argv[3]), ready, run_module, end)


def warm_up(collections: Path, packages: Path) -> None:
    """Import everything of the collection and of Ansible that its modules import on a host."""
    own = sys.path[:]
    sys.path += [str(collections), str(packages)]
    plugins = importlib.import_module(f"{COLLECTION.replace('/', '.')}.plugins.module_utils")
    for found in pkgutil.walk_packages(plugins.__path__, f"{plugins.__name__}."):
        importlib.import_module(found.name)
    for name in ("basic", "_internal._ansiballz._loader"):
        importlib.import_module(f"ansible.module_utils.{name}")
    sys.path[:] = own
    for root, folder in ((packages, "ansible"), (collections, COLLECTION)):
        for file in (root / folder).rglob("*.py"):
            SUMS[str(file.relative_to(root))] = zlib.crc32(file.read_bytes())
    gc.collect()
    gc.freeze()


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
