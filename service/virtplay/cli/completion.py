"""Command line: completes the names of VMs, snapshots, jobs and others on Tab."""

import contextlib
import io
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from virtplay.cli.client import Client

LIMIT_SECONDS = 1.0
"""How long a shell may have to wait for the service."""
PLAIN = re.compile(r"[\w.+@][\w.+@-]*", re.ASCII)
"""Words that mean nothing else to a shell: zsh evaluates what it is offered. Others are left out,
and so is help beside the words, for which Typer loads all of rich.
"""


def complete_actions(incomplete: str) -> list[str]:
    """Return the actions of jobs."""
    from virtplay.actions import Action  # noqa: PLC0415

    return [action.value for action in Action if action.startswith(incomplete)]


def complete_playbooks(incomplete: str) -> list[str]:
    """Return the names of the playbooks."""
    from virtplay.cli.playbook import find_playbooks  # noqa: PLC0415

    return [name for name in find_playbooks() if name.startswith(incomplete)]


def complete_vms(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the VMs, and the ids of those whose name is no unique word."""

    def ask(client: "Client") -> Iterable[str]:
        query = {"search": incomplete[:64]} if incomplete else {}
        vms = client.get("/vms", {**query, "limit": 100})["vms"]
        return _names_or_ids(vms, incomplete)

    return _offer(ctx, incomplete, ask)


def complete_snapshots(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the snapshots of the VM that stands before them."""

    def ask(client: "Client") -> Iterable[str]:
        from virtplay.cli.client import path_of  # noqa: PLC0415

        path = path_of("vms", ctx.params["vm"], "snapshots")
        return _names_or_ids(client.get(path)["snapshots"], incomplete)

    return _offer(ctx, incomplete, ask)


def complete_jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the newest jobs."""

    def ask(client: "Client") -> Iterable[str]:
        return (job["id"] for job in client.get("/jobs", {"limit": 100})["jobs"])

    return _offer(ctx, incomplete, ask)


def complete_hosts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the hosts."""

    def ask(client: "Client") -> Iterable[str]:
        return (host["name"] for host in client.get("/hosts")["hosts"])

    return _offer(ctx, incomplete, ask)


def complete_templates(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the templates."""

    def ask(client: "Client") -> Iterable[str]:
        return (each["id"] for each in client.get("/templates")["templates"])

    return _offer(ctx, incomplete, ask)


def _names_or_ids(entries: list[dict[str, Any]], incomplete: str) -> Iterable[str]:
    """Return the names that are unique words, and ids where they are not or are being typed."""
    names = [entry["name"] for entry in entries]
    for entry in entries:
        name = entry["name"]
        by_name = PLAIN.fullmatch(name) and names.count(name) == 1
        if by_name:
            yield name
        if not by_name or not name.startswith(incomplete):
            yield entry["id"]


def _offer(
    ctx: typer.Context, incomplete: str, ask: Callable[["Client"], Iterable[str]]
) -> list[str]:
    """Return what `ask` offers within LIMIT_SECONDS; nothing after any error, and no message."""
    found: list[str] = []

    def work() -> None:
        from virtplay.cli.client import Client  # noqa: PLC0415 - only a Tab on a name needs it
        from virtplay.cli.connection import find_connection  # noqa: PLC0415

        file = ctx.params.get("token_file")
        # Whatever goes wrong, a message would stand in the middle of the line that is edited.
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            connection = find_connection(ctx.params.get("url"), Path(file) if file else None)
            with Client(connection) as client:
                words = ask(client)
                found.extend(
                    word for word in words if word.startswith(incomplete) and PLAIN.fullmatch(word)
                )

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(LIMIT_SECONDS)
    return found[:]
