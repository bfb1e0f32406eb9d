"""Acceptance tests: the fixtures: one service on the session's lab, and an image server for it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lab import Lab
from lab.lab import Host
from lab.prepare import image_catalogue
from lab.slot import PREFIX
from tests.acceptance import debian_image, guests
from tests.acceptance.service import STOP_TIMEOUT, Api, Service

CACHE = Path("/var/cache/virtplay/tests")
BRIDGE = "br-test"
"""A bridge of lab-2 only, without a DHCP server."""


class Builder:
    """Builds the Debian image while other tests run."""

    def __init__(self) -> None:
        self.image = CACHE / f"debian12-{debian_image.recipe()}.qcow2"
        self._log = CACHE / "debian12.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the build, unless the image exists or is being built."""
        if self._process is None and not self.image.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            for old in CACHE.glob("debian12-*.qcow2"):
                old.unlink()
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", "nice", "-n", "19",
                     sys.executable, "-m", "tests.acceptance.debian_image", str(self.image)],
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )  # fmt: skip

    def wait(self) -> Path:
        """Wait for the image and return its path; fail with the last output of a failed build."""
        self.start()
        if self._process is not None and self._process.wait(500) != 0:
            pytest.fail(f"cannot build the Debian image: {self._log.read_text()[-3000:]}")
        return self.image

    def stop(self) -> None:
        """Stop a running build."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


BUILDER = Builder()


def pytest_unconfigure() -> None:
    """Stop a build that no test has waited for."""
    BUILDER.stop()


@dataclass(frozen=True)
class ImageServer:
    """An HTTP server at this machine's address in the lab's network."""

    url: str
    directory: Path

    def add(self, name: str, image: Path) -> str:
        """Serve a file, list it in SHA256SUMS, and return its SHA-256."""
        (self.directory / name).symlink_to(image)
        with image.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with (self.directory / "SHA256SUMS").open("a") as sums:
            sums.write(f"{digest}  {name}\n")
        return digest


@pytest.fixture(scope="session")
def images(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageServer]:
    """An image mirror, as a site would have, that the hosts of the lab reach."""
    directory = tmp_path_factory.mktemp("images")
    network = ipaddress.ip_interface(f"{lab.hosts[0].address}/{PREFIX}").network
    address = str(next(network.hosts()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield ImageServer(f"http://{address}:{server.server_port}", directory)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def inventory(lab: Lab, images: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lab's inventory, and a second source that adds catalogue entries.

    `blank` has no operating system: a VM that need only run costs nothing for its boot.
    """
    blank = tmp_path_factory.mktemp("blank") / "blank.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", blank, "64M"], check=True)
    template = next(
        guests.own_file(lab.directory, lab.hosts[0], "/var/lib/libvirt/templates").glob("*.qcow2")
    )
    images.add("good.qcow2", template)
    images.add("blank.qcow2", blank)
    catalogue = {
        **image_catalogue(),
        "downloaded": {
            "os": "micro",
            "url": f"{images.url}/good.qcow2",
            "checksum": f"{images.url}/SHA256SUMS",
        },
        "blank": {
            "os": "micro",
            "url": f"{images.url}/blank.qcow2",
            "checksum": f"{images.url}/SHA256SUMS",
        },
        "wrong-checksum": {
            "os": "micro",
            "url": f"{images.url}/good.qcow2",
            "checksum": f"sha256:{'0' * 64}",
        },
        "absent-file": {
            "os": "micro",
            "url": f"{images.url}/absent.qcow2",
            "checksum": f"sha256:{'0' * 64}",
        },
        "debian12-cloud": {
            "os": "debian12",
            "url": f"{images.url}/debian-12.qcow2",
            "checksum": f"{images.url}/SHA256SUMS",
        },
    }
    more = tmp_path_factory.mktemp("inventory") / "more.yml"
    entry = {"hypervisors": {"vars": {"libvirt_image_catalogue_extra": catalogue}}}
    more.write_text(yaml.safe_dump(entry))
    return f"{lab.inventory},{more}"


@pytest.fixture(scope="session")
def bridge_network(lab: Lab) -> Iterator[ipaddress.IPv4Network]:
    """The network of a bridge on lab-2, whose first address the host has.

    It is another part of the documentation network that labs use, without a route to the host.
    """
    own = ipaddress.IPv4Interface(f"{lab.hosts[1].address}/{PREFIX}").network
    shares = ipaddress.IPv4Network("198.51.100.0/24").subnets(new_prefix=PREFIX)
    network = next(share for share in shares if share != own)
    run = lab.hosts[1].run
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{network[1]}/{PREFIX}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    yield network
    run("ip", "link", "delete", BRIDGE)


@pytest.fixture(scope="package")
def service(
    lab: Lab,
    bridge_network: ipaddress.IPv4Network,
    inventory: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Service]:
    """The service on the session's lab; the Debian image is built from here on if a test needs it.

    The service is stopped after the last acceptance test, as it would continue to observe hosts.
    """
    wanted = any("debian" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if wanted and not debian_image.missing_programs():
        BUILDER.start()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    state = tmp_path_factory.mktemp("service") / "state"
    service = Service(
        state,
        inventory,
        port,
        {"VIRTPLAY_STOP_TIMEOUT": str(STOP_TIMEOUT), "VIRTPLAY_OBSERVE_TIMEOUT": "12"},
    )
    try:
        service.start()
        yield service
    finally:
        service.stop()
        left = service.pids()
        assert left == [], "processes of the service are still running"


@pytest.fixture(scope="package")
def api(service: Service) -> Api:
    """A client of the service's API."""
    return Api(service.port)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete the VMs that a test leaves, even if it failed while the service was down."""
    yield
    if "api" in request.fixturenames:
        service: Service = request.getfixturevalue("service")
        if not service.runs():
            service.start()
        api: Api = request.getfixturevalue("api")
        api.all_ready()
        api.remove(*api.vms())


@pytest.fixture
def one(lab: Lab) -> Host:
    """The first host."""
    return lab.hosts[0]


@pytest.fixture
def two(lab: Lab) -> Host:
    """The second host, the one with the bridge."""
    return lab.hosts[1]


@pytest.fixture
def debian(images: ImageServer, lab_machine: None) -> Path:
    """The Debian image, served by the image server."""
    if missing := debian_image.missing_programs():
        pytest.fail(f"cannot build the Debian image without {', '.join(missing)}", pytrace=False)
    image = BUILDER.wait()
    if not (images.directory / "debian-12.qcow2").exists():
        images.add("debian-12.qcow2", image)
    return image
