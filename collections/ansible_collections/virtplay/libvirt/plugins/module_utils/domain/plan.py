# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans the changes that bring a domain to the requested state; pure, no I/O.

Check mode, diff and the real run all use these plans, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from ..failure import Failure
from ..states import ACTIVE_STATES, MIGRATION_REASONS, DomainReason, DomainState, TextEnum
from ..units import GIB
from ..values import UEFI_MEMORY
from .arguments import DEFINITION, LIVE, WAITING, Wanted

# The arguments of a definition that have planning functions of their own.
_PLANNED_APART = (*WAITING, "firmware", "disks", "interfaces", "metadata")

# The job of a domain that leaves its host, or comes to it.
MIGRATION = "a migration"


class Step(TextEnum):
    """One power action on a domain."""

    DISCARD = "discard"
    """Remove the managed save image, so that the next start boots."""
    START = "start"
    RESET = "reset"
    SUSPEND = "suspend"
    RESUME = "resume"
    WAKE = "wake"
    SHUT_DOWN = "shut_down"
    DESTROY = "destroy"


class Applies(TextEnum):
    """When a change takes effect."""

    LIVE = "live"
    NEXT_BOOT = "next_boot"
    OFFLINE = "offline"


@dataclass(frozen=True)
class Change:
    """One field that differs: its value before and after, and when the change takes effect."""

    field: str
    before: Any
    after: Any
    applies: Applies = Applies.LIVE
    destroys: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain data for the module's result."""
        return {**asdict(self), "applies": str(self.applies)}


@dataclass
class Current:
    """One domain as its host reports it; sizes in bytes, memory in MiB."""

    state: DomainState
    # Settings that libvirt stores outside the definition; keys are those of flags.FLAGS.
    flags: dict[str, Any]
    persistent: bool
    # The definition for the next boot, and the one that QEMU runs with, or that the start of a
    # saved domain will take from its managed save image (equal for other stopped domains).
    config: dict[str, Any]
    live: dict[str, Any]
    config_xml: str = ""
    live_xml: str = ""
    reason: DomainReason = DomainReason.UNKNOWN
    has_managed_save: bool = False
    # What libvirt or QEMU does with the domain at the moment, for messages.
    jobs: Sequence[str] = ()
    # Whether libvirt says that it does nothing with the domain, although it is paused as one that
    # is migrating: so is a guest that was saved while it was paused.
    idle: bool = False
    # Whether the next start may take a UEFI firmware that stores no variables.
    may_lose_variables: bool = False
    hotpluggable_vcpus: int = 0
    # Whether libvirt takes the memory from NUMA cells, and ignores that of the domain.
    has_numa_cells: bool = False
    # Target → size in bytes, of the disks whose size is known.
    capacities: dict[str, int] = field(default_factory=dict)
    # Targets of the disks whose image is a block device of the host.
    block_devices: set[str] = field(default_factory=set)
    # MAC address → (network, IP address) of DHCP reservations.
    reservations: dict[str, tuple[str, str]] = field(default_factory=dict)
    snapshots: int = 0
    # Whether libvirt has named the file of its UEFI variables by the domain's name.
    nvram_has_name: bool = False

    @property
    def active(self) -> bool:
        """Whether a QEMU process exists for the domain."""
        return self.state in ACTIVE_STATES

    @property
    def saved(self) -> bool:
        """Whether the next start goes on in the memory of a managed save image."""
        return self.has_managed_save and self.reason == DomainReason.SAVED and not self.active

    @property
    def label(self) -> str:
        """Return the libvirt name, for messages."""
        return str(self.config["name"])


@dataclass
class InterfacePlan:
    """How one wanted interface maps to the domain: an edit of interface `mac`, or a new one."""

    wanted: dict[str, Any]
    mac: str | None
    edits: dict[str, Any] = field(default_factory=dict)
    applies: Applies = Applies.OFFLINE


@dataclass(frozen=True)
class Moved:
    """Where an interface will be: its MAC address before and after, and its new network."""

    mac: str
    new_mac: str
    type: str
    source: str


@dataclass
class UpdatePlan:
    """All differences between a domain and its arguments, and the calls that remove them."""

    changes: list[Change] = field(default_factory=list)
    # The argument `changes` of xml.edit_domain, for the definition of the next boot.
    edits: dict[str, Any] = field(default_factory=dict)
    live_vcpus: int | None = None
    live_memory: int | None = None
    grow_disks: dict[str, int] = field(default_factory=dict)
    add_disks: list[dict[str, Any]] = field(default_factory=list)
    interfaces: list[InterfacePlan] = field(default_factory=list)
    # MAC address → (network, IP address) to reserve; None deletes the reservation.
    reservations: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    # The new name of the domain.
    name: str | None = None
    warnings: list[str] = field(default_factory=list)


def applies_at(changes: Sequence[Change]) -> str | None:
    """Return when a set of changes is in effect: "now", "next_boot", or None for no change."""
    if not changes:
        return None
    return "next_boot" if any(c.applies == Applies.NEXT_BOOT for c in changes) else "now"


# --- power ------------------------------------------------------------------------------------

_VERBS = {
    Wanted.RUNNING: "start",
    Wanted.STOPPED: "stop",
    Wanted.RESTARTED: "restart",
    Wanted.PAUSED: "pause",
    Wanted.RESUMED: "resume",
    Wanted.ABSENT: "delete",
}
_AFTER = {
    Step.START: (DomainState.RUNNING, DomainReason.BOOTED),
    Step.RESUME: (DomainState.RUNNING, DomainReason.UNPAUSED),
    Step.WAKE: (DomainState.RUNNING, DomainReason.WAKEUP),
    Step.SUSPEND: (DomainState.PAUSED, DomainReason.USER),
    Step.SHUT_DOWN: (DomainState.STOPPED, DomainReason.SHUTDOWN),
    Step.DESTROY: (DomainState.STOPPED, DomainReason.DESTROYED),
}


def plan_power(
    current: Current, wanted: Wanted, *, force: bool = False, was_active: bool = False
) -> list[Step]:
    """Return the steps from a domain's state to the wanted one.

    was_active: the domain was active when the task was requested, but may have stopped meanwhile. A
    restart with force then starts it: a shutdown that it supersedes may have taken effect.
    Raises Failure if that is not allowed (VM_ALREADY_RUNNING, VM_ALREADY_STOPPED,
    VM_HAS_SAVED_STATE, GUEST_NOT_RESPONDING, OPERATION_IN_PROGRESS, VALIDATION_ERROR).
    """
    if wanted is Wanted.PRESENT:
        return []
    cannot = f"cannot {_VERBS[wanted]} {current.label}"
    ends = wanted in (Wanted.STOPPED, Wanted.RESTARTED)
    if wanted is Wanted.ABSENT or (ends and not force) or _is_migrating(current):
        refuse_jobs(current, cannot)
    has_stopped = was_active and not (current.active or current.saved)
    if has_stopped and force and wanted is Wanted.RESTARTED:
        wanted = Wanted.RUNNING
    steps = _plan_power(current, wanted, force, cannot)
    outdated = current.has_managed_save and not current.saved
    if outdated and {Step.START, Step.SHUT_DOWN, Step.DESTROY} & {*steps}:
        # The guest has run since it was saved, so the image is older than its disks: libvirt keeps
        # it at a restore, and the next start would go on in it.
        return [Step.DISCARD, *steps]
    return steps


def _plan_power(current: Current, wanted: Wanted, force: bool, cannot: str) -> list[Step]:
    state = current.state
    if wanted is Wanted.RUNNING:
        return _start(state, cannot)
    if wanted is Wanted.STOPPED:
        if current.active:
            return _stop(current, force, cannot)
        return [Step.DISCARD] if current.has_managed_save and force else []
    if wanted is Wanted.ABSENT:
        if current.active and not force:
            raise Failure(
                f"{cannot}: it is {state}; stop it first, or use force", "VM_ALREADY_RUNNING"
            )
        if not force:
            refuse_saved(current, cannot, "start it first, or use force")
        return [Step.DESTROY] if current.active else []
    if not current.active:
        saved = ", and its memory is saved; start it" if current.saved else ""
        raise Failure(f"{cannot}: it is stopped{saved}", "VM_ALREADY_STOPPED")
    if wanted is Wanted.RESTARTED:
        return _restart(current, force, cannot)
    if state == DomainState.CRASHED:
        _refuse_crashed(cannot)
    if wanted is Wanted.RESUMED:
        return _wake(state)
    if state not in (DomainState.PAUSED, DomainState.RUNNING):
        raise Failure(f"{cannot}: it is {state}", "LIBVIRT_ERROR")
    return [] if state == DomainState.PAUSED else [Step.SUSPEND]


def after(current: Current, steps: Sequence[Step]) -> tuple[DomainState, DomainReason]:
    """Return the state of a domain, and its reason, after all steps have succeeded."""
    state, reason, saved = current.state, current.reason, current.saved
    for step in steps:
        if step is Step.RESET:
            state = DomainState.PAUSED if state == DomainState.CRASHED else state
        elif step is Step.DISCARD:
            reason = DomainReason.UNKNOWN if saved else reason
            saved = False
        else:
            state, reason = _AFTER[step]
            if step is Step.START and saved:
                reason, saved = DomainReason.RESTORED, False
    return state, reason


def loses_memory(current: Current, steps: Sequence[Step]) -> bool:
    """Whether these steps lose what the guest has not written to its disks."""
    if Step.DISCARD in steps and current.saved:
        return True
    return Step.DESTROY in steps or Step.RESET in steps


def refuse_jobs(current: Current, cannot: str) -> None:
    """Raise Failure (OPERATION_IN_PROGRESS) while somebody else's job is at work on a domain."""
    if current.jobs or _is_migrating(current):
        what = " and ".join(current.jobs) or MIGRATION
        raise Failure(
            f"{cannot}: {what} is in progress; wait for its end, or abort it (virsh domjobabort, "
            "virsh blockjob --abort)",
            "OPERATION_IN_PROGRESS",
        )


def refuse_saved(current: Current, cannot: str, remedy: str) -> None:
    """Raise Failure (VM_HAS_SAVED_STATE) if a stopped domain has a managed save image."""
    if current.saved:
        raise Failure(
            f"{cannot}: its memory is saved, and would be lost; {remedy}", "VM_HAS_SAVED_STATE"
        )


def _is_migrating(current: Current) -> bool:
    waits = current.state == DomainState.PAUSED and current.reason in MIGRATION_REASONS
    return (waits and not current.idle) or MIGRATION in current.jobs


def _start(state: DomainState, cannot: str) -> list[Step]:
    reason = None
    if state == DomainState.CRASHED:
        reason = "its guest has crashed, and its QEMU is kept; stop or restart it with force"
    elif state == DomainState.STOPPING:
        reason = "its guest is shutting down; wait for its end, or stop it with force"
    if reason:
        raise Failure(f"{cannot}: {reason}", "VM_ALREADY_RUNNING")
    return [] if state == DomainState.RUNNING else _wake(state) or [Step.START]


def _wake(state: DomainState) -> list[Step]:
    if state == DomainState.PAUSED:
        return [Step.RESUME]
    return [Step.WAKE] if state == DomainState.SUSPENDED else []


def _stop(current: Current, force: bool, cannot: str) -> list[Step]:
    if force:
        return [Step.DESTROY]
    if current.state == DomainState.CRASHED:
        _refuse_crashed(cannot)
    # A paused or suspended guest cannot react to the power button.
    return [*_wake(current.state), Step.SHUT_DOWN]


def _restart(current: Current, force: bool, cannot: str) -> list[Step]:
    if current.persistent:
        return [*_stop(current, force, cannot), Step.START]
    if not force:
        raise Failure(
            f"{cannot}: it is transient, and libvirt keeps nothing of it once it has stopped; use "
            "force, which resets it",
            "VALIDATION_ERROR",
        )
    # A reset leaves a paused guest paused, and pauses a crashed one.
    if current.state == DomainState.CRASHED:
        return [Step.RESET, Step.RESUME]
    if current.state == DomainState.SUSPENDED:
        return [Step.WAKE, Step.RESET]
    return [Step.RESET, *_wake(current.state)]


def _refuse_crashed(cannot: str) -> NoReturn:
    raise Failure(
        f"{cannot}: its guest has crashed; stop or restart it with force", "GUEST_NOT_RESPONDING"
    )


# --- definition -------------------------------------------------------------------------------


def plan_update(current: Current, desired: Mapping[str, Any]) -> UpdatePlan:
    """Compare a domain with its arguments; raises Failure for values that cannot change.

    desired holds the module's arguments; missing keys and None mean no change.
    """
    plan = UpdatePlan()
    _refuse_fixed(current, desired)
    _plan_values(plan, current, desired)
    _plan_metadata(plan, current, desired)
    _plan_vcpus(plan, current, desired)
    _plan_memory(plan, current, desired)
    _plan_disks(plan, current, desired.get("disks") or [])
    if plan.grow_disks:
        cannot = f"cannot resize disk {', '.join(plan.grow_disks)} of {current.label}"
        refuse_jobs(current, cannot)
        if current.saved:
            raise Failure(
                f"{cannot}: its memory is saved, and the saved guest knows the size of now; start "
                "it first",
                "VM_HAS_SAVED_STATE",
            )
    _plan_interfaces(plan, current, desired.get("interfaces") or [])
    for key, before in current.flags.items():
        if desired.get(key) is not None and desired[key] != before:
            plan.flags[key] = desired[key]
            plan.changes.append(Change(key, before, desired[key], _text(current)))
    if plan.changes and not current.persistent:
        raise Failure(
            f"cannot change {current.label}: it is transient, libvirt stores no definition of it",
            "VALIDATION_ERROR",
        )
    if plan.changes and _is_migrating(current):
        # The other host does not get what this one defines meanwhile.
        refuse_jobs(current, f"cannot change {current.label}")
    return plan


def plan_variables(plan: UpdatePlan, current: Current, *, boots: bool = False) -> None:
    """Add to a plan that a UEFI domain of ours keeps the variables of its firmware.

    Its definition may be of a time when libvirt had only one firmware to choose from. boots means
    that the domain is to start after the change.
    """
    ours = current.persistent and current.config["metadata"] is not None
    if ours and current.may_lose_variables:
        plan.edits["keeps_variables"] = True
        applies = Applies.OFFLINE if boots and not current.saved else _next(current)
        plan.changes.append(Change("keeps_variables", False, True, applies))


def merge_metadata(old: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a domain's metadata: the old values, replaced by the wanted ones that are set."""
    return {**(old or {}), **{key: value for key, value in wanted.items() if value is not None}}


def first_target(current: Current) -> str | None:
    """Return the target of the first disk, whose size is the domain's `disk`; None without one."""
    disks = current.live["disks"]
    return disks[0]["target"] if disks else None


def plan_name(plan: UpdatePlan, current: Current, name: str) -> None:
    """Add another name of the domain to a plan, or a warning with the reason why it keeps its own.

    libvirt renames only a stopped domain, and none whose name is part of what it has stored.
    """
    reason = ""
    if current.active:
        reason = f"it is {current.state}; stop it first"
    elif current.snapshots:
        reason = f"it has {current.snapshots} snapshot{'s' * (current.snapshots > 1)}"
    elif current.has_managed_save:
        reason = "its memory is saved; start and stop it first"
    elif current.nvram_has_name:
        reason = "the file of its UEFI variables has its name"
    if reason:
        plan.warnings.append(not_renamed(current, name, reason))
        return
    plan.name = name
    plan.changes.append(Change("name", current.label, name, Applies.OFFLINE))


def not_renamed(current: Current, name: str, reason: str) -> str:
    """Return the warning of a domain that keeps its name."""
    return f"cannot rename {current.label} to {name}: {reason}; it keeps its name"


def _now(current: Current) -> Applies:
    """Return when a change applies that QEMU can make while the guest runs.

    A saved guest goes on in the definition that was saved with its memory.
    """
    if current.saved:
        return Applies.NEXT_BOOT
    return Applies.LIVE if current.active else Applies.OFFLINE


def _next(current: Current) -> Applies:
    return Applies.NEXT_BOOT if current.active or current.saved else Applies.OFFLINE


def _text(current: Current) -> Applies:
    """Return when a change of what only libvirt stores applies: at once."""
    return Applies.LIVE if current.active else Applies.OFFLINE


def _responds(current: Current) -> bool:
    """Whether the guest can react to a change of its hardware."""
    return current.active and current.state != DomainState.CRASHED


def _refuse_fixed(current: Current, desired: Mapping[str, Any]) -> None:
    for key in ("firmware", "virt_type"):
        wanted = desired.get(key)
        if wanted not in {None, "auto", current.config[key]}:
            raise Failure(
                f"cannot change {key} of {current.label} from {current.config[key]} to {wanted}: "
                "it is fixed at creation",
                "VALIDATION_ERROR",
            )
    origin = (current.config["metadata"] or {}).get("template")
    requested = [(desired.get("metadata") or {}).get("template")]
    first = (None, first_target(current))
    requested += [d.get("template") for d in desired.get("disks") or [] if d.get("target") in first]
    for template in requested:
        if origin is not None and template not in {None, origin}:
            raise Failure(
                f"cannot change the template of {current.label} from {origin} to {template}: "
                "its disk was created from it; create another VM",
                "VALIDATION_ERROR",
            )


def _plan_values(plan: UpdatePlan, current: Current, desired: Mapping[str, Any]) -> None:
    for key in DEFINITION:
        if key in (*_PLANNED_APART, *current.flags) or key not in current.config:
            continue
        before, wanted = current.config[key], desired.get(key)
        if wanted is not None and wanted != (before or type(wanted)()):
            applies = _text(current) if key in LIVE else _next(current)
            plan.edits[key] = wanted
            plan.changes.append(Change(key, before, wanted, applies))


def _plan_metadata(plan: UpdatePlan, current: Current, desired: Mapping[str, Any]) -> None:
    old = current.config["metadata"]
    wanted = desired.get("metadata") or {}
    for key in ("id", "template", "os", "labels"):
        before = (old or {}).get(key)
        if wanted.get(key) is not None and wanted[key] != before:
            plan.changes.append(Change(f"metadata.{key}", before, wanted[key], _text(current)))
            plan.edits["metadata"] = merge_metadata(old, wanted)


def _plan_vcpus(plan: UpdatePlan, current: Current, desired: Mapping[str, Any]) -> None:
    config, live = current.config, current.live
    wanted = desired.get("vcpus") or config["vcpus"]
    limit = desired.get("vcpus_max")
    if limit is None:
        limit = max(config["vcpus_max"], wanted)
    if wanted > limit:
        raise Failure(
            f"cannot give {current.label} {wanted} CPUs: vcpus_max is {limit}", "VALIDATION_ERROR"
        )
    if limit != config["vcpus_max"]:
        plan.edits["vcpus_max"] = limit
        plan.changes.append(Change("vcpus_max", config["vcpus_max"], limit, _next(current)))
    if desired.get("vcpus") is None or (wanted == config["vcpus"] and wanted == live["vcpus"]):
        return
    # QEMU's emulation (observed with 7.2) sometimes crashes after a CPU was unplugged.
    removable = current.hotpluggable_vcpus if live["virt_type"] == "kvm" else 0
    fits = live["vcpus"] - removable <= wanted <= live["vcpus_max"]
    possible = _responds(current) and fits
    if possible and wanted != live["vcpus"]:
        plan.live_vcpus = wanted
    if wanted != config["vcpus"]:
        plan.edits["vcpus"] = wanted
    if plan.live_vcpus is None and "vcpus" not in plan.edits:
        return  # already set for the next boot, and it cannot change live
    applies = Applies.LIVE if possible else _next(current)
    plan.changes.append(Change("vcpus", live["vcpus"], wanted, applies))


def _plan_memory(plan: UpdatePlan, current: Current, desired: Mapping[str, Any]) -> None:
    config, live = current.config, current.live
    wanted = desired.get("memory") or config["memory"]
    limit = desired.get("memory_max")
    if limit is None:
        # Configured headroom stays; without headroom the limit follows the memory, so that the
        # next boot neither wastes memory nor needs the balloon.
        headroom = config["memory_max"] > config["memory"] or current.has_numa_cells
        limit = max(config["memory_max"], wanted) if headroom else wanted
    if wanted > limit:
        raise Failure(
            f"cannot give {current.label} {wanted} MiB: memory_max is {limit} MiB",
            "VALIDATION_ERROR",
        )
    if config["firmware"] == "efi" and limit < min(UEFI_MEMORY, config["memory_max"]):
        raise Failure(
            f"cannot give {current.label} {limit} MiB: its UEFI firmware does not boot with less "
            f"than {UEFI_MEMORY} MiB",
            "VALIDATION_ERROR",
        )
    if limit != config["memory_max"] and current.has_numa_cells:
        raise Failure(
            f"cannot change memory_max of {current.label}: its memory is that of its NUMA cells; "
            "change these with virsh edit",
            "VALIDATION_ERROR",
        )
    if limit != config["memory_max"]:
        plan.edits["memory_max"] = limit
        # A limit that only follows a live change of memory is no change for the next boot.
        if desired.get("memory_max") is not None or wanted > live["memory_max"]:
            plan.changes.append(Change("memory_max", config["memory_max"], limit, _next(current)))
    if desired.get("memory") is None or (wanted == config["memory"] and wanted == live["memory"]):
        return
    possible = _responds(current) and wanted <= live["memory_max"]
    if possible and wanted != live["memory"]:
        plan.live_memory = wanted
    if wanted != config["memory"]:
        plan.edits["memory"] = wanted
    if plan.live_memory is None and "memory" not in plan.edits:
        return
    applies = Applies.LIVE if possible else _next(current)
    plan.changes.append(Change("memory", live["memory"], wanted, applies))


def _plan_disks(
    plan: UpdatePlan, current: Current, wanted_disks: Sequence[Mapping[str, Any]]
) -> None:
    present = {d["target"]: d for d in (*current.config["disks"], *current.live["disks"])}
    planned: set[str] = set()
    for wanted in wanted_disks:
        target = wanted.get("target") or first_target(current)
        if target is None:
            raise Failure(
                f"cannot resize the first disk of {current.label}: it has no disk; name a target "
                "to create one",
                "VALIDATION_ERROR",
            )
        if target in planned:
            raise Failure(
                f"cannot change disk {target} of {current.label}: it is listed twice",
                "VALIDATION_ERROR",
            )
        planned.add(target)
        if target not in present:
            plan.add_disks.append(dict(wanted))
            plan.changes.append(
                Change(f"disks.{target}.size", None, wanted.get("size"), _now(current))
            )
            continue
        size = wanted.get("size")
        capacity = current.capacities.get(target)
        if size is None:
            continue
        if capacity is None:
            disk = present[target]
            raise Failure(
                f"cannot resize disk {target} of {current.label}: the current size of "
                f"{disk.get('path') or _kind(disk)} is unknown",
                "VALIDATION_ERROR",
            )
        if size * GIB < capacity:
            raise Failure(
                f"cannot shrink disk {target} of {current.label} from {capacity / GIB:g} GiB to "
                f"{size} GiB: data would be lost",
                "VALIDATION_ERROR",
            )
        if size * GIB > capacity:
            _refuse_growth(current, present[target])
            plan.grow_disks[target] = size * GIB
            plan.changes.append(Change(f"disks.{target}.size", capacity / GIB, size, _now(current)))


def _refuse_growth(current: Current, disk: Mapping[str, Any]) -> None:
    """Raise Failure for a disk that libvirt cannot grow, or must not."""
    target, path = disk["target"], disk.get("path")
    reason = None
    if disk.get("read_only"):
        reason = "it is read-only"
    elif disk.get("transient"):
        reason = "it is transient, and its changes are lost when the guest stops"
    elif disk.get("shareable"):
        reason = "it is shared with other guests, which would not notice"
    elif target in current.block_devices:
        if disk.get("format") in {None, "raw"}:
            reason = f"{path} is a block device; grow the device itself with its own tools"
        elif not current.active:
            reason = f"it is on block device {path}; start the VM first"
    elif path is None:
        reason = f"it is {_kind(disk)}; grow it with the tools of its storage"
    elif disk.get("sliced"):
        reason = f"it is a slice of {path}"
    elif disk.get("encrypted") and not current.active:
        reason = "it is encrypted; start the VM first"
    if reason:
        raise Failure(
            f"cannot resize disk {target} of {current.label}: {reason}", "VALIDATION_ERROR"
        )


def _kind(disk: Mapping[str, Any]) -> str:
    """Return what a disk without a path on the host is."""
    source = disk.get("source")
    return f"a disk of type {disk.get('type')}" + (f" ({source})" if source else "")


def _plan_interfaces(
    plan: UpdatePlan, current: Current, wanted_interfaces: Sequence[Mapping[str, Any]]
) -> None:
    present = {nic["mac"].lower(): nic for nic in current.config["interfaces"] if nic["mac"]}
    by_position = list(present)
    for number, wanted in enumerate(wanted_interfaces):
        given = (wanted.get("mac") or "").lower()
        mac = given if given in present else None
        if mac is None and number < len(by_position):
            mac = by_position[number]
        if mac is None:
            plan.interfaces.append(InterfacePlan(dict(wanted), None, applies=_now(current)))
            source = wanted.get("source") or wanted.get("type")
            plan.changes.append(Change(f"interfaces.{number}", None, source, _now(current)))
        else:
            _plan_interface(plan, current, present[mac], wanted)


def _plan_interface(
    plan: UpdatePlan, current: Current, present: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    mac = present["mac"]
    new_type = wanted.get("type") or present["type"]
    source = wanted.get("source") or (present["source"] if new_type == present["type"] else None)
    if source is None and new_type == "network":
        source = "default"
    if source is None and new_type == "bridge":
        raise Failure(
            f"cannot connect interface {mac} of {current.label} to a bridge: source, the name of "
            "the bridge, is required",
            "VALIDATION_ERROR",
        )
    moves = (new_type, source) != (present["type"], present["source"])
    if moves and (reason := _fixed_because(present)):
        raise Failure(
            f"cannot connect interface {mac} of {current.label} to {new_type} {source}: {reason}; "
            "change it with virsh edit",
            "VALIDATION_ERROR",
        )
    edits: dict[str, Any] = {
        key: wanted[key]
        for key in ("model", "mac")
        if wanted.get(key) and wanted[key].lower() != (present[key] or "").lower()
    }
    # The network can change while the guest runs. A new model or MAC address requires a boot, and
    # a change of the network then waits for it, too.
    applies = _next(current) if edits else _now(current)
    for key in tuple(edits):
        plan.changes.append(Change(f"interfaces.{mac}.{key}", present[key], edits[key], applies))
    if moves:
        edits.update(type=new_type, source=source)
        before, after = f"{present['type']} {present['source']}", f"{new_type} {source}"
        plan.changes.append(Change(f"interfaces.{mac}.source", before, after, applies))
    if edits:
        plan.interfaces.append(InterfacePlan(dict(wanted), mac, edits, applies))
        plan.edits.setdefault("interfaces", {})[mac] = edits
    moved = Moved(mac, edits.get("mac") or mac, new_type, source or "")
    _plan_reservation(plan, current, moved, wanted.get("ip"))


def _fixed_because(nic: Mapping[str, Any]) -> str:
    """Return why an interface stays where it is connected; "" if it can move.

    What belongs to its connection would be wrong elsewhere, and a start would fail.
    """
    if nic["type"] not in ("network", "bridge"):
        return f"it is of type {nic['type']}"
    if nic.get("virtual_port"):
        return f"it has a virtual port ({nic['virtual_port']})"
    return ""


def _plan_reservation(plan: UpdatePlan, current: Current, nic: Moved, address: str | None) -> None:
    before = current.reservations.get(nic.mac.lower())
    if nic.type != "network":
        if address:
            plan.warnings.append(
                f"cannot check address {address} of {current.label}: its interface is on no "
                "libvirt network, and the guest got it at creation; change it in the guest"
            )
        after = None
    elif address:
        after = (nic.source, address.partition("/")[0])
    else:
        # No address was given: a reservation is deleted only when its network changes.
        after = before if before and before[0] == nic.source else None
    if after == before and nic.new_mac == nic.mac:
        return
    if before is not None:
        plan.reservations[nic.mac.lower()] = None
    if after is not None:
        plan.reservations[nic.new_mac.lower()] = after
    if after != before:
        field_name = f"interfaces.{nic.mac}.ip"
        old, new = (place[1] if place else None for place in (before, after))
        # The guest requests its address again when its lease expires or it boots.
        applies = _next(current) if after else _now(current)
        plan.changes.append(Change(field_name, old, new, applies))
