# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a module of the collection on a host (action of all modules that need libvirt).

meta/runtime.yml names it for each of them. It has the name of a module because Ansible's checks
require one of the same name for each action.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.virtplay.libvirt.plugins.module_utils import bytecode
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import HOST_PYTHONS
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.words import explain_parameters

# Where Ansible's wrapper of a module begins to work: all above only defines a function.
_START = b'\n\nif __name__ == "__main__":\n'
# Ansible itself runs modules with Python 3.8, where ours cannot be imported.
_REFUSE_OLD_PYTHON = b"""

import sys
if sys.version_info < (3, 9):
    import json
    message = (
        f"cannot run with {sys.executable}: Python 3.9 or newer is required; set"
        " ansible_python_interpreter to the host's own Python, such as /usr/bin/python3"
    )
    print(json.dumps({"failed": True, "msg": message}))
    sys.exit(1)
"""
_USE_BYTECODE = "\n\nbytecode = {}\nexec(%r, bytecode)\nbytecode['use_bytecode']()\n"


class ActionModule(NormalAction):
    """Ansible's own action, which prefers the Python that distributions give libvirt to."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; the message of a wrong argument names the right one."""
        variables = task_vars if task_vars is not None else {}
        delegated = variables.get("ansible_delegated_vars", {}).get(self._task.delegate_to)
        _prefer_host_python(delegated or variables)
        result: dict[str, Any] = super().run(tmp, variables)
        message = str(result.get("msg", ""))
        explained = explain_parameters(message)
        if explained != message:
            # The exception, if there is one, has the message too, and Ansible shows both.
            result["msg"] = explained
            result.pop("exception", None)
        return result

    def _configure_module(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """Let the host keep the compiled form of what Ansible sends."""
        module, path = super()._configure_module(*args, **kwargs)
        before, start, after = module.b_module_data.partition(_START)
        if start:
            data = before + _REFUSE_OLD_PYTHON + _use_bytecode() + start + after
            module = dataclasses.replace(module, b_module_data=data)
        return module, path


@functools.cache
def _use_bytecode() -> bytes:
    return (_USE_BYTECODE % Path(str(bytecode.__file__)).read_text()).encode()


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
