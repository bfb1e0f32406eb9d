"""Reaches the loopback and the serial consoles of hosts: the only importer of asyncssh.

One SSH connection a host is shared by all its streams, and host keys are always checked, whatever
the inventory says. It stays for a while after its last stream.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from virtplay.console.address import Address, jump_address, read_address, stream_command
from virtplay.errors import HostUnreachable
from virtplay.hosts.inventory import Inventory, load_connection_defaults

log = logging.getLogger("virtplay.console.reach")
# asyncssh 2.24 logs each channel at INFO, with its whole command: here, the stream program. Its
# author's advice: https://github.com/ronf/asyncssh/issues/193
asyncssh.set_log_level("WARNING")

WINDOW = 256 * 1024
"""Bytes that a host may send before a slow client has taken them."""
PACKET = 32 * 1024
CONNECT_SECONDS = 10.0
OPEN_SECONDS = 10.0
KEEPALIVE_SECONDS = 15.0
IDLE_SECONDS = 60.0
USUAL_CONFIG = ("~/.ssh/config", "/etc/ssh/ssh_config")
USUAL_KNOWN_HOSTS = (
    "~/.ssh/known_hosts",
    "~/.ssh/known_hosts2",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
)
STREAM = "collections/ansible_collections/virtplay/libvirt/plugins/module_utils/console_stream.py"
SAID_LIMIT = 4096
REASON_SECONDS = 3.0
SETTLE_SECONDS = 0.3
LINE_ERRORS = (OSError, EOFError, asyncssh.Error)
"""What reading or writing a line may raise when its far end is gone."""
STOPPED = "the VM has stopped"
FAR_END_CLOSED = "the VM has closed the connection"
SSH_LOST = "the SSH connection to the host was lost"


class Reader(Protocol):
    """The reading half of asyncio's and asyncssh's streams."""

    async def read(self, n: int = -1) -> bytes:
        """Some bytes; none at the end."""


class Writer(Protocol):
    """The writing half of asyncio's and asyncssh's streams."""

    def write(self, data: bytes) -> None:
        """Take bytes."""

    async def drain(self) -> None:
        """Wait until there is room for more."""

    def close(self) -> None:
        """Close it."""


@dataclass
class Line:
    """An open way to a guest's screen or text console."""

    reader: Any
    writer: Any
    link: "Link | None" = None
    process: Any = None
    errors: Any = None
    answers: Callable[[], Awaitable[bool]] | None = None
    """Whether the far end would take another connection."""

    async def reason(self) -> str:
        """Why the far end has closed the line, in a few words."""
        if self.link is not None and self.link.lost:
            return SSH_LOST
        if self.answers is not None:
            # QEMU closes it when the password is wrong, too; but only without one nobody answers.
            return FAR_END_CLOSED if await self.answers() else STOPPED
        with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(REASON_SECONDS):
                said = (await self.errors.read(SAID_LIMIT)).decode(errors="replace").strip()
                if said:
                    return str(said.splitlines()[-1])
        return FAR_END_CLOSED

    async def close(self) -> None:
        """Give it up, whatever state it is in."""
        with contextlib.suppress(OSError, asyncssh.Error):
            self.writer.close()
        if self.process is not None:
            await _end(self.process)
        if self.link is not None:
            self.link.leave()


async def _end(process: Any) -> None:
    """End a stream program: over SSH by its closed input, here also by a signal."""
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


class Link:
    """One SSH connection to a host and how many streams it carries."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.streams = 0
        self.idle_since = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self.connection.is_closed()

    def take(self) -> None:
        """Count a stream."""
        self.streams += 1

    def leave(self) -> None:
        """Count a stream less."""
        self.streams -= 1
        self.idle_since = time.monotonic()


class Reach:
    """The ways to all hosts."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._defaults: tuple[Inventory, asyncio.Task[dict[str, Any]]] | None = None
        self._links: dict[Address, list[Link]] = {}
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
        # Shielded: a client that leaves must not end it for the others.
        defaults = await asyncio.shield(self.prepare(inventory))
        return read_address(name, config.connection, defaults, self._project)

    async def open_screen(self, address: Address, port: int) -> Line:
        """Connect to a VNC server on the host's loopback; HostUnreachable when that fails."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS + OPEN_SECONDS):
                line = await self._connect_port(address, port)
                line.answers = partial(self._answers, address, port)
                return line
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise _unreachable(address, f"port {port} of its loopback", error) from error

    async def _connect_port(self, address: Address, port: int) -> Line:
        if address.local:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=WINDOW // 2)
            return Line(reader, writer)
        link = await self._link(address)
        link.take()
        try:
            ssh_reader, ssh_writer = await link.connection.open_connection(
                "127.0.0.1", port, window=WINDOW, max_pktsize=PACKET
            )
        except BaseException:
            link.leave()
            raise
        return Line(ssh_reader, ssh_writer, link)

    async def _answers(self, address: Address, port: int) -> bool:
        """Whether a VNC server greets there; one that is about to end may still be connected to."""
        await asyncio.sleep(SETTLE_SECONDS)
        try:
            async with asyncio.timeout(REASON_SECONDS):
                line = await self._connect_port(address, port)
                try:
                    return bool(await line.reader.read(1))
                finally:
                    await line.close()
        except (*LINE_ERRORS, TimeoutError):
            return False

    async def open_serial(self, address: Address, uuid: str) -> Line:
        """Start the stream program for a domain's serial console; HostUnreachable if it fails."""
        source = await asyncio.to_thread((self._project / STREAM).read_text)
        command = stream_command(address, source, uuid)
        try:
            async with asyncio.timeout(CONNECT_SECONDS + OPEN_SECONDS):
                line = await (
                    self._start_here(command) if address.local else self._start(address, command)
                )
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise _unreachable(address, "the serial console", error) from error
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                said = await line.errors.readline()
            if said.strip() == b"open":
                return line
            words = (said + await line.errors.read(SAID_LIMIT)).decode(errors="replace")
        except (OSError, asyncssh.Error, TimeoutError):
            words = "it did not answer"
        except BaseException:
            await line.close()
            raise
        await line.close()
        last = words.strip().splitlines()[-1:] or ["no reason given"]
        raise HostUnreachable(f"cannot open the serial console on host {address.name}: {last[0]}")

    async def _start_here(self, command: Sequence[str]) -> Line:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=WINDOW // 2,
            start_new_session=True,
        )
        return Line(process.stdout, process.stdin, process=process, errors=process.stderr)

    async def _start(self, address: Address, command: Sequence[str]) -> Line:
        """Start a program in a session of some connection: a server allows so many on each."""
        for link in [*self._open_links(address), None]:
            fresh = link is None
            chosen = await self._connect(address) if link is None else link
            chosen.take()
            try:
                process = await chosen.connection.create_process(
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
                return Line(process.stdout, process.stdin, chosen, process, process.stderr)
        raise AssertionError("the last try is on a connection of its own")

    def _open_links(self, address: Address) -> list[Link]:
        return [link for link in self._links.get(address, []) if not link.lost]

    async def _link(self, address: Address) -> Link:
        """The host's connection; made by the first who asks, the others wait for it."""
        async with self._locks.setdefault(address, asyncio.Lock()):
            links = self._open_links(address)
            return links[0] if links else await self._connect(address)

    async def _connect(self, address: Address) -> Link:
        link = Link(await connect(address))
        self._links[address] = [*self._open_links(address), link]
        return link

    async def sweep(self) -> None:
        """Close the connections that nobody has used for a while."""
        limit = time.monotonic() - IDLE_SECONDS
        for address, links in list(self._links.items()):
            kept = []
            for link in links:
                if not link.streams and link.idle_since < limit:
                    link.connection.close()
                elif not link.lost:
                    kept.append(link)
            if kept:
                self._links[address] = kept
            else:
                del self._links[address]

    async def close(self) -> None:
        """Close every connection."""
        for links in self._links.values():
            for link in links:
                link.connection.abort()
        self._links.clear()


async def connect(address: Address) -> asyncssh.SSHClientConnection:
    """Make an SSH connection as Ansible would, its host key checked, and those on the way to it."""
    # asyncssh 2.24 reads the file again when it connects.
    with _config_file(address.lines) as own:
        options = await asyncio.to_thread(_options, address, own)
        if not isinstance(options.tunnel, str):
            return await asyncssh.connect(address.host, options=options)
        # By itself asyncssh 2.24 would know of the way what ~/.ssh/config says, even of host keys.
        way = await connect(jump_address(address, options.tunnel))
        try:
            connection = await asyncssh.connect(address.host, options=options, tunnel=way)
        except BaseException:
            way.abort()
            raise
        connection.set_tunnel(way)  # which ends with it
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
    """Lines of ssh_config in a file, which asyncssh asks for."""
    with tempfile.NamedTemporaryFile("w", prefix="virtplay-ssh-", suffix=".conf") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield file.name


def _unreachable(address: Address, what: str, error: BaseException) -> HostUnreachable:
    words = " ".join(str(error).split()) or type(error).__name__
    log.warning("cannot reach %s on host %s: %s", what, address.name, words)
    return HostUnreachable(f"cannot reach {what} on host {address.name}: {words}")
