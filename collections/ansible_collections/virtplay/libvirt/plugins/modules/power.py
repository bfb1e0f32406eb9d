#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Start, stop, restart, pause and resume many domains of a host in one task (module `power`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: power
short_description: Start, stop, restart, pause and resume many libvirt domains of one host
version_added: "0.1.0"
description:
  - Brings a list of domains to their power states in one task, as M(virtplay.libvirt.domain) does
    for one domain. Each domain has its own lock, and its own job and generation.
  - If one domain fails, the task continues with the others, fails at its end and names the domain.
    The result contains the outcome of each domain in any case.
  - It neither creates nor updates a domain.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
options:
  domains:
    description: The domains, each identified by O(domains[].uuid) or O(domains[].name).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the domain. It identifies the domain if O(domains[].uuid) is not set.
        type: str
      uuid:
        description: UUID of the domain. If it is set, it alone identifies the domain.
        type: str
      state:
        description: The state, with the meaning that it has in M(virtplay.libvirt.domain).
        type: str
        choices: [running, stopped, restarted, paused, resumed]
        required: true
      force:
        description:
          - Power the domain off without shutting the guest down.
          - With O(domains[].state=stopped) it also drops a memory that libvirt has saved.
        type: bool
        default: false
      timeout:
        description: Time in seconds that a guest may take to shut down, 1 to 3600.
        type: int
        default: 90
      job:
        description: Id of the job that the action on this domain belongs to.
        type: str
      generation:
        description:
          - Generation of the worker that runs the job. The action is refused if the host has
            already seen a higher generation for this domain.
        type: int
  at_once:
    description: Number of domains that are worked on at once, 1 to 64. In check mode it is one.
    type: int
    default: 4
  time_limit:
    description:
      - Time in seconds after which the task ends, 1 to 86400. A domain that is not done by then
        fails with the code V(TIMEOUT), and one that was not begun, as others took the time, with
        V(NOT_BEGUN). By default the task waits for all.
    type: int
  lock_timeout:
    description:
      - Time in seconds to wait for another task on the same domain. After that the domain fails
        with the code V(OPERATION_IN_PROGRESS), and the message names the other task.
    type: int
    default: 120
attributes:
  check_mode:
    description: Changes nothing and takes no lock in check mode.
    support: full
  diff_mode:
    description: Like that of M(virtplay.libvirt.domain), once for all domains that change alike.
    support: full
"""

EXAMPLES = r"""
- name: Pause two domains and start a third
  virtplay.libvirt.power:
    domains:
      - name: web-1
        state: paused
      - name: web-2
        state: paused
      - name: db-1
        state: running

- name: Power all test domains off, ten at a time
  virtplay.libvirt.power:
    domains: "{{ test_domains | map('combine', {'state': 'stopped', 'force': true}) }}"
    at_once: 10
  vars:
    test_domains:
      - name: test-1
      - name: test-2
"""

RETURN = r"""
domains:
  description:
    - The outcome for each domain, or in check mode the predicted outcome, in the order of
      O(domains). RV(domains[].domain), RV(domains[].changes), RV(domains[].applies_at) and the wait
      for the lock are those of M(virtplay.libvirt.domain).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain, or its UUID if it is not known.
      returned: always
      type: str
      sample: web-1
    uuid:
      description: The option O(domains[].uuid).
      returned: always
      type: str
      sample: 5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10
    job:
      description: The option O(domains[].job).
      returned: always
      type: str
      sample: job-000001
    changed:
      description: Whether the domain has changed.
      returned: always
      type: bool
      sample: true
    failed:
      description: Whether the domain has failed.
      returned: always
      type: bool
      sample: false
    warnings:
      description: Warnings about the domain.
      returned: always
      type: list
      elements: str
      sample: []
    domain:
      description: The domain after the task.
      returned: if it has not failed
      type: dict
      sample:
        name: web-1
        state: paused
        state_reason: user
    changes:
      description: Every field that differs, with its values and when the change takes effect.
      returned: if it has not failed
      type: list
      elements: dict
      sample:
        - field: state
          before: running
          after: paused
          applies: live
          destroys: false
    applies_at:
      description: When all changes are in effect, V(now). Null if nothing changes.
      returned: if it has not failed
      type: str
      sample: now
    waited_seconds:
      description: Time in seconds that was waited for the domain's lock.
      returned: if it has not failed, not in check mode
      type: float
      sample: 0.0
    waited_for:
      description: The task that held the domain's lock. Null if it was free.
      returned: if it has not failed, not in check mode
      type: str
      sample: job-000007 (stop web-1, process 4711, since 12:00:03 UTC)
    msg:
      description: Why the domain has failed.
      returned: if it has failed
      type: str
      sample: "cannot pause web-2: it is stopped"
    code:
      description: Error code.
      returned: if it has failed
      type: str
      sample: VM_ALREADY_STOPPED
    seen_generation:
      description: The generation that the host has seen, later than O(domains[].generation).
      returned: if it has failed with the code STALE_GENERATION
      type: int
      sample: 7
    exception:
      description: The traceback of a fault in the module.
      returned: if it has failed by a fault in the module
      type: str
      sample: Traceback (most recent call last)
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    ARGUMENTS,
    Wanted,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import fold_diffs
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import VERBS, DomainTask
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import (
    open_connection,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import POWER

STATES = [str(w) for w in Wanted if w not in (Wanted.PRESENT, Wanted.ABSENT)]
OWN = ("uuid", "name", "force", "timeout", "job", "generation")
UNSET = {name: option.get("default") for name, option in ARGUMENTS.items()}


class PowerTask:
    """One run of the module, which collects the outcome of each domain in the given order."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        check_values(POWER, self.params)
        self.conn = open_connection(self.params["uri"])
        self._lock = threading.Lock()
        self._waiting = deque(enumerate(self.params["domains"]))
        self._done: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def run(self) -> dict[str, Any]:
        """Return the module's result, also if domains have failed."""
        limit = self.params["time_limit"]
        deadline = None if limit is None else time.monotonic() + limit
        # Threads help because nearly all time is spent waiting for libvirtd and QEMU. Python does
        # not wait for daemon threads at its exit: a stuck QEMU holds its thread for ever.
        at_once = 1 if self.module.check_mode else self.params["at_once"]
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _number in range(min(at_once, len(self._waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        with self._lock:
            not_begun = {number for number, _domain in self._waiting}
            self._waiting.clear()
            done = dict(self._done)
        outcomes, diffs = [], []
        for number, domain in enumerate(self.params["domains"]):
            outcome, diff = done.get(number) or (
                _too_late(domain, limit, begun=number not in not_begun),
                [],
            )
            outcomes.append(outcome)
            diffs += diff
            for warning in outcome["warnings"]:
                self.module.warn(warning)
        changed = any(outcome["changed"] for outcome in outcomes)
        return {
            "changed": changed,
            "domains": outcomes,
            **({"diff": fold_diffs(diffs)} if diffs else {}),
        }

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                number, domain = self._waiting.popleft()
            done = self._bring(domain)
            with self._lock:
                self._done[number] = done

    def _bring(self, domain: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the outcome of one domain and, in diff mode, its diff; never raise."""
        warnings: list[str] = []
        outcome: dict[str, Any] = {**_identify(domain), "warnings": warnings}
        shared = {key: self.params[key] for key in ("uri", "lock_timeout")}
        try:
            result = DomainTask(
                {**UNSET, **domain, **shared},
                check_mode=self.module.check_mode,
                diff=self.module._diff,
                verbosity=self.module._verbosity,
                warn=warnings.append,
                conn=self.conn,
            ).run()
        except Exception as error:
            failure = failure_of(error, _cannot(domain))
            if failure is None:
                # A programming error that affects one domain must not stop the others.
                failure = Failure(f"{_cannot(domain)}: {error!r}")
                outcome["exception"] = traceback.format_exc()
            outcome.update(failure.facts, failed=True, msg=failure.message, code=failure.code)
            return outcome, []
        diff = result.pop("diff", [])
        outcome.update(result, name=(result["domain"] or outcome)["name"])
        return outcome, diff if self.module._diff else []


def _identify(domain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that every outcome has, of one that has neither changed nor failed."""
    return {
        "name": domain["name"] or domain["uuid"],
        "uuid": domain["uuid"],
        "job": domain["job"],
        "changed": False,
        "failed": False,
    }


def _cannot(domain: Mapping[str, Any]) -> str:
    return f"cannot {VERBS[Wanted(domain['state'])]} {domain['name'] or domain['uuid']}"


def _too_late(domain: Mapping[str, Any], limit: int, *, begun: bool) -> dict[str, Any]:
    """Return the outcome of a domain that was not done in time."""
    message = f"{_cannot(domain)}: it was not {'done' if begun else 'begun'} within {limit} s"
    return {
        **_identify(domain),
        "failed": True,
        "msg": message,
        "code": "TIMEOUT" if begun else "NOT_BEGUN",
        "warnings": [],
    }


def main() -> None:
    """Run the module."""
    state = {"type": "str", "choices": STATES, "required": True}
    module = AnsibleModule(
        argument_spec={
            "uri": ARGUMENTS["uri"],
            "domains": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"state": state, **{name: ARGUMENTS[name] for name in OWN}},
                "required_one_of": [["uuid", "name"]],
            },
            "at_once": {"type": "int", "default": 4},
            "time_limit": {"type": "int"},
            "lock_timeout": ARGUMENTS["lock_timeout"],
        },
        supports_check_mode=True,
    )
    require_libraries(module)
    prefix = "cannot change the power states of this host's domains"
    run_module(module, lambda: run(module), partial(failure_of, prefix=prefix))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Return the module's result; fail the module with it if a domain has failed."""
    result = PowerTask(module).run()
    outcomes = result["domains"]
    failed = [outcome["msg"] for outcome in outcomes if outcome["failed"]]
    if failed:
        module.fail_json(msg=f"{len(failed)} of {len(outcomes)} VMs: {'; '.join(failed)}", **result)
    return result


if __name__ == "__main__":
    main()
