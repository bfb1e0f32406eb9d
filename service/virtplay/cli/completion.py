"""Command line: completes the names of VMs, snapshots, jobs and others on Tab."""

import contextlib
import io
import re
import threading
from collections import Counter
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
    """Return the names of the VMs; the domain or id of those whose name is no unique word."""

    def ask(client: "Client") -> Iterable[str]:
        query = {"search": incomplete[:64]} if incomplete else {}
        vms = client.get("/vms", {**query, "limit": 100})["vms"]
        return _words_of(vms, incomplete, "name", "domain")

    return _offer(ctx, incomplete, ask)


def complete_snapshots(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the snapshots of the VM that stands before them."""

    def ask(client: "Client") -> Iterable[str]:
        from virtplay.cli.client import path_of  # noqa: PLC0415

        path = path_of("vms", ctx.params["vm"], "snapshots")
        return _words_of(client.get(path)["snapshots"], incomplete, "name")

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


def _words_of(entries: list[dict[str, Any]], incomplete: str, *fields: str) -> Iterable[str]:
    """Return a word for each entry: of those that begin as typed the first one.

    In the order of its fields, as far as they are words that mean no other entry; then its id.
    """
    called = Counter(text for entry in entries for text in {entry[field] for field in fields})
    for entry in entries:
        texts = [entry[field] for field in fields]
        words = [text for text in texts if PLAIN.fullmatch(text) and called[text] == 1]
        for word in (*words, entry["id"]):
            if word.startswith(incomplete):
                yield word
                break


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
