"""API tests: the shape of every answer, whatever was asked."""

import asyncio
import json
import re
from typing import Any

import httpx
import jsonschema
import pytest
from virtplay.api import vms as vms_api
from virtplay.api.routes import ROUTES

from tests.api.conftest import BODY, Service, only_sqlite

# Nothing here depends on the database.
pytestmark = only_sqlite

READS = ["/vms", "/vms/vm-001", "/vms/vm-001/status", "/jobs", "/jobs/job-000001", "/hosts",
         "/hosts/kvm1", "/templates"]  # fmt: skip


def failure_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer in the envelope of failures."""
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["message"].startswith("cannot ")
    assert answer.headers["x-request-id"]
    return dict(body["error"])


def is_whole(answer: bytes) -> bool:
    """Whether an answer has all that its head announces."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    return bool(end) and length is not None and len(body) >= int(length[1])


async def talk(port: int, data: bytes) -> bytes:
    """What the service sends back to these bytes: an answer, and what comes in a second after."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = b""
    try:
        await writer.drain()
        block = b"-"
        while block:
            async with asyncio.timeout(1 if is_whole(answer) else 300):
                block = await reader.read(65536)
            answer += block
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


def error_in(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = json.loads(body[: body.rindex(b"}") + 1])
    assert found["success"] is False
    assert b"x-request-id:" in head.lower()
    return int(head.split()[1]), found["error"]


async def test_every_read_answers_in_the_envelope(service: Service) -> None:
    await service.create()
    for path in READS:
        answer = await service.client.get(f"/api/v1{path}")
        assert answer.status_code == 200, path
        assert set(answer.json()) == {"success", "data"}
        assert answer.json()["success"] is True
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"


async def test_202_body_and_location_are_exactly_these(service: Service) -> None:
    answer = await service.post("/vms", BODY)
    assert answer.status_code == 202
    assert answer.json() == {
        "success": True,
        "data": {
            "id": "vm-001",
            "name": "web",
            "status": "creating",
            "progress": 0,
            "jobId": "job-000001",
        },
    }
    assert answer.headers["location"] == "/api/v1/jobs/job-000001"
    job = await service.client.get(answer.headers["location"])
    assert job.json()["data"]["vmId"] == "vm-001"


PATHS = [
    "/api",
    "/api/v1",
    "/api/v1/",
    "/api/v1/vm",
    "/api/v2/vms",
    "/api/v1/vms/vm-001/reboot",
    "/api/v1/vms/vm-001/start/now",
    "/favicon.ico",
    "/docs/../../etc/passwd",
    "/docs/%2e%2e%2fx",
    "/docs/..%2f..%2fpyproject.toml",
    "/%00",
    "//api//v1//vms",
    "/api/v1/vms/%2e%2e/hosts/x",
    "/healthz/x",
    "/" + "x" * 4000,
]


async def test_unknown_paths_are_404_in_the_envelope(service: Service) -> None:
    for path in PATHS:
        answer = await service.client.get(path)
        assert answer.status_code == 404, path
        assert failure_of(answer)["code"] in ("NOT_FOUND", "VM_NOT_FOUND")


METHODS = [
    ("DELETE", "/api/v1/vms", {"GET", "POST"}),
    ("PATCH", "/api/v1/vms", {"GET", "POST"}),
    ("POST", "/api/v1/vms/vm-001", {"GET", "PUT", "DELETE"}),
    ("PATCH", "/api/v1/vms/vm-001", {"GET", "PUT", "DELETE"}),
    ("GET", "/api/v1/vms/vm-001/start", {"POST"}),
    ("PUT", "/api/v1/vms/vm-001/stop", {"POST"}),
    ("PUT", "/api/v1/jobs", {"GET", "POST"}),
    ("DELETE", "/api/v1/jobs/job-000001", {"GET"}),
    ("POST", "/healthz", {"GET"}),
    ("OPTIONS", "/api/v1/vms", {"GET", "POST"}),
    ("TRACE", "/api/v1/vms", {"GET", "POST"}),
]


async def test_wrong_methods_are_405_and_name_the_right_ones(service: Service) -> None:
    for method, path, allowed in METHODS:
        answer = await service.client.request(method, path)
        assert answer.status_code == 405, answer.text
        error = failure_of(answer)
        assert error["code"] == "METHOD_NOT_ALLOWED"
        assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed, path
        assert set(error["details"]["allowed"]) == allowed


async def test_a_body_over_one_mebibyte_is_413(service: Service) -> None:
    answer = await service.client.post(
        "/api/v1/vms",
        content=b'{"name": "' + b"x" * (1024 * 1024) + b'"}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert failure_of(answer)["code"] == "PAYLOAD_TOO_LARGE"
    assert (await service.get("/vms"))["pagination"]["total"] == 0


async def test_a_body_over_the_limit_is_413_also_in_chunks(service: Service) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 65536

    try:
        answer = await service.client.post(
            "/api/v1/vms", content=chunks(), headers={"Content-Type": "application/json"}
        )
    except httpx.TransportError:  # the service has closed before the body's end
        pass
    else:
        assert answer.status_code == 413
        assert failure_of(answer)["code"] == "PAYLOAD_TOO_LARGE"
    assert (await service.get("/vms"))["pagination"]["total"] == 0


async def test_the_largest_body_is_read(service: Service) -> None:
    body = json.dumps(BODY).encode()
    answer = await service.client.post(
        "/api/v1/vms",
        content=body + b" " * (1024 * 1024 - len(body)),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 202


async def test_a_fault_of_the_service_is_500_with_a_request_id_and_no_traceback(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_vm: object) -> None:
        raise RuntimeError("secret detail of /internal/path")

    await service.create()
    monkeypatch.setattr(vms_api, "vm_out", break_down)
    answer = await service.client.get("/api/v1/vms", headers={"X-Request-ID": "look-here"})
    assert answer.status_code == 500
    error = failure_of(answer)
    assert error["code"] == "INTERNAL_ERROR"
    assert error["details"] == {"requestId": "look-here"}
    assert "look-here" in error["message"]
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert any("[look-here]" in line and "secret detail" in line for line in service.logs)
    assert (await service.client.get("/api/v1/hosts")).status_code == 200


@pytest.mark.parametrize("given", ["abc-1", "a" * 128, "trace:01/02+3=", "A.B_C"])
async def test_a_request_id_is_taken_over(service: Service, given: str) -> None:
    answer = await service.client.post(
        "/api/v1/vms", json=BODY, headers={"X-Request-ID": given}
    )  # fmt: skip
    assert answer.headers["x-request-id"] == given
    job = await service.get(f"/jobs/{answer.json()['data']['jobId']}")
    assert job["requestId"] == given
    assert any(f"[{given}]" in line and "POST /api/v1/vms 202" in line for line in service.logs)


async def test_an_odd_request_id_is_replaced(service: Service) -> None:
    for given in ("", "a b", "a" * 129, "{{ x }}", "$(id)", "é", 'a"b', "<x>"):
        answer = await service.client.get(
            "/api/v1/vms", headers=[(b"X-Request-ID", given.encode("latin-1"))]
        )
        assert answer.status_code == 200
        assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"]), given


async def test_each_request_of_a_connection_has_an_id_of_its_own(service: Service) -> None:
    first = await service.client.get("/api/v1/vms", headers={"X-Request-ID": "first"})
    seen = {first.headers["x-request-id"]}
    for method, path in (("GET", "/nowhere"), ("PATCH", "/api/v1/vms"), ("GET", "/api/v1/vms")):
        answer = await service.client.request(method, path)
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 4


async def test_ids_do_not_mix_among_concurrent_requests(service: Service) -> None:
    async def ask(number: int) -> tuple[str, str]:
        given = f"id-{number}"
        answer = await service.client.post(
            "/api/v1/vms", json={**BODY, "memory": 32}, headers={"X-Request-ID": given}
        )
        job = await service.get(f"/jobs/{answer.json()['data']['jobId']}")
        return given, job["requestId"]

    for given, stored in await asyncio.gather(*(ask(n) for n in range(10))):
        assert given == stored


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"GARBAGE\r\n\r\n", {400}),
        (b"GET /api/v1/vms HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505}),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", {400, 413, 431}),
        (b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", {400}),
        (b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", {400}),
        (b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n", {401, 413}),
        (
            b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            {400, 401},
        ),
        (
            b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            {400, 401},
        ),
        (b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nExpect: 999-maybe\r\n\r\n", {400, 401, 417}),
    ],
    ids=["no http", "version", "header", "negative", "word", "huge", "chunk", "both", "expect"],
)  # fmt: skip
async def test_broken_http_is_answered_and_the_next_request_is_served(
    service: Service, data: bytes, statuses: set[int]
) -> None:
    status, error = error_in(await talk(service.port, data))
    assert status in statuses
    assert error["message"].startswith("cannot ")
    assert "Traceback" not in str(error)
    assert (await service.client.get("/api/v1/vms")).status_code == 200


async def test_a_request_is_not_smuggled_behind_two_lengths(service: Service) -> None:
    smuggled = f"GET /api/v1/hosts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n\r\n"
    data = (
        "POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    ).encode()
    answer = await talk(service.port, data)
    assert answer.count(b"HTTP/1.1 ") <= 2
    assert (await service.get("/vms"))["pagination"]["total"] == 0


ADMIN = "your-token"


async def test_health_needs_no_token_and_tells_little(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.address) as nobody:
        health = await nobody.get("/healthz")
        assert health.json()["data"]["status"] == "ok"
        ready = await nobody.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["data"]["checks"]["database"] == "ok"


async def test_openapi_and_its_page(service: Service) -> None:
    document = (await service.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {(route.path, route.method.lower()) for route in ROUTES} == {
        (path, method) for path, methods in document["paths"].items() for method in methods
    }
    async with httpx.AsyncClient(base_url=service.address, follow_redirects=True) as nobody:
        page = await nobody.get("/")
    assert page.url.path == "/docs"
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:href|src)="(/docs/[^"]+)"', page.text):
        asset = await service.client.get(name)
        assert asset.status_code == 200
        assert len(asset.content) > 1000
    assert "http://" not in page.text
    assert "https://" not in page.text


async def test_answers_keep_to_openapi(service: Service) -> None:
    document = (await service.client.get("/openapi.json")).json()
    await service.create(labels={"a": "b"}, network={"ip": "203.0.113.7"})
    for path, shape in (
        ("/vms", "VmPage"), ("/vms/vm-001", "VmOut"), ("/vms/vm-001/status", "StatusOut"),
        ("/jobs", "JobPage"), ("/jobs/job-000001", "JobOut"), ("/hosts", "HostList"),
        ("/hosts/kvm1", "HostOut"), ("/templates", "TemplateList"),
    ):  # fmt: skip
        schema = {"$ref": f"#/components/schemas/{shape}", "components": document["components"]}
        jsonschema.validate(await service.get(path), schema)
    wrong = (await service.post("/vms", {})).json()
    schema = {"$ref": "#/components/schemas/Error", "components": document["components"]}
    jsonschema.validate(wrong, schema)
