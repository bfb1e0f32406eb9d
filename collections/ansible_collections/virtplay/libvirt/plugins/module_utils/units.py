# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The units in which sizes are counted, in bytes."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
