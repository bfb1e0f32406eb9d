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


ACTIVE_STATES = frozenset(
    {DomainState.RUNNING, DomainState.PAUSED, DomainState.STOPPING, DomainState.SUSPENDED}
)
