"""Checks inventory and port for `make run` before preparing the hypervisor takes minutes."""

import socket
import sys
from pathlib import Path

from virtplay.cli.server import load_settings
from virtplay.errors import CannotStart
from virtplay.settings import Settings


def main() -> int:
    """Check inventory and port; return exit status 1, with one line printed, if one is unusable."""
    try:
        settings = load_settings()
        check_inventory(settings)
        check_port(settings)
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check_inventory(settings: Settings) -> None:
    """Raise CannotStart if a source of the inventory does not exist."""
    for source in settings.inventory_sources:
        if not Path(source).exists():
            raise CannotStart(f"cannot find the inventory {source}: see VIRTPLAY_INVENTORY")


def check_port(settings: Settings) -> None:
    """Raise CannotStart if the service cannot listen on its address."""
    place = f"{settings.host}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {place}: {error.strerror or error}; stop the program that"
            " listens there, or set VIRTPLAY_PORT"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
