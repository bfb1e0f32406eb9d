"""Unit tests: a small HTTP server that answers as the service does, with what a test scripted.

It reads queries and bodies with the service's own route table and parsers and fills answers in
with the service's own shapes, so that neither can drift away from the API.
"""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from virtplay.api.http.envelope import ApiResponse, failure, success
from virtplay.api.http.parsing import parse_body, parse_query
from virtplay.api.routes import ROUTES, Route
from virtplay.api.schemas.fields import Pagination
from virtplay.api.schemas.jobs import JobError, JobOut
from virtplay.api.schemas.vms import AcceptedOut, VmOut
from virtplay.errors import NotFound, Unauthorized, VirtplayError, VmNotFound

TOKEN = "token-of-the-tests"
Reply = dict[str, Any] | VirtplayError | str


class FakeService:
    """Answers each route with the replies given for it, one after the other, the last for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = []
        """Method, path below /api/v1, query and body of every request that was read."""
        self._replies: dict[tuple[str, str], list[Reply]] = {}
        self._ids: dict[str, str] = {}
        self.url = ""
        self.connections = 0
        """How many connections were accepted."""
        self.headers: Any = {}
        """Those of the last request."""
        self._open: list[socket.socket] = []

    def opened(self, connection: socket.socket) -> None:
        """Count a connection, and remember it."""
        self.connections += 1
        self._open.append(connection)

    def close_connections(self) -> None:
        """Close the connections that clients keep, as a service does after a while."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reply(self, method: str, path: str, *replies: Reply) -> None:
        """Answer `path` (below /api/v1) with data, an error, or text."""
        self._replies[method, path] = list(replies)

    def reply_vms(self, *vms: VmOut) -> None:
        """Answer GET /vms and GET /vms/{id} of these VMs, which all paths may name.

        They have no snapshots and no jobs.
        """
        page = {
            "vms": [vm.model_dump(mode="json") for vm in vms],
            "pagination": Pagination.of(1, 100, len(vms)).model_dump(),
        }
        self.reply("GET", "/vms", page)
        no_jobs = {"jobs": [], "pagination": Pagination.of(1, 1, 0).model_dump()}
        self.reply("GET", "/jobs", no_jobs)
        self._ids = {name: vm.id for vm in vms for name in (vm.name, vm.domain, vm.uuid)}
        for vm in vms:
            self.reply("GET", f"/vms/{vm.id}", vm.model_dump(mode="json"))
            self.reply("GET", f"/vms/{vm.id}/snapshots", {"snapshots": []})

    def reply_job(self, *stages: JobOut) -> None:
        """Answer GET /jobs/{id} with these stages of one job."""
        dumps = [stage.model_dump(mode="json") for stage in stages]
        self.reply("GET", f"/jobs/{stages[0].id}", *dumps)

    def asked(self, method: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Path, query and body of the requests by this method."""
        return [request[1:] for request in self.requests if request[0] == method]

    def answer(self, request: BaseHTTPRequestHandler) -> Any:
        """The response to a request: what the route table and the script say."""
        self.headers = request.headers
        try:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Unauthorized("cannot authenticate: the token is wrong, expired or revoked")
            address = urlsplit(request.path)
            route = _route(request.command, address.path)
            given = parse_qs(address.query, keep_blank_values=True)
            query = parse_query(given, route.query).model_dump(mode="json", exclude_unset=True)
            body: dict[str, Any] = {}
            raw = request.rfile.read(int(request.headers.get("Content-Length", 0)))
            if route.body is not None:
                kind = request.headers.get("Content-Type", "")
                parsed = parse_body(raw, kind, route.body)
                body = parsed.model_dump(mode="json", exclude_unset=True)
            path = self._with_id(address.path.removeprefix("/api/v1"))
            self.requests.append((request.command, path, query, body))
            replies = self._replies.get((request.command, path))
            if not replies and re.fullmatch("/vms/[^/]+", path):
                raise VmNotFound(f"cannot find VM {path.removeprefix('/vms/')}")
            if not replies:
                raise NotFound(f"cannot find {request.command} {path}")
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if isinstance(reply, VirtplayError):
                raise reply
        except VirtplayError as error:
            return failure(error)
        return reply if isinstance(reply, str) else success(ApiResponse(reply, route.status))

    def _with_id(self, path: str) -> str:
        """The path with the id of the VM that it names."""
        parts = [unquote(part) for part in path.split("/")]
        if parts[1] == "vms" and len(parts) > 2:
            parts[2] = self._ids.get(parts[2], parts[2])
        return "/".join(parts)


def _route(method: str, path: str) -> Route:
    for route in ROUTES:
        pattern = re.sub(r"\{\w+\}", "[^/]+", route.path)
        if route.method == method and re.fullmatch(pattern, path):
            return route
    raise NotFound(f"cannot find path {path}")


@contextmanager
def serve_fake(certificate: Path | None = None) -> Iterator[FakeService]:
    """A FakeService that listens on a free port of loopback, with TLS if there is a certificate."""
    service = FakeService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            service.opened(self.request)
            super().setup()

        def _respond(self) -> None:
            response = service.answer(self)
            if isinstance(response, str):
                status, kind, content = 200, "text/plain; charset=utf-8", response.encode()
            else:
                status, kind = response.status, response.content_type
                content = response.body
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests look at `requests`."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: a client may close its connection at any time."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if certificate else "http"
    service.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_vm(number: int = 1, **given: Any) -> VmOut:
    """A VM as the API shows one."""
    values: dict[str, Any] = {
        "id": f"vm-{number:03d}",
        "name": f"name-{number}",
        "status": "running",
        "statusReason": "booted",
        "cpu": 2,
        "memory": 2048,
        "disk": 20,
        "os": "debian12",
        "ip": "198.51.100.7",
        "createdAt": "2026-01-01T12:00:00Z",
        "updatedAt": "2026-01-01T12:30:00Z",
        "host": "kvm1",
        "domain": f"name-{number}",
        "managed": True,
        "uuid": f"00000000-0000-4000-8000-{number:012d}",
        "template": "debian12",
        "description": "",
        "labels": {},
        "network": {"type": "network", "network": "default"},
        "addresses": [],
        "autoStart": False,
        "pending": {},
        "error": None,
        "startedAt": None,
        "observedAt": "2026-01-01T12:30:00Z",
    }
    return VmOut.model_validate({**values, **given})


def make_job(**given: Any) -> JobOut:
    """A job as the API shows one: running unless told otherwise."""
    values: dict[str, Any] = {
        "id": "job-000012",
        "origin": "api",
        "action": "vm_start",
        "playbook": "playbooks/vm_start.yml",
        "vmId": "vm-001",
        "vmIds": ["vm-001"],
        "snapshotId": None,
        "host": "kvm1",
        "hosts": ["kvm1"],
        "status": "running",
        "progress": 50,
        "step": "Starting",
        "stepStartedAt": "2026-01-01T12:00:02Z",
        "stepTimeoutSeconds": None,
        "etaSeconds": 2.0,
        "changed": None,
        "dryRun": False,
        "appliesAt": None,
        "changes": None,
        "requestedBy": "tests",
        "user": None,
        "requestId": "0123456789abcdef",
        "command": "ansible-playbook playbooks/vm_start.yml -i inventory/local.yml --limit kvm1",
        "error": None,
        "attempt": 1,
        "retryOf": None,
        "createdAt": "2026-01-01T12:00:00Z",
        "startedAt": "2026-01-01T12:00:01Z",
        "finishedAt": None,
    }
    return JobOut.model_validate({**values, **given})


def make_succeeded(**given: Any) -> JobOut:
    """A job that succeeded after 14 s."""
    ended = {"status": "succeeded", "progress": 100, "changed": True, "etaSeconds": None}
    return make_job(**{**ended, "finishedAt": "2026-01-01T12:00:14Z", **given})


def make_failed(**given: Any) -> JobOut:
    """A job that failed after 5 s: its host did not answer."""
    error = JobError(
        code="HOST_UNREACHABLE", message="cannot reach host kvm1", task="Start the VM", host="kvm1"
    )
    ended = {"status": "failed", "finishedAt": "2026-01-01T12:00:05Z", "error": error.model_dump()}
    return make_job(**{**ended, **given})


def make_accepted(name: str = "name-1", **given: Any) -> dict[str, Any]:
    """The data of a 202."""
    values = {"id": "vm-001", "name": name, "status": "starting", "progress": 0}
    accepted = AcceptedOut.model_validate({**values, "jobId": "job-000012", **given})
    return accepted.model_dump(mode="json")
