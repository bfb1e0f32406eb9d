"""Unit tests: SSH connections of consoles to a server in this process: which host key is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
from virtplay.console import connections
from virtplay.console.address import Address, read_address
from virtplay.console.connections import connect

Name = Callable[..., Address]


class Forwarding(asyncssh.SSHServer):
    """A server that connects its clients to any port."""

    def connection_requested(self, *_: object) -> bool:
        """Say yes."""
        return True


@asynccontextmanager
async def ssh_server(directory: Path) -> AsyncIterator[Name]:
    """An SSH server on a loopback port; what is yielded makes the address of it.

    Its host key is in `directory`/right, another one in `directory`/wrong.
    """
    client, own, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
    client.write_private_key(directory / "id")
    client.write_public_key(directory / "authorized")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Forwarding,
        server_host_keys=[own],
        authorized_client_keys=str(directory / "authorized"),
    )
    port = server.get_port()
    for name, key in (("right", own), ("wrong", other)):
        line = f"[127.0.0.1]:{port} {key.export_public_key().decode()}"
        (directory / name).write_text(line)
    (directory / "empty").touch()

    def name_it(arguments: str) -> Address:
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": "somebody",
            "ansible_ssh_private_key_file": str(directory / "id"),
            # As in many an inventory.
            "ansible_ssh_common_args": f"-F none -o StrictHostKeyChecking=no {arguments}",
        }
        return read_address("kvm1", variables, {}, directory)

    try:
        yield name_it
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def _stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody who knows no host yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(connections, "USUAL_KNOWN_HOSTS", (str(tmp_path / "empty"),))


async def test_known_host_is_connected_to(tmp_path: Path) -> None:
    async with ssh_server(tmp_path) as address:
        connection = await connect(address(f"-o UserKnownHostsFile={tmp_path}/right"))
        connection.abort()


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "-o UserKnownHostsFile=none",
        "-o UserKnownHostsFile=NONE -o GlobalKnownHostsFile=none",
        "-o UserKnownHostsFile=/dev/null",
        "-o UserKnownHostsFile={directory}/missing",
        "-o UserKnownHostsFile={directory}/empty",
        "-o UserKnownHostsFile={directory}/wrong",
        "-o UserKnownHostsFile=none -o UserKnownHostsFile={directory}/right",
    ],
)
async def test_unknown_host_is_refused_whatever_the_inventory_says(
    tmp_path: Path, arguments: str
) -> None:
    async with ssh_server(tmp_path) as address:
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await connect(address(arguments.format(directory=tmp_path)))


@pytest.mark.parametrize(
    ("known", "connects"), [("right", True), ("wrong", False), ("none", False)]
)
async def test_host_on_the_way_is_checked_too(tmp_path: Path, known: str, connects: bool) -> None:
    folders = [tmp_path / name for name in ("way", "host")]
    for folder in folders:
        folder.mkdir()
    async with ssh_server(folders[0]) as way, ssh_server(folders[1]) as host:
        hop = way("")
        said = {"HostName": hop.host, "UserKnownHostsFile": folders[0] / known}
        if known == "none":
            said["UserKnownHostsFile"] = known
        lines = [*hop.lines, *(f"{option} {value}" for option, value in said.items())]
        config = tmp_path / "config"
        config.write_text("\n".join(["Host hop", *lines]))
        known_host = f"-o UserKnownHostsFile={folders[1]}/right"
        address = host(f"-F {config} {known_host} -J hop")
        if connects:
            connection = await connect(address)
            connection.abort()
            await connection.wait_closed()
        else:
            with pytest.raises(asyncssh.HostKeyNotVerifiable):
                await connect(address)
