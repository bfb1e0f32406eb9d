"""Opens console streams on hosts, locally or over SSH: the only importer of asyncssh.

All streams of a host share one SSH connection, which stays open for a while after the last one.
Host keys are always checked, whatever the inventory sets. Not `ssh -W` for each stream: opening 20
at once costs 130 ms of CPU instead of 9, and a lost connection looks like the end of a stream.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh

from virtplay.console.address import Address, jump_address, program_command, read_address
from virtplay.errors import HostUnreachable
from virtplay.hosts.inventory import Inventory, load_connection_defaults

log = logging.getLogger("virtplay.console.connections")
# asyncssh 2.24 logs each channel at INFO, with its whole command: here, the stream program. Its
# author's advice: https://github.com/ronf/asyncssh/issues/193
asyncssh.set_log_level("WARNING")

WINDOW = 256 * 1024
"""Bytes that a host may send before a slow client has read them."""
PACKET = 32 * 1024
CONNECT_SECONDS = 10.0
OPEN_SECONDS = 10.0
KEEPALIVE_SECONDS = 15.0
IDLE_SECONDS = 300.0
"""How long a connection stays after its last stream, so that the next console opens at once."""
PREPARE_SECONDS = 8.0
"""How long opening a console may take without a job, the connection to its host included."""
USUAL_CONFIG = ("~/.ssh/config", "/etc/ssh/ssh_config")
USUAL_KNOWN_HOSTS = (
    "~/.ssh/known_hosts",
    "~/.ssh/known_hosts2",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
)
PROGRAMS = "collections/ansible_collections/virtplay/libvirt/plugins/module_utils"
STREAM, OPEN = f"{PROGRAMS}/console_stream.py", f"{PROGRAMS}/console_open.py"
OUTPUT_LIMIT = 4096
REASON_SECONDS = 3.0
SETTLE_SECONDS = 0.3
STREAM_ERRORS = (OSError, EOFError, asyncssh.Error)
"""Errors of reading or writing a stream whose remote end is closed."""
STOPPED = "the VM has stopped"
FAR_END_CLOSED = "the VM has closed the connection"
SSH_LOST = "the SSH connection to the host was lost"


@dataclass
class ConsoleStream:
    """An open stream to a VM's screen or serial console."""

    reader: Any
    writer: Any
    connection: "SshConnection | None" = None
    process: Any = None
    errors: Any = None
    accepts: Callable[[], Awaitable[bool]] | None = None
    """Whether the remote end accepts another connection."""

    async def reason(self) -> str:
        """Return why the remote end has closed the stream, in a few words."""
        if self.connection is not None and self.connection.lost:
            return SSH_LOST
        if self.accepts is not None:
            # QEMU also closes it after a wrong password, but then it accepts other connections.
            return FAR_END_CLOSED if await self.accepts() else STOPPED
        with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(REASON_SECONDS):
                output = (await self.errors.read(OUTPUT_LIMIT)).decode(errors="replace").strip()
                if output:
                    return str(output.splitlines()[-1])
        return FAR_END_CLOSED

    async def close(self) -> None:
        """Close the stream, whatever its state."""
        with contextlib.suppress(OSError, asyncssh.Error):
            self.writer.close()
        if self.process is not None:
            await _end(self.process)
        if self.connection is not None:
            self.connection.leave()


async def _end(process: Any) -> None:
    """End a stream program: over SSH by closing its input, a local one also by a signal."""
    if not isinstance(process, asyncio.subprocess.Process):
        process.close()
        return
    try:
        async with asyncio.timeout(2):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class SshConnection:
    """One SSH connection to a host, and the number of its streams."""

    def __init__(self, ssh: asyncssh.SSHClientConnection) -> None:
        self.ssh = ssh
        self.streams = 0
        self.idle_since = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self.ssh.is_closed()

    def take(self) -> None:
        """Count one more stream."""
        self.streams += 1

    def leave(self) -> None:
        """Count one stream less."""
        self.streams -= 1
        self.idle_since = time.monotonic()


class HostConnections:
    """The SSH connections to all hosts."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._defaults: tuple[Inventory, asyncio.Task[dict[str, Any]]] | None = None
        self._connections: dict[Address, list[SshConnection]] = {}
        self._locks: dict[Address, asyncio.Lock] = {}

    def prepare(self, inventory: Inventory) -> asyncio.Task[dict[str, Any]]:
        """Read Ansible's settings of connections, unless they were read since the last reload."""
        known = self._defaults
        if known is None or known[0] is not inventory or (known[1].done() and known[1].exception()):
            known = inventory, asyncio.create_task(load_connection_defaults(self._project))
            self._defaults = known
        return known[1]

    async def address(self, inventory: Inventory, name: str) -> Address:
        """Return how Ansible connects to a host; HostUnreachable when consoles cannot do that."""
        config = inventory.hosts.get(name)
        if config is None:
            raise HostUnreachable(f"cannot reach host {name}: it is not in the inventory")
        # Shielded: a client that disconnects must not cancel the read for the others.
        defaults = await asyncio.shield(self.prepare(inventory))
        return read_address(name, config.connection, defaults, self._project)

    async def open_screen(self, address: Address, port: int) -> ConsoleStream:
        """Connect to a VNC server on the host's loopback; HostUnreachable when that fails."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS + OPEN_SECONDS):
                stream = await self._connect_port(address, port)
                stream.accepts = partial(self._accepts, address, port)
                return stream
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise _unreachable(address, f"port {port} of its loopback", error) from error

    async def _connect_port(self, address: Address, port: int) -> ConsoleStream:
        if address.local:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=WINDOW // 2)
            return ConsoleStream(reader, writer)
        connection = await self._shared(address)
        connection.take()
        try:
            ssh_reader, ssh_writer = await connection.ssh.open_connection(
                "127.0.0.1", port, window=WINDOW, max_pktsize=PACKET
            )
        except BaseException:
            connection.leave()
            raise
        return ConsoleStream(ssh_reader, ssh_writer, connection)

    async def _accepts(self, address: Address, port: int) -> bool:
        """Whether a VNC server sends its greeting; one that is ending may still accept clients."""
        await asyncio.sleep(SETTLE_SECONDS)
        try:
            async with asyncio.timeout(REASON_SECONDS):
                stream = await self._connect_port(address, port)
                try:
                    return bool(await stream.reader.read(1))
                finally:
                    await stream.close()
        except (*STREAM_ERRORS, TimeoutError):
            return False

    async def open_console(
        self, address: Address, uuid: str, kind: str, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run console_open.py for a domain, with the values `given`, and return what it prints.

        HostUnreachable if that does not work, whatever the reason.
        """
        try:
            source = await asyncio.to_thread((self._project / OPEN).read_text)
            command = program_command(address, source, uuid, kind)
            async with asyncio.timeout(PREPARE_SECONDS):
                output = await self._run(address, command, json.dumps(given).encode())
            result: dict[str, Any] = json.loads(output)
            return result
        except (OSError, ValueError, asyncssh.Error, TimeoutError) as error:
            raise _unreachable(address, "libvirt", error) from error

    async def _run(self, address: Address, command: Sequence[str], given: bytes) -> bytes:
        """Run a program on the host; return what it prints. OSError if it fails."""
        stream = await (
            self._start_here(command) if address.local else self._start(address, command)
        )
        try:
            stream.writer.write(given)
            stream.writer.write_eof()
            output, errors = await asyncio.gather(stream.reader.read(), stream.errors.read())
            await stream.process.wait()
        finally:
            await stream.close()
        if stream.process.returncode != 0:
            words = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise OSError(words or f"exit status {stream.process.returncode}")
        return bytes(output)

    async def open_serial(self, address: Address, uuid: str) -> ConsoleStream:
        """Start the stream program for a domain's serial console; HostUnreachable if it fails."""
        source = await asyncio.to_thread((self._project / STREAM).read_text)
        command = program_command(address, source, uuid)
        try:
            async with asyncio.timeout(CONNECT_SECONDS + OPEN_SECONDS):
                stream = await (
                    self._start_here(command) if address.local else self._start(address, command)
                )
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise _unreachable(address, "the serial console", error) from error
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                output = await stream.errors.readline()
            if output.strip() == b"open":
                return stream
            words = (output + await stream.errors.read(OUTPUT_LIMIT)).decode(errors="replace")
        except (OSError, asyncssh.Error, TimeoutError):
            words = "no response"
        except BaseException:
            await stream.close()
            raise
        await stream.close()
        last = words.strip().splitlines()[-1:] or ["no reason given"]
        raise HostUnreachable(f"cannot open the serial console on host {address.name}: {last[0]}")

    async def _start_here(self, command: Sequence[str]) -> ConsoleStream:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=WINDOW // 2,
            start_new_session=True,
        )
        return ConsoleStream(process.stdout, process.stdin, process=process, errors=process.stderr)

    async def _start(self, address: Address, command: Sequence[str]) -> ConsoleStream:
        """Start a program in a session; a server limits the sessions of each connection."""
        for connection in [*self._open_connections(address), None]:
            fresh = connection is None
            chosen = await self._connect(address) if connection is None else connection
            chosen.take()
            try:
                process = await chosen.ssh.create_process(
                    shlex.join(command),
                    encoding=None,
                    window=WINDOW,
                    max_pktsize=PACKET,
                    request_pty=False,
                    bufsize=PACKET,
                )
            except asyncssh.ChannelOpenError:
                chosen.leave()
                if fresh:
                    raise
            except BaseException:
                chosen.leave()
                raise
            else:
                return ConsoleStream(process.stdout, process.stdin, chosen, process, process.stderr)
        raise AssertionError("the last attempt is on a new connection")

    def _open_connections(self, address: Address) -> list[SshConnection]:
        return [
            connection for connection in self._connections.get(address, []) if not connection.lost
        ]

    async def _shared(self, address: Address) -> SshConnection:
        """Return the host's connection; the first caller opens it, the others wait."""
        async with self._locks.setdefault(address, asyncio.Lock()):
            connections = self._open_connections(address)
            return connections[0] if connections else await self._connect(address)

    async def _connect(self, address: Address) -> SshConnection:
        connection = SshConnection(await connect(address))
        self._connections[address] = [*self._open_connections(address), connection]
        return connection

    async def sweep(self) -> None:
        """Close the connections that were idle for IDLE_SECONDS."""
        limit = time.monotonic() - IDLE_SECONDS
        for address, connections in list(self._connections.items()):
            kept = []
            for connection in connections:
                if not connection.streams and connection.idle_since < limit:
                    connection.ssh.close()
                elif not connection.lost:
                    kept.append(connection)
            if kept:
                self._connections[address] = kept
            else:
                del self._connections[address]

    async def close(self) -> None:
        """Close every connection, and stop reading Ansible's settings."""
        if self._defaults is not None:
            self._defaults[1].cancel()
            await asyncio.gather(self._defaults[1], return_exceptions=True)
        for connections in self._connections.values():
            for connection in connections:
                connection.ssh.abort()
        self._connections.clear()


async def connect(address: Address) -> asyncssh.SSHClientConnection:
    """Open an SSH connection as Ansible would; check its host key, and those of jump hosts."""
    # asyncssh 2.24 reads the file again when it connects.
    with _config_file(address.lines) as own:
        options = await asyncio.to_thread(_options, address, own)
        if not isinstance(options.tunnel, str):
            return await asyncssh.connect(address.host, options=options)
        # asyncssh 2.24 itself would use ~/.ssh/config for jump hosts, even for their host keys:
        # https://github.com/ronf/asyncssh/issues/698
        way = await connect(jump_address(address, options.tunnel))
        try:
            connection = await asyncssh.connect(address.host, options=options, tunnel=way)
        except BaseException:
            way.abort()
            raise
        connection.set_tunnel(way)  # it ends with the connection
        return connection


def _options(address: Address, own: str) -> asyncssh.SSHClientConnectionOptions:
    usual = [path for path in map(_expanded, USUAL_CONFIG) if os.access(path, os.R_OK)]
    files = usual if address.config_files is None else map(_expanded, address.config_files)
    more: dict[str, Any] = {"password": address.password} if address.password is not None else {}
    options = asyncssh.SSHClientConnectionOptions(
        host=address.host,
        config=[own, *files],
        connect_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        keepalive_interval=KEEPALIVE_SECONDS,
        keepalive_count_max=2,
        **more,
    )
    # None would accept every host, as UserKnownHostsFile "none" has it. And not by attribute:
    # asyncssh 2.24 works all attributes out anew when it connects.
    named: Any = options.known_hosts or USUAL_KNOWN_HOSTS
    paths = [_expanded(str(path)) for path in named]
    known = [path for path in paths if os.access(path, os.R_OK)] or [os.devnull]
    return asyncssh.SSHClientConnectionOptions(options, known_hosts=known)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser())


@contextlib.contextmanager
def _config_file(lines: Sequence[str]) -> Iterator[str]:
    """Write lines of ssh_config to a temporary file, which asyncssh requires."""
    with tempfile.NamedTemporaryFile("w", prefix="virtplay-ssh-", suffix=".conf") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield file.name


def _unreachable(address: Address, what: str, error: BaseException) -> HostUnreachable:
    words = " ".join(str(error).split()) or type(error).__name__
    log.warning("cannot reach %s on host %s: %s", what, address.name, words)
    return HostUnreachable(f"cannot reach {what} on host {address.name}: {words}")
