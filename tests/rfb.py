"""Tests: as much of an RFB client (RFC 6143) as tells who is let in and whether a screen is shown.

Over any two functions, one that reads so many bytes and one that writes: a socket, a pipe to
`ssh -W`, or a websocket.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]
NONE, VNC_AUTHENTICATION = 1, 2


class RfbRefused(Exception):
    """The server let us not in; the message is its reason."""


@dataclass
class Screen:
    """What the server said when it let us in."""

    securities: list[int]
    width: int
    height: int
    name: str


def answer_challenge(password: str, challenge: bytes) -> bytes:
    """The DES of VNC, whose key has each byte's bits the other way round."""
    padded = password.encode()[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in padded)
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge)


async def shake_hands(read: Read, write: Write, password: str | None) -> Screen:
    """Log in and take the server's description of its screen; RfbRefused when it refuses."""
    version = await read(12)
    assert version.startswith(b"RFB 003."), version
    await write(b"RFB 003.008\n")
    (count,) = await read(1)
    if not count:
        raise RfbRefused(await _reason(read))
    securities = list(await read(count))
    if VNC_AUTHENTICATION in securities:
        await write(bytes([VNC_AUTHENTICATION]))
        await write(answer_challenge(password or "", await read(16)))
    else:
        assert NONE in securities, securities
        await write(bytes([NONE]))
    (result,) = struct.unpack(">I", await read(4))
    if result:
        raise RfbRefused(await _reason(read))
    await write(b"\x01")  # shared
    head = await read(24)
    width, height = struct.unpack(">HH", head[:4])
    (length,) = struct.unpack(">I", head[20:])
    return Screen(securities, width, height, (await read(length)).decode())


async def _reason(read: Read) -> str:
    (length,) = struct.unpack(">I", await read(4))
    return (await read(length)).decode()


async def ask_for_update(write: Write, width: int, height: int, *, incremental: bool) -> None:
    """Ask for the screen's content in raw pixels."""
    await write(struct.pack(">BBHi", 2, 0, 1, 0))
    await write(struct.pack(">BBHHHH", 3, incremental, 0, 0, width, height))


async def read_update(read: Read) -> list[tuple[int, int, int, int, bytes]]:
    """One update of 32-bit pixels: rectangles of x, y, width, height and their pixels."""
    while (kind := (await read(1))[0]) != 0:
        if kind == 3:  # text that was cut in the guest
            (length,) = struct.unpack(">xxxI", await read(7))
            await read(length)
        else:
            assert kind == 2, kind  # a bell
    (count,) = struct.unpack(">xH", await read(3))
    rectangles = []
    for _ in range(count):
        x, y, width, height, encoding = struct.unpack(">HHHHi", await read(12))
        assert encoding == 0, encoding
        rectangles.append((x, y, width, height, await read(width * height * 4)))
    return rectangles
