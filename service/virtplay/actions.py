"""The actions: the playbook, states, time limit and variables of each. Pure."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from virtplay.states import DomainState, VmStatus


class Action(StrEnum):
    """What a job does; the value is also the name of the playbook and the label of metrics."""

    VM_CREATE = "vm_create"
    VM_UPDATE = "vm_update"
    VM_DELETE = "vm_delete"
    VM_START = "vm_start"
    VM_STOP = "vm_stop"
    VM_RESTART = "vm_restart"
    VM_PAUSE = "vm_pause"
    VM_RESUME = "vm_resume"
    SNAPSHOT_CREATE = "snapshot_create"
    SNAPSHOT_RESTORE = "snapshot_restore"
    SNAPSHOT_DELETE = "snapshot_delete"
    CONSOLE_OPEN = "console_open"


@dataclass(frozen=True)
class ActionRules:
    """The rules of one action; times in seconds."""

    status: VmStatus | None
    """The VM's status until the job ends; None if the job does not lock the VM."""
    ends_in: frozenset[str]
    """The job succeeds only if the domain is in one of these states."""
    tasks: int
    """Tasks in the playbook, for the progress; a test compares it with --list-tasks."""
    time_limit: int
    """The job's process is terminated after this long."""
    repeatable: bool = True
    """Whether the action may run again after a crash."""
    role: str = "libvirt_domain"
    """The role of the action; its variables begin with this name."""
    state: str | None = None
    """The state that a power action requests of a domain; None for every other action."""
    validated: bool = True
    """Whether the API has validated all variables, so that the play need not do it again."""

    @property
    def locks(self) -> bool:
        """Whether the job locks the VM, and fences off outdated workers on the host."""
        return self.status is not None


ABSENT = "absent"
ANY_STATE = frozenset(DomainState) - {DomainState.STOPPING, DomainState.UNKNOWN}

RULES: dict[Action, ActionRules] = {
    Action.VM_CREATE: ActionRules(
        VmStatus.CREATING,
        frozenset({"stopped", "running"}),
        tasks=15,  # three if the host has the template
        time_limit=7200,
        validated=False,  # the inventory has defaults for what a request leaves open
    ),
    Action.VM_UPDATE: ActionRules(VmStatus.UPDATING, ANY_STATE, tasks=1, time_limit=600),
    Action.VM_DELETE: ActionRules(VmStatus.DELETING, frozenset({ABSENT}), tasks=1, time_limit=600),
    Action.VM_START: ActionRules(
        VmStatus.STARTING,
        frozenset({"running"}),
        tasks=1,
        time_limit=300,
        state="running",
    ),
    Action.VM_STOP: ActionRules(
        VmStatus.STOPPING,
        frozenset({"stopped"}),
        tasks=1,
        time_limit=3900,
        state="stopped",
    ),
    Action.VM_RESTART: ActionRules(
        VmStatus.RESTARTING,
        frozenset({"running"}),
        tasks=1,
        time_limit=3900,
        state="restarted",
    ),
    Action.VM_PAUSE: ActionRules(
        VmStatus.PAUSING,
        frozenset({"paused"}),
        tasks=1,
        time_limit=300,
        state="paused",
    ),
    Action.VM_RESUME: ActionRules(
        VmStatus.RESUMING,
        frozenset({"running"}),
        tasks=1,
        time_limit=300,
        state="resumed",
    ),
    Action.SNAPSHOT_CREATE: ActionRules(
        VmStatus.UPDATING, ANY_STATE, tasks=1, time_limit=3600, role="libvirt_snapshot"
    ),
    Action.SNAPSHOT_RESTORE: ActionRules(
        VmStatus.RESTORING, ANY_STATE, tasks=1, time_limit=3600, role="libvirt_snapshot"
    ),
    Action.SNAPSHOT_DELETE: ActionRules(
        VmStatus.UPDATING, ANY_STATE, tasks=1, time_limit=3600, role="libvirt_snapshot"
    ),
    Action.CONSOLE_OPEN: ActionRules(
        None, ANY_STATE, tasks=1, time_limit=60, repeatable=False, role="libvirt_console"
    ),
}


STARTING = frozenset(
    {
        Action.VM_CREATE,
        Action.VM_START,
        Action.VM_RESTART,
        Action.VM_RESUME,
        Action.SNAPSHOT_RESTORE,
    }
)
"""The actions after which a guest may run that did not run before, and get an address."""

VALIDATION = "validation"
"""The tag of the task with which each playbook checks its variables."""

BATCH_PLAYBOOK = "vm_power"
BATCH_SECONDS = RULES[Action.VM_START].time_limit
"""The time limit of a play of several jobs: none of them waits for a guest."""


FORCIBLE = (Action.VM_STOP, Action.VM_RESTART)
"""The actions that ask the guest to shut down, unless they have force."""


def waits_for_guest(action: str, variables: Mapping[str, Any]) -> bool:
    """Return whether a job waits until its guest has shut down."""
    return action in FORCIBLE and not variables.get("libvirt_domain_force")


def cuts_power(action: str, variables: Mapping[str, Any]) -> bool:
    """Return whether a job is a stop or restart with force."""
    return action in FORCIBLE and bool(variables.get("libvirt_domain_force"))


def goes_together(action: str, variables: Mapping[str, Any]) -> bool:
    """Return whether a job may be one of several in one play: a power action without a wait.

    A shutdown waits for its guest, and all jobs of its host would wait with it. An action that
    another release has queued is none of these.
    """
    power = action in RULES and RULES[Action(action)].state is not None
    return power and not waits_for_guest(action, variables)


def power_options(action: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job's domain for the module power, from the job's variables."""
    own = {key.removeprefix("libvirt_domain_"): value for key, value in variables.items()}
    return {**own, "state": RULES[Action(action)].state}


def playbook(action: str) -> str:
    """Return the playbook of an action, relative to the project directory."""
    return f"playbooks/{action}.yml"


def mark_unsafe(value: Any) -> Any:
    """Return the value with every text marked as never to be evaluated by Ansible."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, Mapping):
        return {key: mark_unsafe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [mark_unsafe(item) for item in value]
    return value


def _mark_templates(value: Any) -> Any:
    """Like mark_unsafe, but only for texts that Ansible could evaluate as a template."""
    if isinstance(value, str):
        return mark_unsafe(value) if "{" in value else value
    if isinstance(value, Mapping):
        return {key: _mark_templates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_templates(item) for item in value]
    return value


def command_line(
    action: str, host: str, inventory: Sequence[str], variables: Mapping[str, Any]
) -> str:
    """Return the equivalent ansible-playbook command, to be run in the project directory."""
    words = ["ansible-playbook", playbook(action)]
    for source in inventory:
        words += ["-i", source]
    words += ["--limit", host, "-e", json.dumps(_mark_templates(variables), ensure_ascii=False)]
    return shlex.join(words)
