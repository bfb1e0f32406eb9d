"""Compiles the templates in the tasks, defaults and variables of roles before the server forks.

Ansible compiles a template whenever it is used, 1 to 2 ms each, and keeps nothing: half of the time
from the beginning of a task with 30 variables until its module starts. What it compiles depends on
the text, on Jinja's settings, and on what filters and tests the names in it mean. Ansible turns off
the optimizer, which would compute constants.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

FOLDERS = ("defaults", "tasks", "vars")
_codes: dict[str, CodeType] = {}


def forget() -> None:
    """Compile all templates anew: a name in them may mean another filter or test now."""
    _codes.clear()


def compile_roles(roles: list[str]) -> None:
    """Compile the templates of roles (directories), for the forks of this process."""
    if not roles:
        return
    from ansible._internal._templating._jinja_bits import AnsibleEnvironment

    real = AnsibleEnvironment.compile
    environment = AnsibleEnvironment()
    debugging = AnsibleEnvironment._debuggable_template_source
    for role in roles:
        for template in _templates(Path(role)):
            if template not in _codes:
                try:
                    _codes[template] = real(environment, template)
                except Exception as error:
                    # Ansible reports it where it is used; it may know a filter of the role by then.
                    sys.stderr.write(f"cannot compile {template!r} of {role}: {error}\n")

    def compile_template(
        self: Any, source: Any, name: Any = None, filename: Any = None, *more: Any, **options: Any
    ) -> Any:
        usual = isinstance(source, str) and name is None and filename is None
        # An overlay has settings of its own, such as other delimiters.
        own = self.overlayed or debugging
        if usual and not (own or more or options) and (code := _codes.get(source)):
            return code
        return real(self, source, name, filename, *more, **options)

    AnsibleEnvironment.compile = compile_template


def _templates(role: Path) -> Iterator[str]:
    from ansible.parsing.dataloader import DataLoader

    for folder in FOLDERS:
        for path in sorted((role / folder).glob("*.yml")):
            try:
                yield from _strings(DataLoader().load_from_file(str(path)))
            except Exception as error:
                sys.stderr.write(f"cannot read the templates of {path}: {error}\n")


def _strings(value: Any) -> Iterator[str]:
    """Yield the templates in what a YAML file contains."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    # How Ansible reads a backslash depends on where a template stands.
    elif isinstance(value, str) and "{{" in value and "\\" not in value:
        yield str(value)
