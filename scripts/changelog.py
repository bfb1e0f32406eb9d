"""Makes the release notes of a version from fragments, those of the collection among them.

`python -m scripts.changelog` moves the fragments of changelogs/fragments into CHANGELOG.md, for a
release; `make release` writes the same text, with the collection's changes, into dist/.

A fragment is a YAML file: a section of the collection's changelogs/config.yaml → list of changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import virtplay
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
FRAGMENTS = ROOT / "changelogs/fragments"
COLLECTION = ROOT / "collections/ansible_collections/virtplay/libvirt/changelogs"
COLLECTION_TITLE = "Collection virtplay.libvirt"
VERSION = re.compile(r"^## (\S+).*\n", re.MULTILINE)


def read_sections() -> dict[str, str]:
    """Return the sections of a fragment and their titles, in the order of the release notes."""
    return dict(yaml.safe_load((COLLECTION / "config.yaml").read_text())["sections"])


def describe(fragments: Iterable[Path], level: str, *, summary: bool = False) -> str:
    """Return the changes of fragments by sections, as Markdown with headings of a level.

    `summary`: whether they may have a release_summary, which only the collection's own changelog
    shows. Raise ValueError if one is not a fragment.
    """
    sections = read_sections()
    changes: dict[str, list[str]] = {key: [] for key in sections}
    for path in sorted(fragments):
        content = yaml.safe_load(path.read_text())
        known = {*sections, "release_summary"} if summary else sections.keys()
        if not isinstance(content, dict) or not content.keys() <= known:
            raise ValueError(f"cannot read {path}: its sections must be of {', '.join(sections)}")
        for key, entries in content.items():
            if key in changes:
                changes[key] += [as_markdown(entry) for entry in entries]
    blocks = [
        f"{level} {sections[key]}\n\n" + "".join(f"- {entry}\n" for entry in entries)
        for key, entries in changes.items()
        if entries
    ]
    return "\n".join(blocks)


def as_markdown(entry: str) -> str:
    """Return a change, which is reStructuredText as in all Ansible fragments, as Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(entry.split()))


def write_notes(collection: bool) -> str:
    """Return CHANGELOG.md with the fragments in the section of the present version.

    `collection`: with the fragments of the collection, which also has a changelog of its own.
    """
    text = CHANGELOG.read_text()
    added = describe(FRAGMENTS.glob("*.yml"), "###")
    theirs = (COLLECTION / "fragments").glob("*.yml")
    if collection and (changes := describe(theirs, "####", summary=True)):
        added += f"\n### {COLLECTION_TITLE}\n\n{changes}"
    headings = list(VERSION.finditer(text))
    starts = [heading.start() for heading in headings] + [len(text)]
    title = f"## {virtplay.__version__}\n"
    if headings and headings[0][1] == virtplay.__version__:
        # What is in the section already was written by hand, or moved there before.
        before = f"{text[: starts[0]]}{title}{text[headings[0].end() : starts[1]].rstrip()}"
        after = text[starts[1] :]
    else:
        before, after = f"{text[: starts[0]]}{title}", text[starts[0] :]
    return "\n\n".join(part.strip() for part in (before, added, after) if part.strip()) + "\n"


def main() -> None:
    """Move the fragments into CHANGELOG.md."""
    CHANGELOG.write_text(write_notes(collection=False))
    for path in FRAGMENTS.glob("*.yml"):
        path.unlink()


if __name__ == "__main__":
    main()
