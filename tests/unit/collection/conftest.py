"""Tests of the collection: makes it importable under the name that Ansible gives it."""

from __future__ import annotations

import sys
from pathlib import Path

COLLECTIONS = str(Path(__file__).resolve().parents[3] / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)
