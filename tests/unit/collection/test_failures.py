"""What went wrong on a host, as a failure with a code."""

from __future__ import annotations

import errno

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import failures
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of

from tests.unit.collection.fake_libvirt import NO_DOMAIN, OTHER, fake, libvirtError


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, failures)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (Failure("cannot x", "VM_NOT_FOUND"), "cannot x", "VM_NOT_FOUND"),
        (Failure("cannot read it", "VALIDATION_ERROR"), "cannot read it", "VALIDATION_ERROR"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cannot do: [Errno 28] No space left on device",
            "INSUFFICIENT_RESOURCES",
        ),
        (PermissionError("denied"), "cannot do: denied", "LIBVIRT_ERROR"),
        (libvirtError("one\n two", OTHER), "cannot do: one two", "LIBVIRT_ERROR"),
        (libvirtError("gone", NO_DOMAIN), "cannot do: gone", "VM_NOT_FOUND"),
        (libvirtError("gone", 72), "cannot do: gone", "SNAPSHOT_NOT_FOUND"),
        (libvirtError("late", 68), "cannot do: late", "GUEST_NOT_RESPONDING"),
        (libvirtError("agent", 86), "cannot do: agent", "GUEST_NOT_RESPONDING"),
        (
            libvirtError("Cannot allocate memory", OTHER),
            "cannot do: Cannot allocate memory",
            "INSUFFICIENT_RESOURCES",
        ),
    ],
)
def test_failure_has_a_message_and_a_code(error: Exception, message: str, code: str) -> None:
    failure = failure_of(error, "cannot do")
    assert failure is not None
    assert (failure.message, failure.code) == (message, code)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ZeroDivisionError()])
def test_fault_of_ours_is_no_failure_of_the_host(error: Exception) -> None:
    assert failure_of(error, "cannot do") is None


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("cannot write: No space left on device", True),
        ("Disk quota exceeded", True),
        ("qemu-img: ENOSPC", True),
        ("there is not enough space", True),
        ("Permission denied", False),
    ],
)
def test_full_file_system_is_known_by_its_words(message: str, full: bool) -> None:
    failure = failure_of(libvirtError(message, OTHER), "cannot do")
    assert failure is not None
    assert (failure.code == "INSUFFICIENT_RESOURCES") is full
