"""Every command of `virtplay` that the documentation shows exists, with these options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from virtplay.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("roles/*/README.md"),
]
COMMAND = re.compile(r"^(?:\$ |# |sudo )?(?:\S*bin/)?virtplay ((?:[^\n]|(?<=\\)\n)+)", re.M)


def shown(page: Path) -> Iterator[str]:
    """The arguments of each command in blocks, and in cells of tables, of a page."""
    text = page.read_text()
    for block in re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", text, re.M | re.S):
        lines = re.sub(r"\\\n\s*", " ", re.sub(r"^ +", "", block, flags=re.M))
        yield from COMMAND.findall(lines)
    yield from re.findall(r"`virtplay ([a-z][^`]*)`", text)


def words_of(arguments: str) -> list[str]:
    """The words of a command without what a shell does after it."""
    first = re.split(r"\s(?:\||>|&&|;)", arguments, maxsplit=1)[0]
    # A value that begins with a dash is no option; several names in one are a way to write.
    return shlex.split(re.sub(r"--sort -\w+", "--sort name", first), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_commands_can_be_parsed(page: Path) -> None:
    for arguments in shown(page):
        words = words_of(arguments)
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            name = words.pop(0)
            if not re.fullmatch(r"[\w-]+", name):
                break  # several of them in one word
            command = command.get_command(None, name)
            assert command, f"virtplay {arguments}: there is no command {name}"
        if hasattr(command, "commands") or not words or command.name == "playbook":
            continue  # a family of commands, or one without its arguments, is named
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        words = words[: words.index("--")] if "--" in words else words
        given = {re.split("=", word)[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known | {"--help"}, f"virtplay {arguments}: no option {given - known}"


def test_many_commands_are_shown() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 100
