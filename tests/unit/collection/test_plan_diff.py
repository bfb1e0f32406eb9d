"""Tests of diffs: what Ansible prints of planned changes, line by line."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.plugins.callback import CallbackBase
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import (
    WHEN,
    build_diff,
    fold_diffs,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Applies, Change

OLD, NEW = "<domain>\n  <vcpu>1</vcpu>\n</domain>\n", "<domain>\n  <vcpu>2</vcpu>\n</domain>\n"


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (Change("disks.vda.size", 1.0, 5), "disks.vda.size: 1", "disks.vda.size: 5  (live)"),
        (
            Change("disks.vda.size", 0.0625, 1),
            "disks.vda.size: 0.0625",
            "disks.vda.size: 1  (live)",
        ),
        (
            Change("memory", 256, 512, Applies.NEXT_BOOT),
            "memory: 256",
            "memory: 512  (at next boot)",
        ),
        (
            Change("autostart", False, True, Applies.OFFLINE),
            "autostart: false",
            "autostart: true  (at once)",
        ),
        (
            Change("disks.vda", "/images/a-vda.qcow2", None, destroys=True),
            "disks.vda: /images/a-vda.qcow2",
            "disks.vda: none  (DESTROYED)",
        ),
        (
            Change("snapshots", 2, None, destroys=True),
            "snapshots: 2",
            "snapshots: none  (DESTROYED)",
        ),
        (
            Change("state", "running", "stopped", destroys=True),
            "state: running",
            "state: stopped  (live, DESTROYS unsaved data)",
        ),
        (
            Change("interfaces.52:00:00:00:00:01.ip", None, "203.0.113.7", Applies.NEXT_BOOT),
            "interfaces.52:00:00:00:00:01.ip: none",
            "interfaces.52:00:00:00:00:01.ip: 203.0.113.7  (at next boot)",
        ),
        (
            Change("metadata.labels", {}, {"b": "x", "a": "{{ y }}"}),
            "metadata.labels: {}",
            'metadata.labels: {"a": "{{ y }}", "b": "x"}  (live)',
        ),
    ],
)
def test_change_is_one_line_of_words(change: Change, before: str, after: str) -> None:
    (words,) = build_diff("vm-001", [change], OLD, OLD)
    assert (words["before"], words["after"]) == (f"{before}\n", f"{after}\n")
    assert words["before_header"] == words["after_header"] == "vm-001: changes"


def test_every_time_of_effect_has_words() -> None:
    assert set(WHEN) == set(Applies)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller's", '"Müller\'s"'),
        ("none", '"none"'),
        ("", '""'),
        ("5  (DESTROYED)", '"5  (DESTROYED)"'),
        ("a\n+state: absent", '"a\\n+state: absent"'),
        ("a\u2028b\x85c", '"a\\u2028b\\u0085c"'),
        ("\x1b[31m\x9b31m\u202e", '"\\u001b[31m\\u009b31m\\u202e"'),
        ('"', '"\\""'),
        ("{{ 7 * 7 }}", '"{{ 7 * 7 }}"'),
    ],
)
def test_text_of_a_user_stays_text(text: str, shown: str) -> None:
    (words,) = build_diff("vm-001", [Change("title", text, text)], OLD, OLD)
    assert words["before"] == f"title: {shown}\n"
    assert words["after"] == f"title: {shown}  (live)\n"


def test_xml_follows_where_it_differs() -> None:
    words, xml = build_diff("vm-001", [Change("vcpus", 1, 2)], OLD, NEW)
    assert words["after"] == "vcpus: 2  (live)\n"
    assert (xml["before"], xml["after"]) == (OLD, NEW)
    assert xml["before_header"] == "vm-001: domain XML"


def test_xml_is_shown_without_what_a_terminal_obeys() -> None:
    _, xml = build_diff("vm-001", [Change("title", "", "x")], OLD, "<title>a\x9b\u2028é</title>\n")
    assert xml["after"] == "<title>a&#155;&#8232;é</title>\n"


def test_nothing_to_change_is_no_diff() -> None:
    assert build_diff("vm-001", [], OLD, NEW) == []


def test_ansible_prints_it() -> None:
    changes = [Change("vcpus", 1, 2), Change("memory", 256, 512, Applies.NEXT_BOOT)]
    callback: Any = CallbackBase()
    printed = callback._get_diff(build_diff("vm-001", changes, OLD, NEW))
    assert [line for line in printed.splitlines() if line[:1] in {"+", "-"}] == [
        "--- before: vm-001: changes",
        "+++ after: vm-001: changes",
        "-vcpus: 1",
        "-memory: 256",
        "+vcpus: 2  (live)",
        "+memory: 512  (at next boot)",
        "--- before: vm-001: domain XML",
        "+++ after: vm-001: domain XML",
        "-  <vcpu>1</vcpu>",
        "+  <vcpu>2</vcpu>",
    ]


def test_new_domain_is_shown_with_its_fields() -> None:
    created = [Change("state", "absent", "stopped", Applies.OFFLINE)]
    contents = {"vcpus": 2, "disks.vda.template": "debian12", "metadata.labels": {"a": "b"}}
    (words,) = build_diff("vm-001", created, contents=contents)
    assert words["before"] == "state: absent\n"
    assert words["after"].splitlines() == [
        "state: stopped  (at once)",
        "vcpus: 2",
        "disks.vda.template: debian12",
        'metadata.labels: {"a": "b"}',
    ]


def test_domains_that_change_alike_are_one_diff() -> None:
    more, other = [Change("vcpus", 1, 2)], [Change("vcpus", 1, 3)]
    parts = [*build_diff("a", more), *build_diff("b: c", other), *build_diff("d", more, OLD, NEW)]
    folded = fold_diffs(parts)
    assert [part["before_header"] for part in folded] == [
        "a, d: changes",
        "b: c: changes",
        "d: domain XML",
    ]
    assert folded[0] == {
        **parts[0],
        "before_header": "a, d: changes",
        "after_header": "a, d: changes",
    }


def test_many_that_change_alike_have_a_short_header() -> None:
    parts = [part for n in range(14) for part in build_diff(f"vm-{n}", [Change("vcpus", 1, 2)])]
    (folded,) = fold_diffs(parts)
    assert (
        folded["after_header"] == f"{', '.join(f'vm-{n}' for n in range(10))} and 4 more: changes"
    )
