"""Tests of the module `console`: what it finds in domain XML, and how passwords survive."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.console_xml import (
    check_serial,
    find_vnc,
    has_password,
    keep_passwords,
    lock_graphics,
    set_password,
    vnc_address,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import (
    build_domain,
    edit_domain,
    parse_xml,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure, check_values
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import CONSOLE

from tests.unit.collection.test_domain_xml import SPEC

VNC = "<graphics type='vnc' port='5901' autoport='yes' listen='127.0.0.1'/>"


def domain(*devices: str) -> str:
    return f"<domain><name>vm-001</name><devices>{''.join(devices)}</devices></domain>"


def graphics_of(xml: str) -> list[dict[str, str]]:
    return [dict(each.attrib) for each in parse_xml(xml).iterfind("devices/graphics")]


def test_new_domain_asks_for_a_password_that_has_run_out() -> None:
    built = build_domain(SPEC)
    assert "passwd" not in built
    (locked,) = graphics_of(lock_graphics(built, "s3cretpw"))
    assert (locked["passwd"], locked["passwdValidTo"]) == ("s3cretpw", "1970-01-01T00:00:01")


def test_redefined_domain_keeps_its_password() -> None:
    secret = lock_graphics(build_domain(SPEC), "s3cretpw")
    # What libvirt shows without secrets: the time, not the password.
    shown = secret.replace(' passwd="s3cretpw"', "")
    edited = edit_domain(shown, {"title": "Other"})
    kept = keep_passwords(edited, secret)
    assert graphics_of(kept) == graphics_of(secret)
    assert parse_xml(kept).findtext("title") == "Other"


def test_domain_without_a_password_is_redefined_without_one() -> None:
    xml = build_domain(SPEC)
    assert graphics_of(keep_passwords(xml, xml)) == graphics_of(xml)


@pytest.mark.parametrize(
    ("graphics", "address"),
    [
        (VNC, ("127.0.0.1", 5901)),
        ("<graphics type='vnc' port='5902' listen='localhost'/>", ("127.0.0.1", 5902)),
        (
            "<graphics type='vnc' port='5904'><listen type='address' address='127.0.0.1'/>"
            "</graphics>",
            ("127.0.0.1", 5904),
        ),
    ],
)
def test_vnc_on_the_loopback_is_found(graphics: str, address: tuple[str, int]) -> None:
    assert vnc_address(find_vnc(domain("<graphics type='spice'/>", graphics), "vm-001")) == address


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ((), "no screen"),
        (("<graphics type='spice' port='5900' listen='127.0.0.1'/>",), "only spice"),
        (("<graphics type='vnc' port='5900' listen='0.0.0.0'/>",), "listens on 0.0.0.0"),
        (("<graphics type='vnc' port='5900' listen='198.51.100.1'/>",), "198.51.100.1"),
        (("<graphics type='vnc' port='5903' listen='::1'/>",), "listens on ::1"),
        (("<graphics type='vnc' port='5900'><listen type='none'/></graphics>",), "no address"),
        (("<graphics type='vnc' socket='/run/vnc'/>",), "no address"),
        (("<graphics type='vnc' port='-1' listen='127.0.0.1'/>",), "no TCP port"),
    ],
)
def test_screen_that_cannot_be_reached_is_refused(devices: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Failure, match=reason) as caught:
        find_vnc(domain(*devices), "vm-001")
    assert caught.value.code == "CONSOLE_NOT_AVAILABLE"


def test_password_changes_nothing_else() -> None:
    element = find_vnc(domain(VNC), "vm-001")
    assert not has_password(element)
    changed = parse_xml(set_password(element, "s3cretpw", "2026-11-22T12:00:00"))
    expected = dict(element.attrib, passwd="s3cretpw", passwdValidTo="2026-11-22T12:00:00")
    assert dict(changed.attrib) == expected
    assert not has_password(element)


@pytest.mark.parametrize(
    ("devices", "refused"),
    [
        (("<console type='pty'/>",), False),
        (("<serial type='unix'/>",), False),
        (("<serial type='pty'/>", "<console type='pty'/>"), False),
        ((), True),
        (("<serial type='file'/>",), True),
        (("<serial type='pty'/>", "<console type='tcp'/>"), True),
    ],
)
def test_serial_console_is_one_that_libvirt_opens(devices: tuple[str, ...], refused: bool) -> None:
    if not refused:
        check_serial(domain(*devices), "vm-001")
        return
    with pytest.raises(Failure) as caught:
        check_serial(domain(*devices), "vm-001")
    assert caught.value.code == "CONSOLE_NOT_AVAILABLE"


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": None},
        {"password": "short"},
        {"password": "ninechars"},
        {"password": "with sp"},
        {"password": "p\u00e4sswor"},
        {"uuid": "vm-001"},
        {"seconds": 0},
        {"seconds": 1_000_000},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    params = {"uuid": None, "type": "vnc", "password": "s3cretpw", "seconds": 60}
    check_values(CONSOLE, dict(params))
    with pytest.raises(Failure) as caught:
        check_values(CONSOLE, {**params, **wrong})
    assert caught.value.code == "VALIDATION_ERROR"
    if wrong.get("password"):
        assert wrong["password"] not in caught.value.message


def test_serial_needs_no_password() -> None:
    check_values(CONSOLE, {"uuid": None, "type": "serial", "password": None, "seconds": 60})
