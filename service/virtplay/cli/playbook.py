"""Command line: playbook and files, for the playbooks that the service brings."""

import os
import re
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from virtplay.cli import completion
from virtplay.cli.tables import Column, Table
from virtplay.files import PROJECT
from virtplay.machine.plays import ANSIBLE_WARM, ansible_environment, project_dir

OPTIONS = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
}
"""What follows the playbook's name belongs to ansible-playbook, --help too."""

playbook_app = typer.Typer(add_completion=False, rich_markup_mode=None)
files_app = typer.Typer(add_completion=False, rich_markup_mode=None)
PLAYBOOKS = Table(
    Column("PLAYBOOK", lambda entry: entry[0]),
    Column("PURPOSE", lambda entry: purpose_of(entry[1]), cut=True),
)


@playbook_app.command("playbook", context_settings=OPTIONS)
def run_playbook(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="PLAYBOOK",
            help="Playbook, such as vm_create.",
            autocompletion=completion.complete_playbooks,
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the playbooks.")] = False,
) -> None:
    """Run one of Virtplay's playbooks; without a name, list them.

    All arguments after the name are those of ansible-playbook. Roles and collection are Virtplay's;
    ANSIBLE_ROLES_PATH and ANSIBLE_COLLECTIONS_PATH add to them, and ANSIBLE_CONFIG replaces
    Virtplay's ansible.cfg. With VIRTPLAY_PROJECT_DIR, all of these are from that directory.
    A process that has loaded Ansible stays for ten minutes, so that the next runs start without a
    delay; ANSIBLE_WARM=0 leaves none.

    \b
    Example:
      virtplay playbook vm_start -i hosts.yml --limit kvm1 -e libvirt_domain_name=web-1
    """
    playbooks = find_playbooks()
    if name is None or listed:
        for line in PLAYBOOKS.lines(list(playbooks.items())):
            typer.echo(line)
        return
    found = playbooks.get(name.removesuffix(".yml"))
    if found is None:
        raise typer.BadParameter(f"cannot find {name}: there are {', '.join(playbooks)}")
    exec_playbook(found, context.args)


@files_app.command("files")
def show_files() -> None:
    """Print the directory of Virtplay's playbooks, roles, collection, inventories and dashboards.

    \b
    Example:
      cp "$(virtplay files)/inventory/example.yml" hosts.yml
    """
    typer.echo(PROJECT)


def find_playbooks() -> dict[str, Path]:
    """Return the playbooks by their names, without the suffix."""
    return {path.stem: path for path in sorted((project_dir() / "playbooks").glob("*.yml"))}


def purpose_of(playbook: Path) -> str:
    """Return the first sentence of a playbook's first comment."""
    comment = re.search(r"^# (.+?)(?:[.:] |[.:]?$)", playbook.read_text(encoding="utf-8"), re.M)
    return comment[1] if comment else ""


def exec_playbook(path: Path, arguments: list[str]) -> NoReturn:
    """Become what runs ansible-playbook in a fork of a process that has loaded Ansible."""
    words = [ANSIBLE_WARM, str(path), *arguments]
    os.execve(words[0], words, ansible_environment())  # noqa: S606
