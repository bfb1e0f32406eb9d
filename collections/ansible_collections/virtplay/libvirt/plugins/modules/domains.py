#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring all declared domains of a host to their states in one task (module `domains`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domains
short_description: Create, update, start, stop and delete many libvirt domains of one host
version_added: "0.1.0"
description:
  - Does what M(virtplay.libvirt.domain) does for a list of domains in one task, four domains at
    a time. If nothing changes, a hundred domains take hardly longer than one.
  - If one domain fails, the task continues with the others, fails at its end and names the domain.
  - Domains that are not in the list are not changed, unless O(purge) is set.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
  - virtplay.libvirt.domain.list
  - virtplay.libvirt.lock
options:
  domains:
    description: The domains, each with the options of M(virtplay.libvirt.domain).
    type: list
    elements: dict
    required: true
  purge:
    description:
      - Also delete, with their disks, the domains that Virtplay created on this host, from a shell
        or through the service, and that are neither in O(domains) nor in O(keep). Domains that
        Virtplay did not create are never changed.
    type: bool
    default: false
  keep:
    description: Names of domains that O(purge) does not delete.
    type: list
    elements: str
    default: []
  force:
    description: Let O(purge) delete domains that are running or have snapshots.
    type: bool
    default: false
attributes:
  diff_mode:
    description: Like that of M(virtplay.libvirt.domain), once for all domains that change alike.
    support: full
"""

EXAMPLES = r"""
- name: Run two web servers and delete the old one
  virtplay.libvirt.domains:
    domains:
      - name: web-1
        state: running
        vcpus: 2
        memory: 2048
        template: debian12
        disk: 20
      - name: web-2
        state: running
        vcpus: 2
        memory: 2048
        template: debian12
        disk: 20
      - name: web-0
        state: absent

- name: Delete all other VMs that Virtplay created on this host
  virtplay.libvirt.domains:
    domains: []
    keep: [web-1, web-2]
    purge: true
"""

RETURN = r"""
vms:
  description:
    - The outcome for each domain, or in check mode the predicted outcome. C(missing_templates) is
      present if a new disk requires templates that the host does not have.
    - One that has failed has C(msg) and C(code); the others then have C(name) and C(outcome) only.
  returned: always
  type: list
  elements: dict
  sample:
    - name: web-1
      outcome: changed
      changes:
        - field: vcpus
          before: 2
          after: 4
          applies: live
          destroys: false
      applies_at: now
      warnings: []
    - name: web-2
      outcome: unchanged
      changes: []
      applies_at: null
      warnings: []
summary:
  description: Names of the domains, grouped by outcome.
  returned: always
  type: dict
  sample:
    created: []
    changed: [web-1]
    removed: []
    unchanged: [web-2]
    failed: []
undeclared:
  description: Names of the domains that O(purge) deleted or would delete.
  returned: always
  type: list
  elements: str
  sample: [web-0]
missing_templates:
  description: Names of templates that domains require and the host does not have.
  returned: always
  type: list
  elements: str
  sample: [debian12]
"""

import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import (
    ABSENT,
    CREATED,
    FAILED,
    UNCHANGED,
    outcome_of,
    summarize,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    ARGUMENTS,
    BOOKKEEPING,
    EITHER,
    to_long_form,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import fold_diffs
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.module import SeedModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import DomainTask
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import parse_domain
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure, run_module
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import (
    libvirt,
    open_connection,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.definition import (
    read_definition,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.storage import find_template

# Number of domains processed concurrently, equal to the service's concurrent jobs per host.
AT_ONCE = 4
STATES = ["present", ABSENT, "running", "stopped"]


def domain_options() -> dict[str, Any]:
    """Return the suboptions of one domain, which are the options of the module `domain`."""
    options = {name: option for name, option in ARGUMENTS.items() if name not in BOOKKEEPING}
    options["name"] = {"type": "str", "required": True}
    options["state"] = {"type": "str", "choices": STATES, "default": "present"}
    return options


class DomainsTask:
    """One run of the module, which collects the outcome of each domain in the given order."""

    def __init__(self, module: SeedModule) -> None:
        self.module = module
        self.params = module.params
        self.conn = open_connection(self.params["uri"])
        self.vms: list[dict[str, Any]] = []
        self.diffs: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Return the module's result, also if domains have failed."""
        undeclared = self._undeclared() if self.params["purge"] else []
        force = self.params["force"]
        others = [{**_unset(), "name": n, "state": ABSENT, "force": force} for n in undeclared]
        # Threads help because nearly all time is spent waiting for libvirtd, QEMU and guests.
        with ThreadPoolExecutor(1 if self.module.check_mode else AT_ONCE) as pool:
            domains = [*self.params["domains"], *others]
            for domain, (vm, diff) in zip(domains, pool.map(self._bring, domains)):
                missing = _find_missing(to_long_form(domain), vm)
                self.vms.append({**vm, "missing_templates": missing} if missing else vm)
                self.diffs += diff
                for warning in vm.get("warnings", ()):
                    self.module.warn(warning)
        result: dict[str, Any] = {
            "changed": any(vm["outcome"] not in (UNCHANGED, FAILED) for vm in self.vms),
            "vms": self.vms,
            "summary": summarize(self.vms),
            "undeclared": undeclared,
            "missing_templates": sorted(
                {name for vm in self.vms for name in vm.get("missing_templates", ())}
            ),
        }
        return {**result, "diff": fold_diffs(self.diffs)} if self.diffs else result

    def _bring(self, domain: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the outcome of one domain and, in diff mode, its diff; never raise."""
        warnings: list[str] = []
        vm: dict[str, Any] = {"name": domain["name"]}
        try:
            task = DomainTask(
                {**domain, **{key: self.params.get(key) for key in BOOKKEEPING}},
                check_mode=self.module.check_mode,
                diff=self.module._diff,
                verbosity=self.module._verbosity,
                warn=warnings.append,
                conn=self.conn,
            )
            result = task.run()
        except Exception as error:
            failure = failure_of(error, f"cannot bring {vm['name']} to state {domain['state']}")
            if failure is None:
                # A programming error that affects one VM must not stop the others.
                failure = Failure(f"cannot apply the declared values: {error!r}")
                vm["exception"] = traceback.format_exc()
            vm.update(outcome=FAILED, msg=failure.message, code=failure.code, warnings=warnings)
            return vm, []
        vm.update(
            outcome=outcome_of(result),
            changes=result["changes"],
            applies_at=result["applies_at"],
            warnings=warnings,
        )
        return vm, result.get("diff", []) if self.module._diff else []

    def _undeclared(self) -> list[str]:
        declared = {domain["name"] for domain in self.params["domains"]}
        uuids = {domain["uuid"] for domain in self.params["domains"]}
        others = []
        for dom in self.conn.listAllDomains():
            if dom.name() in declared | set(self.params["keep"]) or dom.UUIDString() in uuids:
                continue
            try:
                text = read_definition(dom, active=bool(dom.isActive()))
                has_metadata = parse_domain(text)["metadata"] is not None
            except libvirt.libvirtError:
                continue  # deleted since it was listed
            if has_metadata:
                others.append(dom.name())
        return sorted(others)


def _find_missing(domain: Mapping[str, Any], vm: Mapping[str, Any]) -> list[str]:
    """Return the templates that new disks require and the host does not have."""
    changes = {change["field"]: change for change in vm.get("changes", ())}
    missing = set()
    for disk in domain["disks"] or ():
        change = changes.get(f"disks.{disk['target']}.size")
        new = vm["outcome"] in (CREATED, FAILED) or (change and change["before"] is None)
        if new and disk["template"]:
            try:
                find_template(disk["template"])
            except Failure:
                missing.add(disk["template"])
    return sorted(missing)


def _unset() -> dict[str, Any]:
    return {name: option.get("default") for name, option in domain_options().items()}


def main() -> None:
    """Run the module."""
    module = SeedModule(
        "domains",
        argument_spec={
            "uri": ARGUMENTS["uri"],
            "domains": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": domain_options(),
                "mutually_exclusive": EITHER,
            },
            "purge": {"type": "bool", "default": False},
            "keep": {"type": "list", "elements": "str", "default": []},
            "force": {"type": "bool", "default": False},
            "job": ARGUMENTS["job"],
            "lock_timeout": ARGUMENTS["lock_timeout"],
        },
    )
    require_libraries(module)
    prefix = "cannot apply the declared VMs of this host"
    run_module(module, lambda: run(module), partial(failure_of, prefix=prefix))


def run(module: SeedModule) -> dict[str, Any]:
    """Return the module's result; fail the module with it if a domain has failed."""
    result = DomainsTask(module).run()
    failed = [f"{vm['name']}: {vm['msg']}" for vm in result["vms"] if vm["outcome"] == FAILED]
    if failed:
        # Ansible prints all of a failed result.
        shown = ("name", "outcome", "missing_templates", "msg", "code", "exception")
        result["vms"] = [{key: vm[key] for key in shown if key in vm} for vm in result["vms"]]
        module.fail_json(
            msg=f"{len(failed)} of {len(result['vms'])} VMs: {'; '.join(failed)}", **result
        )
    return result


if __name__ == "__main__":
    main()
