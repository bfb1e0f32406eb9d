# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the compiled form of what Ansible sends, so that a host compiles each file once.

Ansible sends a module and the files it imports as a zip of sources, and Python's import from a zip
writes no compiled files: each task would compile them all again, and each of them twice
(https://github.com/python/cpython/issues/141276), which takes longer than what the task does. The
files are kept until the next boot, by name, size and checksum of their source.

The action of the modules puts this file's source in front of what Ansible sends: the first files of
the zip are imported before a module's first line.
"""

from __future__ import annotations

import marshal
import os
import sys
import zipimport
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from typing import Any

DIRECTORY = "/run/virtplay/bytecode"
MOST_FILES = 1000
"""More than a few versions of Ansible and the collection have; above that, all are deleted."""


def use_bytecode(directory: str = DIRECTORY) -> None:
    """Import what Ansible sends from its compiled form from now on, if this is root.

    directory is created with mode 0700. One that others may write to is not used.
    """
    if os.geteuid() == 0 and _is_private(directory):
        sys.meta_path.insert(0, _Finder(directory))


def _is_private(directory: str) -> bool:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = [os.lstat(path) for path in (directory, os.path.dirname(directory))]
    except OSError:
        return False
    return all(state.st_uid == 0 and not state.st_mode & 0o022 for state in found)


class _Finder:
    """Finds modules in the zip that Ansible has sent, and loads them from their compiled form."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._archive = ""
        self._entries: dict[str, Any] = {}

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """Return how to import a module; None for a module that is not in the zip."""
        if not name.startswith(("ansible.", "ansible_collections.")) and name != "ansible":
            return None
        if not self._archive:
            self._read_directory()
        path = name.replace(".", os.sep)
        loader: Any = self
        for file, is_package in ((os.path.join(path, "__init__.py"), True), (f"{path}.py", False)):
            if file in self._entries:
                origin = os.path.join(self._archive, file)
                spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)
                spec.has_location = True
                if is_package:
                    spec.submodule_search_locations = [os.path.join(self._archive, path)]
                return spec
        return None

    def _read_directory(self) -> None:
        # Ansible has put its zip in front of the path, and imports the first file from it.
        self._archive = sys.path[0]
        try:
            zipimport.zipimporter(self._archive)
        except ImportError:
            return
        # What zipimport has read of the zip; without it, files are compiled as ever.
        self._entries = getattr(zipimport, "_zip_directory_cache", {}).get(self._archive, {})

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let Python create the module."""

    def exec_module(self, module: Any) -> None:
        """Run a module's code."""
        exec(self.get_code(module.__spec__.name), vars(module))

    def get_code(self, name: str) -> Any:
        """Return a module's code; None if it is not in the zip."""
        spec = self.find_spec(name)
        return self._code(name, str(spec.origin)) if spec else None

    def get_source(self, name: str) -> str | None:
        """Return a module's source, for tracebacks; None if it is not in the zip."""
        spec = self.find_spec(name)
        return self._read(str(spec.origin)) if spec else None

    def _read(self, origin: str) -> str:
        return zipimport.zipimporter(self._archive).get_data(origin).decode()

    def _code(self, name: str, origin: str) -> Any:
        entry = self._entries[origin[len(self._archive) + 1 :]]
        size, checksum = entry[3], entry[7]
        tag = sys.implementation.cache_tag
        path = os.path.join(self._directory, f"{name}.{size:x}.{checksum:08x}.{tag}")
        try:
            with open(path, "rb") as file:
                if file.read(len(MAGIC_NUMBER)) == MAGIC_NUMBER:
                    return marshal.load(file)
        except (OSError, EOFError, ValueError, TypeError):
            pass  # there is none yet, or it is damaged
        code = compile(self._read(origin), origin, "exec", dont_inherit=True)
        self._keep(path, code)
        return code

    def _keep(self, path: str, code: Any) -> None:
        temporary = f"{path}.{os.getpid()}"
        try:
            names = os.listdir(self._directory)
            for each in names if len(names) > MOST_FILES else ():
                os.unlink(os.path.join(self._directory, each))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(MAGIC_NUMBER)
                marshal.dump(code, file)
            os.rename(temporary, path)
        except OSError:
            pass  # the next task compiles it again
