# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names the states of a domain; imports no library, so that the controller can load it."""

from __future__ import annotations

from enum import Enum


class TextEnum(str, Enum):
    """An enum whose members are texts; enum.StrEnum requires Python 3.11."""

    def __str__(self) -> str:
        return str(self.value)


class DomainState(TextEnum):
    """The states of a domain, by their names in Virtplay."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    STOPPING = "stopping"
    CRASHED = "crashed"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


class DomainReason(TextEnum):
    """Why a domain is in its state, in libvirt's words; one word may go with several states."""

    UNKNOWN = "unknown"
    BOOTED = "booted"
    MIGRATED = "migrated"
    RESTORED = "restored"
    FROM_SNAPSHOT = "from_snapshot"
    UNPAUSED = "unpaused"
    MIGRATION_CANCELED = "migration_canceled"
    SAVE_CANCELED = "save_canceled"
    WAKEUP = "wakeup"
    CRASHED = "crashed"
    POSTCOPY = "postcopy"
    POSTCOPY_FAILED = "postcopy_failed"
    USER = "user"
    MIGRATION = "migration"
    SAVE = "save"
    DUMP = "dump"
    IO_ERROR = "io_error"
    WATCHDOG = "watchdog"
    SHUTTING_DOWN = "shutting_down"
    SNAPSHOT = "snapshot"
    STARTING_UP = "starting_up"
    API_ERROR = "api_error"
    SHUTDOWN = "shutdown"
    DESTROYED = "destroyed"
    SAVED = "saved"
    FAILED = "failed"
    DAEMON = "daemon"
    PANICKED = "panicked"


ACTIVE_STATES = frozenset(
    {
        DomainState.RUNNING,
        DomainState.PAUSED,
        DomainState.STOPPING,
        DomainState.SUSPENDED,
        DomainState.CRASHED,
    }
)
"""The states with a QEMU process.

CRASHED is one of them: libvirt sets it only while the QEMU of a guest that has panicked is kept
(on_crash=preserve). A domain whose QEMU has died is STOPPED, for the reason CRASHED.
"""
ERROR_REASONS = frozenset(
    {
        DomainReason.UNKNOWN,
        DomainReason.CRASHED,
        DomainReason.IO_ERROR,
        DomainReason.WATCHDOG,
        DomainReason.POSTCOPY_FAILED,
        DomainReason.API_ERROR,
    }
)
"""The reasons for which QEMU, and no person, has paused a domain.

UNKNOWN is one of them: libvirt gives it for an internal error of KVM or QEMU.
"""
MIGRATION_REASONS = frozenset(
    {
        DomainReason.MIGRATION,
        DomainReason.POSTCOPY,
        DomainReason.POSTCOPY_FAILED,
        DomainReason.STARTING_UP,
    }
)
"""The reasons of a domain that libvirt has paused because it is starting or migrating."""
