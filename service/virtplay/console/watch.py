"""The open streams: carries them, and ends each when its time has come."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from virtplay.console.reach import Line
from virtplay.console.relay import FAILED, GOING_AWAY, POLICY, Client, Ending, relay
from virtplay.errors import VirtplayError
from virtplay.store.tokens import valid_tokens

log = logging.getLogger("virtplay.console.watch")

WATCH_SECONDS = 2.0
STOP_SECONDS = 3.0
REVOKED = Ending(POLICY, "the token that opened this console was revoked or has expired")
STOPPING = Ending(GOING_AWAY, "the service is stopping")


class Stream:
    """One open stream, and what it was opened by."""

    def __init__(self, vm: str, kind: str, token_id: int, client: Client) -> None:
        self.vm = vm
        self.kind = kind
        self.token_id = token_id
        self.client = client
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Ask it to end; the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(ending)


class Streams:
    """Every open stream of this process."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    async def carry(self, stream: Stream, connect: Callable[[], Awaitable[Line]]) -> None:
        """Connect to the guest's side and carry the stream to its end, whichever side ends it."""
        if self._stopping:
            stream.end(STOPPING)
        self._open.add(stream)
        log.info("%s console of VM %s opened", stream.kind, stream.vm)
        work = asyncio.create_task(_connect_and_relay(stream.client, connect))
        ending = Ending(FAILED, "the console broke")
        try:
            await asyncio.wait({work, stream.ended}, return_when=asyncio.FIRST_COMPLETED)
            ending = stream.ended.result() if stream.ended.done() else work.result()
        except VirtplayError as error:
            ending = Ending(FAILED, error.message)
        finally:
            work.cancel()
            await asyncio.wait({work})
            with contextlib.suppress(ConnectionError):
                await stream.client.close(ending.code, ending.reason)
            self._open.discard(stream)
            log.info(
                "%s console of VM %s ended: %s", stream.kind, stream.vm, ending.reason or "closed"
            )

    async def watch(self, sweep: Callable[[], Awaitable[None]]) -> None:
        """End the streams of tokens that are no longer valid; one query for all of them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await sweep()
            if not self._open:
                continue
            # One that is opened while the database answers was not asked about.
            asked = list(self._open)
            valid = await valid_tokens({stream.token_id for stream in asked})
            for stream in asked:
                if stream.token_id not in valid:
                    stream.end(REVOKED)
                else:
                    stream.client.tend(loop.time())

    async def stop(self) -> None:
        """End every stream, and wait until their clients were told."""
        self._stopping = True
        for stream in list(self._open):
            stream.end(STOPPING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while self._open:  # noqa: ASYNC110 - a moment, once in a process's life
                    await asyncio.sleep(0.02)


async def _connect_and_relay(client: Client, connect: Callable[[], Awaitable[Line]]) -> Ending:
    line = await connect()
    try:
        return await relay(client, line)
    finally:
        await line.close()
