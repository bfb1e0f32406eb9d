# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Imports libvirt and lxml for all other files, opens connections, and names libvirt's integers.

Other files import the libraries from here (``from .connection import etree, libvirt``). A missing
library is None, so that modules can still be imported, and python.py can find another Python.
"""

from __future__ import annotations

from typing import Any

from ..failure import Failure
from ..states import DomainReason, DomainState

try:
    import libvirt as _libvirt
except ImportError:
    _libvirt = None
try:
    from lxml import etree as _etree
except ImportError:
    _etree = None

libvirt: Any = _libvirt
etree: Any = _etree

# virDomainState, which is part of libvirt's ABI and never renumbered.
_DOMAIN_STATES = {
    0: DomainState.UNKNOWN,  # VIR_DOMAIN_NOSTATE
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,  # VIR_DOMAIN_BLOCKED: running, waiting for a resource
    3: DomainState.PAUSED,
    4: DomainState.STOPPING,  # VIR_DOMAIN_SHUTDOWN: the guest is going down
    5: DomainState.STOPPED,
    6: DomainState.CRASHED,
    7: DomainState.SUSPENDED,  # VIR_DOMAIN_PMSUSPENDED
}

_R = DomainReason
# virDomainRunningReason, virDomainPausedReason and so on: the place is the number. A state that is
# not here has no reasons, and a number after the end is one of a newer libvirt.
_DOMAIN_REASONS: dict[DomainState, tuple[DomainReason, ...]] = {
    DomainState.RUNNING: (
        _R.UNKNOWN,
        _R.BOOTED,
        _R.MIGRATED,
        _R.RESTORED,
        _R.FROM_SNAPSHOT,
        _R.UNPAUSED,
        _R.MIGRATION_CANCELED,
        _R.SAVE_CANCELED,
        _R.WAKEUP,
        _R.CRASHED,
        _R.POSTCOPY,
        _R.POSTCOPY_FAILED,
    ),
    DomainState.PAUSED: (
        _R.UNKNOWN,
        _R.USER,
        _R.MIGRATION,
        _R.SAVE,
        _R.DUMP,
        _R.IO_ERROR,
        _R.WATCHDOG,
        _R.FROM_SNAPSHOT,
        _R.SHUTTING_DOWN,
        _R.SNAPSHOT,
        _R.CRASHED,
        _R.STARTING_UP,
        _R.POSTCOPY,
        _R.POSTCOPY_FAILED,
        _R.API_ERROR,
    ),
    DomainState.STOPPING: (_R.UNKNOWN, _R.USER),
    DomainState.STOPPED: (
        _R.UNKNOWN,
        _R.SHUTDOWN,
        _R.DESTROYED,
        _R.CRASHED,
        _R.MIGRATED,
        _R.SAVED,
        _R.FAILED,
        _R.FROM_SNAPSHOT,
        _R.DAEMON,
    ),
    DomainState.CRASHED: (_R.UNKNOWN, _R.PANICKED),
}

# The reasons of a stopped domain that cannot follow its save.
_SINCE_SAVED = frozenset({_R.SHUTDOWN, _R.DESTROYED, _R.CRASHED, _R.MIGRATED, _R.FROM_SNAPSHOT})


def open_connection(uri: str) -> Any:
    """Return a read-write virConnect to uri; raises Failure if libvirt does not respond there."""
    _silence()
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise Failure(f"cannot connect to libvirt at {uri}: {error_text(error)}") from error


def domain_state(dom: Any) -> DomainState:
    """Return the state of a virDomain, without a query to QEMU, which may be stuck."""
    return state_from_code(dom.state()[0])


def read_state(dom: Any) -> tuple[DomainState, DomainReason, bool]:
    """Return a virDomain's state, its reason, and whether it has a managed save image.

    Queries libvirtd alone.
    """
    code, reason = dom.state()
    state = state_from_code(code)
    saved = bool(dom.hasManagedSaveImage())
    return state, reason_from_code(state, reason, has_managed_save=saved), saved


def state_from_code(code: int | None) -> DomainState:
    """Return the state of a virDomainState integer; UNKNOWN for an unknown one."""
    return (
        _DOMAIN_STATES.get(code, DomainState.UNKNOWN) if code is not None else (DomainState.UNKNOWN)
    )


def reason_from_code(
    state: DomainState, code: int | None, *, has_managed_save: bool
) -> DomainReason:
    """Return the reason of a state from libvirt's integer; UNKNOWN for an unknown one.

    A stopped domain is SAVED only with a managed save image: libvirt keeps the reason when the
    image is removed, and forgets it at its restart. One that has run since it was saved, or whose
    disks were restored, keeps its reason: the image is out of date.
    """
    reasons = _DOMAIN_REASONS.get(state, ())
    reason = (
        reasons[code] if code is not None and 0 <= code < len(reasons) else (DomainReason.UNKNOWN)
    )
    if state != DomainState.STOPPED or reason in _SINCE_SAVED:
        return reason
    if has_managed_save:
        return DomainReason.SAVED
    return DomainReason.UNKNOWN if reason == DomainReason.SAVED else reason


def saved_xml(dom: Any) -> str | None:
    """Return the definition in a domain's managed save image; None if it cannot be read."""
    try:
        return str(dom.managedSaveGetXMLDesc(0))
    except libvirt.libvirtError:
        return None


def read_disk_errors(dom: Any) -> dict[str, str]:
    """Return the I/O errors for which QEMU has paused a virDomain: target → words; asks QEMU."""
    words = {1: "I/O error", 2: "no space"}
    return {target: words.get(code, "I/O error") for target, code in dom.diskErrors().items()}


def lookup_domain(conn: Any, uuid: str | None = None, name: str | None = None) -> Any | None:
    """Return a virDomain by UUID, otherwise by name; None if neither exists."""
    for lookup, key in ((conn.lookupByUUIDString, uuid), (conn.lookupByName, name)):
        if key is None:
            continue
        try:
            return lookup(key)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                continue
            raise Failure(f"cannot look up domain {key}: {error_text(error)}") from error
    return None


def error_text(error: Exception) -> str:
    """Return a libvirtError's message on one line, without the library's own prefix."""
    text = getattr(error, "get_error_message", lambda: None)() or str(error)
    return " ".join(text.split())


def has_error_code(error: Exception, *names: str) -> bool:
    """Whether a libvirtError has one of these codes, e.g. "VIR_ERR_NO_DOMAIN"."""
    code = getattr(error, "get_error_code", lambda: None)()
    return code is not None and code in {getattr(libvirt, name, None) for name in names}


def version_text(number: int) -> str:
    """Return libvirt's version integer (9000000) in its usual spelling ("9.0.0")."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _silence() -> None:
    """Keep libvirt from printing errors on stderr, which would appear in Ansible's output."""
    libvirt.registerErrorHandler(_ignore_error, None)


def _ignore_error(_context: object, _error: object) -> None:
    """Ignore an error report: the same error is also raised as an exception."""
