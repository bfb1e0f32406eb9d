"""Arguments that several modules take: UUIDs, and values that must make sense."""

from __future__ import annotations

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.arguments import (
    canonical_uuid,
    check_values,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import DOMAIN

UUID = "0157c680-d8f0-4d2a-855a-94a165065017"


@pytest.mark.parametrize(
    "text", [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}"]
)
def test_every_spelling_of_a_uuid_names_one_lock(text: str) -> None:
    assert canonical_uuid(text) == UUID


@pytest.mark.parametrize("text", ["", "vm-001", UUID[:-1], UUID + "0", "../../etc/passwd"])
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="cannot use UUID") as caught:
        canonical_uuid(text)
    assert caught.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize("title", [None, "", "Web server", "标题", "{{ x }}", "<b>&"])
def test_title_may_be_any_line(title: str | None) -> None:
    check_values(DOMAIN, {"title": title})


@pytest.mark.parametrize("title", ["a\nb", "a\r", "\n"])
def test_title_of_several_lines_is_refused(title: str) -> None:
    with pytest.raises(Failure, match=r"cannot use title .*: it must be one line") as caught:
        check_values(DOMAIN, {"title": title})
    assert caught.value.code == "VALIDATION_ERROR"


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(Failure, match=r"cannot use vcpus 0: .*; cannot use memory -1: "):
        check_values(DOMAIN, {"vcpus": 0, "memory": -1})
