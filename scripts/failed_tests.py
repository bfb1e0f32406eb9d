"""Prints the tests that failed in a run with pytest-xdist, one a line, by names that pytest takes.

Usage: python -m scripts.failed_tests CACHE_DIR
"""

import json
import re
import sys
from pathlib import Path


def failed_tests(cache: Path) -> list[str]:
    """The tests that failed, from pytest's cache; xdist has appended @GROUP to some names."""
    names = json.loads((cache / "v/cache/lastfailed").read_text())
    return [re.sub(r"@[^@\[\]]+$", "", name) for name in names]


if __name__ == "__main__":
    print("\n".join(failed_tests(Path(sys.argv[1]))))
