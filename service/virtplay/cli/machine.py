"""Command line: up and uninstall, which change the machine that they run on."""

import os
from typing import Annotated

import typer

from virtplay.cli.options import Yes, confirm
from virtplay.cli.screen import unwound_by_signals
from virtplay.cli.server import Address, Port, load_settings, serve

up_app = typer.Typer(add_completion=False, rich_markup_mode=None)
uninstall_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@up_app.command("up")
def up(
    host: Address = None,
    port: Port = None,
    inventory: Annotated[
        str | None,
        typer.Option(
            "--inventory",
            "-i",
            metavar="SOURCES",
            help="Inventory sources, separated by commas, whose hosts to prepare and to serve;"
            " default: this machine.",
        ),
    ] = None,
    systemd: Annotated[
        bool,
        typer.Option(
            "--systemd", help="Run the service as a systemd unit, and start it at every boot."
        ),
    ] = False,
) -> None:
    """Make this machine a hypervisor, and run the service in this process until Ctrl-C or SIGTERM.

    Installs Debian packages and libvirt with QEMU, and creates the network default and the storage
    pools default and templates if there are none; the first time it also boots a VM and deletes it
    again. Requires root, or sudo without a password. Ctrl-C, SIGTERM or SIGHUP meanwhile ends
    Ansible and its tasks first; a new run continues.

    \b
    Example:
      virtplay up
      virtplay up --systemd
    """
    from virtplay.machine import unit  # noqa: PLC0415
    from virtplay.machine.prepare import explain_use, prepare  # noqa: PLC0415

    settings = load_settings(host=host, port=port, inventory=inventory)
    if systemd:
        unit.refuse_foreign_unit()
    serving = systemd and unit.is_active()
    with unwound_by_signals():
        prepare(settings, settings.inventory_sources if inventory else [], serving=serving)
    if systemd:
        unit.start_unit(settings)
        typer.echo(f"Virtplay runs as {unit.NAME}; its log: journalctl -u {unit.NAME}")
        typer.echo(explain_use(settings))
        return
    print(explain_use(settings), flush=True)
    os.umask(0o077)  # for the database, in any directory
    serve(host, port, inventory)


@uninstall_app.command("uninstall")
def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove the SQLite database and its backups too.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Remove what `virtplay up` and the service made on this machine, after a confirmation.

    VMs, their disks, libvirt and, without --purge, the database stay; the command names them first.

    \b
    Example:
      virtplay uninstall --purge
    """
    from virtplay.background import lock_directory  # noqa: PLC0415
    from virtplay.machine import unit  # noqa: PLC0415
    from virtplay.machine.root import require_root  # noqa: PLC0415
    from virtplay.machine.uninstall import plan, remove  # noqa: PLC0415

    settings = load_settings()
    planned = plan(settings, purge=purge)
    typer.echo(planned.describe())
    if not yes:
        confirm("remove what Virtplay made")
    if planned.unit:
        require_root("remove the systemd unit")
        unit.remove_unit()
    if planned.paths:
        # A service that still runs would write on.
        lock = lock_directory(planned.directory)
        remove(planned)
        os.close(lock)
    typer.echo("removed")
