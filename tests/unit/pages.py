"""Reads pages of the documentation: their anchors and marked blocks."""

from __future__ import annotations

import re
from pathlib import Path


def anchors(page: Path) -> set[str]:
    """Return the anchors of a Markdown page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def marked_blocks(page: Path, mark: str) -> dict[str, str]:
    """Return the blocks of code below comments `<!-- MARK: NAME -->`: name → text."""
    found = re.findall(
        rf"^<!-- {mark}: ([^\n]+?) -->\n```\w+\n(.*?)^```", page.read_text(), re.M | re.S
    )
    return dict(found)
