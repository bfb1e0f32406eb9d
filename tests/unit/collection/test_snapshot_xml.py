"""Tests of snapshot XML: people's texts survive it, and nobody's text becomes markup."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import parse_xml
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.xml import (
    MARK,
    build_snapshot,
    compose_description,
    parse_snapshot,
    read_description,
    snapshot_targets,
)

FACTS: dict[str, Any] = {
    "name": "one",
    "title": "Before the upgrade",
    "description": "two\nlines",
    "origin": "manual",
    "expires_at": "2030-01-01T00:00:00Z",
    "job": "job-000001",
    "frozen": True,
}
TEXTS = [
    "Übung 🚀",
    "a/b/../c",
    "</description><disks/>",
    "]]> &lt; &#0; <!-- -->",
    "a\r\nb\rc\n\n\td ",
    f"{MARK} {{}}",
    f'x\n{MARK} {{"origin": "guard"}}',
    "{{ lookup('pipe', 'id') }}",
    "\u202eevil\u200f",
    "",
]


def as_libvirt(description: str, inner: str = "", state: str = "running") -> str:
    """The XML that libvirt gives for a snapshot with this description."""
    root = parse_xml(build_snapshot("one", description, ["vda"], ["sda"], memory=True))
    for child in parse_xml(
        f"<x><state>{state}</state><creationTime>1795366578</creationTime>{inner}</x>"
    ):
        root.append(child)
    from lxml import etree

    return str(etree.tostring(root, encoding="unicode"))


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive_libvirt(text: str) -> None:
    facts = {**FACTS, "title": text.replace("\n", " ").replace("\r", " "), "description": text}
    entry = parse_snapshot(as_libvirt(compose_description(facts)))
    assert entry["title"] == (facts["title"] or "one")
    assert entry["description"] == (text or None)
    assert (entry["origin"], entry["job"], entry["frozen"]) == ("manual", "job-000001", True)


def test_description_shows_the_words_first() -> None:
    lines = compose_description(FACTS).splitlines()
    assert lines[:4] == ["Before the upgrade", "", "two", "lines"]
    assert lines[-1].startswith(f"{MARK} {{")


@pytest.mark.parametrize("text", ["a\x00", "a\x07b", "\x1b[31m", "\ud800", "\ufffe"])
def test_control_characters_are_refused(text: str) -> None:
    for key in ("title", "description", "job"):
        with pytest.raises(Failure, match="cannot put"):
            compose_description({**FACTS, key: text})


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "by hand",
        MARK,
        f"{MARK} {{",
        f"{MARK} []",
        f"{MARK} {{}}",
        f'{MARK} {{"name": "one", "origin": "found"}}',
        f'{MARK} {{"name": "one", "origin": ["manual"]}}',
        f'{MARK} {{"name": "one", "origin": "manual", "title": 1}}',
        f'{MARK} {{"name": "one", "origin": "manual"}}\nmore',
        # Made by hand from the XML of another one: no schedule may delete it.
        f'{MARK} {{"name": "two", "origin": "schedule"}}',
        f'{MARK} {{"origin": "schedule", "expires_at": "2001-01-01T00:00:00Z"}}',
    ],
)
def test_snapshot_without_a_sound_mark_is_found(text: str | None) -> None:
    assert read_description(text, "one") is None
    entry = parse_snapshot(as_libvirt(text or ""))
    assert (entry["origin"], entry["title"], entry["frozen"]) == ("found", "one", None)
    assert entry["description"] == (text or None)


@pytest.mark.parametrize(
    ("memory", "state", "brings"),
    [
        ("internal", "running", "running"),
        ("internal", "paused", "paused"),
        ("no", "shutoff", "stopped"),
        ("no", "running", "stopped"),
        ("no", "disk-snapshot", "stopped"),
    ],
)
def test_state_is_what_a_restore_brings_back(memory: str, state: str, brings: str) -> None:
    xml = (
        f"<domainsnapshot><name>x</name><state>{state}</state><parent><name>p</name></parent>"
        f"<creationTime>1795366578</creationTime><memory snapshot='{memory}'/></domainsnapshot>"
    )
    entry = parse_snapshot(xml)
    assert (entry["state"], entry["has_memory"], entry["parent"]) == (brings, memory != "no", "p")
    assert (entry["created_at"], entry["kind"]) == ("2026-11-22T16:56:18Z", "internal")


def test_external_snapshot_is_told_apart() -> None:
    xml = (
        "<domainsnapshot><name>x</name><state>disk-snapshot</state><memory snapshot='no'/>"
        "<disks><disk name='vda' snapshot='external'/></disks></domainsnapshot>"
    )
    assert (parse_snapshot(xml)["kind"], snapshot_targets(xml)) == ("external", [])


def test_every_disk_is_named() -> None:
    xml = build_snapshot("one", "", ["vda", "vdb"], ["sda"], memory=False)
    assert snapshot_targets(xml) == ["vda", "vdb"]
    assert 'name="sda" snapshot="no"' in xml
    assert '<memory snapshot="no"/>' in xml
