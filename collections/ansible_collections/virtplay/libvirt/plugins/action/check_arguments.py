# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the variables of a play's roles on the controller (action `check_arguments`)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.playbook.role.definition import RoleDefinition
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import name_owner
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import (
    check_variables,
    join_hosts,
    missing_vm,
    refuse_extra_variables,
    refuse_several_hosts,
    unknown_templates,
    unknown_variables,
)

IMAGE_ROLE = "libvirt_image"


class ActionModule(ActionBase):
    """Validates the variables of the roles that a play is about to run."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _templar: Any

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a failed result with all errors, or an unchanged result if there are none."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _result, arguments = self.validate_argument_spec(
            argument_spec={
                "roles": {"type": "dict", "required": True},
                "single_host": {"type": "bool", "default": False},
                "all_hosts": {"type": "bool", "default": False},
            }
        )
        hosts = variables["ansible_play_hosts_all"]
        faults = []
        if arguments["single_host"]:
            faults += refuse_several_hosts(str(variables["ansible_play_name"]), hosts)
        if arguments["all_hosts"]:
            found = {host: self._check(arguments["roles"], self._get_vars(host)) for host in hosts}
            faults += join_hosts(found)
        else:
            faults += self._check(arguments["roles"], variables)
        if faults:
            result |= {"failed": True, "code": "VALIDATION_ERROR", "msg": "; ".join(faults)}
        return {"changed": False, **result}

    def _get_vars(self, host: str) -> dict[str, Any]:
        """Return the variables that this task would have on a host of the play."""
        block = self._task._parent
        manager = block._play.get_variable_manager()
        found: dict[str, Any] = manager.get_vars(
            play=block._play, host=manager._inventory.get_host(host), task=self._task
        )
        return found

    def _check(self, roles: Mapping[str, str], variables: Mapping[str, Any]) -> list[str]:
        """Return a message for each fault of one host's variables."""
        self._templar = self._templar.copy_with_new_env(available_variables=variables)
        values: dict[str, Any] = {}
        faults = []
        for role, entry in roles.items():
            its_values, its_faults = self._check_role(role, entry, variables)
            values |= its_values
            faults += its_faults
        for role, entry in roles.items():
            if role.rpartition(".")[2] == IMAGE_ROLE:
                faults += unknown_templates(self._read_specs(role)[entry]["options"], values)
        return faults

    def _check_role(
        self, role: str, entry: str, variables: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the values of a role's variables, and a message for each fault of them."""
        specs = self._read_specs(role)
        if entry not in specs:
            raise AnsibleActionFail(f"cannot check role {role}: it has no entry point {entry}")
        options = specs[entry].get("options", {})
        values, faults = self._evaluate(options, variables)
        options = {name: option for name, option in options.items() if name not in faults}
        return values, [
            *unknown_variables(role, specs, variables),
            *refuse_extra_variables(role, entry, options, load_extra_vars(self._loader)),
            *missing_vm(role, options, values),
            *faults.values(),
            *check_variables(role, entry, options, values),
        ]

    def _evaluate(
        self, names: Iterable[str], variables: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the values of the set variables, and a message for each that cannot be evaluated.

        Both are keyed by the variable's name.
        """
        values: dict[str, Any] = {}
        faults = {}
        for name in names:
            if name in variables:
                try:
                    # Evaluated in a mapping, from which Ansible removes omitted values.
                    values |= self._templar.template({name: variables[name]})
                except AnsibleError as error:
                    place = self._place_of_fault(name, variables[name])
                    faults[name] = f"cannot use {place}: {' '.join(str(error).split())}"
        return values, faults

    def _place_of_fault(self, name: str, value: Any) -> str:
        """Return the variable's name; for a list, add index and VM of the invalid element."""
        for number, element in enumerate(value) if isinstance(value, list) else ():
            try:
                self._templar.template(element)
            except AnsibleError:
                return f"{name}[{number}]{name_owner('VM', element)}"
        return name

    def _read_specs(self, role: str) -> dict[str, Any]:
        definition = RoleDefinition(loader=self._loader, collection_list=self._task.collections)
        definition.preprocess_data({"role": role})
        path = os.path.join(definition.get_role_path(), "meta", "argument_specs.yml")
        if not self._loader.path_exists(path):
            raise AnsibleActionFail(f"cannot check role {role}: it has no {path}")
        return _read_specs(path)


@functools.cache
def _read_specs(path: str) -> dict[str, Any]:
    # Ansible's own loader notes where each word came from, and copies all of it for each caller.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    specs: dict[str, Any] = yaml.load(Path(path).read_bytes(), Loader=loader)["argument_specs"]
    return specs
