# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings one domain to the requested state, from the module's arguments to its result."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ..failure import Failure, check_values
from ..host.connection import has_error_code, libvirt, lookup_domain, open_connection
from ..host.images import require_files
from ..lock.fence import Fence
from ..states import DomainReason, DomainState
from ..values import DOMAIN
from .arguments import DEFINITION, Wanted, to_long_form
from .diff import build_diff
from .fenced import run_fenced
from .metadata import note_job
from .plan import (
    Applies,
    Change,
    Current,
    Step,
    UpdatePlan,
    after,
    applies_at,
    loses_memory,
    plan_name,
    plan_power,
    plan_update,
    plan_variables,
)
from .power import WATCH_SECONDS, run_steps, seconds_to_watch
from .restart import begun_restart, note_reset, note_restart, noted_changes, plan_rest
from .view import describe, view_domain
from .xml import NAMESPACE, list_start_files, normalize, parse_domain

# The files create, remove and update are imported on use: they cost 15 ms, and a power action
# needs none of them.

CAN_CREATE = (Wanted.PRESENT, Wanted.RUNNING, Wanted.STOPPED)
VERBS = {
    Wanted.PRESENT: "change",
    Wanted.ABSENT: "delete",
    Wanted.RUNNING: "start",
    Wanted.STOPPED: "stop",
    Wanted.RESTARTED: "restart",
    Wanted.PAUSED: "pause",
    Wanted.RESUMED: "resume",
}


def derive_uuid(host: str, name: str) -> str:
    """Return the UUID of a domain without a given one: always the same for a host and a name."""
    digest = hashlib.sha256(f"{NAMESPACE}/{host}/{name}".encode()).hexdigest()
    variant = "89ab"[int(digest[16], 16) % 4]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def label_texts(labels: Mapping[str, Any]) -> dict[str, str]:
    """Return labels as they are stored, as text: YAML's 1 and true become "1" and "true"."""
    return {
        str(name): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in labels.items()
    }


class DomainTask:
    """One run of the module for one domain: its arguments, its connection and its lock."""

    def __init__(
        self,
        params: Mapping[str, Any],
        *,
        check_mode: bool,
        diff: bool,
        warn: Callable[[str], None],
        verbosity: int = 0,
        conn: Any | None = None,
    ) -> None:
        """Check params, the module's arguments, and find the domain; raises Failure.

        From verbosity 2 on (-vv) a diff contains the domain XML. conn is the caller's connection;
        without one params["uri"] is opened.
        """
        self.params = dict(params)
        self.check_mode = check_mode
        self.shows_diff = diff or check_mode
        self.shows_xml = verbosity > 1
        self.warn = warn
        self.wanted = Wanted(self.params["state"])
        self.bookkeeping = {key: self.params[key] for key in ("job", "generation")}
        self._check_arguments()
        self.conn = conn or open_connection(self.params["uri"])
        self.uuid, self.label = self._find_domain()
        self.fence = Fence(
            self.uuid,
            label=self.label,
            task=f"{VERBS[self.wanted]} {self.label}",
            job=self.params["job"],
            generation=self.params["generation"],
        )

    def run(self) -> dict[str, Any]:
        """Bring the domain to its state under its lock; returns the result of module domain."""
        return run_fenced(
            self.fence,
            self.conn,
            self._act,
            check_mode=self.check_mode,
            lock_timeout=self.params["lock_timeout"],
            force=self.params["force"] and self.wanted in (Wanted.STOPPED, Wanted.RESTARTED),
            warn=self.warn,
        )

    def _check_arguments(self) -> None:
        check_values(DOMAIN, self.params)
        self.params = to_long_form(self.params)
        metadata = self.params["metadata"] or {}
        if metadata.get("labels"):
            metadata["labels"] = label_texts(metadata["labels"])

    def _find_domain(self) -> tuple[str, str]:
        """Return the domain's UUID and name, even if it does not exist yet."""
        uuid, name = self.params["uuid"], self.params["name"]
        new_name = self.params.get("new_name")
        dom = lookup_domain(self.conn, uuid=uuid, name=None if uuid else name)
        if dom is None and uuid is None and new_name is not None and self.wanted in CAN_CREATE:
            dom = lookup_domain(self.conn, name=new_name)
        if uuid is None:
            uuid = dom.UUIDString() if dom else derive_uuid(socket.gethostname(), name)
        return str(uuid), name or (dom.name() if dom else str(uuid))

    def _act(self) -> dict[str, Any]:
        # By UUID alone: a domain of the same name with another UUID is not the requested one.
        dom = lookup_domain(self.conn, uuid=self.uuid)
        if dom is None:
            return self._act_without_domain()
        names = (self.params["name"], self.params.get("new_name"))
        if self.params["uuid"] is None and dom.name() not in names:
            return self._act_on_renamed(dom.name())
        current = view_domain(self.conn, dom, whole=self._needs_whole())
        self.label = current.label
        self.fence.check((current.config["metadata"] or {}).get("generation"))
        if self.wanted == Wanted.ABSENT:
            return self._remove(dom, current)
        return self._update(dom, current)

    def _needs_whole(self) -> bool:
        defines = any(self.params.get(key) is not None for key in (*DEFINITION, "new_name"))
        return defines or self.wanted == Wanted.ABSENT

    # --- no such domain ---

    def _act_without_domain(self) -> dict[str, Any]:
        if self.wanted == Wanted.ABSENT:
            return self._sweep()
        if self.wanted not in CAN_CREATE or self.params["vcpus"] is None:
            raise Failure(f"cannot find domain {self.label}", "VM_NOT_FOUND")
        missing = [key for key in ("name", "vcpus", "memory") if self.params[key] is None]
        if missing:
            raise Failure(
                f"cannot create {self.label} without {' and '.join(missing)}", "VALIDATION_ERROR"
            )
        return self._create()

    def _act_on_renamed(self, name: str) -> dict[str, Any]:
        # Its UUID is derived from the old name; but who has renamed it wants it as it is.
        if self.wanted == Wanted.ABSENT:
            return self._result(None, [])
        raise Failure(
            f"cannot {VERBS[self.wanted]} {self.label}: no domain has that name; the one that was "
            f"created under it is {name} now",
            "VALIDATION_ERROR" if self.wanted in CAN_CREATE else "VM_NOT_FOUND",
        )

    def _sweep(self) -> dict[str, Any]:
        from . import remove, users  # noqa: PLC0415

        found = users.find_users(self.conn, self.uuid)
        kept = self.fence.recall().get("kept") or []
        if self.params["keep_disks"]:
            kept = [*dict.fromkeys([*kept, *remove.kept_volumes(self.conn, self.uuid)])]
        changes, stays = remove.find_leftovers(self.conn, self.uuid, found, kept)
        if kept and not self.check_mode:
            self.fence.remember(kept=kept)
        if changes and not self.check_mode:
            remove.sweep(self.conn, self.uuid, kept, found)
            self.fence.remember(creating=[])
        if stays:
            self.warn(remove.describe_stays(self.label, stays))
        return self._result(None, changes)

    def _create(self) -> dict[str, Any]:
        from . import create  # noqa: PLC0415

        given = {**self.params, "name": self.params.get("new_name") or self.params["name"]}
        missing = create.missing_templates(given.get("disks") or [], given.get("templates") or {})
        if missing and not self.check_mode:
            reasons = "; ".join(missing.values())
            raise Failure(reasons, "TEMPLATE_NOT_FOUND", missing_templates=[*missing])
        creation = create.prepare(self.conn, self.uuid, given, dry_run=self.check_mode)
        self.label = creation.spec.name
        starts = self.wanted == Wanted.RUNNING
        state = DomainState.RUNNING if starts else DomainState.STOPPED
        changes = [Change("state", "absent", str(state), Applies.OFFLINE)]
        contents = create.describe(creation, self.params)
        planned = {
            **parse_domain(creation.xml),
            "state": str(state),
            "state_reason": str(DomainReason.BOOTED if starts else DomainReason.UNKNOWN),
            "has_managed_save": False,
            "persistent": True,
            **creation.flags,
            "started_at": None,
        }
        if self.check_mode:
            result = self._result(planned, changes, after_xml=creation.xml, contents=contents)
            return {**result, "missing_templates": [*missing]} if missing else result
        steps = [Step.START] if starts else []
        watch = WATCH_SECONDS if starts and planned["virt_type"] == "kvm" else 0.0
        dom = create.run(self.conn, creation, self.fence, partial(self._start_new, steps, watch))
        created = describe(view_domain(self.conn, dom))
        return self._result(created, changes, after_xml=creation.xml, contents=contents)

    def _start_new(self, steps: Sequence[Step], watch: float, dom: Any) -> None:
        try:
            run_steps(dom, steps, label=self.label, timeout=self.params["timeout"], watch=watch)
        except Failure:
            # Only a stopped domain is undone, and the guest of this one has done nothing yet.
            with suppress(libvirt.libvirtError):
                dom.destroy()
            raise

    # --- a domain that is there ---

    def _update(self, dom: Any, current: Current) -> dict[str, Any]:
        plan = self._plan_definition(current)
        steps, power = self._plan_power(current)
        boots = Step.START in steps
        if self._needs_whole() or boots:
            plan_variables(plan, current, boots=boots)
        prepared = None
        if plan.changes:
            from . import update  # noqa: PLC0415

            prepared = update.prepare(self.conn, current, plan)
        changes = [*plan.changes, *power]
        self._warn_each(plan.warnings)
        state, state_reason = after(current, steps)
        before_xml = current.config_xml
        after_xml = prepared.xml_after if prepared else before_xml
        if Step.START in steps and {Step.SHUT_DOWN, Step.DESTROY} & {*steps}:
            # A guest that is ended must not fail to start for what is known before.
            require_files(list_start_files(after_xml), f"restart {self.label}")
        if self.check_mode:
            shown = describe(current)
            if prepared:
                shown.update(_planned(after_xml), **prepared.plan.flags)
                shown["name"] = plan.name or current.label
            shown.update(state=str(state), state_reason=str(state_reason))
            shown["has_managed_save"] &= not {Step.DISCARD, Step.START} & {*steps}
            return self._result(shown, changes, before_xml, after_xml)
        if prepared:
            refused = update.run(self.conn, dom, current, prepared, self.bookkeeping)
            self._warn_each(refused)
            dom = lookup_domain(self.conn, uuid=self.uuid) if prepared.plan.name else dom
            # A step that libvirt refuses takes its change out of the plan, or postpones it.
            changes = [*prepared.plan.changes, *power]
            after_xml = prepared.xml_after
        if steps:
            if self.wanted == Wanted.RESTARTED and not begun_restart(self.fence):
                note_restart(self.fence, current, power)
            watch = seconds_to_watch(current, steps)
            run_steps(
                dom,
                steps,
                label=self.label,
                timeout=self.params["timeout"],
                watch=watch,
                let_go=self.fence.let_go,
            )
            if Step.RESET in steps:
                note_reset(self.fence)
        if power and not prepared:
            note_job(dom, current, self.bookkeeping)
        self.fence.note_complete([disk["path"] for disk in current.config["disks"]])
        if changes or prepared:
            current = self._view_again(dom, current)
        return self._result(describe(current), changes, before_xml, after_xml)

    def _plan_definition(self, current: Current) -> UpdatePlan:
        if not self._needs_whole():
            return UpdatePlan()
        plan = plan_update(current, self.params)
        if (name := self._new_name(current)) is not None:
            plan_name(plan, current, name)
        return plan

    def _new_name(self, current: Current) -> str | None:
        """Return the name that the domain is to get, None if it keeps its own."""
        name: str | None = self.params.get("new_name")
        if name is None or name == current.label:
            return None
        taken = lookup_domain(self.conn, name=name)
        if taken is None:
            return name
        if self.params["job"] is None:
            raise Failure(
                f"cannot rename {current.label} to {name}: domain {taken.UUIDString()} has that"
                " name",
                "VALIDATION_ERROR",
            )
        # The service has derived the name, and somebody took it after the host was last observed.
        from . import create  # noqa: PLC0415

        return (
            None if create.is_numbered(current.label, name) else create.free_name(self.conn, name)
        )

    def _warn_each(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.warn(warning)

    def _plan_power(self, current: Current) -> tuple[list[Step], list[Change]]:
        """Return the power steps, and the changes that they, or a run that died, have made."""
        force = self.params["force"]
        begun = begun_restart(self.fence) if self.wanted == Wanted.RESTARTED else None
        if begun:
            return plan_rest(current, begun, force=force), noted_changes(begun)
        # The service has found it active, and so has, mostly, who had to wait for the lock.
        was_active = self.params["job"] is not None or self.fence.has_waited
        steps = plan_power(current, self.wanted, force=force, was_active=was_active)
        return steps, self._power_changes(current, steps, after(current, steps)[0])

    def _power_changes(
        self, current: Current, steps: Sequence[Step], state: DomainState
    ) -> list[Change]:
        if not steps:
            return []
        changes = []
        if Step.DISCARD in steps:
            lost = current.saved
            changes.append(Change("has_managed_save", True, False, Applies.OFFLINE, destroys=lost))
        if self.wanted == Wanted.RESTARTED or state != current.state:
            value = "restarted" if self.wanted == Wanted.RESTARTED else str(state)
            lost = loses_memory(current, steps)
            changes.append(Change("state", str(current.state), value, Applies.LIVE, destroys=lost))
        if not current.persistent and state == DomainState.STOPPED:
            changes.append(Change("persistent", False, None, Applies.LIVE, destroys=True))
            self.warn(
                f"{self.label} is transient: libvirt keeps nothing of it but its disks once it has "
                "stopped"
            )
        return changes

    def _view_again(self, dom: Any, before: Current) -> Current:
        try:
            return view_domain(self.conn, dom)
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_DOMAIN"):
                raise
            # A transient domain is gone once it has stopped.
            before.state, before.reason = DomainState.STOPPED, DomainReason.UNKNOWN
            return before

    def _remove(self, dom: Any, current: Current) -> dict[str, Any]:
        from . import remove, users  # noqa: PLC0415

        force = self.params["force"]
        steps = plan_power(current, Wanted.ABSENT, force=force)
        found = users.find_users(self.conn, self.uuid)
        keep = self.params["keep_disks"]
        changes, stays = remove.plan(current, found, keep_disks=keep, force=force)
        if keep:
            stays |= remove.kept_volumes(self.conn, self.uuid)
        kept = self.fence.recall().get("kept") or []
        changes += remove.plan_leftovers(self.conn, current, found, kept, stays)
        if Step.DESTROY in steps:
            # Also if the disks stay: the guest may have unsaved data.
            changes[0] = replace(changes[0], destroys=True)
        if not self.check_mode:
            run_steps(dom, steps, label=self.label, timeout=self.params["timeout"])
            stays = remove.run(self.conn, dom, current, stays, users=found, fence=self.fence)
        if stays:
            self.warn(remove.describe_stays(self.label, stays))
        return self._result(None, changes, before_xml=current.config_xml)

    def _result(
        self,
        domain: dict[str, Any] | None,
        changes: list[Change],
        before_xml: str = "",
        after_xml: str = "",
        contents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        result: dict[str, Any] = {
            "changed": bool(changes),
            "domain": domain,
            "changes": [change.as_dict() for change in changes],
            "applies_at": applies_at(changes),
        }
        if changes and self.shows_diff:
            xml = (_indent(before_xml), _indent(after_xml)) if self.shows_xml else ("", "")
            result["diff"] = build_diff(self.label, changes, *xml, contents)
        return result


def _indent(xml: str) -> str:
    return normalize(xml) if xml else ""


def _planned(xml: str) -> dict[str, Any]:
    parsed = parse_domain(xml)
    kept = ("disks", "interfaces")
    return {key: parsed[key] for key in DEFINITION if key in parsed and key not in kept}
