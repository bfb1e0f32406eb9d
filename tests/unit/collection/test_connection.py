"""Collection tests: libvirt's integers become names, and a missing libvirt is said so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import connection
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import (
    error_text,
    reason_from_code,
    state_from_code,
    version_text,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import DomainState

HOST_PYTHON = Path("/usr/bin/python3")
COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (0, DomainState.UNKNOWN),
        (1, DomainState.RUNNING),
        (2, DomainState.RUNNING),
        (3, DomainState.PAUSED),
        (4, DomainState.STOPPING),
        (5, DomainState.STOPPED),
        (6, DomainState.CRASHED),
        (7, DomainState.SUSPENDED),
        (99, DomainState.UNKNOWN),
        (None, DomainState.UNKNOWN),
    ],
)
def test_state_of_code(code: int | None, state: DomainState) -> None:
    assert state_from_code(code) is state


@pytest.mark.parametrize(
    ("state", "code", "has_managed_save", "reason"),
    [
        (DomainState.RUNNING, 1, False, "booted"),
        (DomainState.RUNNING, 5, False, "unpaused"),
        (DomainState.RUNNING, 1, True, "booted"),
        (DomainState.PAUSED, 0, False, "unknown"),
        (DomainState.PAUSED, 1, False, "user"),
        (DomainState.PAUSED, 5, False, "io_error"),
        (DomainState.PAUSED, 10, False, "crashed"),
        (DomainState.STOPPED, 1, False, "shutdown"),
        (DomainState.STOPPED, 2, False, "destroyed"),
        (DomainState.STOPPED, 3, False, "crashed"),
        (DomainState.STOPPED, 5, True, "saved"),
        # libvirt forgets the reason at its restart, and keeps it without the image.
        (DomainState.STOPPED, 0, True, "saved"),
        (DomainState.STOPPED, 5, False, "unknown"),
        # The guest has run since, or its disks were restored: the image is out of date.
        (DomainState.STOPPED, 2, True, "destroyed"),
        (DomainState.STOPPED, 4, True, "migrated"),
        (DomainState.STOPPED, 7, True, "from_snapshot"),
        # Its start from the image has failed.
        (DomainState.STOPPED, 6, True, "saved"),
        (DomainState.CRASHED, 1, False, "panicked"),
        (DomainState.SUSPENDED, 0, False, "unknown"),
        (DomainState.RUNNING, 99, False, "unknown"),
        (DomainState.UNKNOWN, None, False, "unknown"),
    ],
)
def test_reason_of_code(
    state: DomainState, code: int | None, has_managed_save: bool, reason: str
) -> None:
    assert reason_from_code(state, code, has_managed_save=has_managed_save) == reason


@pytest.mark.parametrize(
    ("number", "text"), [(9000000, "9.0.0"), (7002022, "7.2.22"), (10010001, "10.10.1")]
)
def test_version_is_spelt_as_usual(number: int, text: str) -> None:
    assert version_text(number) == text


def test_error_text_is_one_line() -> None:
    assert error_text(ValueError("one\n  two")) == "one two"


class Failed(Exception):
    """A module that has failed, with what it says."""


class FakeModule:
    def fail_json(self, **result: str) -> None:
        raise Failed(f"{result['code']}: {result['msg']}")


@pytest.mark.parametrize("library", ["libvirt", "lxml"])
def test_missing_library_is_named_with_its_packages(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], library: str
) -> None:
    monkeypatch.setattr(connection, "libvirt", object())
    monkeypatch.setattr(connection, "etree", object())
    require_libraries(FakeModule(), pythons=())
    monkeypatch.setattr(connection, "libvirt" if library == "libvirt" else "etree", None)
    # Neither that of this test nor one that is not there.
    with pytest.raises(Failed) as caught:
        require_libraries(FakeModule(), pythons=(sys.executable, "/nonexistent/python3"))
    assert str(caught.value) == (
        f"LIBVIRT_ERROR: cannot import {library} in {sys.executable}, nor in the host's own "
        "Python: install python3-libvirt and python3-lxml on the host, or set "
        "ansible_python_interpreter to a Python that has both"
    )
    assert "No module named" in capfd.readouterr().err  # which was really tried


def on_host(code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the host's Python, which has libvirt, after importing the file."""
    package = "ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection"
    return subprocess.run(
        [HOST_PYTHON, "-c", f"from {package} import *\n{code}"],
        env={"PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def libvirt_on_host() -> None:
    """Fail where the host's Python has no libvirt."""
    if not HOST_PYTHON.exists() or on_host("libvirt.open and etree.fromstring").returncode != 0:
        pytest.fail("the system's Python has no libvirt: run make setup-lab", pytrace=False)


@pytest.mark.needs("virsh")
@pytest.mark.usefixtures("libvirt_on_host")
def test_refused_connection_names_the_uri_and_prints_nothing() -> None:
    done = on_host(
        "uri = 'qemu+unix:///system?socket=/nonexistent'\n"
        "try:\n    open_connection(uri)\n"
        "except Failure as failure:\n    print(failure.code, failure.message)"
    )
    expected = "LIBVIRT_ERROR cannot connect to libvirt at qemu+unix:///system?socket=/nonexistent"
    assert done.stdout.startswith(expected)
    assert done.stderr == ""


@pytest.mark.needs("virsh")
@pytest.mark.usefixtures("libvirt_on_host")
def test_domain_is_found_by_uuid_first_then_by_name() -> None:
    done = on_host(
        "conn = open_connection('test:///default')\n"
        "uuid = lookup_domain(conn, name='test').UUIDString()\n"
        "other = '00001234-5000-0000-0000-000000000001'\n"
        "print(lookup_domain(conn, uuid=uuid, name='nobody').name(),\n"
        "      lookup_domain(conn, uuid=other, name='test').name(),\n"
        "      lookup_domain(conn, uuid=other, name='nobody'), lookup_domain(conn),\n"
        "      domain_state(lookup_domain(conn, name='test')))"
    )
    assert done.stdout.split() == ["test", "test", "None", "None", "running"], done.stderr
    assert done.stderr == ""
