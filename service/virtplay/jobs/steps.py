"""Pure: the steps of jobs in users' words, from the tasks of their plays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from virtplay.actions import Action

Variables = Mapping[str, Any]

LONGEST = 255
"""The length of the column that holds a step."""
PREPARING = "Preparing template"
TOGETHER = "Change the power states of the VMs"
"""The task of a play of several jobs, each of which has its own action."""


@dataclass(frozen=True)
class Step:
    """What a job does now."""

    words: str
    timeout: int | None = None
    """The seconds that a guest has to shut down; None for a step that waits for none."""


NO_STEP = Step("")


def step_of(task: str, action: str, variables: Variables) -> Step:
    """Return the step for a task of a job's play; another task's own name is its step.

    `variables` are those of the job; a run from a shell has none.
    """
    if task == TOGETHER:
        task = ALONE.get(action, task)
    step = STEPS.get(task, task[:LONGEST])
    return Step(step) if isinstance(step, str) else step(variables)


def _create(variables: Variables) -> Step:
    runs = variables.get("libvirt_domain_state") == "running"
    return Step("Creating disk, starting VM" if runs else "Creating disk and VM")


def _delete(variables: Variables) -> Step:
    kept = variables.get("libvirt_domain_keep_disks")
    return Step("Deleting VM, keeping its disks" if kept else "Deleting VM and its disks")


def _stop(variables: Variables) -> Step:
    match variables.get("libvirt_domain_force"):
        case None:
            return Step("Stopping")
        case False:
            return _wait("Waiting for the guest to shut down", variables)
        case _:
            return Step("Cutting the power")


def _restart(variables: Variables) -> Step:
    if variables.get("libvirt_domain_force") is False:
        return _wait("Restarting: waiting for the guest to shut down", variables)
    return Step("Restarting")


def _wait(words: str, variables: Variables) -> Step:
    return Step(words, variables.get("libvirt_domain_timeout"))


def _restore(variables: Variables) -> Step:
    guarded = variables.get("libvirt_snapshot_guard")
    return Step("Taking guard snapshot, then restoring" if guarded else "Restoring snapshot")


STEPS: dict[str, str | Callable[[Variables], Step]] = {
    "Check the variables": "Checking the request",
    "Check that the catalogue has the template": PREPARING,
    "Build the guest micro": PREPARING,
    "Install the guest as a template": PREPARING,
    "Create a directory for the builder": PREPARING,
    "Copy the builder to the host": PREPARING,
    "Build the guest from the distribution's packages": PREPARING,
    "Download the template to the host": PREPARING,
    "Create the VM": _create,
    "Create the VM with its template": _create,
    "End unless the template is missing": _create,
    "Update the VM": "Changing VM",
    "Delete the VM": _delete,
    "Start the VM": "Starting",
    "Stop the VM": _stop,
    "Restart the VM": _restart,
    "Pause the VM": "Pausing",
    "Resume the VM": "Resuming",
    TOGETHER: "Changing power states",
    "Create the snapshot": "Taking snapshot",
    "Restore the snapshot": _restore,
    "Delete the snapshot": "Deleting snapshot",
    "Open the console": "Opening console",
    "Compare the VMs with their declared state": "Comparing VMs",
    "Download the missing templates": PREPARING,
    "Prepare the template": PREPARING,
    "Report the VMs that cannot be created": PREPARING,
    "Continue with the VMs that do not require the template": PREPARING,
    "Apply the changes": "Changing VMs",
    "Create, update, start and stop VMs": "Changing VMs",
    "Delete VMs that are not declared": "Deleting VMs",
    "Summary": "Summing up",
}
"""Task of the playbooks of VMs → its step, which may depend on the job's variables."""
ALONE: dict[str, str] = {
    Action.VM_START: "Start the VM",
    Action.VM_STOP: "Stop the VM",
    Action.VM_RESTART: "Restart the VM",
    Action.VM_PAUSE: "Pause the VM",
    Action.VM_RESUME: "Resume the VM",
}
"""Power action → the task that does it alone."""
