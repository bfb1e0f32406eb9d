# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts declared VMs to module arguments, and sums up the outcome of each; pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .domain.arguments import ARGUMENTS, BOOKKEEPING, SIMPLE, given_values, simple_devices

# The outcome of a run for a VM, in the order of a summary.
CREATED, CHANGED, REMOVED, UNCHANGED, FAILED = OUTCOMES = (
    "created",
    "changed",
    "removed",
    "unchanged",
    "failed",
)
NOT_DONE = "not done"
ABSENT = "absent"
_NOT_SAME = (*BOOKKEEPING, *SIMPLE, "seed", "metadata")
_ABSENT_TOO = ("name", "uuid", "state", "force", "keep_disks")
_SEED = tuple(ARGUMENTS["seed"]["options"])
_METADATA = ("os", "labels")
# Other names of an option, those of the API → its name.
ALIASES = {
    alias: name
    for name, option in (*ARGUMENTS.items(), *ARGUMENTS["seed"]["options"].items())
    for alias in option.get("aliases", ())
}
_NEEDED = ("vcpus", "memory")


class InvalidVms(ValueError):
    """The declared VMs are invalid; the message gives the VMs and the reasons."""


def domain_list(
    vms: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return declared VMs as the arguments of module domains; raises InvalidVms.

    A VM has the options of the role libvirt_domain without its prefix. defaults apply to every VM
    that does not set the option itself.
    """
    usual = _use_names(defaults, "the defaults of the VMs")
    merged = [{**usual, **_use_names(vm, f"VM {vm.get('name')}")} for vm in vms]
    faults = []
    for vm in merged:
        missing = [key for key in _NEEDED if vm.get(key) is None]
        if not vm.get("name"):
            faults.append(f"cannot use a VM without a name: {sorted(vm)}")
        elif vm.get("state") != ABSENT and missing:
            faults.append(f"cannot use VM {vm['name']}: it has no {' and no '.join(missing)}")
    for key in ("name", "uuid"):
        values = [vm[key] for vm in merged if vm.get(key)]
        twice = sorted({value for value in values if values.count(value) > 1})
        faults += [f"cannot use VM {one}: two VMs of the host have that {key}" for one in twice]
    if faults:
        raise InvalidVms("; ".join(faults))
    arguments = [_arguments(vm) for vm in merged]
    _refuse_shared_cards(arguments)
    return arguments


def _use_names(vm: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the options of a VM that are set, by their names."""
    given = given_values(vm)
    named = {ALIASES.get(key, key): value for key, value in given.items()}
    if len(named) < len(given):
        twice = next(key for key in given if key in ALIASES and ALIASES[key] in given)
        raise InvalidVms(f"cannot use {label}: {twice} means the same as {ALIASES[twice]}")
    return named


def _refuse_shared_cards(vms: Sequence[Mapping[str, Any]]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for vm in vms:
        for card in vm.get("interfaces") or []:
            for key in ("mac", "ip"):
                value = str(card.get(key) or "").lower()
                owner = owners.setdefault((key, value), vm["name"]) if value else vm["name"]
                if owner != vm["name"]:
                    raise InvalidVms(
                        f"cannot use VM {vm['name']}: {owner} of the same host has its {key} "
                        f"{value}"
                    )


def _arguments(vm: Mapping[str, Any]) -> dict[str, Any]:
    if vm.get("state") == ABSENT:
        return given_values(vm, _ABSENT_TOO)
    arguments = {
        **given_values(vm, (key for key in ARGUMENTS if key not in _NOT_SAME)),
        "seed": given_values(vm, _SEED),
        "metadata": given_values(vm, _METADATA),
    }
    return {**simple_devices(vm), **arguments}


def outcome_of(result: Mapping[str, Any]) -> str:
    """Return the outcome of a result of the module domain."""
    if not result["changed"]:
        return UNCHANGED
    for change in result["changes"]:
        if change["field"] == "state" and change["before"] == ABSENT:
            return CREATED
    return REMOVED if result["domain"] is None else CHANGED


def summarize(
    vms: Sequence[Mapping[str, Any]], outcomes: Sequence[str] = OUTCOMES
) -> dict[str, list[str]]:
    """Return outcome → the names of the VMs with that outcome."""
    return {outcome: [vm["name"] for vm in vms if vm["outcome"] == outcome] for outcome in outcomes}


def combine_runs(
    plan: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the outcome of each VM of a host; a planned VM that no run has done is `not done`.

    That happens if the host became unreachable during the run, or tags excluded the VM.
    """
    done = [vm for run in runs for vm in run.get("vms") or ()]
    names = {vm["name"] for vm in done}
    found = [vm for vm in plan.get("vms") or () if vm["name"] not in names]
    stays = (UNCHANGED, FAILED)
    return [
        *done,
        *(vm if vm["outcome"] in stays else {**vm, "outcome": NOT_DONE} for vm in found),
    ]


def describe_hosts(hosts: Mapping[str, Sequence[Mapping[str, Any]] | None]) -> list[str]:
    """Return a line for each host and one for all; None is a host that was not compared."""
    lines = []
    everything: list[Mapping[str, Any]] = []
    for host, vms in hosts.items():
        if vms is not None:
            everything += vms
            lines.append(f"{host}: {_describe(vms, named=True)}")
    waiting = [host for host, vms in hosts.items() if vms is None]
    if waiting:
        lines.append(f"not compared: {', '.join(waiting)}")
    if len(hosts) > 1:
        lines.append(f"all: {_describe(everything, named=False)}")
    return lines


def _describe(vms: Sequence[Mapping[str, Any]], *, named: bool) -> str:
    parts = []
    for outcome, names in summarize(vms, (*OUTCOMES, NOT_DONE)).items():
        if names:
            shown = named and outcome != UNCHANGED
            parts.append(f"{len(names)} {outcome}" + (f" ({', '.join(names)})" if shown else ""))
    return ", ".join(parts) or "no VMs"
