# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describes a requested template; pure, no I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """The requested template; exactly one of url and path is set."""

    name: str
    url: str | None
    path: str | None
    checksum: str | None
    os: str
    format: str

    @property
    def source(self) -> str:
        """Return the URL or path that the manifest stores."""
        return self.url or self.path or ""

    @property
    def hash(self) -> str:
        """Return the hash by which a later run recognizes the same request."""
        spec = {
            "url": self.url,
            "path": self.path,
            "checksum": self.checksum,
            "os": self.os,
            "format": self.format,
        }
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def planned(request: Request) -> dict[str, Any]:
    """Return the part of the manifest that is known before the image is fetched."""
    return {
        "name": request.name,
        "os": request.os,
        "format": "qcow2",
        "source": request.source,
        "spec_hash": request.hash,
    }
