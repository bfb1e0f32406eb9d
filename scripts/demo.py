"""Runs the service on a lab of two hypervisors until Ctrl-C or SIGTERM: `make demo`."""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import NoReturn

from lab.lab import Lab

READY_SECONDS = 60
STOP_SECONDS = 30


class Ended(Exception):
    """A signal requests the end of the demo."""


def main() -> int:
    """Start the lab and the service, print how to use them, and stop both at the end."""
    epilog = "VIRTPLAY_PORT and VIRTPLAY_BOOTSTRAP_TOKEN set the port and the admin's token."
    argparse.ArgumentParser(description=__doc__, epilog=epilog).parse_args()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    port = os.environ.get("VIRTPLAY_PORT", "3000")
    token = os.environ.get("VIRTPLAY_BOOTSTRAP_TOKEN") or secrets.token_urlsafe(32)
    started = time.monotonic()
    try:
        print("starting two hypervisors in namespaces of this machine …", flush=True)
        with tempfile.TemporaryDirectory(prefix="virtplay-demo-") as state, Lab(hosts=2) as lab:
            print(f"  ready after {time.monotonic() - started:.0f} s: inventory {lab.inventory}")
            service = start_service(lab.inventory, Path(state), token, port)
            try:
                wait_ready(service, port)
                _say_how(token, port, time.monotonic() - started)
                return service.wait()
            finally:
                stop_service(service)
                print("the service has stopped; stopping the hosts …", flush=True)
    except Ended:
        return 0
    except RuntimeError as error:
        print(f"cannot start the demo: {error}", file=sys.stderr)
        return 1


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # Ignore further signals: they must not interrupt the stop of the lab.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Ended


def start_service(
    inventory: Path,
    state: Path,
    token: str,
    port: str,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    program: Sequence[str] = ("-m", "virtplay.cli", "serve"),
) -> subprocess.Popen[bytes]:
    """Start the service on an inventory, with its own state directory, token and port."""
    environment = {
        "VIRTPLAY_OBSERVE_INTERVAL": "5",
        "VIRTPLAY_LOG_LEVEL": "WARNING",
        **os.environ,
        **settings,
        "VIRTPLAY_STATE_DIR": str(state),
        "VIRTPLAY_INVENTORY": str(inventory),
        "VIRTPLAY_BOOTSTRAP_TOKEN": token,
        "VIRTPLAY_PORT": port,
    }
    # In a session of its own, so that Ctrl-C reaches only this process, which stops the service. It
    # also ends with this process if that is killed.
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, *program]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def wait_ready(service: subprocess.Popen[bytes], port: str, seconds: float = READY_SECONDS) -> None:
    """Wait until the service has observed its hosts; raise RuntimeError if it does not start."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise RuntimeError(f"the service ended with status {service.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if json.load(answer)["data"]["status"] == "ok":
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service was not ready within {seconds:.0f} s")


def stop_service(service: subprocess.Popen[bytes]) -> None:
    """Stop the service and wait for its end."""
    if service.poll() is None:
        service.terminate()
        try:
            service.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def _say_how(token: str, port: str, seconds: float) -> None:
    address = f"http://localhost:{port}/api/v1"
    print(
        f"""
Ready after {seconds:.0f} s. Every template of the catalogue has the small image `micro` here.
From another terminal, in this directory:

  export VIRTPLAY_TOKEN={token} VIRTPLAY_URL=http://localhost:{port}
  curl -H "Authorization: Bearer $VIRTPLAY_TOKEN" -H 'Content-Type: application/json' \\
    {address}/vms \\
    -d '{{"name": "my-vm", "template": "debian12", "cpu": 1, "memory": 256, "disk": 1}}'
  curl -H "Authorization: Bearer $VIRTPLAY_TOKEN" -X POST {address}/vms/my-vm/start
  .venv/bin/virtplay vm list
  .venv/bin/virtplay host list

API documentation: http://localhost:{port}/docs. Ctrl-C stops the demo.
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
