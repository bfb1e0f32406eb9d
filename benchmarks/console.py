"""Benchmarks: consoles: bytes pumped through the websocket, and refreshes of a whole screen.

The pump has a program on the hypervisor's loopback in VNC's place; every byte is compared. A screen
is refreshed through the service and, by the same client, straight on the hypervisor.
"""

import asyncio
import hashlib
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from benchmarks.actions import MICRO
from benchmarks.measuring import ORIGIN, Figure, Service, serving
from lab.lab import Host, Lab
from tests import rfb
from tests.tickets import draw_ticket

PUMP_PORT = 5999
MIB = 1024 * 1024
FRAME = 32 * 1024
REFRESHES = 30
MEBIBYTES = 1024
# Sends the pattern, then takes it and answers with its SHA-256.
PUMP = """
import hashlib, random, socket, sys
size = int(sys.argv[1])
block = random.Random(7).randbytes(1048576)
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print("ready", flush=True)
peer = listener.accept()[0]
for number in range(size):
    peer.sendall(number.to_bytes(8, "big") + block[8:])
digest = hashlib.sha256()
left = size * 1048576
while left:
    data = peer.recv(min(left, 262144))
    if not data:
        sys.exit("lost")
    digest.update(data)
    left -= len(data)
peer.sendall(digest.hexdigest().encode())
peer.recv(1)
"""


def pattern(mebibytes: int) -> Iterator[bytes]:
    """The blocks that are pumped: each has its number, so that no two are alike."""
    block = random.Random(7).randbytes(MIB)  # noqa: S311
    for number in range(mebibytes):
        yield number.to_bytes(8, "big") + block[8:]


def bench(*, quick: bool) -> Iterator[Figure]:
    """A screen's refreshes, and 1 GiB each way through the websocket."""
    with Lab(hosts=1) as lab, serving(lab.inventory) as service:
        vm = service.run("POST", "/vms", {"name": "bench", "autoStart": True, **MICRO})
        opened = service.get(f"/vms/{vm}/console")
        yield refresh(opened, lab.hosts[0])
        yield pump(opened["url"], service, lab.hosts[0], 8 if quick else MEBIBYTES)


def pump(url: str, service: Service, host: Host, mebibytes: int) -> Figure:
    """Pump so many MiB each way; `url` is one that the service has answered for a running VM."""
    program = ["/usr/bin/python3", "-c", PUMP, str(mebibytes), str(PUMP_PORT)]
    thread = threading.Thread(target=lambda: host.run(*program, timeout=900), daemon=True)
    thread.start()
    time.sleep(1)
    ticket = draw_ticket(service.state, PUMP_PORT)
    figure = asyncio.run(_pump(f"{url.split('=', maxsplit=1)[0]}={ticket}", mebibytes))
    thread.join(10)
    return {"bench": "console_pump", "mebibytes_each_way": mebibytes, **figure}


async def _pump(url: str, mebibytes: int) -> dict[str, Any]:
    async with connect(
        url, origin=Origin(ORIGIN), max_size=None, compression=None, ping_interval=5
    ) as socket:
        started = time.monotonic()
        wrong = await _receive_pattern(socket, mebibytes)
        down = time.monotonic() - started
        digest = hashlib.sha256()
        started = time.monotonic()
        for block in pattern(mebibytes):
            digest.update(block)
            for position in range(0, MIB, FRAME):
                await socket.send(block[position : position + FRAME])
        answer = b""
        while len(answer) < 64:
            answer += await socket.recv(decode=False)
        up = time.monotonic() - started
    if answer.decode() != digest.hexdigest():
        raise RuntimeError("what the host has received is not what was sent")
    return {
        "down_mib_s": round(mebibytes / down, 1),
        "up_mib_s": round(mebibytes / up, 1),
        "bytes_wrong": wrong,
    }


async def _receive_pattern(socket: ClientConnection, mebibytes: int) -> int:
    """Read the pattern; how many bytes were lost, reordered or changed."""
    wrong = 0
    heard = bytearray()
    for block in pattern(mebibytes):
        while len(heard) < MIB:
            heard += await socket.recv(decode=False)
        if heard[:MIB] != block:
            wrong += sum(a != b for a, b in zip(heard, block, strict=False))
        del heard[:MIB]
    return wrong + len(heard)


def refresh(opened: dict[str, Any], host: Host) -> Figure:
    """Refresh the whole screen: through the service, and straight on the hypervisor."""
    through = asyncio.run(_refresh_through(opened))
    command = [sys.executable, "-m", __name__, str(opened["port"])]
    # Inside the host's network, where its loopback is; the machine's files are the same there.
    enter = ["nsenter", "-t", str(host.init.pid), "-n", "--"]
    said = subprocess.run(
        [*enter, *command], check=True, capture_output=True, text=True, input=opened["password"]
    )
    return {
        "bench": "console_refresh",
        "screen": "{width}x{height}".format(**through),
        "mebibytes": round(through["bytes"] / MIB, 2),
        "service_s": round(through["seconds"], 4),
        "straight_s": round(json.loads(said.stdout)["seconds"], 4),
        "runs": REFRESHES,
    }


async def _refresh_through(opened: dict[str, Any]) -> dict[str, Any]:
    async with connect(
        opened["url"], origin=Origin(ORIGIN), max_size=None, compression=None
    ) as socket:
        heard = bytearray()

        async def read(count: int) -> bytes:
            while len(heard) < count:
                heard.extend(await socket.recv(decode=False))
            taken = bytes(heard[:count])
            del heard[:count]
            return taken

        async def write(data: bytes) -> None:
            await socket.send(data)

        return await _refresh(read, write, opened["password"])


async def _refresh_straight(port: int, password: str) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * MIB)

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    try:
        return await _refresh(reader.readexactly, write, password)
    finally:
        writer.close()


async def _refresh(read: rfb.Read, write: rfb.Write, password: str) -> dict[str, Any]:
    screen = await rfb.shake_hands(read, write, password)
    seconds = []
    size = 0
    for _ in range(REFRESHES):
        started = time.monotonic()
        await rfb.ask_for_update(write, screen.width, screen.height, incremental=False)
        left = screen.width * screen.height
        size = 0
        while left > 0:
            for _, _, width, height, pixels in await rfb.read_update(read):
                left -= width * height
                size += len(pixels)
        seconds.append(time.monotonic() - started)
    return {
        "seconds": statistics.median(seconds),
        "bytes": size,
        "width": screen.width,
        "height": screen.height,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_refresh_straight(int(sys.argv[1]), sys.stdin.read()))))
