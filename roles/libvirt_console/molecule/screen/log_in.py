"""Molecule: log in to a VNC server on a host's loopback address; the exit status shows the result.

Usage: log_in.py PORT PASSWORD SSH-COMMAND …
"""

from __future__ import annotations

import asyncio
import sys

from tests.rfb import RfbRefused, shake_hands


async def main(port: str, password: str, *ssh: str) -> int:
    """Return 0 if the server accepts the password, 3 if it refuses it."""
    tunnel = await asyncio.create_subprocess_exec(
        *ssh,
        "-W",
        f"127.0.0.1:{port}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert tunnel.stdin
    assert tunnel.stdout
    writer = tunnel.stdin

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    try:
        screen = await shake_hands(tunnel.stdout.readexactly, write, password)
    except RfbRefused as refusal:
        print(f"refused: {refusal}")
        return 3
    finally:
        tunnel.terminate()
        await tunnel.wait()
    print(f"{screen.width}x{screen.height} {screen.name}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
