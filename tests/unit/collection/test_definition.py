"""Tests of the definition of a domain whose QEMU may be busy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import definition
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.definition import (
    read_definition,
)

UUID = "11111111-2222-4333-8444-555555555555"
STATUS = "<domstatus state='running' pid='7'><monitor/>\n{}\n</domstatus>\n"
CONFIG = "<!-- WARNING: do not edit -->\n{}\n"


class Error(Exception):
    """Stands for libvirt's."""


def xml(title: str, uuid: str = UUID) -> str:
    screen = "<devices><graphics type='vnc'/></devices>".replace("'", '"')
    return f"<domain><name>web</name><uuid>{uuid}</uuid><title>{title}</title>{screen}</domain>"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """libvirt's own files of the domain."""
    for name, pattern, title in (("run", STATUS, "now"), ("etc", CONFIG, "next")):
        (tmp_path / name).mkdir()
        secret = xml(title).replace("<graphics", '<graphics passwd="canary"')
        (tmp_path / name / "web.xml").write_text(pattern.format(secret))
    monkeypatch.setattr(definition, "RUN_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(definition, "CONFIG_DIRECTORY", tmp_path / "etc")
    known = SimpleNamespace(VIR_DOMAIN_CONTROL_OK=0, VIR_DOMAIN_XML_INACTIVE=2, libvirtError=Error)
    monkeypatch.setattr(definition, "libvirt", known)
    return tmp_path


def domain(control: int | None) -> Any:
    """A domain of which libvirt describes `told` and the flags, and with a state of control."""

    def control_info() -> list[int]:
        if control is None:
            raise Error
        return [control, 0, 0]

    return SimpleNamespace(
        name=lambda: "web",
        UUIDString=lambda: UUID,
        controlInfo=control_info,
        XMLDesc=lambda flags: f"told {flags}",
    )


@pytest.mark.parametrize("control", [1, 2, 3])
def test_a_busy_domain_is_read_from_the_files_of_libvirt(files: Path, control: int) -> None:
    busy = domain(control)
    assert read_definition(busy, active=True) == xml("now")
    assert read_definition(busy, active=True, inactive=True) == xml("next")


@pytest.mark.parametrize("control", [0, None])
def test_libvirt_is_asked_for_every_other_domain(files: Path, control: int | None) -> None:
    assert read_definition(domain(control), active=True) == "told 0"
    assert read_definition(domain(control), active=True, inactive=True) == "told 2"
    assert read_definition(domain(2), active=False) == "told 0"


@pytest.mark.parametrize("content", [None, "<domst", "<domstatus/>", STATUS.format(xml("x", "u"))])
def test_without_a_file_of_that_domain_libvirt_is_asked(files: Path, content: str | None) -> None:
    file = files / "run/web.xml"
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert read_definition(domain(2), active=True) == "told 0"
