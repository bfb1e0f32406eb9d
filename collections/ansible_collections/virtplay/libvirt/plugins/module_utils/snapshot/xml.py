# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts snapshot XML to and from plain data; pure, no libvirt and no I/O.

libvirt stores no metadata of a snapshot except its description. It holds the users' texts in plain
words, for `virsh snapshot-dumpxml`, and everything again in a mark on its last line.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..domain.xml import normalize, parse_xml
from ..failure import Failure
from ..host.connection import etree

MARK = "urn:virtplay:snapshot:1"
MANUAL, SCHEDULE, GUARD, FOUND = "manual", "schedule", "guard", "found"
# The keys of the mark and their types; other keys are ignored.
_MARKED = {
    "name": str,
    "title": str,
    "description": str,
    "origin": str,
    "expires_at": str,
    "job": str,
    "frozen": bool,
}
# Compiled on use: that takes 3 ms, which an observation does not need.
_CONTROL = r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
# libvirt's <state> of a snapshot whose restored domain is not stopped.
_STATES = {"running": "running", "blocked": "running", "paused": "paused"}


# --- description ------------------------------------------------------------------------------


def compose_description(facts: Mapping[str, Any]) -> str:
    """Return the description of a new snapshot; raises Failure for control characters.

    facts holds name, title, description, origin, expires_at, job and frozen; None is left out.
    """
    for key in ("title", "description", "expires_at", "job"):
        if facts.get(key) and re.search(_CONTROL, facts[key]):
            raise Failure(
                f"cannot put {key} into XML: it contains control characters", "VALIDATION_ERROR"
            )
    marked = {key: facts[key] for key in _MARKED if facts.get(key) is not None}
    words = [marked[key] for key in ("title", "description") if marked.get(key)]
    # ASCII only: XML readers normalize line breaks, and JSON's escapes survive that.
    return "\n\n".join([*words, f"{MARK} {json.dumps(marked)}"])


def read_description(text: str | None, name: str | None) -> dict[str, Any] | None:
    """Return the values of the mark in a snapshot's description; None without a valid mark.

    A snapshot created by hand from the XML of another has the other's mark, with another name.
    """
    last = (text or "").rstrip().rpartition("\n")[2]
    mark, _space, values = last.partition(" ")
    if mark != MARK:
        return None
    try:
        facts = json.loads(values)
    except ValueError:
        return None
    if not isinstance(facts, dict) or facts.get("origin") not in (MANUAL, SCHEDULE, GUARD):
        return None
    if any(not isinstance(facts[key], kind) for key, kind in _MARKED.items() if key in facts):
        return None
    if facts.get("name") != name:
        return None
    return {key: facts.get(key) for key in _MARKED}


# --- to XML -----------------------------------------------------------------------------------


def build_snapshot(
    name: str, description: str, internal: Iterable[str], left_out: Iterable[str], memory: bool
) -> str:
    """Return the XML of a new internal snapshot of these disk targets, with or without memory."""
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "name").text = name
    try:
        etree.SubElement(root, "description").text = description
    except ValueError as error:
        raise Failure(
            "cannot put the texts into XML: they contain control characters", "VALIDATION_ERROR"
        ) from error
    etree.SubElement(root, "memory", snapshot="internal" if memory else "no")
    disks = etree.SubElement(root, "disks")
    # All disks are listed: for others, libvirt uses the setting in the domain's definition.
    for target in internal:
        etree.SubElement(disks, "disk", name=target, snapshot="internal")
    for target in left_out:
        etree.SubElement(disks, "disk", name=target, snapshot="no")
    return str(etree.tostring(root, encoding="unicode"))


def build_orphan(name: str, domain_xml: str, targets: Iterable[str]) -> str:
    """Return the XML that redefines a snapshot which exists only in the images."""
    root = parse_xml(build_snapshot(name, "", targets, (), memory=False))
    etree.SubElement(root, "state").text = "shutoff"
    etree.SubElement(root, "creationTime").text = "0"
    root.append(parse_xml(domain_xml))
    return str(etree.tostring(root, encoding="unicode"))


# --- from XML ---------------------------------------------------------------------------------


def parse_snapshot(xml: str) -> dict[str, Any]:
    """Return a snapshot's entry; `current` and `size_bytes` are for the caller to fill in."""
    root = parse_xml(xml)
    name = root.findtext("name")
    text = root.findtext("description")
    facts = read_description(text, name) or {"title": name, "description": text, "origin": FOUND}
    memory = root.find("memory")
    kept = memory.get("snapshot", "no") if memory is not None else "no"
    kinds = {disk.get("snapshot") for disk in root.iterfind("disks/disk")} | {kept}
    state = _STATES.get((root.findtext("state") or "").strip(), "stopped")
    return {
        "name": name,
        "title": facts["title"] or name,
        "description": facts["description"] or None,
        "origin": facts["origin"],
        "expires_at": facts.get("expires_at"),
        "job": facts.get("job"),
        "parent": root.findtext("parent/name"),
        "current": False,
        "has_memory": kept != "no",
        # Without the guest's memory the restored domain is stopped.
        "state": state if kept != "no" else "stopped",
        "kind": "external" if kinds & {"external", "manual"} else "internal",
        "size_bytes": None if kept != "no" else 0,
        "frozen": facts.get("frozen"),
        "created_at": _moment(root.findtext("creationTime")),
    }


def snapshot_domain(xml: str) -> str | None:
    """Return the domain definition that a snapshot contains; None without one."""
    domain = parse_xml(xml).find("domain")
    return normalize(etree.tostring(domain, encoding="unicode")) if domain is not None else None


def snapshot_targets(xml: str) -> list[str]:
    """Return the targets of the disks that contain an internal snapshot."""
    disks = parse_xml(xml).iterfind("disks/disk")
    return [disk.get("name") for disk in disks if disk.get("snapshot") == "internal"]


def _moment(seconds: str | None) -> str | None:
    try:
        moment = datetime.datetime.fromtimestamp(int(seconds or ""), tz=datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat().replace("+00:00", "Z")
