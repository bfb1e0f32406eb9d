# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the compiled form of what Ansible sends, so that a host compiles each file once.

Ansible sends a module and the files it imports as a zip of sources, and Python's import from a zip
writes no compiled files: each task would compile them all again, and each of them twice
(https://github.com/python/cpython/issues/141276), which takes longer than what the task does. The
files are kept until the next boot, by name, size and checksum of their source.

fork_client.py runs this before what Ansible sends: the first files of the zip are imported before
a module's first line. A fork server (fork_server.py) imports the files that its first task has
used, from their compiled form, and each of its forks takes them over if they are those of its zip.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import os
import sys
import zipimport
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from typing import Any, Optional

MOST_FILES = 1000
"""More than a few versions of Ansible and the collection have; above that, all are deleted."""

# Size and checksum of a source
State = tuple[int, int]
# The files of a zip by their path there
Files = Mapping[str, State]
# Modules by name, with the state of their source; None for one that another module has put there
Modules = Mapping[str, tuple[Any, Optional[State]]]


def use_bytecode(directory: str, preloaded: Modules | None = None) -> Finder:
    """Import what Ansible sends from its compiled form in a directory from now on.

    Nobody else may write to the directory, which is created. preloaded are modules by name, from
    preload(): they are used if they are those that Ansible sends.
    """
    with contextlib.suppress(OSError):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    finder = Finder(directory, preloaded=preloaded)
    sys.meta_path.insert(0, finder)
    return finder


def preload(directory: str, archive: str, files: Files) -> Modules:
    """Return the modules that another process has loaded, which are not importable in this one.

    The arguments are its Finder.loaded. Raises ImportError if one was not kept.
    """
    finder = Finder(directory, archive, files)
    sys.meta_path.insert(0, finder)
    states = {
        file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): state
        for file, state in files.items()
    }
    for name in states:
        importlib.import_module(name)
    sys.meta_path.remove(finder)
    names = [name for name in sys.modules if _is_sent(name)]
    return {name: (sys.modules.pop(name), states.get(name)) for name in names}


def _is_sent(name: str) -> bool:
    return name.partition(".")[0] in ("ansible", "ansible_collections")


class Finder:
    """Finds modules in the zip that Ansible has sent, and loads them from their compiled form."""

    def __init__(
        self,
        directory: str,
        archive: str = "",
        files: Files | None = None,
        preloaded: Modules | None = None,
    ) -> None:
        """Keep the compiled form in a directory; archive and files are read later if not given."""
        self._directory = directory
        self._archive = archive
        self._files: Files = files or {}
        self._preloaded = preloaded or {}
        self._loaded: dict[str, State] = {}

    @property
    def loaded(self) -> tuple[str, str, Files]:
        """What this finder has loaded, as the arguments of preload()."""
        return self._directory, self._archive, self._loaded

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """Return how to import a module; None for a module that is not in the zip."""
        if not _is_sent(name):
            return None
        if not self._archive:
            self._read_directory()
        path = name.replace(".", os.sep)
        loader: Any = self
        for file, is_package in ((os.path.join(path, "__init__.py"), True), (f"{path}.py", False)):
            if file in self._files:
                origin = os.path.join(self._archive, file)
                spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)
                spec.loader_state = self._files[file]
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
        entries = getattr(zipimport, "_zip_directory_cache", {}).get(self._archive, {})
        self._files = {name: (entry[3], entry[7]) for name, entry in entries.items()}
        self._take_over()

    def _take_over(self) -> None:
        """Use the preloaded modules if those that the zip has too are the same there.

        Otherwise none of them: a module has objects of the modules that it has imported.
        """
        specs = {name: self.find_spec(name) for name in self._preloaded}
        for name, (_module, state) in self._preloaded.items():
            if (spec := specs[name]) and spec.loader_state != state:
                self._preloaded = {}
                return
        for name, (module, _state) in self._preloaded.items():
            sys.modules[name] = module
            spec = specs[name]
            if spec and module.__name__ == name:
                # Tracebacks show the source in this zip: that of the first task has gone.
                module.__spec__ = spec
                module.__loader__ = self
                module.__file__ = spec.origin
                if spec.submodule_search_locations:
                    module.__path__ = spec.submodule_search_locations

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return a preloaded module; otherwise let Python create the module."""
        return self._preloaded.get(spec.name, (None, None))[0]

    def exec_module(self, module: Any) -> None:
        """Run a module's code."""
        spec = module.__spec__
        if spec.name not in self._preloaded:
            exec(self.get_code(spec.name), vars(module))
            self._loaded[spec.origin[len(self._archive) + 1 :]] = spec.loader_state

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
        size, checksum = self._files[origin[len(self._archive) + 1 :]]
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
            # The next task compiles it again.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
