# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks the variables of a play's roles on the controller (action `check_arguments`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.playbook.role.definition import RoleDefinition
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import name_owner
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import (
    check_variables,
    missing_vm,
    refuse_extra_variables,
    refuse_several_hosts,
    unknown_templates,
    unknown_variables,
)


class ActionModule(ActionBase):
    """Validates the variables of the roles that a play is about to run."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a result that has failed with every fault, or says that there is none."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _result, arguments = self.validate_argument_spec(
            argument_spec={
                "roles": {"type": "dict", "required": True},
                "single_host": {"type": "bool", "default": False},
            }
        )
        if arguments["single_host"]:
            faults = refuse_several_hosts(
                str(variables["ansible_play_name"]), variables["ansible_play_hosts_all"]
            )
        else:
            faults = []
        for role, entry in arguments["roles"].items():
            faults += self._faults(role, entry, variables)
        if faults:
            told = {"msg": "; ".join(faults), "argument_errors": faults}
            return {**result, **told, "failed": True, "code": "VALIDATION_ERROR"}
        return {**result, "changed": False}

    def _faults(self, role: str, entry: str, variables: Mapping[str, Any]) -> list[str]:
        specs = self._read_specs(role)
        if entry not in specs:
            raise AnsibleActionFail(f"cannot check role {role}: it describes no {entry}")
        values, faults = self._evaluate(specs[entry].get("options", {}), variables)
        options = {n: o for n, o in specs[entry].get("options", {}).items() if n not in faults}
        templates = []
        if role.rpartition(".")[2] == "libvirt_image":
            vm = self._evaluate(["libvirt_domain_name"], variables)[0].values()
            templates = unknown_templates(
                options, values, "".join(f" for VM {name}" for name in vm)
            )
        return [
            *unknown_variables(role, specs, variables),
            *refuse_extra_variables(role, entry, options, load_extra_vars(self._loader)),
            *missing_vm(role, options, values),
            *faults.values(),
            *check_variables(role, entry, options, values),
            *templates,
        ]

    def _evaluate(
        self, names: Iterable[str], variables: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the values of those variables that there are, and a message for each without."""
        values: dict[str, Any] = {}
        faults = {}
        for name in names:
            if name in variables:
                try:
                    # As a mapping, from which Ansible takes what is to be omitted.
                    values |= self._templar.template({name: variables[name]})
                except AnsibleError as error:
                    place = self._place_of_fault(name, variables[name])
                    faults[name] = f"cannot use {place}: {' '.join(str(error).split())}"
        return values, faults

    def _place_of_fault(self, name: str, value: Any) -> str:
        """Return a variable's name, of a list with the index and the VM that has the fault."""
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
        specs: dict[str, Any] = self._loader.load_from_file(path)["argument_specs"]
        return specs
