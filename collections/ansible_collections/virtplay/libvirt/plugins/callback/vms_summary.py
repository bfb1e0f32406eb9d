# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Print the outcome of each declared VM at the end of a run (callback `vms_summary`)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vms_summary
type: aggregate
short_description: Summarizes the outcome of the declared VMs at the end of a run
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Prints one summary of all hosts at the end of a run of C(playbooks/vms.yml), or of any other
    playbook that uses the module M(virtplay.libvirt.domains). For each host and for all hosts, it
    shows how many VMs were created, changed, removed, unchanged, failed or not done, with their
    names. It also shows the hosts that were unreachable or not processed.
  - The summary follows the play recap, even if the run failed, and also with C(serial). A task
    cannot print it, because Ansible ends the run after a batch in which all hosts failed.
  - With C(--check), the summary shows what the run would do.
  - Prints nothing for other runs.
requirements:
  - enable in configuration
"""

EXAMPLES = r"""
shell: |
  export ANSIBLE_CALLBACKS_ENABLED=virtplay.libvirt.vms_summary
  ansible-playbook virtplay.libvirt.vms -i inventory/hosts.yml -i inventory/vms.yml

ansible.cfg: |
  [defaults]
  callbacks_enabled = virtplay.libvirt.vms_summary
"""

from collections.abc import Mapping
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import (
    combine_runs,
    describe_hosts,
)

MODULE = "virtplay.libvirt.domains"


class Comparison:
    """The module's planned changes of one host, and the results of the runs that made them."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.runs: list[Mapping[str, Any]] = []


class CallbackModule(CallbackBase):
    """Collects the module's results and prints their summary with the run's statistics."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "virtplay.libvirt.vms_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._play: Any = None
        self._begin()

    def _begin(self) -> None:
        self._hosts: dict[str, list[Comparison]] = {}
        self._lost: set[str] = set()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Store the play, which knows its hosts."""
        self._play = play

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Note all hosts of a play with declared VMs, including those of later batches."""
        if _is_ours(task):
            variables = self._play.get_variable_manager().get_vars(play=self._play)
            for host in variables.get("ansible_play_hosts_all") or ():
                self._hosts.setdefault(str(host), [])

    def v2_runner_on_ok(self, result: Any) -> None:
        """Collect a result of the module."""
        self._collect(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Collect the result of a task in which some VMs failed."""
        self._collect(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note an unreachable host, and collect the results that a loop had there before."""
        self._lost.add(str(result.host.get_name()))
        self._collect(result)

    def _collect(self, result: Any) -> None:
        if not _is_ours(result.task):
            return
        comparisons = self._hosts.setdefault(str(result.host.get_name()), [])
        for answer in result.result.get("results") or [result.result]:
            if not isinstance(answer, Mapping) or "vms" not in answer:
                continue
            if result.task.check_mode:
                comparisons.append(Comparison(answer))
            else:
                if not comparisons:
                    comparisons.append(Comparison({}))
                comparisons[-1].runs.append(answer)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the summary, if the run processed declared VMs."""
        dry_run = bool(context.CLIARGS.get("check"))
        found, lost = {}, []
        for host, comparisons in self._hosts.items():
            if host in self._lost and not comparisons:
                lost.append(host)
                continue
            vms: list[Mapping[str, Any]] = []
            for each in comparisons:
                vms += each.plan["vms"] if dry_run else combine_runs(each.plan, each.runs)
            found[host] = vms if comparisons else None
        if self._hosts:
            self._display.banner("SUMMARY OF THE DRY RUN" if dry_run else "SUMMARY")
            for line in describe_hosts(found):
                self._display.display(line)
            if lost:
                self._display.display(f"not reached: {', '.join(lost)}")
        # One command may run several playbooks, each with its own summary.
        self._begin()


def _is_ours(task: Any) -> bool:
    return MODULE in (task.action, getattr(task, "resolved_action", None))
