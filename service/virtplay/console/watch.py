"""The open consoles: carries their streams, and ends those whose token is no longer valid."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum

from virtplay.console.connections import ConsoleStream
from virtplay.console.relay import FAILED, GOING_AWAY, POLICY, Client, Ending, relay
from virtplay.errors import VirtplayError
from virtplay.store.tokens import valid_tokens

log = logging.getLogger("virtplay.console.watch")

WATCH_SECONDS = 2.0
STOP_SECONDS = 3.0
REVOKED = Ending(POLICY, "the token that opened this console was revoked or has expired")
STOPPING = Ending(GOING_AWAY, "the service is stopping")
TAKEN = Ending(GOING_AWAY, "another client has taken the console over")


class ConsoleType(StrEnum):
    """The kinds of console."""

    VNC = "vnc"
    """The screen, by RFB; several clients may have it at once."""
    SERIAL = "serial"
    """The serial console; a new client takes it over."""


class OpenConsole:
    """One open console, and the token that opened it."""

    def __init__(self, vm: str, kind: str, token_id: int, client: Client) -> None:
        self.vm = vm
        self.kind = kind
        self.token_id = token_id
        self.client = client
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Request the end of the console; the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(ending)


class OpenConsoles:
    """All open consoles of this process."""

    def __init__(self) -> None:
        self._open: dict[OpenConsole, None] = {}
        """Its keys, in the order in which they were opened."""
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    async def carry(
        self, console: OpenConsole, connect: Callable[[], Awaitable[ConsoleStream]]
    ) -> None:
        """Connect to the VM and carry its stream until either side ends it."""
        if self._stopping:
            console.end(STOPPING)
        self._open[console] = None
        log.info("%s console of VM %s opened", console.kind, console.vm)
        work = asyncio.create_task(self._connect_and_relay(console, connect))
        ending = Ending(FAILED, "the console failed")
        try:
            await asyncio.wait({work, console.ended}, return_when=asyncio.FIRST_COMPLETED)
            ending = console.ended.result() if console.ended.done() else work.result()
        except VirtplayError as error:
            ending = Ending(FAILED, error.message)
        finally:
            work.cancel()
            await asyncio.wait({work})
            with contextlib.suppress(ConnectionError):
                await console.client.close(ending.code, ending.reason)
            del self._open[console]
            log.info(
                "%s console of VM %s ended: %s", console.kind, console.vm, ending.reason or "closed"
            )

    async def watch(self, sweep: Callable[[], Awaitable[None]]) -> None:
        """End the consoles of tokens that are no longer valid, with one query for all."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await sweep()
            if not self._open:
                continue
            # A console that opens during the query is checked in the next round.
            checked = list(self._open)
            valid = await valid_tokens({console.token_id for console in checked})
            for console in checked:
                if console.token_id not in valid:
                    console.end(REVOKED)
                else:
                    console.client.tend(loop.time())

    async def stop(self) -> None:
        """End every console, and wait until their clients have received the reason."""
        self._stopping = True
        for console in list(self._open):
            console.end(STOPPING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while self._open:  # noqa: ASYNC110 - a moment, once in a process's life
                    await asyncio.sleep(0.02)

    async def _connect_and_relay(
        self, console: OpenConsole, connect: Callable[[], Awaitable[ConsoleStream]]
    ) -> Ending:
        stream = await connect()
        try:
            self._take_over(console)
            return await relay(console.client, stream)
        finally:
            await stream.close()

    def _take_over(self, console: OpenConsole) -> None:
        """End the older consoles of a VM whose serial console has just been connected.

        libvirt (9.0, 11.3, 12.8) does not tell the older client while output for it is in flight.
        """
        if console.kind != ConsoleType.SERIAL:
            return
        for older in self._open:
            if older is console:
                return
            if (older.vm, older.kind) == (console.vm, console.kind):
                older.end(TAKEN)
