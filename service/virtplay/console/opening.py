"""Opens consoles: prepares one on its host, creates a ticket for it, and connects its stream."""

import asyncio
import logging
import secrets
import string
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from virtplay import errors
from virtplay.actions import Action
from virtplay.console.connections import ConsoleStream, HostConnections
from virtplay.console.relay import Client
from virtplay.console.watch import ConsoleType, OpenConsole, OpenConsoles
from virtplay.hosts.inventory import Inventory
from virtplay.jobs.dispatcher import Dispatcher
from virtplay.jobs.ends import JobEnds
from virtplay.jobs.submission import Caller, job_directory, submit, write_secrets
from virtplay.settings import Settings
from virtplay.states import ACTIVE_STATES, HostStatus, JobStatus, VmStatus
from virtplay.store import vms as store
from virtplay.store.database import transaction
from virtplay.store.jobs import move, write_audit
from virtplay.store.lookup import find_vm, get_vm
from virtplay.store.models import ConsoleTicket, Job, Vm
from virtplay.store.tickets import create_ticket, find_ticket, use_ticket
from virtplay.store.tokens import valid_tokens

log = logging.getLogger("virtplay.console.opening")

PASSWORD_LENGTH = 8
"""VNC truncates longer passwords."""
PASSWORD_SECONDS = 60
"""Longer than a ticket is valid, as it counts from before the ticket is created."""
JOB_SECONDS = 30.0
PREPARE_AFTER = 20.0
"""Seconds until Ansible's settings of connections are read, unless a console needs them before."""
CONSOLE_ERRORS: dict[str, type[errors.VirtplayError]] = {
    "VM_NOT_FOUND": errors.VmNotFound,
    "VM_ALREADY_STOPPED": errors.VmAlreadyStopped,
    "HOST_UNREACHABLE": errors.HostUnreachable,
}


@dataclass(frozen=True)
class Opened:
    """A console to which one client may connect."""

    vm: Vm
    job: Job | None
    """The job that opened it; None if none was needed."""
    type: ConsoleType
    host: str | None
    """The address and port on the hypervisor; None for a serial console."""
    port: int | None
    password: str | None
    """None if none is required."""
    ticket: str
    expires_at: datetime


class Consoles:
    """Opens consoles for the API, and ends them."""

    def __init__(
        self, settings: Settings, inventory: Inventory, dispatcher: Dispatcher, ends: JobEnds
    ) -> None:
        self.inventory = inventory
        self._settings = settings
        self._dispatcher = dispatcher
        self._ends = ends
        self._connections = HostConnections(settings.project_dir)
        self._open = OpenConsoles()
        # VM id → password and its end. Shared, so that two clients that open one VM at once do not
        # invalidate each other's password.
        self._passwords: dict[int, tuple[str, float]] = {}
        self._began = time.monotonic()
        self._prepared: Inventory | None = None
        """The inventory for which Ansible's settings have been read beforehand."""

    async def open(self, caller: Caller, ref: str, kind: ConsoleType) -> Opened:
        """Open the console of a running VM, and create a ticket for it.

        If that cannot be done over the connection that will carry the console, because the host
        cannot be reached so or libvirt reports an error, the job console_open does it, or says
        why it cannot.
        """
        vm = await find_vm(ref)
        await self._refuse_unusable(vm)
        password = self._password(vm.id) if kind is ConsoleType.VNC else None
        job: Job | None = None
        try:
            console = await self._open_directly(vm, kind, password)
        except errors.HostUnreachable as error:
            log.info("opening the console of VM %s by a job: %s", vm.ref, error.message)
            job = await self._run_job(caller, str(vm.ref), kind, password)
            console = (job.result or {})["console"]
        host, port = console.get("host"), console.get("port")
        async with transaction():
            if job is None:
                await write_audit(
                    actor=caller.name,
                    action=Action.CONSOLE_OPEN.value,
                    vm_ref=vm.ref,
                    address=caller.address,
                    request_id=caller.request_id,
                )
            text, expires_at = await create_ticket(vm.id, caller.token_id, kind.value, port)
        needed = password if console.get("password_set") else None
        return Opened(vm, job, kind, host, port, needed, text, expires_at)

    async def _open_directly(
        self, vm: Vm, kind: ConsoleType, password: str | None
    ) -> dict[str, Any]:
        """Open a console without a job; raise HostUnreachable if a job must do it."""
        address = await self._connections.address(self.inventory, str(vm.host))
        given = {"password": password, "seconds": PASSWORD_SECONDS}
        console = await self._connections.open_console(address, str(vm.uuid), kind.value, given)
        if code := console.get("code"):
            error = CONSOLE_ERRORS.get(str(code), errors.ConsoleNotAvailable)
            raise error(f"cannot open a console of VM {vm.label}: {console['msg']}")
        return console

    async def _run_job(
        self, caller: Caller, ref: str, kind: ConsoleType, password: str | None
    ) -> Job:
        """Run console_open for a running VM; return the job, which has succeeded."""
        async with transaction():
            vm = await find_vm(ref, lock=True)
            await self._refuse_unusable(vm)
            variables = {
                "libvirt_console_uuid": str(vm.uuid),
                "libvirt_console_domain": str(vm.domain),
                "libvirt_console_type": kind.value,
                "libvirt_console_seconds": PASSWORD_SECONDS,
            }
            hidden = {"libvirt_console_password": password} if password else {}
            job = await submit(
                self._settings, caller, vm, Action.CONSOLE_OPEN, variables, secrets=hidden
            )
        self._dispatcher.enqueue(job.id)
        job = await self._ends.wait(job, JOB_SECONDS)
        await self._give_up_waiting(vm, job)
        _refuse_failure(vm, job)
        return job

    async def _give_up_waiting(self, vm: Vm, job: Job) -> None:
        """Cancel a job that no worker has started: its console would open too late."""
        if job.status != JobStatus.QUEUED:
            return
        message = (
            f"cannot open a console of VM {vm.label}: no worker was free for {JOB_SECONDS:g} s"
        )
        error = {"code": errors.ConsoleNotAvailable.code, "message": message, "task": ""}
        with suppress(errors.Conflict):  # it has just begun
            await move(job, JobStatus.CANCELLED, error={**error, "host": job.host})
            await asyncio.to_thread(write_secrets, job_directory(self._settings, str(job.ref)), {})

    async def admit(self, ref: str, text: str) -> tuple[Vm, ConsoleTicket]:
        """Accept a ticket for a running VM; a ticket can be used once.

        Forbidden for a ticket that is used, expired or another VM's, or whose token is no longer
        valid; VmAlreadyStopped.
        """
        refused = errors.Forbidden(
            f"cannot open the console of VM {ref}: the ticket is not valid; each is valid for one"
            " connection within 40 seconds"
        )
        # The URL has the id. The caller has no token, and must not learn which VMs exist.
        vm = await get_vm(ref)
        if vm is None:
            raise refused
        ticket = await find_ticket(text, vm.id)
        if ticket is None or ticket.token_id not in await valid_tokens({ticket.token_id}):
            raise refused
        await self._refuse_unusable(vm)
        if not await use_ticket(ticket):
            raise refused
        return vm, ticket

    async def carry(self, vm: Vm, ticket: ConsoleTicket, client: Client) -> None:
        """Carry the stream of an admitted client until it ends."""
        console = OpenConsole(str(vm.ref), ticket.kind, ticket.token_id, client)
        await self._open.carry(console, partial(self._connect, vm, ticket))

    async def watch(self) -> None:
        """End consoles whose token is no longer valid, until cancelled."""
        await self._open.watch(self._sweep)

    async def stop(self) -> None:
        """End all consoles and connections."""
        await self._open.stop()
        await self._connections.close()

    async def _connect(self, vm: Vm, ticket: ConsoleTicket) -> ConsoleStream:
        address = await self._connections.address(self.inventory, str(vm.host))
        if ticket.kind == ConsoleType.SERIAL:
            return await self._connections.open_serial(address, str(vm.uuid))
        return await self._connections.open_screen(address, ticket.port or 0)

    async def _sweep(self) -> None:
        await self._connections.sweep()
        now = time.monotonic()
        if self._prepared is not self.inventory and now > self._began + PREPARE_AFTER:
            # The first console need not wait for this, nor the start of the service.
            self._prepared = self.inventory
            _ = self._connections.prepare(self.inventory)
        self._passwords = {id: kept for id, kept in self._passwords.items() if kept[1] > now}

    def _password(self, vm_id: int) -> str:
        """Return the valid password of a VM's screen or a new one; its time starts again.

        47 random bits, valid for a minute, behind SSH and the loopback.
        """
        now = time.monotonic()
        password, until = self._passwords.get(vm_id, ("", 0.0))
        if until <= now:
            alphabet = string.ascii_letters + string.digits
            password = "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
        self._passwords[vm_id] = (password, now + PASSWORD_SECONDS)
        return password

    async def _refuse_unusable(self, vm: Vm) -> None:
        status = await store.host_status(str(vm.host))
        if status is None:
            raise errors.HostUnreachable(
                f"cannot open a console of VM {vm.label}: its host {vm.host} is no longer in the"
                " inventory"
            )
        if vm.status == VmStatus.UNREACHABLE or status == HostStatus.UNREACHABLE:
            raise errors.HostUnreachable(
                f"cannot open a console of VM {vm.label}: its host {vm.host} is unreachable"
            )
        if not vm.provisioned or vm.power not in ACTIVE_STATES:
            raise errors.VmAlreadyStopped(
                f"cannot open a console of VM {vm.label}: it is {vm.status}"
            )


def _refuse_failure(vm: Vm, job: Job) -> None:
    if job.status == JobStatus.SUCCEEDED:
        return
    if job.error is None:
        raise errors.HostUnreachable(
            f"cannot open a console of VM {vm.label}: {job.ref} is {job.status} after"
            f" {JOB_SECONDS:.0f} s",
            jobId=job.ref,
        )
    error = CONSOLE_ERRORS.get(str(job.error["code"]), errors.ConsoleNotAvailable)
    raise error(str(job.error["message"]), jobId=job.ref)
