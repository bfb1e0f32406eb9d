#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Create, restore or delete one snapshot of a domain (module `snapshot`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Create, restore and delete one snapshot of a libvirt domain
version_added: "0.1.0"
description:
  - A snapshot of a running domain contains its disks and its memory. A snapshot of a stopped domain
    contains only its disks. Both are stored inside the domain's qcow2 images (internal snapshots).
  - If a snapshot is not possible, the module fails with V(SNAPSHOT_NOT_POSSIBLE) before it changes
    anything. Reasons are UEFI firmware that stores its variables in a raw file, a raw disk, a
    disk shared with other domains, a host device passed through to the running domain, and saved
    memory (C(virsh managedsave)). A restore is refused while the domain has checkpoints of a backup
    or its images have dirty bitmaps, which make QEMU end the domain and fail.
  - Snapshots created with C(virsh) can be restored and deleted too. With libvirt 10.10 and later,
    one whose name has other characters than letters, digits and C(._-) is deleted only while the
    domain is stopped, and restored only if it includes no memory.
  - If a run is interrupted, the next run completes or undoes its work.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
  - virtplay.libvirt.lock
  - virtplay.libvirt.lock.generation
options:
  uuid:
    description: UUID of the domain. If it is set, it alone identifies the domain.
    type: str
  name:
    description: Name of the domain. It identifies the domain if O(uuid) is not set.
    type: str
  state:
    description:
      - V(present) creates the snapshot. A running domain continues to run afterwards.
      - V(restored) restores disks, number of CPUs, memory size and network interfaces and, if the
        snapshot includes them, the guest's memory and power state. After the restore of a snapshot
        without memory the domain is stopped. Name, description and metadata of the domain do not
        change.
      - V(absent) deletes the snapshot and keeps its children.
    type: str
    choices: [present, absent, restored]
    default: present
  snapshot:
    description:
      - Name of the snapshot in libvirt. A new name consists of 1 to 64 letters, digits and C(._-),
        does not begin with a dash or dot, and is not a number.
    type: str
    required: true
  title:
    description: Display name of a new snapshot, any text without a line break.
    type: str
  description:
    description: Free text that describes the snapshot.
    type: str
  origin:
    description: Why a new snapshot is created.
    type: str
    choices: [manual, schedule, guard]
    default: manual
  expires_at:
    description: Time after which a new snapshot may be deleted, for example
      V(2026-12-31T23:59:00Z). The module stores the time but does not delete the snapshot.
    type: str
  guard:
    description:
      - Name of a snapshot of the current state, which is created before a restore.
    type: str
  guard_title:
    description: Display name of the O(guard) snapshot.
    type: str
  force:
    description:
      - Restore a domain although it is running, paused or saved (C(virsh managedsave)). Its memory
        is lost; a saved one is dropped first. A O(guard) contains the disks of a saved domain, not
        its memory.
    type: bool
    default: false
  freeze:
    description:
      - Freeze the guest's file systems through the guest agent, if it responds, while the snapshot
        is created. The guest writes all pending data to its disks first.
    type: bool
    default: true
  job:
    description:
      - Id of the job that this task belongs to. A job creates a snapshot only once, and restores a
        domain only once, even if the task is repeated.
    type: str
attributes:
  diff_mode:
    description: The diff describes every change, when it takes effect and what data it destroys.
    support: full
notes:
  - A second run without O(job) changes nothing if the snapshot exists (V(present)), does not exist
    (V(absent)), or is the current snapshot of a stopped domain that has not changed since
    (V(restored)). In all other cases V(restored) restores the domain again.
  - A disk that has grown since the snapshot has its old size after the restore. If a disk was added
    since the snapshot, the restore is refused.
requirements:
  - qemu-img
"""

EXAMPLES = r"""
- name: Create a snapshot
  virtplay.libvirt.snapshot:
    name: web-1
    snapshot: before-upgrade
    title: Before the upgrade

- name: Restore the snapshot, and keep the current state in a guard snapshot
  virtplay.libvirt.snapshot:
    name: web-1
    snapshot: before-upgrade
    state: restored
    guard: before-restore
    force: true

- name: Delete the snapshot
  virtplay.libvirt.snapshot:
    name: web-1
    snapshot: before-upgrade
    state: absent
"""

RETURN = r"""
domain:
  description: The domain as the module P(virtplay.libvirt.domain#module) returns it.
  returned: success
  type: dict
  sample:
    name: web-1
    state: running
snapshot:
  description: The snapshot after the task, or in check mode as it would be. Null if it does not
    exist.
  returned: success
  type: dict
  sample: &entry
    name: before-upgrade
    title: Before the upgrade
    description: null
    origin: manual
    expires_at: null
    job: job-000007
    parent: null
    current: true
    has_memory: true
    state: running
    kind: internal
    size_bytes: 89478485
    frozen: true
    created_at: "2026-11-22T13:40:01Z"
snapshots:
  description:
    - All snapshots of the domain, parents first.
    - Snapshots with O(ignore:origin=found) were not created by this module. O(ignore:state) is the
      domain's state after a restore. O(ignore:size_bytes) is the size of the memory.
      O(ignore:frozen) is true if the guest agent had frozen the file systems, and null if the
      domain was not running.
  returned: success
  type: list
  elements: dict
  sample: [*entry]
guard:
  description: The snapshot named O(guard).
  returned: when it exists
  type: dict
  sample: *entry
changes:
  description: Every field that differs, with its values and when the change takes effect.
  returned: success
  type: list
  elements: dict
  sample:
    - field: snapshots.before-upgrade
      before: null
      after: disks and memory
      applies: live
      destroys: false
applies_at:
  description: When all changes are in effect, always V(now). Null if nothing changes.
  returned: success
  type: str
  sample: now
waited_seconds:
  description: Time in seconds that this task waited for the domain's lock.
  returned: success, not in check mode
  type: float
  sample: 2.4
waited_for:
  description: The task that held the domain's lock. Null if this task did not wait.
  returned: success, not in check mode
  type: str
  sample: job-000007 (stop vm-001, process 4711, since 12:00:03 UTC)
code:
  description: Error code.
  returned: failure
  type: str
  sample: SNAPSHOT_NOT_POSSIBLE
seen_generation:
  description: The generation that the host has seen, which is later than O(generation).
  returned: failure with code STALE_GENERATION
  type: int
  sample: 7
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import build_diff
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.fenced import run_fenced
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.filesystems import (
    frozen_filesystems,
    thaw,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.metadata import note_job
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Change,
    applies_at,
    merge_metadata,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.users import find_users
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.view import (
    describe,
    view_domain,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import (
    agent_is_connected,
    parse_domain,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import (
    domain_state,
    libvirt,
    lookup_domain,
    open_connection,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.images import file_id
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.qemu_process import started_at
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.change import (
    consoles_aside,
    create_snapshot,
    delete_snapshot,
    put_back,
    require_response,
    require_room_for_memory,
    revert,
    sweep_incomplete,
    texts_of,
    view_snapshots,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.plan import (
    SnapshotView,
    SnapshotWanted,
    entry_to_be,
    files_needed,
    plan_creation,
    plan_deletion,
    plan_restore,
    split_disks,
    tree_with,
    tree_without,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.xml import (
    GUARD,
    MANUAL,
    SCHEDULE,
    build_snapshot,
    compose_description,
    snapshot_domain,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import (
    DomainReason,
    DomainState,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import DEFAULT_URI, SNAPSHOT

ARGUMENTS: dict[str, Any] = {
    "uri": {"type": "str", "default": DEFAULT_URI},
    "uuid": {"type": "str"},
    "name": {"type": "str"},
    "state": {
        "type": "str",
        "choices": [str(w) for w in SnapshotWanted],
        "default": str(SnapshotWanted.PRESENT),
    },
    "snapshot": {"type": "str", "required": True},
    "title": {"type": "str"},
    "description": {"type": "str"},
    "origin": {"type": "str", "choices": [MANUAL, SCHEDULE, GUARD], "default": MANUAL},
    "expires_at": {"type": "str"},
    "guard": {"type": "str"},
    "guard_title": {"type": "str"},
    "force": {"type": "bool", "default": False},
    "freeze": {"type": "bool", "default": True},
    "job": {"type": "str"},
    "generation": {"type": "int"},
    "lock_timeout": {"type": "int", "default": 120},
}

VERBS = {
    SnapshotWanted.PRESENT: "create",
    SnapshotWanted.ABSENT: "delete",
    SnapshotWanted.RESTORED: "restore",
}


class Task:
    """One run of the module for the requested snapshot and its domain."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.name: str = self.params["snapshot"]
        self.job: str | None = self.params["job"]
        self.bookkeeping = {key: self.params[key] for key in ("job", "generation")}
        self._check_arguments()
        self.conn = open_connection(self.params["uri"])
        self.dom = lookup_domain(self.conn, uuid=self.params["uuid"], name=self._name_to_find())
        self.label = self.params["name"] or self.params["uuid"]
        if self.dom is None:
            raise Failure(f"cannot find domain {self.label}", "VM_NOT_FOUND")
        self.label = self.dom.name()
        self.fence = Fence(
            self.dom.UUIDString(),
            label=self.label,
            task=f"{VERBS[self.params['state']]} snapshot {self.name} of {self.label}",
            job=self.job,
            generation=self.params["generation"],
        )

    def run(self) -> dict[str, Any]:
        """Reach the requested state under the domain's lock and return the module's result."""
        return run_fenced(
            self.fence,
            self.conn,
            self._act,
            check_mode=self.module.check_mode,
            lock_timeout=self.params["lock_timeout"],
            warn=self.module.warn,
        )

    def _check_arguments(self) -> None:
        check_values(SNAPSHOT, self.params)
        # All texts are stored in one XML description; refuse first what XML cannot represent.
        for wanted in (self._wanted(), self._wanted_guard()):
            compose_description(wanted or {})

    def _name_to_find(self) -> str | None:
        # A given UUID alone decides: the name may belong to a different domain.
        return None if self.params["uuid"] else self.params["name"]

    def _wanted(self) -> dict[str, Any]:
        keys = ("title", "description", "origin", "expires_at", "job")
        return {"name": self.name, **{key: self.params[key] for key in keys}}

    def _wanted_guard(self) -> dict[str, Any] | None:
        if self.params["guard"] is None:
            return None
        return {
            "name": self.params["guard"],
            "title": self.params["guard_title"],
            "origin": GUARD,
            "job": self.job,
        }

    def _act(self) -> dict[str, Any]:
        view = self._view()
        self.fence.check((view.current.config["metadata"] or {}).get("generation"))
        if not self.module.check_mode:
            view = self._finish_earlier(view)
        if self.params["state"] == SnapshotWanted.PRESENT:
            return self._create(view)
        if self.params["state"] == SnapshotWanted.ABSENT:
            return self._delete(view)
        return self._restore(view)

    def _view(self) -> SnapshotView:
        current = view_domain(self.conn, self.dom)
        view = view_snapshots(self.conn, self.dom, current)
        if self.params["state"] == SnapshotWanted.RESTORED and self.name in view.xmls:
            needed = files_needed(view.xmls[self.name])
            view.missing = [path for path in needed if not os.path.lexists(path)]
        return view

    # --- leftovers of an interrupted run ---

    def _finish_earlier(self, view: SnapshotView) -> SnapshotView:
        """Delete an incomplete snapshot that a crashed run left behind."""
        making = self.fence.recall().get("snapshot")
        if not making:
            return view
        if view.find(making["name"]) is None:
            sweep_incomplete(self.dom, making["name"], view)
        self.fence.remember(snapshot=None)
        return self._view()

    # --- create ---

    def _create(self, view: SnapshotView) -> dict[str, Any]:
        wanted = self._wanted()
        known = self._is_incomplete(self.name)
        changes = plan_creation(view, wanted, known=known)
        if not changes:
            return self._unchanged(view)
        if self.module.check_mode:
            planned = tree_with(view.entries, entry_to_be(view, wanted), self.name)
            return self._result(view, changes, planned)
        self._make(view, wanted)
        note_job(self.dom, view.current, self.bookkeeping)
        after = self._view()
        return self._result(after, changes, after.entries)

    def _is_incomplete(self, name: str) -> bool:
        return (self.fence.recall().get("snapshot") or {}).get("name") == name

    def _make(self, view: SnapshotView, wanted: Mapping[str, Any]) -> None:
        name = wanted["name"]
        what = f"create snapshot {name} of {self.label}"
        require_room_for_memory(view, what)
        require_response(self.dom, view, what)
        current = view.current
        definition = current.live_xml if current.active else current.config_xml
        internal, left_out = split_disks(definition)
        freezes = (
            self.params["freeze"]
            and current.state == DomainState.RUNNING
            and agent_is_connected(current.live_xml)
        )
        # Stored before the snapshot is created: only a snapshot recorded here may be deleted as
        # incomplete, and after a crash the next run knows that the guest may be frozen.
        self.fence.remember(snapshot={"name": name})
        if freezes:
            self.fence.remember(frozen_since=started_at(self.label))
        freezing = (
            frozen_filesystems(self.dom, self.label, f"snapshot {name}", self._note_thawed)
            if freezes
            else nullcontext(False)
        )
        with consoles_aside(self.dom, view), freezing as frozen:
            text = compose_description({**wanted, "frozen": frozen if current.active else None})
            xml = build_snapshot(name, text, internal, left_out, memory=current.active)
            create_snapshot(self.dom, xml, view, what)
        self.fence.remember(snapshot=None)

    def _note_thawed(self) -> None:
        self.fence.remember(frozen_since=None)

    # --- delete ---

    def _delete(self, view: SnapshotView) -> dict[str, Any]:
        changes = plan_deletion(view, self.name)
        if not changes:
            return self._unchanged(view)
        if self.module.check_mode:
            return self._result(view, changes, tree_without(view.entries, self.name))
        require_response(self.dom, view, f"delete snapshot {self.name} of {self.label}")
        delete_snapshot(self.dom, self.name, view)
        note_job(self.dom, view.current, self.bookkeeping)
        after = self._view()
        return self._result(after, changes, after.entries)

    # --- restore ---

    def _restore(self, view: SnapshotView) -> dict[str, Any]:
        view.shared = self._other_users(view)
        remembered = self.fence.recall()
        this = {"job": self.job, "snapshot": self.name}
        if self.job is not None and remembered.get("restored") == this:
            return self._result(view, [], view.entries, guard=self._find_guard(view))
        note = remembered.get("restoring") or {}
        resumed = note if {key: note.get(key) for key in this} == this else {}
        guard = self._wanted_guard()
        made = view.find(guard["name"]) if guard else None
        guard_is_made = made is not None and self._made_guard(made, resumed)
        changes = plan_restore(
            view,
            self.name,
            force=self.params["force"],
            guard=guard,
            guard_is_made=guard_is_made,
            # Without a job, a repeated request cannot be told from a new one.
            resumed=bool(resumed) and (self.job is not None or bool(resumed.get("reverted"))),
        )
        if not changes:
            return self._result(view, [], view.entries)
        if guard and not guard_is_made and view.current.saved:
            self.module.warn(
                f"snapshot {guard['name']} of {self.label} does not include its saved memory"
            )
        if self.module.check_mode:
            planned = self._result(view, changes, self._planned_tree(view, guard, guard_is_made))
            planned["domain"].update(
                state=planned["snapshot"]["state"],
                state_reason=str(DomainReason.FROM_SNAPSHOT),
                has_managed_save=False,
            )
            return planned
        entry = view.find(self.name) or {}
        note = {**this, "texts": self._texts_to_keep(view, resumed), "reverted": False}
        if guard:
            note["guard"] = guard["name"]
        is_reverted = bool(resumed.get("reverted")) and self.job is not None
        if not is_reverted:
            self.fence.remember(restoring=note)
            if guard and not guard_is_made:
                self._make(view, guard)
            require_response(self.dom, view, f"restore {self.label} to snapshot {self.name}")
            self._revert(view)
            # A guest that was frozen when saved is frozen after the restore. It counts as a new
            # guest, so its start time is read again.
            frozen_since = started_at(self.label) if entry.get("frozen") else None
            self.fence.remember(restoring={**note, "reverted": True}, frozen_since=frozen_since)
        self._put_back(note["texts"])
        if entry.get("frozen") and domain_state(self.dom) == DomainState.RUNNING:
            thaw(self.dom, self.label, f"the restore to snapshot {self.name}")
            self.fence.remember(frozen_since=None)
        self.fence.remember(restoring=None, restored=this if self.job is not None else None)
        after = self._view()
        return self._result(after, changes, after.entries, guard=self._find_guard(after))

    def _other_users(self, view: SnapshotView) -> dict[str, str]:
        """Return target → another domain that stands on the disk, which would see it change."""
        current = view.current
        users = find_users(self.conn, self.fence.uuid).names
        disks = (current.live if current.active else current.config)["disks"]
        found = {d["target"]: users.get(file_id(d["path"])) for d in disks if d["path"]}
        return {target: user for target, user in found.items() if user and target in view.images}

    def _find_guard(self, view: SnapshotView) -> dict[str, Any] | None:
        return view.find(self.params["guard"]) if self.params["guard"] else None

    def _made_guard(self, made: Mapping[str, Any], resumed: Mapping[str, Any]) -> bool:
        """Return whether this restore created the existing guard, before a crash."""
        if self.job is not None:
            return bool(made["job"] == self.job)
        return bool(resumed.get("guard") == made["name"])

    def _planned_tree(
        self, view: SnapshotView, guard: Mapping[str, Any] | None, guard_is_made: bool
    ) -> list[dict[str, Any]]:
        new = entry_to_be(view, guard) if guard and not guard_is_made else None
        return tree_with(view.entries, new, self.name)

    def _texts_to_keep(self, view: SnapshotView, resumed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the domain's texts, or those stored before a crash if the restore lost them."""
        now = texts_of(view.current.config)
        if not resumed:
            return now
        then_xml = snapshot_domain(view.xmls[self.name])
        turned_back = then_xml is not None and texts_of(parse_domain(then_xml)) == now
        return dict(resumed["texts"]) if self.job is not None or turned_back else now

    def _revert(self, view: SnapshotView) -> None:
        try:
            revert(self.dom, self.name, view, force=self.params["force"])
        except libvirt.libvirtError as error:
            prefix = f"cannot restore {self.label} to snapshot {self.name}"
            failure = failure_of(error, prefix)
            if failure is None:
                raise
            failure.message += f"; {self.label} is {domain_state(self.dom)} now"
            raise failure from error

    def _put_back(self, texts: Mapping[str, Any]) -> None:
        metadata = texts["metadata"]
        if metadata is not None:
            metadata = merge_metadata(metadata, self.bookkeeping)
        put_back(self.dom, view_domain(self.conn, self.dom), {**texts, "metadata": metadata})

    # --- result ---

    def _unchanged(self, view: SnapshotView) -> dict[str, Any]:
        """Return the result of a run with nothing to do; an earlier run may have crashed here."""
        if not self.module.check_mode and self.job is not None:
            note_job(self.dom, view.current, self.bookkeeping)
            view = self._view()
        return self._result(view, [], view.entries)

    def _result(
        self,
        view: SnapshotView,
        changes: Sequence[Change],
        entries: list[dict[str, Any]],
        guard: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        result: dict[str, Any] = {
            "changed": bool(changes),
            "domain": describe(view.current),
            "snapshot": next((entry for entry in entries if entry["name"] == self.name), None),
            "snapshots": entries,
            "changes": [change.as_dict() for change in changes],
            "applies_at": applies_at(changes),
        }
        if guard is not None:
            result["guard"] = guard
        if changes and (self.module._diff or self.module.check_mode):
            result["diff"] = build_diff(self.label, changes)
        return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[["uuid", "name"]],
    )
    require_libraries(module)
    label = module.params["name"] or module.params["uuid"]
    verb = VERBS[module.params["state"]]
    prefix = f"cannot {verb} snapshot {module.params['snapshot']} of {label}"
    run_module(module, lambda: Task(module).run(), partial(failure_of, prefix=prefix))


if __name__ == "__main__":
    main()
