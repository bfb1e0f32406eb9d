# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: checks of the arguments that several modules take; pure, no I/O."""

from __future__ import annotations

import uuid as uuids

from .connection import LibvirtFailure


def canonical_uuid(text: str) -> str:
    """Return a UUID in the one spelling that locks are named by; raises LibvirtFailure."""
    try:
        return str(uuids.UUID(text))
    except ValueError:
        raise LibvirtFailure(
            f"cannot use UUID {text!r}: it is not one", "VALIDATION_ERROR"
        ) from None


def check_title(title: str | None) -> None:
    """Raise LibvirtFailure for a title of several lines."""
    if title is not None and ("\n" in title or "\r" in title):
        raise LibvirtFailure("cannot use the title: it holds a line break", "VALIDATION_ERROR")
