# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List and summarize the VMs that an inventory declares (filters, on the controller)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import (
    InvalidVms,
    combine_runs,
    describe_hosts,
    domain_list,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    simple_devices,
)


def domains(
    vms: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Convert libvirt_domain_vms and their defaults to the domains of the module `domains`."""
    try:
        return domain_list(vms, defaults or {})
    except InvalidVms as error:
        raise AnsibleFilterError(str(error)) from error


def vms_summary(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], dry_run: bool = False
) -> list[str]:
    """Return one line per host with what the role's entry point `vms` did, or would do if dry_run.

    The last line summarizes all hosts.
    """
    found = {}
    for host in hosts:
        results = hostvars[host]
        plan = results.get("__libvirt_domain_plan") or {}
        applied = (results.get("__libvirt_domain_applied") or {}).get("results") or []
        purged = results.get("__libvirt_domain_purged") or {}
        done = plan.get("vms")
        if done is not None and not dry_run:
            done = combine_runs(plan, [*applied, purged])
        found[host] = done
    return describe_hosts(found)


class FilterModule:
    """The class through which Ansible finds the filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "devices": simple_devices,
            "domains": domains,
            "vms_summary": vms_summary,
        }
