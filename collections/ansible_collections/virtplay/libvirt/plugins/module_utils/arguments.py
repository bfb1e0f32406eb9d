# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: checks of the arguments that several modules take; pure, no I/O."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Mapping
from typing import Any

from .failure import Failure
from .values import Table


def canonical_uuid(text: str) -> str:
    """Return a UUID in the one spelling that locks are named by; raises Failure."""
    try:
        return str(uuids.UUID(text))
    except ValueError:
        raise Failure(f"cannot use UUID {text!r}: it is not one", "VALIDATION_ERROR") from None


def check_values(table: Table, params: Mapping[str, Any]) -> None:
    """Raise Failure (VALIDATION_ERROR) for arguments whose values make no sense."""
    faults = list(table.find_faults(params))
    if faults:
        raise Failure("; ".join(faults), "VALIDATION_ERROR")
