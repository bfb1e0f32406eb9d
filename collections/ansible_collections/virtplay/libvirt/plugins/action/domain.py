# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a module of the collection on a host (action of all modules that need libvirt).

meta/runtime.yml names it for each of them. It has the name of a module because Ansible's checks
require one of the same name for each action.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.virtplay.libvirt.plugins.module_utils.runtime import (
    bytecode,
    fork_client,
    fork_server,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import HOST_PYTHONS
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.words import explain_parameters

FORK_SERVER = "libvirt_fork_server"
"""The variable that says whether a host's tasks may leave a fork server behind, and use it."""
# Where Ansible's wrapper of a module begins to work; a module without it is not one in Python.
_START = b'\n\nif __name__ == "__main__":\n'
# Ansible itself runs modules with Python 3.8 too, where ours cannot be imported.
_BEGIN = """

import sys
# Nothing is imported from the directory in which a module runs, be it a user's or everyone's.
sys.path[:] = [path for path in sys.path if path not in ("", ".")]
if sys.version_info < (3, 9):
    import json
    message = (
        f"cannot run with {sys.executable}: Python 3.9 or newer is required; set"
        " ansible_python_interpreter to the host's own Python, such as /usr/bin/python3"
    )
    print(json.dumps({"failed": True, "msg": message}))
    sys.exit(1)
"""
# A traceback shows the lines that call something: the program, which has the arguments, is on none.
_RUN = """
program, bytecode, server = {program!r}, {bytecode!r}, {server!r}
client = {{}}
exec({client!r}, client)
client["run"](program, bytecode, server)
"""
# Python reads a program on its standard input with a system call for each byte, which takes longer
# than most tasks.
_READ = "import sys; exec(sys.stdin.buffer.read())"


class ActionModule(NormalAction):
    """Ansible's own action, which prefers the Python that distributions give libvirt to."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; the message of a wrong argument names the right one."""
        variables = task_vars if task_vars is not None else {}
        _prefer_host_python(self._of_host(variables))
        result: dict[str, Any] = super().run(tmp, variables)
        message = str(result.get("msg", ""))
        explained = explain_parameters(message)
        if explained != message:
            # The exception, if there is one, has the message too, and Ansible shows both.
            result["msg"] = explained
            result.pop("exception", None)
        return result

    def _configure_module(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """Let a fork server of the host run what Ansible sends."""
        module, path = super()._configure_module(*args, **kwargs)
        if _START in module.b_module_data:
            data = _run_by_server(
                module.b_module_data.decode(), self._has_server(kwargs["task_vars"])
            )
            module = dataclasses.replace(module, b_module_data=data)
        return module, path

    def _of_host(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the variables of the host on which the module runs."""
        delegated = variables.get("ansible_delegated_vars", {}).get(self._task.delegate_to)
        return delegated or variables

    def _has_server(self, variables: dict[str, Any]) -> bool:
        value = self._templar.template(self._of_host(variables).get(FORK_SERVER, True))
        try:
            return bool(boolean(value))
        except TypeError as error:
            message = f"cannot use {FORK_SERVER} {value}: it must be true or false"
            raise AnsibleActionFail(message) from error

    def _low_level_execute_command(
        self, cmd: str, *args: Any, in_data: bytes | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Let Python read at once what Ansible sends to its standard input."""
        if in_data and _BEGIN.encode() in in_data:
            cmd = f"{cmd} -c {shlex.quote(_READ)}"
        result: dict[str, Any] = super()._low_level_execute_command(
            cmd, *args, in_data=in_data, **kwargs
        )
        return result


def _run_by_server(program: str, has_server: bool) -> bytes:
    shebang = program.partition("\n")[0]
    sources = {**_sources(), **({} if has_server else {"server": None})}
    return f"{shebang}\n{_BEGIN}{_RUN.format(program=program, **sources)}".encode()


@functools.cache
def _sources() -> dict[str, str]:
    modules = {"client": fork_client, "bytecode": bytecode, "server": fork_server}
    return {name: Path(str(module.__file__)).read_text() for name, module in modules.items()}


def _prefer_host_python(variables: dict[str, Any]) -> None:
    """Let Ansible's discovery of a Python, if it is to discover one, begin with the host's own.

    By default it begins with the newest version on PATH. That may be a Python without libvirt, or a
    script of pyenv that only prints an error, of which Ansible would say "No start of json char
    found".
    """
    wanted = constants.config.get_config_value("INTERPRETER_PYTHON", variables=variables)
    if wanted and not str(wanted).startswith("auto"):
        return
    found, origin = constants.config.get_config_value_and_origin(
        "INTERPRETER_PYTHON_FALLBACK", variables=variables
    )
    if origin != "default":
        return
    variables["ansible_interpreter_python_fallback"] = [*HOST_PYTHONS, *found]
    facts = variables.get("ansible_facts") or {}
    if not str(facts.get("discovered_interpreter_python", "/usr/")).startswith("/usr/"):
        # Another task has discovered it.
        del facts["discovered_interpreter_python"]
