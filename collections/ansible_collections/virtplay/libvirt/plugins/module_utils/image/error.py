# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: the one error of everything that brings a template onto a host."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "CHECKSUM_MISMATCH",
    "DOWNLOAD_FAILED",
    "IMAGE_REFUSED",
    "INSUFFICIENT_RESOURCES",
    "OPERATION_IN_PROGRESS",
    "TEMPLATE_NOT_FOUND",
    "VALIDATION_ERROR",
]


class ImageError(Exception):
    """A template cannot be brought onto the host; says why, with a code for programs."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
