"""What went wrong on a host, as a failure with a code."""

from __future__ import annotations

import errno

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import InvalidDomain
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import failures
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import LibvirtFailure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of

from tests.unit.collection.pretend_libvirt import NO_DOMAIN, OTHER, libvirtError, pretend


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, failures)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (LibvirtFailure("cannot x", "VM_NOT_FOUND"), "cannot x", "VM_NOT_FOUND"),
        (InvalidDomain("cannot read it"), "cannot read it", "VALIDATION_ERROR"),
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
